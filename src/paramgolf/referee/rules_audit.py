"""Rules about the spot-audit that every score carries: what the scorer saw at positions nobody could foresee."""

from __future__ import annotations

from paramgolf.predict.audit_record import ENOUGH_POSITIONS, GPU_TOLERANCE, TOLERANCE, Audit, Tolerance
from paramgolf.referee.evidence import Evidence
from paramgolf.referee.finding import Finding
from paramgolf.referee.limits import Limits

SCORING, PROBING = "while scoring", "in probes"


def sums_to_one(found: Evidence, _: Limits) -> Finding:
    """Audited rows are distributions (C2)."""
    return _from_evidence("sums-to-one", found)


def credit_is_row(found: Evidence, _: Limits) -> Finding:
    """The credited value is the row's entry at the realised token (C2)."""
    return _from_evidence("credit-is-row", found)


def blind_to_target(found: Evidence, _: Limits) -> Finding:
    """No row moved when the token it predicts was replaced (C1)."""
    return _from_evidence("blind-to-target", found)


def blind_to_future(found: Evidence, _: Limits) -> Finding:
    """No row moved when later tokens were replaced (C1)."""
    return _from_evidence("blind-to-future", found)


def lanes_apart(found: Evidence, _: Limits) -> Finding:
    """No row moved when other lanes' tokens of the chunk were replaced (C1)."""
    return _from_evidence("lanes-apart", found)


def predict_is_pure(found: Evidence, _: Limits) -> Finding:
    """Asking twice gave the same (C3): the state changes in observe only."""
    return _from_evidence("predict-is-pure", found)


def audit_findings(
    audit: Audit, tokens: int, tolerance: Tolerance = TOLERANCE, when: str = SCORING
) -> tuple[Finding, ...]:
    """The findings of one audit of `tokens` tokens that were just credited; `when`: in a score, or by the probes."""
    return tuple(_judge(rule, audit, tokens, tolerance, when) for rule in _MEASURES)


# rule: field of the audit, field of the tolerance, what an honest row does, what a rogue's did, unit
_MEASURES = {
    "sums-to-one": ("max_sum_error", "sum", "every row sums to one", "a row misses the sum of one by", ""),
    "credit-is-row": (
        "max_credit_error",
        "credit",
        "credits are the rows' entries",
        "a credit is off its row by",
        " nats",
    ),
    "blind-to-target": (
        "max_target_error",
        "causal",
        "no row moves when its own token is replaced",
        "a row moves, when only the token to be predicted is replaced, by",
        " nats",
    ),
    "blind-to-future": (
        "max_future_error",
        "causal",
        "no row moves when later tokens are replaced",
        "a row moves, when only later tokens are replaced, by",
        " nats",
    ),
    "lanes-apart": (
        "max_lane_error",
        "causal",
        "no row moves when other lanes are replaced",
        "a row moves, when only other lanes are replaced, by",
        " nats",
    ),
    "predict-is-pure": (
        "max_repeat_error",
        "repeat",
        "asking again changes nothing",
        "asked again, it differs by",
        " nats",
    ),
}


def _from_evidence(rule: str, found: Evidence) -> Finding:
    if found.audit is None or found.score is None:
        why = found.trouble("score.json") or "score.json holds no audit"
        return Finding(rule, "UNPROVEN", f"nobody audited the score: {why}.")
    told = found.score.get("tokens")
    tokens = len(found.arrays["bits"]) if found.arrays else told if isinstance(told, int) else 2 * ENOUGH_POSITIONS
    device = (found.environment or {}).get("device")
    on_gpu = isinstance(device, str) and device.startswith("cuda")
    return _judge(rule, found.audit, tokens, GPU_TOLERANCE if on_gpu else TOLERANCE)


def _judge(rule: str, audit: Audit, tokens: int, tolerance: Tolerance, when: str = SCORING) -> Finding:
    field, limit_name, honest, rogue, unit = _MEASURES[rule]
    error, limit = float(getattr(audit, field)), float(getattr(tolerance, limit_name))
    numbers = {field: error, "limit": limit, "positions": audit.positions}
    if error > limit:
        says = f"{rogue} {error:.3g}{unit} {when} ({audit.positions} positions; {limit:.0e} is allowed)."
        return Finding(rule, "FAIL", says, numbers)
    needed = min(ENOUGH_POSITIONS, (tokens + 1) // 2)
    if audit.positions < max(needed, 1):
        says = f"only {audit.positions} of {tokens} positions were audited {when}; {max(needed, 1)} are needed."
        return Finding(rule, "UNPROVEN", says, numbers)
    says = f"{honest}: {when} ({audit.positions} positions, worst {error:.1g}{unit})."
    return Finding(rule, "PASS", says, numbers)
