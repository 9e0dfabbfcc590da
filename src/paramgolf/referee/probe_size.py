"""How much the probes read and ask, and the readout that lets so short a text reach every kind of update."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from paramgolf.predict.protocol import Int64
from paramgolf.recipe import ScoreRecipe
from paramgolf.referee.probes import MOST_CANDIDATES

UPDATE_CHUNKS = 3  # of a probe, between two updates of the weights
DOCUMENTS_A_LANE = 2  # so that every lane ends one and begins another
TILT_CONTEXT = 3  # tokens of a context that comes again in so short a text


@dataclass(frozen=True)
class ProbeSize:
    """How much the probes read and ask; `window` is the most that a frame has."""

    tokens: int = 1_500
    chunk: int = 128
    window: int = 256
    frames: int = 2  # of a batch: as many as a chunk touches, since every ask computes whole batches
    positions: int = 24
    counterfactuals: int = 2
    candidates: int = MOST_CANDIDATES
    decoded: int = 64

    def settings(self, settings: ScoreRecipe) -> ScoreRecipe:
        """The readout of a predictor that is probed: the same code, with frames and updates that a probe can reach."""
        window = min(settings.window, self.window)
        lora_chunks = self._lora_chunks(settings, window)
        return dataclasses.replace(
            settings,
            window=window,
            stride=min(settings.stride, window),
            chunk=self.chunk,
            ttt_chunk=UPDATE_CHUNKS * self.chunk,
            lora_chunks=lora_chunks,
            lora_chunks_until=tuple(accumulate(lora_chunks[:-1])),
            global_documents=min(settings.global_documents, 1),
            tilt_context=min(settings.tilt_context, TILT_CONTEXT),
        )

    def _lora_chunks(self, settings: ScoreRecipe, window: int) -> tuple[int, ...]:
        """As many sizes, each for one chunk, so that the last begins before the middle of a document's share."""
        half = self.tokens // (DOCUMENTS_A_LANE * settings.lanes) // 2
        most = max(1, min(window, self.chunk, half // len(settings.lora_chunks)))
        return tuple(min(size, most) for size in settings.lora_chunks)


PROBE = ProbeSize()
# Full-size models on a CPU: some 150 asks of one short frame.
SMALL_PROBE = ProbeSize(
    tokens=256, chunk=32, window=64, frames=1, positions=8, counterfactuals=1, candidates=16, decoded=16
)


def beginning(tokens: Iterable[npt.ArrayLike], most: int, lanes: int, documents: int) -> list[Int64]:
    """The first `most` tokens or so of `documents` documents, none of them more than its share.

    Leaks between lanes need tokens in two lanes, and what is carried from document to document needs an end.
    """
    share = max(1, most // min(DOCUMENTS_A_LANE * lanes, max(documents, 1)))
    kept: list[Int64] = []
    for ids in tokens:
        kept.append(np.asarray(ids, dtype=np.int64)[:share])
        if sum(map(len, kept)) >= most:
            break
    return kept
