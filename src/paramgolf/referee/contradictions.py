"""Where a record's own numbers contradict each other (test R12, V42): nothing here is measured, only compared."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from paramgolf.referee.record_folder import SCRIPT, SUBMISSION, RecordFolder
from paramgolf.referee.record_log import LogFacts

SCORE_SLACK = 5e-4  # bits per byte, or nats a token, between submission.json and the logs; authors round
_ALIKE = 7  # printed digits of loss and score that two seeds do not share by chance


def contradictions(record: RecordFolder) -> list[str]:
    """Sentences on what cannot be true at once; [] if there is nothing of the kind."""
    logs = record.scored_logs()
    return [*_totals(record.logs), *_same_end(logs), *_mean_loss(record, logs), *_seed_results(record, logs)]


def doubts(record: RecordFolder) -> list[str]:
    """Sentences on what may have an innocent cause, and still leaves open what the logs are evidence of."""
    return [*_scripts(record), *_seeds(record), *_submitted_bytes(record)]


def _totals(logs: Sequence[LogFacts]) -> Iterator[str]:
    """The printed total is one of the printed models and one of the printed scripts.

    Where the only model printed is larger than the total, it is the one before squeezing, which says nothing.
    """
    for log in logs:
        if log.total_bytes is None or not log.model_bytes or not log.code_sizes:
            continue
        sums = {model + code for model in log.model_bytes for code in log.code_sizes}
        if min(log.model_bytes) <= log.total_bytes and log.total_bytes not in sums:
            nearest = min(sums, key=lambda size: abs(size - (log.total_bytes or 0)))
            yield f"{log.name} prints {log.total_bytes:,} bytes in all, its model and code make {nearest:,}."


def _same_end(logs: Sequence[LogFacts]) -> Iterator[str]:
    """Another seed gives another score: to all digits the same is the same run."""
    ends: dict[tuple[float, float], LogFacts] = {}
    for log in (log for log in logs if log.seed is not None):
        pair = log.pairs[-1]
        known = ends.setdefault((pair.loss, pair.bpb), log)
        if known is not log and known.seed != log.seed and pair.digits >= _ALIKE:
            yield (
                f"{known.name} and {log.name} name the seeds {known.seed} and {log.seed}, and both end in val_loss "
                f"{pair.loss:.8f}, val_bpb {pair.bpb:.8f}: they are one run."
            )


def _mean_loss(record: RecordFolder, logs: Sequence[LogFacts]) -> Iterator[str]:
    claimed, losses = record.submitted("val_loss"), [log.val_loss for log in logs if log.val_loss is not None]
    mean = statistics.fmean(losses) if losses else None
    if claimed is not None and mean is not None and abs(claimed - mean) > SCORE_SLACK:
        yield f"{SUBMISSION} claims val_loss {claimed:.5f}, the {len(losses)} logs average {mean:.5f}."


def _seed_results(record: RecordFolder, logs: Sequence[LogFacts]) -> Iterator[str]:
    """What submission.json lists for a seed is what the log of that seed ends in."""
    results = (record.submission or {}).get("seed_results")
    for log in logs:
        result = results.get(str(log.seed)) if isinstance(results, Mapping) else None
        claimed = result.get("val_bpb") if isinstance(result, Mapping) else None
        if not isinstance(claimed, int | float) or isinstance(claimed, bool) or log.val_bpb is None:
            continue
        if not abs(claimed - log.val_bpb) <= SCORE_SLACK:
            yield (
                f"{SUBMISSION} lists {claimed:.5f} bits per byte for seed {log.seed}, "
                f"{log.name} ends in {log.val_bpb:.5f}."
            )


def _scripts(record: RecordFolder) -> Iterator[str]:
    """One script for all logs, and it is the one in the folder."""
    printed = sorted({log.code_bytes for log in record.scored_logs() if log.code_bytes is not None})
    if len(printed) > 1:
        yield f"the logs ran different scripts, of {printed[0]:,} and {printed[-1]:,} bytes."
    elif printed and record.script_bytes is not None and record.script_bytes not in printed:
        yield f"{SCRIPT} has {record.script_bytes:,} bytes, the logs ran one of {printed[0]:,}."


def _seeds(record: RecordFolder) -> Iterator[str]:
    listed = (record.submission or {}).get("seeds")
    seeds = {log.seed for log in record.scored_logs() if log.seed is not None}
    if isinstance(listed, list | Mapping) and seeds:
        named = {str(seed)[:20] for seed in listed}
        if named != {str(seed) for seed in seeds}:
            in_logs = ", ".join(map(str, sorted(seeds)))
            yield f"{SUBMISSION} names the seeds {', '.join(sorted(named, key=len)[:8])}, the logs {in_logs}."


def _submitted_bytes(record: RecordFolder) -> Iterator[str]:
    """Largest, mean or one of the totals: all within what the logs print."""
    claimed, totals = record.submitted("bytes_total"), [log.total_bytes for log in record.logs if log.total_bytes]
    if claimed is not None and totals and not min(totals) <= claimed <= max(totals):
        yield f"{SUBMISSION} claims {claimed:,.0f} bytes in all, the logs print {min(totals):,} to {max(totals):,}."
