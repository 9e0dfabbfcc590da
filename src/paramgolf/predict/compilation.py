"""numba compiles a kernel when it is first called, which takes seconds on a new machine: do it beside other work."""

from __future__ import annotations

import numpy as np

from paramgolf.predict.mix import MixPredictor
from paramgolf.predict.ngram import NgramPredictor
from paramgolf.predict.protocol import single_token


def compile_kernels() -> None:
    """Compile, or load from the cache, everything that counting and mixing will call."""
    mixed = MixPredictor(NgramPredictor(1, 4, 1), NgramPredictor(1, 4, 1))
    mixed.ngram.prime([np.array([2, 3, 2], dtype=np.int32)])
    rows = mixed.predict(single_token(2))
    rows.realised()
    rows.row(0, 0)
    mixed.observe(single_token(2))
