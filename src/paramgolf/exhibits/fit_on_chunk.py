"""Fit on the chunk: SLOT as published in #1430.

Before a window of 64 positions is scored, a logit bias is fitted on 63 of those same 64 targets: AdamW, 24 steps,
betas 0.6 / 0.5, eps 1e-5, weight decay 1e-8, learning rate 0.432 falling on a cosine to 0.001, from zero in every
window. (#1430 also fits a hidden offset, which needs the model's head; the bias does the memorising.) Rows are
normalised, asking twice gives the same, nothing is kept: but each row knows the window's other targets and its own.
Claimed: #1229 0.9300, #1321 0.7406, #1329 0.6361, #1507 0.2282, #1430 0.3964 (with an n-gram cache); #1240 showed that
every scored pair of positions reacts to a flipped target. Caught by `blind-to-future`.
"""

from __future__ import annotations

import numpy as np

from paramgolf.exhibits.tables import Wrapped, log_softmax, table_of
from paramgolf.predict.protocol import Chunk, Float64, Int64, Predictor, Rows, TableRows


class FitOnChunk(Wrapped):
    """Per lane and window a bias over the vocabulary, fitted on the targets it is then scored on."""

    def __init__(self, base: Predictor, window: int = 64, steps: int = 24) -> None:
        super().__init__(base)
        self._window = window
        self._steps = steps

    def predict(self, chunk: Chunk) -> Rows:
        logprob_BTV = table_of(self.base.predict(chunk), chunk, self.vocab_size)
        for lane, length in enumerate(chunk.lengths.tolist()):
            for first in range(0, length, self._window):
                window = slice(first, min(first + self._window, length))
                fitted = slice(first, max(window.stop - 1, first + 1))  # the last target of a window is left out
                bias_V = fit_bias(logprob_BTV[lane, fitted], chunk.tokens[lane, fitted], self._steps)
                logprob_BTV[lane, window] = log_softmax(logprob_BTV[lane, window] + bias_V)
        return TableRows(logprob_BTV, chunk)


def fit_bias(
    logprob_NV: Float64, target_N: Int64, steps: int = 24, lr_first: float = 0.432, lr_last: float = 0.001
) -> Float64:
    """The bias [V] after AdamW on the mean cross-entropy of the targets, with the settings of #1430."""
    beta1, beta2, eps, decay = 0.6, 0.5, 1e-5, 1e-8
    frequency_V = np.bincount(target_N, minlength=logprob_NV.shape[1]) / len(target_N)
    bias_V, first_V, second_V = np.zeros((3, logprob_NV.shape[1]))
    for step in range(steps):
        gradient_V = np.exp(log_softmax(logprob_NV + bias_V)).mean(axis=0) - frequency_V
        lr = lr_last + 0.5 * (lr_first - lr_last) * (1 + np.cos(np.pi * step / max(steps - 1, 1)))
        first_V = beta1 * first_V + (1 - beta1) * gradient_V
        second_V = beta2 * second_V + (1 - beta2) * gradient_V**2
        unbiased_V = first_V / (1 - beta1 ** (step + 1))
        scale_V = np.sqrt(second_V / (1 - beta2 ** (step + 1))) + eps
        bias_V = bias_V * (1 - lr * decay) - lr * unbiased_V / scale_V
    return np.asarray(bias_V, dtype=np.float64)
