"""Which tokens of a lane are read for which rows when adapters learn: by the position in the document alone.

A document is cut into pieces, whose size follows from where they begin. The rows of a piece come from one window of the
model, whose end is that of the whole piece, however short the document turns out to be: the last `window` inputs before
it. So neither shapes nor rows depend on what is not decoded yet (published, both do: spec pr2140.md 5.3 and 8, item 3).
Position p is the p-th token of the document, counted from 0; its input is the token before it, and that of position 0
is the boundary.

Legend: B lanes, P parts of a lane in one chunk.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from paramgolf.predict.protocol import Int64


@dataclass(frozen=True)
class PieceGrid:
    """Pieces of `sizes[0]` positions until `until[0]`, of `sizes[1]` until `until[1]`, ..., the last without end.

    They are read in windows of at most `window` inputs; no size is above that, and pieces end at each of `until`
    (`ScoreRecipe.lora_chunks` is checked for that).
    """

    sizes: tuple[int, ...]
    until: tuple[int, ...]
    window: int

    def size(self, position: int) -> int:
        """How many positions the piece that holds a position has."""
        return self.sizes[bisect_right(self.until, position)]

    def begin(self, position: int) -> int:
        """The first position of the piece that holds a position."""
        stage = bisect_right(self.until, position)
        origin = self.until[stage - 1] if stage else 0
        return position - (position - origin) % self.sizes[stage]

    def stop(self, position: int) -> int:
        """The end of the piece that holds a position."""
        return self.begin(position) + self.size(position)

    def start(self, position: int) -> int:
        """The position of the first input that its row is computed from."""
        return max(0, self.stop(position) - self.window)

    def width(self, position: int) -> int:
        """Inputs of its window."""
        return self.stop(position) - self.start(position)


@dataclass(frozen=True)
class DocumentLane:
    """One lane: the last tokens of its present document, the boundary before it included, and how many there were."""

    history: Int64
    position: int

    @staticmethod
    def fresh(boundary_id: int) -> DocumentLane:
        """Before the first token of a document."""
        return DocumentLane(np.array([boundary_id], dtype=np.int64), 0)

    def after(self, tokens: Int64, window: int) -> DocumentLane:
        """The lane once `tokens` of the same document were observed."""
        return DocumentLane(np.concatenate([self.history, tokens])[-window:], self.position + len(tokens))


@dataclass(frozen=True)
class Part:
    """Neighbouring positions of one piece that one chunk holds: `first <= p < stop` in columns from `column` on.

    `ended`: its last token is the boundary that ends the document, in a stream of several. `line` holds the inputs of
    its window that are known with it, from the first on, and the token at `stop - 1`.
    """

    column: int
    first: int
    stop: int
    ended: bool
    line: Int64

    @property
    def fresh(self) -> bool:
        """Whether a document begins with it."""
        return self.first == 0

    def completes(self, grid: PieceGrid) -> bool:
        """Whether the piece is known to its end, and the document may go on."""
        return self.stop == grid.stop(self.first) and not self.ended


def lane_parts(
    lane: DocumentLane, tokens: Int64, boundary_id: int, grid: PieceGrid, *, stream: bool
) -> Iterator[tuple[Part, DocumentLane]]:
    """The parts of a lane's next tokens, each with the lane after it.

    In a `stream` a document ends with the boundary that was observed, and the next one begins there.
    """
    column = 0
    while column < len(tokens):
        count = min(len(tokens) - column, grid.stop(lane.position) - lane.position)
        ended = False
        if stream:
            found = np.flatnonzero(tokens[column : column + count] == boundary_id)
            ended = len(found) > 0
            count = int(found[0]) + 1 if ended else count
        new = tokens[column : column + count]
        line, shift = np.concatenate([lane.history, new]), len(lane.history) - 1 - lane.position
        stop = lane.position + count
        part = Part(column, lane.position, stop, ended, line[grid.start(lane.position) + shift : stop + shift + 1])
        lane = DocumentLane.fresh(boundary_id) if ended else lane.after(new, grid.window)
        yield part, lane
        column += count
