"""Which frame of the neural window predicts which position; shared by the batched and the stepwise model.

Positions count the tokens that are predicted, from 0 at the start of a lane's text; the input of position p is token
p - 1, and token -1 is the boundary token. Position p belongs to frame k = p // stride, which reads `window` inputs from
that of position max(0, (k + 1) * stride - window) on. So a row sees at least `window - stride` earlier tokens once
that many exist, and its frame does not depend on how the text was cut into chunks. The frames that begin at 0 read the
same inputs, so one piece serves all of them: at stride 64 the first 2,048 positions cost one pass, not 32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """A run of positions `first <= p < stop` that one frame predicts; its first input is that of position `start`."""

    start: int
    first: int
    stop: int


@dataclass(frozen=True)
class FrameGrid:
    """Frames of `window` inputs that advance by `stride` positions."""

    window: int
    stride: int

    def start(self, position: int) -> int:
        """The position of the first input of the frame that predicts `position`."""
        return max(0, (position // self.stride + 1) * self.stride - self.window)

    def shared(self) -> int:
        """Positions below this one are all predicted from inputs that begin at 0."""
        return self.window // self.stride * self.stride

    def pieces(self, first: int, stop: int) -> Iterator[Piece]:
        """Cut `first <= p < stop` where the inputs change."""
        while first < stop:
            end = min(stop, max(self.shared(), (first // self.stride + 1) * self.stride))
            yield Piece(self.start(first), first, end)
            first = end
