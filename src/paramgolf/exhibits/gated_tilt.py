"""The tilt of #2140 as first published: experts for words that speak only if the target is of their class.

The hints come from the past alone and each tilt is normalised. But the expert for the inside of words is consulted only
if the token to be scored goes on with a word, the one for the beginnings of words only if it begins one. So whether a
hint applies, and which, is a function of the token; what all tokens together would be credited with is

    1 + P(N) (1 - 1/Z)    with N the tokens for which no hint is shown,

more than one wherever a hint is trusted (spec pr2140.md, 6.4: 1.098231, 1.086103, 1.064718 on its counterexamples).
Here the row shows just these credits. #1420 (claimed 1.08014, corrected 1.08309), #1437, #1967, #2041, #2118, #2140
(1.05601, 1.05702 with the two experts off). Caught by `sums-to-one`.

Legend: B lanes, T positions, V vocabulary; nats.
"""

from __future__ import annotations

import numpy as np

from paramgolf.exhibits.tables import Wrapped
from paramgolf.predict.protocol import Bool, Chunk, Float64, Predictor, Rows
from paramgolf.predict.tilt import Expert
from paramgolf.predict.tilt_counts import ContextHints
from paramgolf.predict.tilt_experts import (
    AGREEMENT,
    WITHIN_SHARE,
    WORD_BOOST,
    WORD_SHARE,
    Pieces,
    within_word_expert,
    word_start_expert,
)
from paramgolf.predict.tilt_hints import Hints
from paramgolf.predict.tilt_kernel import NO_HINT, choose, tilt_row
from paramgolf.predict.tilt_table import BEGINS, ENDS, GOES_ON


class GatedTilt(Wrapped):
    """Three experts: `token` is asked for every target; `within` if it goes on with a word, `start` if it begins one.

    None leaves an expert out.
    """

    def __init__(
        self,
        base: Predictor,
        pieces: Pieces,
        *,
        token: Expert | None = None,
        within: Expert | None = None,
        start: Expert | None = None,
        agreement: float = AGREEMENT,
    ) -> None:
        super().__init__(base)
        self.kind_V = pieces.kind_V
        self.agreement = agreement
        self.experts = [(token, "token"), (within, "within"), (start, "start")]
        self._open: dict[int, bool] = {}

    def predict(self, chunk: Chunk) -> Rows:
        return GatedRows(self, chunk, self.base.predict(chunk))

    def observe(self, chunk: Chunk) -> None:
        for lane in range(len(chunk.tokens)):
            self._open[lane] = bool(self.opens(chunk, lane)[-1])
        for expert, _ in self.experts:
            if expert is not None:
                expert.source.observe(chunk)
        self.base.observe(chunk)

    def opens(self, chunk: Chunk, lane: int) -> Bool:
        """Whether a word is open before each real position of a lane, and after the last [length + 1]."""
        before = self._open.get(lane, False) and not chunk.starts[lane]
        after = self.kind_V[chunk.tokens[lane, : chunk.lengths[lane]]] != ENDS
        return np.append(before, after)

    def asked(self, name: str, kind: int, word_open: bool) -> bool:
        """Whether an expert is consulted for a target of this kind: the fault."""
        begins = kind == BEGINS or (kind == GOES_ON and not word_open)
        return {"token": True, "within": kind == GOES_ON and word_open, "start": begins}[name]


