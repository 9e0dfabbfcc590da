"""A keyed random permutation of 0..size-1 that needs no table: a Feistel network with cycle walking.

Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (CT-RSA 2002). The round function is the mixer of SplitMix64
(Steele et al., OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_ROUNDS = 6
_MASK = (1 << 64) - 1


def permute(indices: npt.NDArray[np.int64], size: int, seed: int, stream: int) -> npt.NDArray[np.int64]:
    """Where each index (0..size-1) goes; one bijection for each (seed, stream)."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = _keys(seed, stream, _ROUNDS)
    out = indices.astype(np.uint64)
    outside = np.ones(len(out), dtype=bool)
    while outside.any():
        out[outside] = _feistel(out[outside], half, keys)
        outside = out >= size
    return out.astype(np.int64)


def random_below(limit: int, seed: int, stream: int) -> int:
    """A number in 0..limit-1 for each (seed, stream)."""
    return int(_keys(seed, stream, _ROUNDS + 1)[-1]) % limit


def _feistel(values: npt.NDArray[np.uint64], half: int, keys: list[int]) -> npt.NDArray[np.uint64]:
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ np.uint64(key)) & mask)
    return (left << shift) | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser; arithmetic modulo 2^64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _keys(seed: int, stream: int, count: int) -> list[int]:
    """`count` round keys, drawn from SplitMix64 started at a mix of seed and stream."""
    start = _mix(np.array([seed & _MASK], dtype=np.uint64)) + np.uint64(stream & _MASK)
    state = int(_mix(start)[0])
    steps = np.array([(state + 0x9E3779B97F4A7C15 * (i + 1)) & _MASK for i in range(count)], dtype=np.uint64)
    return [int(key) for key in _mix(steps)]
