"""The contest's score of its validation tokens: which targets count, how many bytes they stand for, and bits per byte.

The validation stream is all held-out shards one after the other; it begins with BOS, which is never a target. Legend:
N tokens of the stream, T targets, B bytes, S tokens of a sequence or window. Spec pr549.md 1.5, 1.6 and 5.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramgolf.errors import TextError
from paramgolf.text.byte_table import ByteTable

Tokens = npt.NDArray[np.integer]
_AT_ONCE = 1 << 22  # targets whose bytes are looked up together; bounds the memory


@dataclass(frozen=True)
class Denominator:
    """What a mean loss is divided by: `targets` that were scored and `bytes` that they stand for.

    A target that is scored n times counts n times in both, as its loss does.
    """

    targets: int
    bytes: int

    def bpb(self, loss: float) -> float:
        """Bits per byte for the mean loss in nats over the targets."""
        return contest_bpb(loss, self.targets, self.bytes)


def contest_bpb(loss: float, targets: int, bytes: int) -> float:
    """`(loss / ln 2) * (targets / bytes)`: bits per byte of a mean loss in nats (spec pr549.md 1.6)."""
    return loss / math.log(2) * (targets / bytes)


def kept_tokens(tokens: int, sequence: int) -> int:
    """How many of N validation tokens the contest keeps: whole sequences of targets, and one token before them.

    Raises `TextError` if they hold no whole sequence.
    """
    if sequence < 1:
        raise ValueError(f"sequence={sequence} must be positive")
    if tokens < sequence + 1:
        raise TextError(f"{tokens} validation tokens hold no sequence of {sequence}: {sequence + 1} are needed")
    return (tokens - 1) // sequence * sequence + 1


def validation_tokens(shards: Sequence[Tokens], sequence: int | None = None) -> Tokens:
    """The stream of the held-out shards; with `sequence` (2048 in the contest) without the tail that it drops.

    T is one less than what is returned. Raises `TextError` if there are too few tokens for one target.
    """
    stream: Tokens = np.concatenate(list(shards)) if shards else np.zeros(0, dtype=np.uint16)
    if len(stream) < 2:
        raise TextError(f"{len(stream)} validation tokens hold no target: the first token is only looked at")
    return stream if sequence is None else stream[: kept_tokens(len(stream), sequence)]


def plain_denominator(tokens: Tokens, table: ByteTable) -> Denominator:
    """Every target of `tokens` [T + 1] once: the plain evaluation, and every honest one."""
    targets = _targets(tokens)
    return Denominator(targets, charged_bytes(tokens, table, 0, targets))


def sidecar_denominator(token_bytes: npt.NDArray[np.integer]) -> Denominator:
    """Every target once, with the bytes that a sidecar gives the T + 1 tokens; BOS and operators stand for none.

    Spec pr2140.md 1.5. Raises `TextError` if there is no target.
    """
    return Denominator(_targets(token_bytes), int(token_bytes[1:].sum(dtype=np.int64)))


def published_sliding_denominator(
    tokens: Tokens, table: ByteTable, window: int, stride: int, *, drop_short: bool = False
) -> Denominator:
    """What the published sliding evaluation divides by: the windows cut off by the end score the last targets again.

    For comparison with published figures only. `drop_short` leaves out windows of fewer than `stride` targets, as the
    published test-time training does. With window 2048 and stride 64 the last 64 targets count 32 times.
    """
    spans = published_tail_spans(_targets(tokens), window, stride, drop_short=drop_short)
    scored = sum(last - first for first, last in spans)
    return Denominator(scored, sum(charged_bytes(tokens, table, first, last) for first, last in spans))


def published_tail_spans(targets: int, window: int, stride: int, *, drop_short: bool = False) -> list[tuple[int, int]]:
    """Spans [first, last) that together hold every target as often as the published sliding windows score it.

    Windows begin at 0, stride, 2 stride, ... below T and end at the window's length or at T. The first scores all of
    its targets, the others their last `stride`: the full ones lie end to end and are given as one span, those that T
    cuts off one by one. Spec pr549.md 5.3, 8.7.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"stride={stride} must be in 1..window={window}")
    last_full = max(0, targets - window) // stride * stride
    spans = [(0, min(last_full + window, targets))]
    for start in range(last_full + stride, targets, stride):
        if not drop_short or targets - start >= stride:
            spans.append((max(targets - stride, start), targets))
    return spans


def charged_bytes(tokens: Tokens, table: ByteTable, first: int, last: int) -> int:
    """Bytes of the targets [first, last) of `tokens`, where target i is token i + 1 after token i."""
    return sum(
        int(table.bytes_of(tokens[start:end], tokens[start + 1 : end + 1]).sum()) for start, end in _parts(first, last)
    )


def _targets(tokens: Tokens) -> int:
    if len(tokens) < 2:
        raise TextError(f"{len(tokens)} validation tokens hold no target: the first token is only looked at")
    return len(tokens) - 1


def _parts(first: int, last: int) -> Iterator[tuple[int, int]]:
    for start in range(first, last, _AT_ONCE):
        yield start, min(start + _AT_ONCE, last)
