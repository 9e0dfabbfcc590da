"""A run's log in the lines that the contest's parsers know (spec pr549.md, end of section 6; rules.md 1.7).

A line is there only if the run measured what it says.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from paramgolf.submission.scored_run import ScoredRun

_TIME_OF_DAY = re.compile(r"^\d\d:\d\d:\d\d ")
# Where things lay on the author's machine is nobody's business: lines of train, pack and the exported script.
_PLACE = re.compile(r"^(?:(recipe .*?|resumed),? on .*|(squeezed again) from the weights of .*)$")


def log_text(run: ScoredRun, code_bytes: int) -> str:
    """The whole log; `code_bytes` is the size of the script that goes with the model."""
    trained = [*_settings(run), *_training(run), *_calibration(run), *_own_log(run)]
    return "\n".join([*trained, *_sizes(run, code_bytes), *_score(run), ""])


def _settings(run: ScoredRun) -> Iterator[str]:
    """Every setting of the recipe, and what env.json says of the machine and the text."""
    yield f"seed:{run.seed}"
    for name, value in _flat(dataclasses.asdict(run.recipe)):
        if name not in ("seed", "tokenizer.vocab_size"):
            yield f"{name}:{value}"
    environment = run.environment
    yield f"vocab_size:{vocab_size(run)}"
    for name, key in (("world_size", "ranks"), ("device", "device"), ("python", "python"), ("cuda", "cuda")):
        if environment.get(key) is not None:
            yield f"{name}:{environment[key]}"
    for package, version in (environment.get("versions") or {}).items():
        if version is not None:
            yield f"version.{package}:{version}"
    text = environment.get("train_text") or {}
    for name in ("name", "digest", "documents", "bytes"):
        if text.get(name) is not None:
            yield f"train_text.{name}:{text[name]}"


def _training(run: ScoredRun) -> Iterator[str]:
    most = run.recipe.train.max_steps
    for point in run.metrics:
        step, seconds = point["step"], point["seconds"]
        line = f"step:{step}/{most} train_loss:{point['loss']:.4f} {_train_time(step, seconds)}"
        yield line + (f" tok/s:{point['tokens_per_second']:.0f}" if "tokens_per_second" in point else "")
    if run.steps < most:
        last = run.metrics[-1]
        yield f"stopping_early: wallclock_cap train_time:{1000 * last['seconds']:.0f}ms step:{run.steps}/{most}"


def _calibration(run: ScoredRun) -> Iterator[str]:
    """Seconds on the clock after the last step; text of the model's own making is calibrated on off the clock."""
    if run.calibration_seconds is not None:
        yield f"Hessians in {run.calibration_seconds:.3f} s"


def _own_log(run: ScoredRun) -> Iterator[str]:
    """What the run itself wrote down, without the times of day and the author's paths."""
    return (_PLACE.sub(r"\1\2", _TIME_OF_DAY.sub("", line)) for line in run.log)


def _sizes(run: ScoredRun, code_bytes: int) -> Iterator[str]:
    total = run.artifact_bytes + code_bytes
    yield f"Serialized model pyz: {run.artifact_bytes} bytes"
    yield f"Code size: {code_bytes} bytes"
    yield f"Total submission size pyz: {total} bytes"


def _score(run: ScoredRun) -> Iterator[str]:
    yield f"val_tokens:{run.score['tokens']}"
    yield f"val_bytes:{run.score['bytes']}"
    yield f"val_documents:{run.score['documents']}"
    yield f"val_text.digest:{run.text_digest}"
    pair = f"val_loss:{run.nats_per_token:.8f} val_bpb:{run.bpb:.8f}"
    yield f"{final_label(run)} {pair} eval_time:{1000 * run.eval_seconds:.0f}ms"
    yield f"total_eval_time:{run.eval_seconds:.3f}s"


def final_label(run: ScoredRun) -> str:
    """The name of the final line: the published one where it says what was done, else one that names the adaptation."""
    adapt = str(run.score.get("adapt"))
    if adapt == "ttt":
        return "legal_ttt_exact"
    if adapt == "none":
        settings = run.recipe.score
        return "final_sliding_window_exact" if settings.stride < settings.window else "final_roundtrip_exact"
    return f"final_{re.sub(r'[^A-Za-z0-9]+', '_', adapt)}_exact"


def vocab_size(run: ScoredRun) -> int:
    """Ids of the tokenizer; that of bytes has one size, whatever the recipe says."""
    from paramgolf.text.byte_tokenizer import ByteTokenizer

    kind = run.recipe.tokenizer
    return ByteTokenizer().vocab_size if kind.kind == "bytes" else kind.vocab_size


def _train_time(step: int, seconds: float) -> str:
    return f"train_time:{1000 * seconds:.0f}ms step_avg:{1000 * seconds / max(step, 1):.2f}ms"


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", ",".join(map(str, value)) if isinstance(value, list | tuple) else value
