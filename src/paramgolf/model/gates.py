"""What decides at a position, from its state alone, how much of a branch counts: gates of heads, routers of the MLP.

Legend: B batch, T positions, D width, H query heads.

A router serves the positions whose score is above 0, that is whose sigmoid is above one half, and their MLP counts
`2 sigmoid(score) - 1`. So a branch begins at nothing where it is switched on: two implementations that disagree about
the sign of a score of 1e-7 still agree about the output. The published Mixture-of-Depths takes the best k scores of a
sequence, by which a position depends on later ones, and trains no router (spec pr1185.md 2.8).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

ROUTER_PULL = 1.0  # times the squared error of the share of positions that a router serves
STEEPNESS = 4.0  # of the sigmoid that stands for the step from off to on in the gradient


class Affine(nn.Module):
    """A weight [out, in] and a bias [out]; it holds no values until the model initialises them."""

    def __init__(self, out_features: int, in_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class SparseGate(nn.Module):
    """A gate for each head that reads the first channels of the attention's input alone (spec pr2140.md 2.3).

    Without a bias: at zero weights every head counts half.
    """

    def __init__(self, heads: int, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(heads, channels))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Scores [B, T, H] whose sigmoid is the gate."""
        return self.scale * functional.linear(x_BTD[..., : self.weight.shape[1]], self.weight.to(x_BTD.dtype))


def opening(score: Tensor) -> Tensor:
    """How much of a routed branch counts, `max(0, 2 sigmoid(score) - 1)`: 0 where it is off, continuous at 0."""
    return torch.tanh(score * 0.5).clamp_min(0.0)


def share_error(score_BT1: Tensor, share: float) -> Tensor:
    """Squared difference of the positions served and `share`, a scalar of at least float32.

    Its value counts positions; its gradient is that of a steep sigmoid in the place of each yes or no.
    """
    score_BT1 = score_BT1.to(torch.promote_types(score_BT1.dtype, torch.float32))
    soft = torch.sigmoid(score_BT1 * STEEPNESS).mean()
    served = (score_BT1 > 0).to(soft.dtype).mean()
    error: Tensor = soft + (served - soft).detach() - share
    return error.square()
