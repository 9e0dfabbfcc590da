"""The rule about the bits: every token credited once, and the claim recomputed from them."""

from __future__ import annotations

import numpy as np

from paramgolf.referee.evidence import Evidence
from paramgolf.referee.finding import Finding, Numbers
from paramgolf.referee.limits import Limits

BPB_TOLERANCE = 1e-9  # bits per byte


def credited_once(found: Evidence, _: Limits) -> Finding:
    """Each token has one credit, none is left out, and they add up to the BPB that is claimed (C4; tests R2)."""
    rule, record, arrays = "credited-once", found.score, found.arrays
    for name in ("bits.npz", "score.json"):
        if name in found.problems and (name == "bits.npz" or record is None):
            return Finding(rule, "FAIL", f"the credits cannot be recomputed: {found.problems[name]}.")
    if record is None or arrays is None or found.plan is None:
        return Finding(
            rule, "UNPROVEN", f"the credits cannot be recomputed: {found.trouble('score.json', 'bits.npz')}."
        )
    bits, order = arrays["bits"], found.plan
    numbers: Numbers = {"tokens": len(bits), "documents": len(order.lengths)}
    if not np.array_equal(arrays["document"], order.document_index()):
        says = "the credits are not in the order of the plan that the document lengths give: some twice, some missing."
        return Finding(rule, "FAIL", says, numbers)
    if record.get("tokens") != len(bits):
        numbers["claimed_tokens"] = str(record.get("tokens"))[:40]
        says = f"score.json speaks of {numbers['claimed_tokens']} tokens, bits.npz credits {len(bits):,}."
        return Finding(rule, "FAIL", says, numbers)
    if not np.isfinite(bits).all() or float(bits.min(initial=0.0)) < -2e-9:
        return Finding(
            rule, "FAIL", "bits.npz holds costs that no probability has (not finite, or below zero).", numbers
        )
    return _recomputed(found, numbers)


def _recomputed(found: Evidence, numbers: Numbers) -> Finding:
    assert found.score is not None and found.arrays is not None and found.plan is not None
    sizes, side = found.arrays["sizes"], found.plan.side_bits
    told = found.score.get("bpb"), int(sizes.sum()) if len(sizes) else found.score.get("bytes")
    claim, size = _positive(told[0]), _positive(told[1])
    if claim is None or size is None:
        says = (
            f"score.json claims bpb={str(told[0])[:40]!r} over {str(told[1])[:40]!r} bytes: not two positive numbers."
        )
        return Finding("credited-once", "FAIL", says, numbers)
    total = float(found.arrays["bits"].sum()) + side
    recomputed = total / size
    numbers |= {"bpb": claim, "recomputed_bpb": recomputed, "side_bits": side, "bits": total}
    if not abs(recomputed - claim) <= BPB_TOLERANCE:
        says = f"score.json claims {claim:.9f} bits per byte, the credits add up to {recomputed:.9f}."
        return Finding("credited-once", "FAIL", says, numbers)
    what = "the number of tokens, boundaries among them," if found.plan.boundaries else "the documents' lengths"
    order = f", and {side:,} bits for {what} are charged"
    says = f"{numbers['tokens']:,} tokens are credited once each{order}; they add up to the claimed {claim:.6f} BPB."
    return Finding("credited-once", "PASS", says, numbers)


def _positive(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e300:
        return None
    return float(value)
