"""A neural model and exact counts of what was scored, mixed by a rule (`cache_rules`).

Legend: B lanes, T positions of a chunk, K contexts (of 0, 1, ... K - 1 tokens), V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from paramgolf.predict.cache_kernel import NEURAL_ALONE, entropies_into, longest_levels, mix_row, mix_targets
from paramgolf.predict.cache_rules import Rule
from paramgolf.predict.cache_shares import Position
from paramgolf.predict.evidence import Evidence, Followers
from paramgolf.predict.fixed_math import exp_into
from paramgolf.predict.protocol import Chunk, Float64, FullRows, Int64, Predictor, Rows
from paramgolf.predict.token_ids import refuse_unknown


class ExactCounts(Protocol):
    """Counts of every context of 0, 1, ... tokens, with no collision. `observe` alone changes them.

    Position t of a lane may know the chunk's earlier tokens of that lane, and nothing of its own and later ones.
    """

    @property
    def vocab_size(self) -> int: ...

    def look_up(self, chunk: Chunk, lane: int) -> Evidence:
        """The evidence before each real token of a lane; only `count_TK` may depend on the token itself."""
        ...

    def followers(self, chunk: Chunk, lane: int, position: int) -> list[Followers]:
        """What followed each known context of a position; index k is the context of k tokens."""
        ...

    def observe(self, chunk: Chunk) -> None: ...


@dataclass(frozen=True)
class _Lane:
    """One lane of a chunk, counted out; all [T]."""

    known: Position
    log_T: Float64  # neural, of the tokens that stand there
    neural_T: Float64
    counted_T: Float64
    share_T: Float64


class CachePredictor:
    """Rows of `neural` mixed by `rule` with `counts`, which both start as they are and read on in `observe`.

    Inside a chunk later positions use the earlier tokens of their lane (what is learnt, on a copy), so the rows of one
    lane do not depend on how it is cut into chunks, but for counts whose bounded memory is full. Several lanes share
    what they learn, lane after lane. Rows have the same bits wherever those of `neural` have.
    """

    def __init__(self, neural: Predictor, counts: ExactCounts, rule: Rule) -> None:
        if neural.vocab_size != counts.vocab_size:
            raise ValueError(f"vocabularies differ: {neural.vocab_size} and {counts.vocab_size}")
        self.vocab_size = neural.vocab_size
        self.neural = neural
        self.counts = counts
        self.rule = rule
        self._latest: CacheRows | None = None

    def predict(self, chunk: Chunk) -> CacheRows:
        """Rows of the chunk [B, T], computed when they are asked for; `TokenizerError` for ids beyond V."""
        refuse_unknown(chunk, self.vocab_size)
        self._latest = self._rows(chunk)
        return self._latest

    def observe(self, chunk: Chunk) -> None:
        """Learn from the chunk's tokens, lane after lane, then show the chunk to the model and to the counts."""
        refuse_unknown(chunk, self.vocab_size)
        latest, self._latest = self._latest, None
        if latest is None or not latest.of(chunk):  # the same rows, if they were asked for already
            latest = self._rows(chunk)
        latest.learn()
        self.neural.observe(chunk)
        self.counts.observe(chunk)

    def _rows(self, chunk: Chunk) -> CacheRows:
        # A caller may write the next token into the chunk that it showed.
        own = Chunk(chunk.tokens.copy(), chunk.lengths.copy(), chunk.starts.copy())
        return CacheRows(own, self.neural.predict(own), self.counts, self.rule, self.vocab_size)


