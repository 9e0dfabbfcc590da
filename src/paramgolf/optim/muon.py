"""Muon: momentum whose every step is made (nearly) orthogonal, for matrices.

Legend: N matrices of one shape, R rows (out), C columns (in).
Source: Jordan et al. 2024, "Muon"; the update is spec pr549.md 3.2 and 3.3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

# One step maps a singular value s to a s + b s³ + c s⁵; five of them take 0.002..1 into 0.68..1.21.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(update_NRC: Tensor, steps: int = 5) -> Tensor:
    """Push all singular values of each matrix towards one (0.68..1.21 after five steps); directions stay.

    float32 on a CPU, bfloat16 on CUDA (half the traffic; the iteration forgives rounding). Zero matrices stay zero.
    Takes [N, R, C] or [R, C]; returns the same shape in the dtype of the work.
    """
    a, b, c = QUINTIC
    x = update_NRC.to(torch.bfloat16 if update_NRC.is_cuda else torch.promote_types(update_NRC.dtype, torch.float32))
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        mixed = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) if x.dim() == 3 else b * gram + c * (gram @ gram)
        x = torch.baddbmm(x, mixed, x, beta=a) if x.dim() == 3 else a * x + mixed @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; decoupled weight decay; steps of tall matrices grow by sqrt(R / C).

    `buf = momentum * buf + g; u = g + momentum * buf; W = W (1 - lr decay) - lr sqrt(max(1, R / C)) orth(u)`.
    Matrices of one shape go through the iteration as one batch. Raises ValueError for a parameter that is no matrix.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        newton_schulz_steps: int = 5,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "newton_schulz_steps": newton_schulz_steps,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.dim() != 2:
                    raise ValueError(f"Muon takes matrices; found a parameter of shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # as torch's own
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for same_shape in by_shape(p for p in group["params"] if p.grad is not None):
                self._update(
                    same_shape, group["lr"], group["momentum"], group["weight_decay"], group["newton_schulz_steps"]
                )
        return loss

    def _update(self, matrices: list[Tensor], lr: float, momentum: float, decay: float, steps: int) -> None:
        gradients = [p.grad for p in matrices if p.grad is not None]
        buffers = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in matrices]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        update_NRC = torch.stack(gradients).add_(torch.stack(buffers), alpha=momentum)
        orthogonal_NRC = orthogonalise(update_NRC, steps).to(matrices[0].dtype)
        rows, columns = matrices[0].shape
        torch._foreach_mul_(matrices, 1.0 - lr * decay)
        torch._foreach_add_(matrices, list(orthogonal_NRC), alpha=-lr * max(1.0, rows / columns) ** 0.5)


def by_shape(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    """The parameters in lists of one shape, in the order in which the shapes appear."""
    lists: defaultdict[torch.Size, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        lists[parameter.shape].append(parameter)
    return list(lists.values())
