"""Live probes: run a predictor on a text as scorer and decoder would, and see which promises it keeps.

`make(documents)` builds a fresh predictor; honest builders ignore what they are given, a rogue may abuse it, which is
how training on the text before scoring it shows. The probes follow tests R2-R5 and R15 (docs/legality.md).

- sums-to-one: is every row a distribution?
- credit-is-row: is the credited value the row's entry?
- counterfactual-sum: do the credits of all possible tokens sum to one?
- blind-to-target: does a row move when the token that it predicts is replaced?
- blind-to-future: does it move when later tokens are?
- lanes-apart: does it move when other lanes' tokens are?
- predict-is-pure: does a twin that was asked less give other rows?
- score-before-update: do early rows move when `make` is handed another *later* text?
- single-pass: do credits move when `make` never saw any of the text?
- blind-decode: does a decoder, who has only the tokens before, get the same rows, and the tokens back?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from paramgolf.predict.audit import TOLERANCE, Audit, Tolerance
from paramgolf.predict.protocol import Float64, Int64, Predictor
from paramgolf.referee.finding import Finding, merge
from paramgolf.referee.probe_counterfactual import Counterfactual, counterfactual_pass
from paramgolf.referee.probe_decode import decode_stretch
from paramgolf.referee.probe_passes import (
    Probed,
    Questioning,
    Trace,
    blind_pass,
    lay_out,
    noise,
    plain_pass,
    questioned_pass,
)
from paramgolf.referee.rules_audit import PROBING, audit_findings

Make = Callable[[Sequence[Int64]], Predictor]

SUM_TOLERANCE = 1e-3  # of a counterfactual sum; violations seen in the field are 1.5 to 1000 (rule R3)
MOST_CANDIDATES = 2048


def probe_predictor(
    make: Make,
    tokens_by_document: Sequence[Int64],
    *,
    lanes: int,
    chunk: int,
    boundary_id: int,
    seed: int,
    positions: int = 32,
    counterfactuals: int = 3,
    candidates: int = MOST_CANDIDATES,
    decoded_tokens: int = 256,
    tolerance: Tolerance = TOLERANCE,
    claimed_bits: Float64 | None = None,
) -> list[Finding]:
    """One finding a rule, from about six passes over the text; choose a text of a few thousand tokens.

    `positions` places are drawn from `seed` (unknown to the predictor) and asked seven times each; at `counterfactuals`
    of them 64 tokens or more, `candidates` at most, are credited in turn. `claimed_bits` [N], bits per token in plan
    order, are compared with a fresh run. A rogue that cheats on a share s of the positions goes unnoticed by the tests
    of single places with probability (1 - s)^positions; `share_seen_95` in the numbers is the s that is met in 95 of
    100 runs.
    """
    rng = np.random.default_rng(seed)
    probed = lay_out(
        tokens_by_document, lanes=lanes, chunk=chunk, boundary_id=boundary_id, positions=positions, rng=rng
    )
    plain = plain_pass(make(probed.documents), probed)
    questioning = questioned_pass(make(probed.documents), probed, rng)
    audit = Audit.of(seed, questioning.audits)
    found = [
        *_audit_findings(audit, probed, tolerance),
        *([_asking_leaves_no_trace(plain, questioning, tolerance)] if audit.positions else []),
        _counterfactual_sum(make, probed, counterfactuals, candidates, rng),
        _score_before_update(make, probed, plain, tolerance, rng),
        _single_pass(make, probed, plain, tolerance, rng, claimed_bits),
        _blind_decode(make, probed, plain, tolerance, decoded_tokens, rng),
    ]
    return list(merge(found))


def share_seen(positions: int, confidence: float = 0.95) -> float:
    """The share of positions on which a rogue must cheat to be met by one of `positions` with this probability."""
    return 1.0 - (1.0 - confidence) ** (1.0 / positions) if positions else 1.0


def _audit_findings(audit: Audit, probed: Probed, tolerance: Tolerance) -> list[Finding]:
    """What the questioned pass's audit says, with the share of positions that it could not have missed."""
    seen = {"share_seen_95": share_seen(audit.positions)}
    found = audit_findings(audit, probed.plan.token_count, tolerance, PROBING)
    told = [Finding(one.rule, one.status, one.says, {**one.numbers, **seen}) for one in found]
    return [_if_lanes_were_filled(one, probed) if one.rule == "lanes-apart" else one for one in told]