class GatedRows:
    """What each token would be credited with."""

    def __init__(self, owner: GatedTilt, chunk: Chunk, base: Rows) -> None:
        self._owner, self._base = owner, base
        self._chunk = Chunk(chunk.tokens.copy(), chunk.lengths.copy(), chunk.starts.copy())
        self._hints: dict[int, list[tuple[Expert, str, Hints]]] = {}
        self._open: dict[int, Bool] = {}

    def realised(self) -> Float64:
        out_BT = np.zeros(self._chunk.tokens.shape)
        for lane, position in np.argwhere(self._chunk.real()).tolist():
            out_BT[lane, position] = self._credit(lane, position)
        return out_BT

    def row(self, lane: int, position: int) -> Float64:
        base_V = np.array(self._base.row(lane, position), dtype=np.float64)
        word_open = bool(self._opens(lane)[position])
        out_V = base_V.copy()
        for kind in (GOES_ON, BEGINS, ENDS):
            hint, boost = self._choice(lane, position, kind, word_open)
            if hint != NO_HINT:
                leaning_V = base_V.copy()
                tilt_row(leaning_V, hint, boost)
                of_kind_V = self._owner.kind_V == kind
                out_V[of_kind_V] = leaning_V[of_kind_V]
        return out_V

    def _credit(self, lane: int, position: int) -> float:
        """The row's entry for the token that stands there."""
        base_V = self._base.row(lane, position)
        token = int(self._chunk.tokens[lane, position])
        word_open = bool(self._opens(lane)[position])
        hint, boost = self._choice(lane, position, int(self._owner.kind_V[token]), word_open)
        if hint == NO_HINT:
            return float(base_V[token])
        leaning_V = np.array(base_V, dtype=np.float64)
        tilt_row(leaning_V, hint, boost)
        return float(leaning_V[token])

    def _opens(self, lane: int) -> Bool:
        if lane not in self._open:
            self._open[lane] = self._owner.opens(self._chunk, lane)
        return self._open[lane]

    def _choice(self, lane: int, position: int, kind: int, word_open: bool) -> tuple[int, float]:
        """The hint and boost that a target of this kind would be scored with."""
        told = [
            (expert, Hints(*(part[position : position + 1] for part in hints)))
            for expert, name, hints in self._all_hints(lane)
            if self._owner.asked(name, kind, word_open)
        ]
        hint_1, boost_1 = np.array([NO_HINT]), np.zeros(1)
        if told:
            token, top, total = (np.stack(parts) for parts in zip(*(hints for _, hints in told), strict=True))
            gates = np.stack([hints.gates(expert.share) for expert, hints in told])
            boosts = np.array([expert.boost for expert, _ in told])
            choose(token, top, total, gates, boosts, self._owner.agreement, hint_1, boost_1)
        return int(hint_1[0]), float(boost_1[0])

    def _all_hints(self, lane: int) -> list[tuple[Expert, str, Hints]]:
        if lane not in self._hints:
            experts = [(expert, name) for expert, name in self._owner.experts if expert is not None]
            self._hints[lane] = [(one, name, one.source.hints(self._chunk, lane)) for one, name in experts]
        return self._hints[lane]


class UnspelledGatedTilt(Wrapped):
    """All three experts with the published numbers over tokens whose spelling is not known.

    Any split of the vocabulary shows the leak: here every eighth token begins words. The contexts are short, as the
    texts of tests are. The experts are made for as many lanes as the first chunk has.
    """

    def __init__(self, base: Predictor) -> None:
        super().__init__(base)
        self._tilt: GatedTilt | None = None

    def predict(self, chunk: Chunk) -> Rows:
        return self._tilt_of(chunk).predict(chunk)

    def observe(self, chunk: Chunk) -> None:
        self._tilt_of(chunk).observe(chunk)

    def _tilt_of(self, chunk: Chunk) -> GatedTilt:
        if self._tilt is None:
            self._tilt = _unspelled(self.base, len(chunk.tokens))
        return self._tilt


def _unspelled(base: Predictor, lanes: int) -> GatedTilt:
    size = base.vocab_size
    kind_V = np.where(np.arange(size) % 8 == 0, BEGINS, GOES_ON).astype(np.int8)
    pieces = Pieces(tuple(f"{token}_" for token in range(size)), kind_V)
    return GatedTilt(
        base,
        pieces,
        token=Expert(ContextHints(size, 0, lanes, exact=3), 0.8, 2.625),
        within=within_word_expert(pieces, 0, lanes, share=WITHIN_SHARE, boost=WORD_BOOST),
        start=word_start_expert(pieces, lanes, words=1, share=WORD_SHARE, boost=WORD_BOOST),
    )
