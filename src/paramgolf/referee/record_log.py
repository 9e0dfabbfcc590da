"""Numbers out of the training log of somebody's record: the lines that the field's scripts print (rules 1.7)."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass

LN2 = math.log(2.0)

_NUMBER = r"([0-9]{1,12}(?:\.[0-9]{1,12})?)"
_PAIR = re.compile(rf"val_loss:\s*{_NUMBER}\s+val_bpb:\s*{_NUMBER}")
_COUNTERS = re.compile(r"(?:(?<![A-Za-z0-9_])|(?<=[0-9]T))[0-9][0-9.,/]*")  # also the hour of 2026-03-21T10:00
_VAL_BYTES = re.compile(r"val_bytes\s*[:=]\s*([0-9]{1,15})")
_MODEL_SIZE = re.compile(r"Serialized model[^:\n]{0,80}:\s*([0-9]{1,12})\s*bytes")
_VAL_TOKENS = re.compile(r"val_tokens\s*[:=]\s*([0-9]{1,12})|val_loader:[^\n]{0,400}?\btokens:\s*([0-9]{1,12})")
_VOCAB = re.compile(r"vocab_size\s*[:=]\s*([0-9]{1,9})")
_SEED = re.compile(r"^\s*seed\s*[:=]\s*([0-9]{1,12})", re.MULTILINE)
_DEVICE = re.compile(r"^device:\s*(\w{1,20})", re.MULTILINE)
_TRAIN_TIME = re.compile(rf"train_time:\s*{_NUMBER}\s*(ms|s)")
_HESSIANS = re.compile(rf"Hessians\s+in\s+{_NUMBER}\s*s")
_EVAL_TIME = re.compile(rf"\beval_time:\s*{_NUMBER}\s*(ms|s)")
_TOTAL_EVAL_TIME = re.compile(rf"total_eval_time:\s*{_NUMBER}\s*(ms|s)")
_TOTAL_SIZE = re.compile(r"Total submission size[^:\n]{0,80}:\s*([0-9]{1,12})\s*bytes")
_CODE_SIZE = re.compile(r"Code size\s*(\(uncompressed\)|\(compressed\))?\s*:\s*([0-9]{1,12})\s*bytes")


MOST_PAIRS = 100_000
_LABEL = 60  # characters before a pair that name its scheme: a logger may print its own before them
_LINE = 10 * _LABEL  # characters that are searched for counters, which vary in length


@dataclass(frozen=True)
class Pair:
    """One printed val_loss with its val_bpb. `label` is the line before it without counters, such as the step.

    `low` and `high` bound the bytes a token stands for, val_loss / (ln 2 * val_bpb), as far as the printed digits tell;
    `digits` is how many stand after the point in the shorter of the two.
    """

    label: str
    loss: float
    bpb: float
    low: float
    high: float
    digits: int


@dataclass(frozen=True)
class LogFacts:
    """What one log says; None where it says nothing. Times in seconds, sizes in bytes, losses in nats a token.

    `pairs` are all that it prints, in order, of which the last is the claim: `val_loss`, `val_bpb`, and the bytes a
    token stands for between `implied_low` and `implied_high`. `model_bytes` and `code_sizes` are all sizes of models
    and scripts that it prints.
    """

    name: str
    pairs: tuple[Pair, ...]
    val_loss: float | None
    val_bpb: float | None
    implied_low: float
    implied_high: float
    val_tokens: int | None
    val_bytes: int | None
    vocab_size: int | None
    seed: int | None
    device: str | None
    train_seconds: float | None
    hessian_seconds: float
    eval_seconds: float | None
    total_bytes: int | None
    code_bytes: int | None
    compressed_code_bytes: int | None
    model_bytes: tuple[int, ...]
    code_sizes: tuple[int, ...]


def read_log(name: str, text: str) -> LogFacts:
    """Find the last final pair, sizes and times; a log without any of them has only Nones."""
    pair = _last(_PAIR, text)
    loss, bpb = (float(pair[1]), float(pair[2])) if pair else (0.0, 0.0)
    low, high = _implied(pair[1], pair[2]) if pair and loss > 0 and bpb > 0 else (math.nan, math.nan)
    tokens = _last(_VAL_TOKENS, text)
    times = [_seconds(match) for match in _TRAIN_TIME.finditer(text)]
    code = {match[1]: int(match[2]) for match in _CODE_SIZE.finditer(text)}
    total = _last(_TOTAL_SIZE, text)
    return LogFacts(
        name=name,
        pairs=_pairs(text),
        val_loss=loss if loss > 0 else None,
        val_bpb=bpb if bpb > 0 else None,
        implied_low=low,
        implied_high=high,
        val_tokens=int(tokens[1] or tokens[2]) if tokens else None,
        val_bytes=_int(_VAL_BYTES, text),
        vocab_size=_int(_VOCAB, text),
        seed=_int(_SEED, text),
        device=device[1] if (device := _DEVICE.search(text)) else None,
        train_seconds=max(times) if times else None,
        hessian_seconds=sum(float(match[1]) for match in _HESSIANS.finditer(text)),
        eval_seconds=_eval_seconds(text),
        total_bytes=int(total[1]) if total else None,
        code_bytes=code.get("(uncompressed)", code.get(None)),
        compressed_code_bytes=code.get("(compressed)"),
        model_bytes=tuple({int(match[1]) for match in _MODEL_SIZE.finditer(text)}),
        code_sizes=tuple({int(match[2]) for match in _CODE_SIZE.finditer(text)}),
    )


def _pairs(text: str) -> tuple[Pair, ...]:
    found = []
    for match in itertools.islice(_PAIR.finditer(text), MOST_PAIRS):
        loss, bpb = float(match[1]), float(match[2])
        if loss > 0 and bpb > 0:
            begin = max(text.rfind("\n", 0, match.start()) + 1, match.start() - _LINE)
            label = _COUNTERS.sub("N", text[begin : match.start()].strip())[-_LABEL:]
            digits = min(len(word.partition(".")[2]) for word in match.groups())
            found.append(Pair(label, loss, bpb, *_implied(match[1], match[2]), digits))
    return tuple(found)


def _implied(loss: str, bpb: str) -> tuple[float, float]:
    slack_loss, slack_bpb = _half_digit(loss), _half_digit(bpb)
    low = (float(loss) - slack_loss) / (LN2 * (float(bpb) + slack_bpb))
    return low, (float(loss) + slack_loss) / (LN2 * max(float(bpb) - slack_bpb, 1e-12))


def _half_digit(number: str) -> float:
    """Half a unit of the last printed digit: how far rounding may have moved it."""
    return 0.5 * 10.0 ** -len(number.partition(".")[2])


def _eval_seconds(text: str) -> float | None:
    whole = _last(_TOTAL_EVAL_TIME, text)
    last = whole or _last(_EVAL_TIME, text)
    return _seconds(last) if last else None


def _seconds(match: re.Match[str]) -> float:
    return float(match[1]) / (1000.0 if match[2] == "ms" else 1.0)


def _int(pattern: re.Pattern[str], text: str) -> int | None:
    match = pattern.search(text)
    return int(match[1]) if match else None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for match in pattern.finditer(text):
        found = match
    return found
