"""Tokens to code and back with any predictor, through its two verbs alone (range coder: the `constriction` library).

Shapes: B lanes, T positions of a chunk, V vocabulary.

Coder and decoder see the same rows, turn them into the same integers, and code position by position: of a chunk first
(all lanes, position 0), then (all lanes, position 1), ... The decoder knows a chunk's shape beforehand and asks again
for each position, with the tokens that it does not know yet set to 0. So a predictor that peeks cannot be decoded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import constriction
import numpy as np
import numpy.typing as npt
from numba import njit

from paramgolf.errors import CodecError
from paramgolf.predict.fixed_math import exp_into
from paramgolf.predict.plan import Plan
from paramgolf.predict.protocol import Chunk, Float64, Int64, Predictor

SUM_TOLERANCE = 1e-6
STEPS = float(1 << 28)  # a probability p becomes the integer round(p 2^28) + 1
LN2 = math.log(2.0)


@njit(cache=True)
def quantise(logprob_V: Float64, out_V: Float64) -> float:
    """`out` = round(exp(logprob) 2^28) + 1 as whole float64 numbers; returns the sum of exp(logprob), NaN if any is."""
    exp_into(logprob_V, out_V, len(out_V))
    total = 0.0
    for v in range(len(out_V)):
        if math.isnan(logprob_V[v]):
            total = math.nan
        total += out_V[v]
        out_V[v] = math.floor(out_V[v] * STEPS + 0.5) + 1.0
    return total


def symbol_model(row_V: Float64) -> Any:
    """The coder's model of one row of log-probabilities in nats.

    It depends on whole numbers only, so a last-bit difference in a row of another machine almost never reaches the
    code. Together with the coder's own 24 bits it costs less than V / 2^23 nats a token above the row. Raises
    `CodecError` for a row that holds a NaN or does not sum to one within 1e-6.
    """
    row_V = np.ascontiguousarray(row_V, dtype=np.float64)
    counts_V = np.empty(len(row_V))
    total = quantise(row_V, counts_V)
    if not abs(total - 1.0) <= SUM_TOLERANCE:
        raise CodecError(f"a row of {len(row_V)} probabilities sums to {total:.9g}, not to 1")
    return constriction.stream.model.Categorical(counts_V / counts_V.sum(), perfect=False)


@dataclass
class TokenEncoder:
    """Codes one token after the other and adds up what their rows claim (`claimed_bits`)."""

    claimed_bits: float = 0.0
    _coder: Any = field(default_factory=constriction.stream.queue.RangeEncoder, repr=False)

    def put(self, row_V: Float64, token: int) -> None:
        """Code `token` with its row of log-probabilities; raise `CodecError` for an id outside the row."""
        if not 0 <= token < len(row_V):
            raise CodecError(f"token {token} is outside 0..{len(row_V) - 1}")
        self._coder.encode(token, symbol_model(row_V))
        self.claimed_bits -= float(row_V[token]) / LN2

    def code(self) -> bytes:
        """Everything coded so far: whole 32-bit words, little endian."""
        words: npt.NDArray[np.uint32] = self._coder.get_compressed()
        return words.astype("<u4").tobytes()


class TokenDecoder:
    """Reads tokens back, given the same rows in the same order."""

    def __init__(self, code: bytes) -> None:
        if len(code) % 4:
            raise CodecError(f"a code of {len(code)} bytes is not made of 32-bit words")
        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(code, dtype="<u4").astype(np.uint32))

    def get(self, row_V: Float64) -> int:
        """The next token; raise `CodecError` where the code fits no token of this row."""
        try:
            return int(self._coder.decode(symbol_model(row_V)))
        except (AssertionError, ValueError) as error:
            raise CodecError(f"the code fits no token here ({error}): damaged, or made with other rows") from None


def encode_tokens(predictor: Predictor, tokens: npt.ArrayLike, chunk: int = 1) -> bytes:
    """The code of a stream of tokens in one lane, fed in chunks of `chunk`; see `decode_tokens`."""
    encoder = TokenEncoder()
    encode_chunks(predictor, stream_chunks(tokens, chunk), encoder)
    return encoder.code()


def decode_tokens(predictor: Predictor, code: bytes, count: int, chunk: int = 1) -> Int64:
    """The `count` tokens [count] int64 that `encode_tokens` coded with an equal predictor and the same `chunk`."""
    shapes = stream_chunks(np.zeros(count, dtype=np.int64), chunk)
    decoded = [part.tokens[0, : part.lengths[0]] for part in decode_chunks(predictor, TokenDecoder(code), shapes)]
    return np.concatenate(decoded) if decoded else np.zeros(0, dtype=np.int64)


def encode_plan(
    predictor: Predictor, tokens_by_document: Sequence[npt.ArrayLike], plan: Plan, boundary_id: int
) -> tuple[bytes, float]:
    """The code of all documents in the plan's order, lanes side by side, and the bits that the rows claimed."""
    encoder = TokenEncoder()
    encode_chunks(predictor, plan.chunks(tokens_by_document, boundary_id), encoder)
    return encoder.code(), encoder.claimed_bits


