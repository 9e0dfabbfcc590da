"""The small trained thing that three exhibits share: a low-rank bigram correction of the base's rows.

`log p'(v | u) = log_softmax(log p(v) + A[u] . B[v] + c[v])` where u is the token before. A is random and small, B and
c begin at zero (as in LoRA), so an untrained adapter changes nothing. Trained with Adam on the exact gradient of the
cross-entropy. N positions, V vocabulary, R rank; nats, float64.
"""

from __future__ import annotations

import numpy as np

from paramgolf.exhibits.tables import log_softmax
from paramgolf.predict.protocol import Float64, Int64


class Adapter:
    """A low-rank correction of rows, given the token before each position."""

    def __init__(self, vocab_size: int, rank: int = 16, learning_rate: float = 0.05, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self._parameters = [
            rng.standard_normal((vocab_size, rank)) / np.sqrt(rank),
            np.zeros((vocab_size, rank)),
            np.zeros(vocab_size),
        ]
        self._learning_rate = learning_rate
        self._first = [np.zeros_like(parameter) for parameter in self._parameters]
        self._second = [np.zeros_like(parameter) for parameter in self._parameters]
        self._steps = 0

    def rows(self, logprob_NV: Float64, before_N: Int64) -> Float64:
        """The corrected rows [N, V]."""
        a_VR, b_VR, c_V = self._parameters
        return log_softmax(logprob_NV + a_VR[before_N] @ b_VR.T + c_V)

    def step(self, logprob_NV: Float64, before_N: Int64, target_N: Int64) -> None:
        """One Adam step on the mean cross-entropy of the targets."""
        a_VR, b_VR, _ = self._parameters
        error_NV = np.exp(self.rows(logprob_NV, before_N))
        error_NV[np.arange(len(target_N)), target_N] -= 1.0
        error_NV /= len(target_N)
        grad_a_VR = np.zeros_like(a_VR)
        np.add.at(grad_a_VR, before_N, error_NV @ b_VR)
        self._adam([grad_a_VR, error_NV.T @ a_VR[before_N], error_NV.sum(axis=0)])

    def _adam(self, gradients: list[Float64], beta1: float = 0.9, beta2: float = 0.99) -> None:
        self._steps += 1
        for parameter, first, second, gradient in zip(self._parameters, self._first, self._second, gradients):
            first += (1 - beta1) * (gradient - first)
            second += (1 - beta2) * (gradient**2 - second)
            unbiased = first / (1 - beta1**self._steps)
            scale = np.sqrt(second / (1 - beta2**self._steps)) + 1e-8
            parameter -= self._learning_rate * unbiased / scale


def tokens_before(tokens_BT: Int64, last_B: Int64) -> Int64:
    """For each position [B, T] the token before it; `last_B` stands before the first."""
    return np.concatenate([last_B[:, None], tokens_BT[:, :-1]], axis=1)