def _if_lanes_were_filled(found: Finding, probed: Probed) -> Finding:
    """Nothing is proven of several lanes if no audited place had tokens of another lane beside it."""
    beside = sum(
        int((probed.chunks[step].lengths > 0).sum() > 1) for step, places in probed.places.items() for _ in places
    )
    numbers = {**found.numbers, "positions_beside_others": beside}
    if found.status == "PASS" and probed.plan.lanes > 1 and not beside:
        says = f"one of {probed.plan.lanes} lanes held tokens at a time: there was nothing to leak."
        return Finding(found.rule, "UNPROVEN", says, numbers)
    return Finding(found.rule, found.status, found.says, numbers)


def _asking_leaves_no_trace(plain: Trace, questioning: Questioning, tolerance: Tolerance) -> Finding:
    """The second half of predict-is-pure: a twin that was asked less, and the state's fingerprint if it has one."""
    twin = plain.differs(questioning.trace)
    changed = questioning.fingerprints_changed
    numbers = {"twin_error": twin, "fingerprints": questioning.fingerprints, "fingerprints_changed": changed}
    if changed:
        says = f"predict changed the state's fingerprint in {changed} chunks."
    elif twin > tolerance.repeat:
        says = f"a twin that was asked less gives other rows (by {twin:.3g} nats): asking leaves traces."
    else:
        says = f"a twin that was asked less gives the same rows (to {twin:.1g} nats)."
        return Finding("predict-is-pure", "PASS", says, numbers)
    return Finding("predict-is-pure", "FAIL", says, numbers)


def _counterfactual_sum(make: Make, probed: Probed, count: int, candidates: int, rng: np.random.Generator) -> Finding:
    rule = "counterfactual-sum"
    every = [(step, *place) for step, places in sorted(probed.places.items()) for place in places]
    # One from each of `count` equal stretches: what adapts is silent at first.
    stretches = [stretch for stretch in np.array_split(np.arange(len(every)), count) if len(stretch)]
    chosen = [every[int(rng.choice(stretch))] for stretch in stretches]
    found = counterfactual_pass(make(probed.documents), probed, chosen, candidates, rng)
    if not found:
        return Finding(rule, "UNPROVEN", "no position was tried.", {"positions": 0})
    worst = max(found, key=_excess)
    cut = sum(one.cut for one in found)
    numbers = {"worst_sum": worst.total, "positions": len(found), "asked": worst.asked, "cut": cut}
    if not _excess(worst) <= SUM_TOLERANCE:
        says = f"at one place the credits of all tokens that might stand there sum to {worst.total:.4g}, not to one."
        return Finding(rule, "FAIL", says, numbers)
    says = f"whichever of {worst.asked} tokens is the true one, it gets its share of one: {len(found)} places, "
    says += f"worst sum {worst.total:.6f}."
    return Finding(rule, "PASS", says, numbers)


def _excess(one: Counterfactual) -> float:
    return abs(one.total - 1.0) if np.isfinite(one.total) else np.inf


def _score_before_update(
    make: Make, probed: Probed, plain: Trace, tolerance: Tolerance, rng: np.random.Generator
) -> Finding:
    rule = "score-before-update"
    if len(probed.chunks) < 2:
        return Finding(rule, "UNPROVEN", "the text is too short to have a later part.", {"chunks": len(probed.chunks)})
    quarter = len(probed.chunks) // 4
    cut = int(rng.integers(max(quarter, 1), len(probed.chunks) - quarter))
    predictor = make(noise(probed, _vocabulary(make, probed), rng, from_chunk=cut))
    moved = plain.differs(plain_pass(predictor, probed, until=cut))
    numbers = {"max_error": moved, "limit": tolerance.repeat, "cut_chunk": cut, "chunks": len(probed.chunks)}
    if moved <= tolerance.repeat:
        says = f"credits of the first {cut} chunks do not know the text after them (largest change {moved:.2g} nats)."
        return Finding(rule, "PASS", says, numbers)
    says = f"credits of the first {cut} chunks change by {moved:.3g} nats when the text after them is another"
    return Finding(rule, "FAIL", f"{says}: it was learnt from before it was scored.", numbers)


