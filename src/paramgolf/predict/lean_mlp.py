"""The MLP of `lean_forward`: in place, in buffers that are made once, and only at the positions that a router serves.

Legend: R rows of a slab, P rows of a routed part, D width, M channels of the MLP.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from paramgolf.model.banks import LayerMatrices
from paramgolf.model.block import Block
from paramgolf.model.gates import Affine, opening
from paramgolf.recipe import ModelRecipe

# Served rows go through the matrices so many at a time, the last part filled up with zeros: a product whose shape
# followed the number of served rows would round a row by how many later ones are served.
ROUTED_ROWS = 128


class LeanMlp:
    """Adds what the MLP of a block makes of up to `slab` rows to the residual stream."""

    def __init__(self, recipe: ModelRecipe, slab: int) -> None:
        self._up_RM = torch.empty(slab, recipe.mlp_width())
        self._gate_RM = torch.empty(slab if recipe.gated_mlp else 0, recipe.mlp_width())

    def add(self, h_RD: Tensor, x_RD: Tensor, block: Block, w: LayerMatrices) -> None:
        """h += mlp(x), scaled as `block` says; `x_RD` holds anything afterwards."""
        if block.router is None:
            add_product(h_RD, self._hidden(x_RD, block, w), w.down, block.mlp_scale, x_RD)
        else:
            self._add_served(h_RD, x_RD, block, block.router, w)

    def _add_served(self, h_RD: Tensor, x_RD: Tensor, block: Block, router: Affine, w: LayerMatrices) -> None:
        score_R = torch.addmv(router.bias, x_RD, router.weight[0])
        served = (score_R > 0).nonzero()[:, 0]
        x_PD = torch.zeros(min(ROUTED_ROWS, len(x_RD)), x_RD.shape[1])
        y_PD = torch.empty_like(x_PD)
        for start in range(0, len(served), len(x_PD)):
            rows = served[start : start + len(x_PD)]
            count = len(rows)
            torch.index_select(x_RD, 0, rows, out=x_PD[:count])
            x_PD[count:].zero_()
            torch.mm(self._hidden(x_PD, block, w), w.down.T, out=y_PD)
            y_PD[:count].mul_(opening(score_R[rows])[:, None])
            if block.mlp_scale is not None:
                y_PD.mul_(block.mlp_scale)
            h_RD.index_add_(0, rows, y_PD[:count])

    def _hidden(self, x_RD: Tensor, block: Block, w: LayerMatrices) -> Tensor:
        up_RM = torch.mm(x_RD, w.up.T, out=self._up_RM[: len(x_RD)])
        functional.leaky_relu_(up_RM, block.slope) if block.slope else up_RM.relu_()
        up_RM.mul_(up_RM)
        if w.gate is not None:
            up_RM.mul_(torch.mm(x_RD, w.gate.T, out=self._gate_RM[: len(x_RD)]).sigmoid_())
        return up_RM


def add_product(h_RD: Tensor, x_RI: Tensor, weight: Tensor, scale_D: Tensor | None, spare_RD: Tensor) -> None:
    """h += x weightᵀ, times a gain for each channel if there is one."""
    if scale_D is None:
        h_RD.addmm_(x_RI, weight.T)
    else:
        h_RD.addcmul_(torch.mm(x_RI, weight.T, out=spare_RD[: len(h_RD)]), scale_D)
