"""SLOT's readout in torch, float64, on the device of the model; agrees with `FixedReadout` to rounding.

Legend: N positions, D width, V vocabulary, F features (states [D] or rows [V]), P parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paramgolf.predict.protocol import Float64, Int64
from paramgolf.predict.slot_fit import Objective


class TorchReadout:
    """See `slot_readout.Readout`; `head_VD` is the head of the model, kept as float64, with its two `softcaps`."""

    def __init__(self, on: str, head_VD: Tensor, softcaps: tuple[float, float]) -> None:
        vocab_size, width = head_VD.shape
        self.reads_states = on != "logits"
        self._device = head_VD.device
        self._head_VD = head_VD.detach().double() if self.reads_states else None
        self._softcaps = softcaps
        self._width = width if self.reads_states else 0
        self._biased = on != "hidden"
        self.parameters = self._width + (vocab_size if self._biased else 0)

    @torch.no_grad()
    def objective(self, features_NF: Float64, targets_N: Int64) -> Objective:
        """See `Readout`."""
        logits_NV, targets_N1 = self._logits(features_NF), torch.from_numpy(targets_N).to(self._device)[:, None]

        @torch.no_grad()
        def loss_and_gradient(parameters_P: Float64) -> tuple[float, Float64]:
            z_NV, tanh_NV = self._capped(logits_NV, parameters_P)
            log_NV = torch.log_softmax(z_NV, dim=1)
            loss = -log_NV.gather(1, targets_N1).mean()
            error_NV = log_NV.exp_()
            error_NV.scatter_add_(1, targets_N1, error_NV.new_full(targets_N1.shape, -1.0))
            error_NV /= len(targets_N1)
            parts = []
            if self._head_VD is not None and tanh_NV is not None:
                parts.append(torch.mv(self._head_VD.T, (error_NV * (1 - tanh_NV * tanh_NV)).sum(dim=0)))
            if self._biased:
                parts.append(error_NV.sum(dim=0))
            return float(loss), torch.cat(parts).cpu().numpy()

        return loss_and_gradient

    @torch.no_grad()
    def rows(self, features_NF: Float64, parameters_P: Float64) -> Float64:
        """See `Readout`."""
        z_NV, _ = self._capped(self._logits(features_NF), parameters_P)
        rows_NV: Float64 = torch.log_softmax(z_NV, dim=1).cpu().numpy()
        return rows_NV

    def _logits(self, features_NF: Float64) -> Tensor:
        features = torch.from_numpy(features_NF).to(self._device)
        return features if self._head_VD is None else features @ self._head_VD.T

    def _capped(self, logits_NV: Tensor, parameters_P: Float64) -> tuple[Tensor, Tensor | None]:
        """z [N, V] and the tanh in it (None without a softcap)."""
        parameters = torch.from_numpy(parameters_P).to(self._device)
        tanh_NV = None
        if self._head_VD is not None:
            shift_V = torch.mv(self._head_VD, parameters[: self._width])
            logits_NV = logits_NV + shift_V
            above, below = self._softcaps
            cap = above if above == below else torch.full_like(logits_NV, below).masked_fill_(logits_NV > 0, above)
            tanh_NV = (logits_NV / cap).tanh_()
            logits_NV = cap * tanh_NV
        return (logits_NV + parameters[self._width :] if self._biased else logits_NV), tanh_NV
