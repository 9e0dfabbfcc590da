"""Muon: momentum whose every step is made (nearly) orthogonal, for banks of equal matrices, sharded over the ranks.

Legend: N matrices of a bank, n of them on this rank, R rows (out), C columns (in).
Source: Jordan et al. 2024, "Muon"; spec pr549.md 3.3 (the update) and 3.4 (the ranks); spec pr2140.md 3.3 (rows).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from paramgolf.optim.exchange import Exchange
from paramgolf.optim.newton_schulz import Scheme, normalise_rows, orthogonalise
from paramgolf.ranks import Ranks

MOMENTUM = "momentum"


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; decoupled weight decay; steps of tall matrices grow by sqrt(R / C).

    `buf = momentum * buf + g; u = g + momentum * buf; W = W (1 - lr decay) - lr sqrt(max(1, R / C)) orth(u)`; with
    `row_norm` the rows of u are first brought to length one.

    Parameters are banks [N, R, C] (one batch of the iteration each) or single matrices [R, C]. With several ranks each
    owns a run of every bank's matrices, keeps their momentum alone, and all ranks apply all updates; the gradients may
    differ, `step` averages them. Buffers have the parameter's dtype (published: bfloat16). Raises ValueError for a
    parameter of any other rank.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        newton_schulz_steps: int = 5,
        ranks: Ranks | None = None,
        *,
        newton_schulz: Scheme = "quintic",
        row_norm: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "newton_schulz_steps": newton_schulz_steps,
            "newton_schulz": newton_schulz,
            "row_norm": row_norm,
        }
        super().__init__(params, defaults)
        ranks = ranks or Ranks()
        self._exchanges: dict[Tensor, Exchange] = {}
        self._sent: list[Tensor] = []
        for parameter in self._parameters():
            if parameter.dim() not in (2, 3):
                raise ValueError(f"Muon takes matrices and banks; found a parameter of shape {tuple(parameter.shape)}")
            self._exchanges[parameter] = Exchange(_bank(parameter.detach()), ranks)

    @torch.no_grad()
    def send_gradients(self) -> None:
        """Begin to average all gradients over the ranks, the largest bank first; returns at once.

        `step` does it if it was not done: calling it earlier puts other work beside the traffic.
        """
        self._sent = [p for p in self._parameters() if p.grad is not None]
        self._sent.sort(key=Tensor.numel, reverse=True)
        for parameter in self._sent:
            assert parameter.grad is not None
            self._exchanges[parameter].send(_bank(parameter.grad))

    @torch.no_grad()
    def gradients(self) -> list[Tensor]:
        """The averaged gradients [n, R, C] of the matrices that this rank owns, waited for; `step` uses these tensors.

        Over all ranks they are every bank's averaged gradient exactly once.
        """
        return list(self.shards().values())

    @torch.no_grad()
    def shards(self) -> dict[Tensor, Tensor]:
        """`gradients` by the bank that each is a part of."""
        if not self._sent:
            self.send_gradients()
        return {parameter: self._exchanges[parameter].receive() for parameter in self._sent}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # as torch's own
        """One update of every parameter that has a gradient, on all ranks at once.

        The gathering of one bank's updates runs beside the next bank's iteration.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self._sent:
            self.send_gradients()
        groups = {parameter: group for group in self.param_groups for parameter in group["params"]}
        under_way: Tensor | None = None
        for parameter in self._sent:
            self._exchanges[parameter].send_back(self._orthogonal_step(parameter, groups[parameter]))
            if under_way is not None:
                self._apply(under_way, groups[under_way])
            under_way = parameter
        if under_way is not None:
            self._apply(under_way, groups[under_way])
        self._sent = []
        return loss

    def momentum(self) -> dict[Tensor, Tensor]:
        """Copies of the whole momentum of each parameter that was moved, whatever the ranks; all ranks must call it."""
        return self.gather({parameter: state[MOMENTUM] for parameter, state in self.state.items()})

    def load_momentum(self, whole: dict[Tensor, Tensor]) -> None:
        """Take this rank's part of what `momentum` gave on any number of ranks; parameters not in it have none."""
        self.state.clear()
        for parameter, part_nRC in self.owned(whole).items():
            self.state[parameter] = {MOMENTUM: part_nRC.to(parameter.device, parameter.dtype, copy=True)}

    def gather(self, parts: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """Copies of whole tensors, of the parameters' shapes, from all ranks' parts [n, R, C]; all must call it."""
        return {
            parameter: self._exchanges[parameter].gather(parts[parameter]).view(parameter.shape)
            for parameter in self._parameters()
            if parameter in parts
        }

    def owned(self, whole: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """This rank's parts [n, R, C] of whole tensors, views; the other direction of `gather`."""
        return {
            parameter: _bank(value)[self._exchanges[parameter].owned.start : self._exchanges[parameter].owned.stop]
            for parameter, value in whole.items()
        }

    def _orthogonal_step(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        gradient_nRC = self._exchanges[parameter].receive()
        state = self.state[parameter]
        if MOMENTUM not in state:
            state[MOMENTUM] = torch.zeros_like(gradient_nRC, dtype=parameter.dtype)
        buffer_nRC, momentum = state[MOMENTUM], group["momentum"]
        buffer_nRC.mul_(momentum).add_(gradient_nRC)
        if not len(gradient_nRC):
            return gradient_nRC
        update_nRC = buffer_nRC.mul(momentum).add_(gradient_nRC)
        if group["row_norm"]:
            update_nRC = normalise_rows(update_nRC)
        return orthogonalise(update_nRC, group["newton_schulz_steps"], group["newton_schulz"])

    def _apply(self, parameter: Tensor, group: dict[str, Any]) -> None:
        update_NRC = self._exchanges[parameter].receive_back()
        rows, columns = update_NRC.shape[-2:]
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        _bank(parameter).add_(update_NRC, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def _parameters(self) -> Iterator[Tensor]:
        return (parameter for group in self.param_groups for parameter in group["params"])


def _bank(matrices: Tensor) -> Tensor:
    return matrices if matrices.dim() == 3 else matrices.unsqueeze(0)
