"""From what a model gives for a position, and SLOT's offsets, to a row; with the gradient that fits the offsets.

`z = c tanh(E (h + delta) / c) + b`: a delta [D] before the head, a bias [V] after the softcap (spec pr1430.md 4.2),
whose `c` is one for logits above 0 and another for the rest where the model has two (spec pr2140.md 2.3).
Legend: N positions, D width, V vocabulary, F features of a position (its state [D], or its row [V] where nothing but
the bias is fitted), P parameters: delta, then bias, as far as they are fitted.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from paramgolf.predict.protocol import Float64, Int64
from paramgolf.predict.slot_fit import Objective
from paramgolf.predict.slot_kernel import evaluate, head_logits, shift_of, write_rows
from paramgolf.predict.step_weights import Float32


class Readout(Protocol):
    """How features become rows. `parameters` is P; `reads_states` says that features are states, not rows."""

    parameters: int
    reads_states: bool

    def objective(self, features_NF: Float64, targets_N: Int64) -> Objective:
        """The mean cross-entropy in nats of the targets, as a function of the parameters [P], with its gradient."""
        ...

    def rows(self, features_NF: Float64, parameters_P: Float64) -> Float64:
        """Normalised log-probabilities [N, V] in nats, float64."""
        ...


class FixedReadout:
    """The readout in NumPy and numba: sums in one fixed order, the same bits on every machine.

    `on` names what is fitted: "hidden" (delta), "logits" (bias) or "both"; the first and the last read states, and
    need the head `head_DV` and its `softcaps`, of logits above 0 and of the others.
    """

    def __init__(
        self, on: str, vocab_size: int, head_DV: Float32 | None = None, softcaps: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        self.reads_states = on != "logits"
        if self.reads_states and head_DV is None:
            raise ValueError(f"offsets on {on!r} need the head of the model")
        none = np.zeros((0, vocab_size), dtype=np.float32)
        self._head_DV = none if head_DV is None or not self.reads_states else head_DV
        self._softcaps = softcaps if self.reads_states else (0.0, 0.0)
        self._width = len(self._head_DV)
        self._biased = on != "hidden"
        self.parameters = self._width + (vocab_size if self._biased else 0)

    def objective(self, features_NF: Float64, targets_N: Int64) -> Objective:
        """See `Readout`."""
        logits_NV, targets_N = self._logits(features_NF), np.ascontiguousarray(targets_N)

        def loss_and_gradient(parameters_P: Float64) -> tuple[float, Float64]:
            delta_D, bias_V = self._split(parameters_P)
            gradient_P = np.zeros(self.parameters)
            grad_D, grad_V = self._split(gradient_P)
            loss = evaluate(
                logits_NV, self._head_DV, self._softcaps, targets_N, delta_D, bias_V, self._biased, grad_D, grad_V
            )
            return float(loss), gradient_P

        return loss_and_gradient

    def rows(self, features_NF: Float64, parameters_P: Float64) -> Float64:
        """See `Readout`."""
        delta_D, bias_V = self._split(parameters_P)
        rows_NV = np.empty((len(features_NF), self._head_DV.shape[1]))
        write_rows(self._logits(features_NF), shift_of(delta_D, self._head_DV), self._softcaps, bias_V, rows_NV)
        return rows_NV

    def _logits(self, features_NF: Float64) -> Float64:
        features_NF = np.ascontiguousarray(features_NF, dtype=np.float64)
        return head_logits(features_NF, self._head_DV) if self.reads_states else features_NF

    def _split(self, parameters_P: Float64) -> tuple[Float64, Float64]:
        bias_V = parameters_P[self._width :] if self._biased else np.zeros(self._head_DV.shape[1])
        return parameters_P[: self._width], bias_V
