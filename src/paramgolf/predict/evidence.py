"""What exact counts know at each position: the interface between counting and turning counts into distributions.

Legend: T positions of one lane of a chunk, K contexts (of 0, 1, ... K - 1 tokens before the position).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from paramgolf.predict.protocol import Int64

Int32 = npt.NDArray[np.int32]


class Evidence(NamedTuple):
    """Counts before each position, int32 [T, K] each.

    `total_TK` is how often the context of k tokens was followed by a token, 0 from the first unknown context on (then
    no longer one is known either); `count_TK` how often it was followed by the token that stands there; `distinct_TK`
    by how many different ones. A context's total is the sum of its followers' counts.
    """

    total_TK: Int32
    count_TK: Int32
    distinct_TK: Int32


class Followers(NamedTuple):
    """The tokens that have followed one context, each once in any order, and how often: int64 [n] each."""

    tokens: Int64
    counts: Int64