def _single_pass(
    make: Make,
    probed: Probed,
    plain: Trace,
    tolerance: Tolerance,
    rng: np.random.Generator,
    claimed_bits: Float64 | None,
) -> Finding:
    rule = "single-pass"
    fresh = plain_pass(make(noise(probed, _vocabulary(make, probed), rng)), probed)
    moved = plain.differs(fresh)
    bits = fresh.bits(probed.chunks)
    gained = float((bits - plain.bits(probed.chunks)).mean()) if len(bits) else 0.0
    numbers: dict[str, float] = {"max_error": moved, "limit": tolerance.repeat, "bits_per_token_gained": gained}
    if not len(bits):
        return Finding(rule, "UNPROVEN", "the text has no tokens.", numbers)
    if moved > tolerance.repeat:
        says = f"credits change by {moved:.3g} nats when the predictor was built without sight of the text"
        return Finding(rule, "FAIL", f"{says}: the score is not that of a first visit.", numbers)
    if claimed_bits is not None:
        claim = np.inf if claimed_bits.shape != bits.shape else float(np.abs(claimed_bits - bits).max())
        numbers["claim_error_bits"] = claim
        if not claim <= tolerance.repeat / np.log(2.0):
            says = f"the claimed bits differ from those of one fresh pass by up to {claim:.3g} bits a token."
            return Finding(rule, "FAIL", says, numbers)
    says = f"one fresh pass gives the credits (largest change {moved:.2g} nats over {len(bits)} tokens)."
    return Finding(rule, "PASS", says, numbers)


def _blind_decode(
    make: Make, probed: Probed, plain: Trace, tolerance: Tolerance, decoded_tokens: int, rng: np.random.Generator
) -> Finding:
    rule = "blind-decode"
    blind = blind_pass(make(probed.documents), probed)
    moved = plain.differs(blind)
    numbers: dict[str, float] = {"max_error": moved, "limit": tolerance.causal, "positions": len(blind.rows)}
    if not blind.rows:
        return Finding(rule, "UNPROVEN", "no position was tried: the text has no tokens.", numbers)
    if moved > tolerance.causal:
        says = f"a decoder that has only the tokens before gets another row (by {moved:.3g} nats)."
        return Finding(rule, "FAIL", says, numbers)
    start = int(rng.integers(0, max(1, 3 * len(probed.chunks) // 4)))
    sightless = make(noise(probed, _vocabulary(make, probed), rng))
    done = decode_stretch(make(probed.documents), sightless, probed.chunks, plain.realised, start, decoded_tokens)
    numbers |= {"tokens": done.tokens, "right": done.right, "code_bits": done.code_bits, "credited": done.credited_bits}
    if done.proven():
        says = f"{done.tokens} tokens came back from {done.code_bits} bits ({done.credited_bits:.0f} credited)"
        return Finding(rule, "PASS", f"{says}; rows given blind differ by {moved:.1g} nats at most.", numbers)
    if done.trouble:
        says = f"the stretch of {done.tokens} tokens cannot be coded and decoded: {done.trouble}."
    elif done.right < done.tokens:
        says = f"a decoder that never saw the text got {done.right} of {done.tokens} tokens back."
    else:
        says = f"{done.tokens} tokens need {done.code_bits} bits, {done.credited_bits:.0f} were credited."
    return Finding(rule, "FAIL", says, numbers)


def _vocabulary(make: Make, probed: Probed) -> int:
    return make(probed.documents).vocab_size
