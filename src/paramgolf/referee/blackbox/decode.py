"""T10: write the decoder and run it."""

from __future__ import annotations

import math

import numpy as np

from paramgolf.errors import CodecError
from paramgolf.predict.protocol import Float64, Int64
from paramgolf.referee.blackbox.exam import Exam, judged, unproven
from paramgolf.referee.finding import Finding, Numbers

EXCESS, WORDS_BITS = 0.01, 64.0  # the code may be 1 % longer than claimed, and the coder ends on whole words


def t10_decode(exam: Exam) -> Finding:
    """A stretch is coded with the scorer's rows and decoded by one who has only the tokens before each."""
    from paramgolf.codec.arithmetic import TokenDecoder, TokenEncoder

    test, why, box = "T10", exam.trouble(), exam.box
    if why:
        return unproven(test, why)
    room = exam.effort.decoded
    if box.logprobs is None:
        room = min(room, exam.effort.calls // (2 * box.vocab_size))
    stretch = range(exam.block.start, min(exam.block.start + room, exam.declared + 1))
    if not stretch:
        return unproven(test, f"it gives no rows, and {box.vocab_size} tokens are too many to try one by one.")
    claimed = float(exam.base[stretch.start - 1 : stretch.stop - 1].sum()) / math.log(2.0)
    numbers: Numbers = {"tokens": len(stretch), "claimed_bits": claimed}
    if claimed == math.inf:
        return unproven(test, "it claims infinitely many bits: no code is dearer.", numbers)
    if not math.isfinite(claimed):
        return judged(test, True, f"it claims {claimed} bits for {len(stretch)} tokens: no code length.", "", numbers)
    known = exam.tokens.copy()
    known[stretch.start :] = 0
    encoder = TokenEncoder()
    try:
        for target in stretch:
            encoder.put(_row(exam, exam.tokens, target), int(exam.tokens[target]))
        code = encoder.code()
        decoder = TokenDecoder(code)
        for target in stretch:
            token = decoder.get(_row(exam, known, target))
            if token != exam.tokens[target]:
                says = f"the decoder reads token {token} at {target}, where {exam.tokens[target]} was coded: the row"
                return judged(test, True, f"{says} depends on what the decoder does not have.", "", numbers)
            known[target] = token
    except CodecError as error:
        return judged(test, True, f"it cannot be coded: {error}.", "", numbers)
    numbers |= {"code_bits": 8 * len(code), "row_bits": encoder.claimed_bits}
    bad = f"{len(stretch)} tokens come back, but their rows hold {encoder.claimed_bits:.1f} bits; {claimed:.1f} were"
    good = f"{len(stretch)} tokens come back from {8 * len(code)} bits; {claimed:.1f} were claimed."
    dear = encoder.claimed_bits > claimed * (1 + EXCESS) or 8 * len(code) > claimed * (1 + EXCESS) + WORDS_BITS
    return judged(test, dear, f"{bad} claimed.", good, numbers)


def _row(exam: Exam, tokens: Int64, target: int) -> Float64:
    """The row at a target [V] nats: as the scorer gives it, or by scoring every token in its place."""
    if exam.box.logprobs is not None:
        return np.asarray(exam.box.logprobs(tokens.copy(), target), dtype=np.float64)
    row_V = np.empty(exam.box.vocab_size)
    for value in range(len(row_V)):
        other = tokens.copy()
        other[target] = value
        row_V[value] = -exam.whole(other)[target - 1]
    return row_V