def decode_plan(predictor: Predictor, code: bytes, plan: Plan, boundary_id: int) -> list[Int64]:
    """The documents that `encode_plan` coded with an equal predictor; the plan (lengths) is known to both sides."""
    documents = [np.zeros(int(length), dtype=np.int64) for length in plan.lengths]
    shapes = plan.chunks(documents, boundary_id)
    rows, at = plan.segments, 0
    for step, chunk in enumerate(decode_chunks(predictor, TokenDecoder(code), shapes)):
        while at < len(rows.step) and rows.step[at] == step:
            lane, column = int(rows.lane[at]) - plan.rank * plan.lanes, int(rows.column[at])
            part = documents[int(rows.document[at])][int(rows.offset[at]) :][: int(rows.length[at])]
            part[:] = chunk.tokens[lane, column : column + len(part)]
            at += 1
    return documents


def stream_chunks(tokens: npt.ArrayLike, size: int) -> Iterator[Chunk]:
    """One lane of tokens in chunks of `size` (the last may be shorter); the first chunk starts the lane."""
    stream = np.asarray(tokens, dtype=np.int64)
    for first in range(0, len(stream), size):
        part = stream[None, first : first + size]
        yield Chunk(part.copy(), np.array([part.shape[1]], dtype=np.int64), np.array([first == 0]))


def encode_chunks(predictor: Predictor, chunks: Iterable[Chunk], encoder: TokenEncoder) -> None:
    """Code the real tokens of all chunks; each is predicted once and observed once."""
    for chunk in chunks:
        rows = predictor.predict(chunk)
        for t, lane in _order(chunk):
            encoder.put(rows.row(lane, t), int(chunk.tokens[lane, t]))
        predictor.observe(chunk)


def decode_chunks(predictor: Predictor, decoder: TokenDecoder, shapes: Iterable[Chunk]) -> Iterator[Chunk]:
    """Decode chunks of known shape (the tokens in `shapes` are ignored), one `predict` a position, and observe each."""
    for shape in shapes:
        chunk = Chunk(np.zeros_like(shape.tokens), shape.lengths, shape.starts)
        asked = -1
        for t, lane in _order(chunk):
            if t != asked:
                rows, asked = predictor.predict(_copy(chunk)), t
            chunk.tokens[lane, t] = decoder.get(rows.row(lane, t))
        predictor.observe(chunk)
        yield chunk


def _order(chunk: Chunk) -> Iterator[tuple[int, int]]:
    if chunk.tokens.shape == (1, 1):
        if chunk.lengths[0]:
            yield 0, 0
        return
    for t, lane in np.argwhere(chunk.real().T):
        yield int(t), int(lane)


def _copy(chunk: Chunk) -> Chunk:
    return Chunk(chunk.tokens.copy(), chunk.lengths, chunk.starts)