class CacheRows:
    """Mixed rows; void after `observe`."""

    def __init__(self, chunk: Chunk, neural: Rows, counts: ExactCounts, rule: Rule, vocab_size: int) -> None:
        self._chunk = chunk
        self._neural = neural
        self._counts = counts
        self._rule = rule
        self._vocab_size = vocab_size
        self._credits_BT: Float64 | None = None
        self._evidence: dict[int, Evidence] = {}
        self._lanes: dict[int, _Lane] = {}

    def of(self, chunk: Chunk) -> bool:
        """Whether these are the rows of `chunk`."""
        return self._chunk.same_as(chunk)

    def realised(self) -> Float64:
        """Log-probability in nats of the chunk's tokens [B, T], 0 at padding."""
        out_BT = np.zeros(self._chunk.tokens.shape)
        for b, length in enumerate(self._chunk.lengths):
            one = self._lane(b)
            mix_targets(one.log_T, one.neural_T, one.counted_T, one.known.level_T, one.share_T, out_BT[b, :length])
        return out_BT

    def row(self, lane: int, position: int) -> Float64:
        """The whole distribution at one real position, [V] nats."""
        if not 0 <= position < self._chunk.lengths[lane]:
            raise IndexError(f"lane {lane} position {position} is padding")
        return self._mixed(lane, position, self._neural.row(lane, position))

    def all_rows(self, lane: int) -> Float64:
        """The distributions of all real positions of a lane, [length, V] nats."""
        rows_TV = np.array(self._neural_rows(lane))
        for t, neural_V in enumerate(rows_TV):
            rows_TV[t] = self._mixed(lane, t, neural_V)
        return rows_TV

    def learn(self) -> None:
        """Move what the rule learns over all tokens, lane after lane."""
        rule = self._rule
        if not (rule.share.learns or rule.estimate.learns):
            return
        counted_out = [self._lane(b) for b in range(len(self._chunk.lengths))]  # before any of them is learnt
        for b, one in enumerate(counted_out):
            rule.share.learn(one.known, one.neural_T, one.counted_T)
            rule.estimate.learn(self._seen(b))

    def _mixed(self, lane: int, position: int, neural_V: Float64) -> Float64:
        """The row of one position, whose neural row is given."""
        evidence = self._seen(lane)
        alone = Evidence(*(part[position : position + 1] for part in evidence))
        level_1 = self._levels(alone)
        if level_1[0] == NEURAL_ALONE:
            return np.array(neural_V, dtype=np.float64)
        neural_V = np.ascontiguousarray(neural_V, dtype=np.float64)
        probability_V = np.empty(len(neural_V))
        exp_into(neural_V, probability_V, len(neural_V))
        followers = self._counts.followers(self._chunk, lane, position)
        counted_V = self._rule.estimate.row(evidence, position, followers, probability_V)
        if self._rule.share.learns and position > 0:
            share = float(self._lane(lane).share_T[position])
        else:  # nothing of the chunk has moved it: what a decoder asks for
            share = self._first_share(self._known(alone, level_1, neural_V[None]))
        out_V = np.empty(len(neural_V))
        mix_row(probability_V, counted_V, share, out_V)
        return out_V

    def _first_share(self, known: Position) -> float:
        unused_1 = np.ones(1)
        return float(self._rule.share.shares(known, unused_1, unused_1)[0])

    def _lane(self, lane: int) -> _Lane:
        if lane not in self._lanes:
            self._lanes[lane] = self._counted_out(lane)
        return self._lanes[lane]

    def _counted_out(self, lane: int) -> _Lane:
        rule, length = self._rule, int(self._chunk.lengths[lane])
        evidence, tokens_T = self._seen(lane), self._chunk.tokens[lane, :length]
        level_T = self._levels(evidence)
        if rule.share.needs_entropy:
            rows_TV = self._neural_rows(lane)
            known = self._known(evidence, level_T, rows_TV)
            log_T = np.take_along_axis(rows_TV, tokens_T[:, None], axis=1)[:, 0]
        else:
            known = self._known(evidence, level_T, np.empty((0, 0)))
            log_T = self._neural_credits()[lane, :length].copy()
        neural_T = np.empty(length)
        exp_into(log_T, neural_T, length)
        counted_T = rule.estimate.targets(evidence, level_T, neural_T)
        return _Lane(known, log_T, neural_T, counted_T, rule.share.shares(known, neural_T, counted_T))

    def _known(self, evidence: Evidence, level_T: Int64, rows_TV: Float64) -> Position:
        """`rows_TV` is looked at only if the share needs the entropy."""
        total_T = np.take_along_axis(evidence.total_TK, np.maximum(level_T, 0)[:, None], axis=1)[:, 0]
        entropy_T = np.empty(len(level_T) if self._rule.share.needs_entropy else 0)
        if len(entropy_T):
            entropies_into(rows_TV, entropy_T)
        return Position(level_T, total_T.astype(np.int64), entropy_T)

    def _levels(self, evidence: Evidence) -> Int64:
        level_T = np.empty(len(evidence.total_TK), dtype=np.int64)
        longest_levels(evidence.total_TK, self._rule.estimate.least_level, level_T)
        return level_T

    def _seen(self, lane: int) -> Evidence:
        if lane not in self._evidence:
            self._evidence[lane] = self._counts.look_up(self._chunk, lane)
        return self._evidence[lane]

    def _neural_rows(self, lane: int) -> Float64:
        """Neural rows [length, V] of a lane."""
        if isinstance(self._neural, FullRows):
            return np.ascontiguousarray(self._neural.all_rows(lane), dtype=np.float64)
        length = int(self._chunk.lengths[lane])
        rows_TV = np.empty((length, self._vocab_size))
        for t in range(length):
            rows_TV[t] = self._neural.row(lane, t)
        return rows_TV

    def _neural_credits(self) -> Float64:
        if self._credits_BT is None:
            self._credits_BT = np.asarray(self._neural.realised(), dtype=np.float64)
        return self._credits_BT
