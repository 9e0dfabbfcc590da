"""The score: the scorer owns the loop, the token feed, the order and the byte count, and audits while it runs.

Shapes: B lanes, T positions of a chunk, N credited tokens, D documents. Log-probabilities in nats, `bits` in bits.

For every chunk of the plan, in this order and with nothing beyond it handed out:

    predict ──► credit (once, float64) ──► audit, if this chunk was drawn ──► observe
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from paramgolf.clock import Entry, Phase
from paramgolf.errors import CheckFailed, TextError
from paramgolf.predict.audit_record import ENOUGH_POSITIONS, Audit, PositionAudit
from paramgolf.predict.audit_time import AuditTime
from paramgolf.predict.learning import Learning, forgotten_by, learning_of
from paramgolf.predict.plan import Plan
from paramgolf.predict.plan import plan as make_plan
from paramgolf.predict.protocol import Bool, Chunk, Float64, Int64, Predictor

Progress = Callable[[int, int, float], None]  # tokens credited, tokens in all, bits so far

LOG_PROBABILITY_SLACK = 1e-9  # nats above 0 that float noise may explain
ERROR_NAMES = tuple(entry.name for entry in dataclasses.fields(Audit) if entry.name.startswith("max_"))
LN2 = math.log(2.0)


@dataclass(frozen=True)
class Score:
    """What every token of a text cost, in plan order, and what was audited meanwhile.

    `bits` float64 [N] as credited; `bytes` of the raw documents; `seconds` of the whole loop, of which `audit_seconds`
    went into audits and `learning.seconds` into test-time training; `ledger` the phases of the evaluation. With
    `plan.world` > 1 this is one rank's part: `combine` makes a whole of them.
    """

    bits: Float64 = field(repr=False)
    plan: Plan
    bytes: int
    text_digest: str
    seconds: float
    audit_seconds: float
    audit: Audit
    text_name: str = ""
    artifact_digest: str = ""  # SHA-256 (hex) of the file that predicted; "" for a predictor without one
    adapt: str = ""
    documents_not_lossless: int | None = None  # that the tokenizer does not give back; None if nobody looked
    document_bytes: Int64 | None = field(default=None, repr=False)  # [D] raw bytes of each document
    document_hashes: npt.NDArray[np.uint64] | None = field(default=None, repr=False)  # [D]
    learning: Learning | None = None  # None if the weights stood still
    forgotten: int = 0  # n-grams that bounded memory had no room for
    ledger: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        if self.bits.shape != (self.plan.token_count,):
            raise ValueError(f"{self.bits.shape[0]} bits for a plan of {self.plan.token_count} tokens")
        if self.bytes < 1:
            raise TextError(f"a text of {self.bytes} bytes has no bits per byte")
        if self.document_bytes is not None and int(self.document_bytes.sum()) != self.bytes:
            raise ValueError(f"the documents have {int(self.document_bytes.sum())} bytes, the text {self.bytes}")

    @property
    def tokens(self) -> int:
        """Credited tokens, boundary tokens included."""
        return len(self.bits)

    @property
    def side_bits(self) -> int:
        """Bits of the number of tokens (one lane in the stream's order) or of the document lengths."""
        return self.plan.side_bits

    @property
    def total_bits(self) -> float:
        """Everything a decoder has to be sent."""
        return float(self.bits.sum()) + self.side_bits

    @property
    def bpb(self) -> float:
        """Bits per byte of the raw documents."""
        return self.total_bits / self.bytes

    @property
    def nats_per_token(self) -> float:
        """Mean cost of a credited token (the field's `val_loss`), side bits left out."""
        return float(self.bits.sum()) * LN2 / max(self.tokens, 1)


@dataclass(frozen=True)
class Partial:
    """What was measured before the time ran out: `bits` [n] of the first n tokens of `plan`."""

    bits: Float64 = field(repr=False)
    plan: Plan
    text_digest: str
    seconds: float  # of the loop
    audit: Audit


class ScoreIncomplete(CheckFailed):
    """The evaluation clock ran out: there is no score, only `partial` (None if scoring had not begun)."""

    def __init__(self, message: str, partial: Partial | None = None) -> None:
        super().__init__(message)
        self.partial = partial

    @staticmethod
    def before(phase: str, limit: float) -> ScoreIncomplete:
        """The time was used up before `phase` began."""
        return ScoreIncomplete(
            f"incomplete: no token credited, {limit:g} s of budget.eval_seconds were used before {phase!r}; "
            "give it more (score --seconds)"
        )


def score(
    predictor: Predictor,
    tokens_by_document: Sequence[npt.ArrayLike],
    plan: Plan,
    boundary_id: int,
    *,
    raw_bytes: int,
    text_digest: str,
    audit_positions: int = 32,
    seed: int | None = None,
    progress: Progress | None = None,
    phase: Phase | None = None,
) -> Score:
    """Credit every token of the plan once and audit about `audit_positions` positions spread over the run.

    The audited positions are drawn from `seed`, by default 48 fresh random bits, always some in the first and the last
    chunk; where rows take long there are fewer (`predict/audit_time.py`), but enough to prove something. `phase` is
    the clock: its readings are the same on all ranks that score together (they need one `seed`), and if it has a limit
    that is reached before the last token, `ScoreIncomplete` with what was measured is raised. Raises `CheckFailed` at
    once for a credit that is no log-probability, `TextError` for ids outside the vocabulary.
    """
    seed = int.from_bytes(os.urandom(6), "little") if seed is None else seed
    phase = phase or Phase("score", True, None, 0.0, time.perf_counter)
    places_rng, noise_rng = np.random.default_rng(seed).spawn(2)
    auditing = AuditTime(phase.seconds)
    bits = np.empty(plan.token_count, dtype=np.float64)
    audits: list[PositionAudit] = []
    # However slow the rows are, as many audits as prove something, in chunks that nobody can foresee either.
    always = places_rng.choice(len(bits), min(ENOUGH_POSITIONS, audit_positions, len(bits)), replace=False)
    credited, total, begin = 0, 0.0, time.perf_counter()
    for step, chunk in enumerate(plan.chunks(tokens_by_document, boundary_id)):
        if phase.expired():
            seconds = time.perf_counter() - begin
            found = Partial(bits[:credited].copy(), plan, text_digest, seconds, Audit.of(seed, audits))
            raise ScoreIncomplete(_says_incomplete(found, phase), found)
        real = chunk.real()
        _check_ids(chunk.tokens, predictor.vocab_size)
        at_an_end = step in (0, plan.steps - 1)
        end = credited + int(real.sum())
        required = max(int(((credited <= always) & (always < end)).sum()), int(at_an_end))
        left = audit_positions - len(audits) - int((always >= credited).sum())
        places = _draw(real, len(bits) - credited, left, required, places_rng)
        with np.errstate(invalid="ignore"):  # an infinite credit is refused below, with its place
            if places:
                asked = auditing.ask(predictor, _copy(chunk), places, noise_rng, required=required)
                realised = asked.realised_BT
                audits += asked.audits
            else:
                realised = auditing.credits(predictor, _copy(chunk))
        part = -_checked(realised, real, step) / LN2
        bits[credited : credited + len(part)] = part
        credited += len(part)
        total += float(part.sum())
        predictor.observe(_copy(chunk))
        if progress is not None:
            progress(credited, len(bits), total)
    seconds, learnt = time.perf_counter() - begin, learning_of(predictor)
    found_audit = Audit.of(seed, audits)
    forgotten = forgotten_by(predictor)
    return Score(
        bits, plan, raw_bytes, text_digest, seconds, auditing.seconds, found_audit, learning=learnt, forgotten=forgotten
    )


def combine(parts: Sequence[Score]) -> Score:
    """One score of the parts of all ranks, as if one rank had had all lanes; seconds are those of the slowest.

    Raises `ValueError` unless there is exactly one part a rank, all of one plan and text.
    """
    first = parts[0]
    facts = {
        (p.plan.lanes, p.plan.chunk, p.plan.world, p.plan.order, p.plan.lengths.tobytes(), p.text_digest) for p in parts
    }
    if len(facts) > 1 or sorted(p.plan.rank for p in parts) != list(range(first.plan.world)):
        raise ValueError(f"cannot combine ranks {[p.plan.rank for p in parts]} of {len(facts)} different plans")
    lanes = first.plan.lanes
    everyone, order = lanes * first.plan.world, first.plan.order
    whole = make_plan(first.plan.lengths.tolist(), lanes=everyone, chunk=first.plan.chunk, order=order)
    rank_of_token = np.repeat(whole.segments.lane // lanes, whole.segments.length)
    bits = np.empty(whole.token_count, dtype=np.float64)
    for part in parts:
        bits[rank_of_token == part.plan.rank] = part.bits
    seconds = max(part.seconds for part in parts), max(part.audit_seconds for part in parts)
    audit = functools.reduce(_worst, (part.audit for part in parts))
    return dataclasses.replace(first, bits=bits, plan=whole, seconds=seconds[0], audit_seconds=seconds[1], audit=audit)


def bits_by_position(score: Score, bins: int = 32) -> tuple[Float64, Float64, Int64]:
    """Mean bits a token by position in its document: bin edges [n+1] (tokens, about geometric), means [n], counts [n].

    Empty bins are left out of the edges, so every mean is of at least one token.
    """
    position = score.plan.position_index()
    top = int(position.max(initial=0)) + 1
    edges = np.unique(np.round(np.geomspace(1, top + 1, bins + 1)).astype(np.int64)) - 1
    place = np.searchsorted(edges, position, side="right") - 1
    counts = np.bincount(place, minlength=len(edges) - 1)
    sums = np.bincount(place, weights=score.bits, minlength=len(edges) - 1)
    kept = counts > 0
    edges = np.append(edges[:-1][kept], edges[-1])
    return edges.astype(np.float64), sums[kept] / counts[kept], counts[kept]


def _says_incomplete(found: Partial, phase: Phase) -> str:
    limit = f"{phase.limit:.1f} s" if phase.limit is not None else "the time"
    return (
        f"incomplete: {len(found.bits):,} of {found.plan.token_count:,} tokens credited when {limit} of phase "
        f"{phase.name!r} were used up; score less (--limit BYTES), with more GPUs (torchrun) or a larger score.stride, "
        "or give it more than budget.eval_seconds (--seconds)"
    )


def _worst(one: Audit, other: Audit) -> Audit:
    errors = {name: max(getattr(one, name), getattr(other, name)) for name in ERROR_NAMES}
    return dataclasses.replace(one, positions=one.positions + other.positions, **errors)


def _draw(real: Bool, tokens_left: int, left: int, required: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Positions of this chunk to audit: the `required` ones and its part of `left` drawn among all `tokens_left`."""
    places = np.argwhere(real)
    wanted = min(max(left, 0), tokens_left)
    count = int(rng.hypergeometric(wanted, tokens_left - wanted, len(places))) if len(places) else 0
    chosen = rng.permutation(len(places))[: count + required]
    return [(int(lane), int(position)) for lane, position in places[chosen]]


def _checked(realised: Float64, real: Bool, step: int) -> Float64:
    """The credits of the real positions, in plan order; raise `CheckFailed` if one is no log-probability."""
    if realised.shape != real.shape:
        raise CheckFailed(f"chunk {step}: the predictor credited shape {realised.shape} for a chunk of {real.shape}")
    wrong = real & ~(np.isfinite(realised) & (realised <= LOG_PROBABILITY_SLACK))
    if wrong.any():
        lane, position = (int(i) for i in np.argwhere(wrong)[0])
        value = realised[lane, position]
        raise CheckFailed(
            f"sums-to-one: chunk {step}, lane {lane}, position {position}: the predictor credited {value:.6g} nats, "
            "which is not the logarithm of a probability; see docs/predictor.md"
        )
    return realised[real]


def _check_ids(tokens: npt.NDArray[np.int64], vocab_size: int) -> None:
    if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise TextError(
            f"token ids {int(tokens.min())}..{int(tokens.max())} do not fit the predictor's vocabulary of "
            f"{vocab_size}; was the text encoded with another tokenizer?"
        )


def _copy(chunk: Chunk) -> Chunk:
    # The predictor gets its own arrays: what it does to them must not change what is credited or observed.
    return Chunk(chunk.tokens.copy(), chunk.lengths.copy(), chunk.starts.copy())
