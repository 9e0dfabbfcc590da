"""What can be said of somebody's record from its files alone: sizes, times, implied bytes, consistency.

Their code is not run, so every promise about the predictor stays unproven here.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from paramgolf.referee.claims import constancy, worse
from paramgolf.referee.contradictions import contradictions, doubts
from paramgolf.referee.finding import Finding, Numbers
from paramgolf.referee.limits import Limits
from paramgolf.referee.record_folder import SCRIPT, SUBMISSION, RecordFolder
from paramgolf.referee.record_log import LN2, LogFacts
from paramgolf.referee.rules_bytes import CONTEST_BYTES

# Bytes a token of the contest's own tokenizers stands for on its validation text (rules 1.8): plain, and with CaseOps.
BYTES_PER_TOKEN = {1024: (2.43593,), 2048: (2.88456,), 4096: (3.31968,), 8192: (3.72663, 3.15715), 260: (1.0,)}
RATIO_SLACK = 1e-3
WORST_FIRST = ("FAIL", "UNPROVEN", "PASS")
BPB_SLACK = 5e-4  # between submission.json and the mean of the logs
_UNPROVEN = (
    "credited-once",
    "sums-to-one",
    "credit-is-row",
    "blind-to-target",
    "blind-to-future",
    "lanes-apart",
    "predict-is-pure",
    "data-separation",
    "reproducible",
)


def record_findings(record: RecordFolder, limits: Limits, models: Sequence[int] = ()) -> tuple[Finding, ...]:
    """One finding a rule; what only a run of their code could show is UNPROVEN.

    `models` are the bytes of the packed models in the folder, of which `own_record` judges what is left out here.
    """
    says = "files alone cannot show it, and foreign code is not run here; score an artifact with paramgolf to prove it."
    rest = () if models else tuple(Finding(rule, "UNPROVEN", says) for rule in _UNPROVEN)
    return (
        record_size(record, limits, models),
        record_ledger(record, limits),
        record_bytes(record),
        *rest,
        record_evidence(record),
    )


def record_size(record: RecordFolder, limits: Limits, models: Sequence[int] = ()) -> Finding:
    """Model and code within the cap, with the code as it is and compressed: both readings were applied (1.4).

    The bytes of `models`, which are on the disk, count as well as what the logs say.
    """
    readings = [_both(model, record.script_bytes or 0, record.script_lzma_bytes) for model in models]
    readings += [reading for log in record.logs if (reading := _readings(log, record)) is not None]
    total, code = record.submitted("bytes_total"), record.submitted("bytes_code")
    if not readings and total is not None:
        inside = code if code is not None else record.script_bytes or 0
        readings = [_both(int(total - inside), record.script_bytes or int(inside), record.script_lzma_bytes)]
    cap = limits.artifact_bytes
    if not readings:
        return Finding(
            "size", "UNPROVEN", "neither the logs nor submission.json say how large the model is.", {"limit": cap}
        )
    raw, compressed = max(r for r, _ in readings), max(c for _, c in readings)
    numbers = {"bytes_raw_code": raw, "bytes_compressed_code": compressed, "limit": cap}
    says = f"model and code have {raw:,} bytes with the code as it is, {compressed:,} with it compressed;"
    says += f" {cap:,} are allowed"
    if raw <= cap:
        return Finding("size", "PASS", f"{says}.", numbers)
    if compressed <= cap:
        return Finding("size", "UNPROVEN", f"{says}: only the second reading passes, and both were applied.", numbers)
    return Finding("size", "FAIL", f"{says}.", numbers)


def record_ledger(record: RecordFolder, limits: Limits) -> Finding:
    """Training with the Hessians, and evaluation, within their seconds (O3, O4; ruling on #609)."""
    train = [log.train_seconds + log.hessian_seconds for log in record.logs if log.train_seconds is not None]
    evaluation = [log.eval_seconds for log in record.logs if log.eval_seconds is not None]
    if not train:
        return Finding("ledger", "UNPROVEN", "no log says how long training took.")
    numbers: Numbers = {"train_seconds": max(train), "train_limit": limits.train_seconds}
    says = f"training took {max(train):.1f} s"
    says += ", calibration included" if any(log.hessian_seconds for log in record.logs) else ""
    if evaluation:
        numbers |= {"eval_seconds": max(evaluation), "eval_limit": limits.eval_seconds}
        says += f", evaluation {max(evaluation):.1f} s"
    if max(train) > limits.train_seconds + limits.train_slack:
        return Finding("ledger", "FAIL", f"{says}; {limits.train_seconds:g} s are allowed for training.", numbers)
    if evaluation and max(evaluation) > limits.eval_seconds:
        return Finding("ledger", "FAIL", f"{says}; {limits.eval_seconds:g} s are allowed for evaluation.", numbers)
    if not evaluation:
        return Finding("ledger", "UNPROVEN", f"{says}; no log says how long evaluation took.", numbers)
    return Finding("ledger", "PASS", f"{says}, as the logs say (longest of {len(train)}).", numbers)


def record_bytes(record: RecordFolder) -> Finding:
    """The final pairs imply the bytes of the contest's text (test R0), and all pairs of a kind imply the same."""
    logs = record.scored_logs()
    if not logs:
        return Finding("bytes", "UNPROVEN", "no log ends in a val_loss and a val_bpb, so the bytes cannot be inferred.")
    findings = sorted(map(_implied_bytes, logs), key=lambda finding: WORST_FIRST.index(finding.status))
    return worse(findings[0], constancy(logs))


def record_evidence(record: RecordFolder) -> Finding:
    """The files that a record must have, three seeds, and one story throughout (O10, O13, C9; test R12)."""
    scores = [log.val_bpb for log in record.scored_logs() if log.val_bpb is not None]
    seeds = {log.seed for log in record.scored_logs() if log.seed is not None}
    claimed = record.submitted("val_bpb")
    numbers: Numbers = {"logs": len(scores), "seeds": len(seeds)}
    if record.problem:
        return Finding("evidence", "FAIL", f"{SUBMISSION} cannot be read: {record.problem}.", numbers)
    if claimed is not None and scores:
        mean = statistics.fmean(scores)
        numbers |= {"claimed_bpb": claimed, "mean_bpb": mean}
        if abs(claimed - mean) > BPB_SLACK:
            says = f"{SUBMISSION} claims {claimed:.5f} bits per byte, the {len(scores)} logs average {mean:.5f}."
            return Finding("evidence", "FAIL", says, numbers)
    broken, doubtful = contradictions(record), doubts(record)
    if broken:
        return Finding("evidence", "FAIL", " ".join(broken), numbers)
    missing = [name for name in ("README.md", SUBMISSION, SCRIPT) if name not in record.files]
    lacking = [f"no {name}" for name in missing] + (["no val_bpb in submission.json"] if claimed is None else [])
    lacking += [f"{len(scores)} logs with a final score, 3 are asked for"] if len(scores) < 3 else []
    lacking += [f"{len(seeds)} different seeds in the logs, 3 are asked for"] if len(seeds) < 3 else []
    if lacking or doubtful:
        incomplete = [f"incomplete: {'; '.join(lacking)}."] if lacking else []
        return Finding("evidence", "UNPROVEN", " ".join([*incomplete, *doubtful]), numbers)
    says = f"README, {SUBMISSION}, {SCRIPT} and {len(scores)} logs of {len(seeds)} seeds are there and agree."
    return Finding("evidence", "PASS", says, numbers)


def _readings(log: LogFacts, record: RecordFolder) -> tuple[int, int] | None:
    if log.total_bytes is None:
        return None
    counted = log.compressed_code_bytes if log.compressed_code_bytes is not None else log.code_bytes
    raw = record.script_bytes if record.script_bytes is not None else log.code_bytes
    if counted is None or raw is None:
        return log.total_bytes, log.total_bytes
    return _both(
        log.total_bytes - counted, max(raw, log.code_bytes or 0), log.compressed_code_bytes or record.script_lzma_bytes
    )


def _both(model: int, raw: int, compressed: int | None) -> tuple[int, int]:
    return model + raw, model + min(raw, compressed if compressed is not None else raw)


def _implied_bytes(log: LogFacts) -> Finding:
    assert log.val_loss is not None and log.val_bpb is not None
    ratio = log.val_loss / (LN2 * log.val_bpb)
    numbers: Numbers = {"log": log.name, "bytes_per_token": ratio}
    if log.val_tokens is None:
        return _by_vocabulary(log, ratio, numbers)
    low, high = CONTEST_BYTES
    least, most = log.val_tokens * log.implied_low, log.val_tokens * log.implied_high
    numbers |= {"val_tokens": log.val_tokens, "implied_bytes": round(log.val_tokens * ratio), "low": low, "high": high}
    says = f"{log.name}: {log.val_tokens:,} tokens at {ratio:.4f} bytes each imply {numbers['implied_bytes']:,} bytes"
    if most < low or least > high:
        return Finding("bytes", "FAIL", f"{says}; the contest's text has {low:,} to {high:,}.", numbers)
    if most - least > 0.01 * low:
        return Finding("bytes", "UNPROVEN", f"{says}, but the printed digits leave it open by 1 % or more.", numbers)
    return Finding("bytes", "PASS", f"{says}, as the contest's text has.", numbers)


def _by_vocabulary(log: LogFacts, ratio: float, numbers: Numbers) -> Finding:
    known = BYTES_PER_TOKEN.get(log.vocab_size or 0)
    says = f"{log.name}: val_loss and val_bpb imply {ratio:.4f} bytes a token"
    if known is None:
        if log.vocab_size is not None and log.vocab_size > 260 and log.implied_low <= 1.0 <= log.implied_high:
            return Finding("bytes", "FAIL", f"{says}, which no vocabulary of {log.vocab_size} has.", numbers)
        return Finding("bytes", "UNPROVEN", f"{says}; without val_tokens that cannot be compared.", numbers)
    numbers["vocab_size"] = log.vocab_size or 0
    expected = " or ".join(f"{value:.4f}" for value in known)
    if any(log.implied_low * (1 - RATIO_SLACK) <= value <= log.implied_high * (1 + RATIO_SLACK) for value in known):
        return Finding("bytes", "PASS", f"{says}; its vocabulary has {expected}.", numbers)
    return Finding("bytes", "FAIL", f"{says}; the contest's vocabulary of {log.vocab_size} has {expected}.", numbers)
