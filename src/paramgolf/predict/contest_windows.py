"""Which windows the published evaluation of #549 scores, and when: for comparison, since it counts the tail many times.

Spec pr549.md, sections 5.3 and 5.4. Targets are numbered from 0 to T-1; target p is token p + 1 of a stream of T + 1
tokens. A window that starts at w reads tokens w..e-1 with e = min(w + length, T) and predicts targets w..e-1, of which
it scores the last `stride` (all, if w is 0). Legend: N windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paramgolf.predict.protocol import Int64


@dataclass(frozen=True)
class Windows:
    """Windows in the order of their starts; int64 arrays [N]: start, end, and the first target that is scored."""

    start: Int64
    end: Int64
    first: Int64

    def __len__(self) -> int:
        return len(self.start)

    def scored(self) -> int:
        """Targets scored, those that are scored several times counted as often."""
        return int((self.end - self.first).sum())

    def take(self, chosen: Int64 | slice) -> Windows:
        """Some of them."""
        return Windows(self.start[chosen], self.end[chosen], self.first[chosen])


def published_windows(targets: int, length: int, stride: int, *, training: bool = False) -> Windows:
    """Every window of the published rule: the last `length / stride` of a text all score its last `stride` targets.

    The rule for test-time training leaves out windows shorter than `stride` (but for the first).
    """
    start = np.arange(0, targets, stride, dtype=np.int64)
    end = np.minimum(start + length, targets)
    if training:
        kept = (end - start >= stride) | (start == 0)
        start, end = start[kept], end[kept]
    return Windows(start, end, np.where(start == 0, 0, np.maximum(end - stride, start)))


def exact_windows(targets: int, length: int, stride: int) -> Windows:
    """The same windows until one ends the text, each scoring what none before it has: every target once (5.3)."""
    windows = published_windows(targets, length, stride)
    windows = windows.take(slice(0, int(np.searchsorted(windows.end, targets)) + 1))
    return Windows(windows.start, windows.end, np.concatenate([[0], windows.end[:-1]])[: len(windows)])


def chunk_of(windows: Windows, targets: int, chunk: int) -> Int64:
    """The chunk in which each window is scored [N]: that of its first scored target, the last one at most."""
    return np.minimum(windows.first // chunk, -(-targets // chunk) - 1)


def share(count: int, rank: int, world: int) -> slice:
    """The contiguous part of `count` things that one of `world` ranks takes."""
    return slice(count * rank // world, count * (rank + 1) // world)
