"""A predictor whose rows lean towards hints of the past: online n-gram tilt (#1145, #1514, #2140; spec section 6).

Where a hint h is trusted, p'(a) = p(a) e^(boost [a = h]) / (1 + p(h) (e^boost - 1)): a distribution, because neither
the hint nor the gate that trusts it looks at the token that stands there.

Legend: B lanes, T positions of a chunk, V vocabulary, E experts. Nats, float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paramgolf.errors import RecipeError
from paramgolf.predict.protocol import Chunk, Float64, FullRows, Int64, Predictor, Rows
from paramgolf.predict.tilt_hints import HintSource
from paramgolf.predict.tilt_kernel import NO_HINT, choose, tilt_credits, tilt_row
from paramgolf.predict.token_ids import refuse_unknown

WHOLE_LANE = 8  # from one asked row in so many positions on, all rows of a lane are fetched at once


@dataclass(frozen=True)
class Expert:
    """Where hints come from, the share of its context's followers that a hint must have had, and its boost in nats."""

    source: HintSource
    share: float
    boost: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise RecipeError(f"score.tilt_share={self.share} is outside 0..1")
        if not 0 <= self.boost < 100:
            raise RecipeError(f"score.tilt_boost={self.boost} is outside 0..100 nats")


@dataclass(frozen=True)
class Leaning:
    """What one lane leans towards: the hint at each real position (`NO_HINT`: none) and by how many nats, both [T]."""

    hint_T: Int64
    boost_T: Float64

    @property
    def gated(self) -> int:
        """How many positions lean."""
        return int((self.hint_T != NO_HINT).sum())


class TiltPredictor:
    """Rows of `neural` that lean towards the hint of the most promising expert.

    With several experts see `tilt_kernel.choose`; `agreement` nats are added where two or more name one hint. The
    experts read on in `observe`; inside a chunk a position uses the earlier tokens of its own lane. Rows have the same
    bits wherever those of `neural` have, however the chunk is cut, and `predict` changes nothing.

    Raises `ValueError` for vocabularies that differ, `TokenizerError` for ids outside 0..V - 1 before anything changes.
    """

    def __init__(self, neural: Predictor, experts: Sequence[Expert], agreement: float = 0.0) -> None:
        sizes = {neural.vocab_size, *(expert.source.vocab_size for expert in experts)}
        if len(sizes) > 1:
            raise ValueError(f"vocabularies differ: {sorted(sizes)}")
        self.vocab_size = neural.vocab_size
        self.neural = neural
        self.experts = tuple(experts)
        self.agreement = agreement

    @property
    def forgotten(self) -> int:
        """How many contexts the experts have forgotten, because their memory is bounded."""
        return sum(getattr(expert.source, "forgotten", 0) for expert in self.experts)

    def predict(self, chunk: Chunk) -> TiltRows:
        """Rows of the chunk [B, T], computed when they are asked for."""
        refuse_unknown(chunk, self.vocab_size)
        # A caller may write the next token into the chunk that it showed.
        own = Chunk(chunk.tokens.copy(), chunk.lengths.copy(), chunk.starts.copy())
        return TiltRows(own, self.neural.predict(own), self)

    def observe(self, chunk: Chunk) -> None:
        """Show the chunk to the experts and to the model."""
        refuse_unknown(chunk, self.vocab_size)
        for expert in self.experts:
            expert.source.observe(chunk)
        self.neural.observe(chunk)

    def leaning(self, chunk: Chunk, lane: int) -> Leaning:
        """What a lane of a chunk leans towards; position t depends on the state and the tokens before t alone."""
        length = int(chunk.lengths[lane])
        found = Leaning(np.full(length, NO_HINT, dtype=np.int64), np.zeros(length))
        if self.experts and length:
            hints = [expert.source.hints(chunk, lane) for expert in self.experts]
            token_ET, top_ET, total_ET = (np.stack(parts) for parts in zip(*hints))
            gate_ET = np.stack([one.gates(expert.share) for one, expert in zip(hints, self.experts)])
            boost_E = np.array([expert.boost for expert in self.experts])
            choose(token_ET, top_ET, total_ET, gate_ET, boost_E, self.agreement, found.hint_T, found.boost_T)
        return found


class TiltRows:
    """Leaning rows; void after `observe`."""

    def __init__(self, chunk: Chunk, neural: Rows, predictor: TiltPredictor) -> None:
        self._chunk = chunk
        self._neural = neural
        self._predictor = predictor
        self._leanings: dict[int, Leaning] = {}

    def realised(self) -> Float64:
        """Log-probability in nats of the chunk's tokens [B, T], 0 at padding.

        A whole row of the model is asked for only where a hint differs from the token: elsewhere its share is known.
        """
        out_BT = np.array(self._neural.realised(), dtype=np.float64)
        for b, length in enumerate(self._chunk.lengths.tolist()):
            leaning, tokens_T, out_T = self._leaning(b), self._chunk.tokens[b, :length], out_BT[b, :length]
            log_q_T = out_T.copy()
            missed = np.flatnonzero((leaning.hint_T != NO_HINT) & (leaning.hint_T != tokens_T))
            log_q_T[missed] = self._hinted(b, missed, leaning.hint_T[missed])
            tilt_credits(tokens_T, leaning.hint_T, leaning.boost_T, log_q_T, out_T)
        return out_BT

    def row(self, lane: int, position: int) -> Float64:
        """The whole distribution at one real position, [V] nats."""
        if not 0 <= position < self._chunk.lengths[lane]:
            raise IndexError(f"lane {lane} position {position} is padding")
        row_V = np.array(self._neural.row(lane, position), dtype=np.float64)
        self._lean(row_V, self._leaning(lane), position)
        return row_V

    def all_rows(self, lane: int) -> Float64:
        """The distributions of all real positions of a lane, [length, V] nats."""
        length, leaning = int(self._chunk.lengths[lane]), self._leaning(lane)
        if isinstance(self._neural, FullRows):
            rows_TV = np.array(self._neural.all_rows(lane), dtype=np.float64)
        else:
            rows_TV = np.empty((length, self._predictor.vocab_size))
            for t in range(length):
                rows_TV[t] = self._neural.row(lane, t)
        for t in range(length):
            self._lean(rows_TV[t], leaning, t)
        return rows_TV

    def _lean(self, row_V: Float64, leaning: Leaning, position: int) -> None:
        hint = int(leaning.hint_T[position])
        if hint != NO_HINT:
            tilt_row(row_V, hint, float(leaning.boost_T[position]))

    def _hinted(self, lane: int, positions: Int64, hints: Int64) -> Float64:
        """What the model gives to the hints at some positions of a lane, [n] nats."""
        if isinstance(self._neural, FullRows) and WHOLE_LANE * len(positions) > self._chunk.lengths[lane]:
            return np.asarray(self._neural.all_rows(lane)[positions, hints], dtype=np.float64)
        rows = [self._neural.row(lane, t)[hint] for t, hint in zip(positions.tolist(), hints.tolist())]
        return np.array(rows, dtype=np.float64)

    def _leaning(self, lane: int) -> Leaning:
        if lane not in self._leanings:
            self._leanings[lane] = self._predictor.leaning(self._chunk, lane)
        return self._leanings[lane]
