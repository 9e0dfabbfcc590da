"""What `lean_forward` does within a head: its norm, rotary's turn, and the part along the own value.

Legend: T positions, R rows of a slab, t places of a slab in its frame, D width, H heads, G key/value heads, K channels
of a head, C = G K, J turned pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paramgolf.kernels.norm import RMS_EPS
from paramgolf.kernels.own_value import VALUE_EPS
from paramgolf.model.gpt import GPT


class Heads:
    """Heads of `model` in frames of `length` positions; rotary turns a pair of channels as one complex number."""

    def __init__(self, model: GPT, length: int) -> None:
        self.size = model.recipe.head_size()
        self._order_K, self._turn_T1J = _pairs_side_by_side(model), _turns(model, length)

    def paired(self, weight: Tensor) -> Tensor:
        """A weight of queries or keys whose rows j and j + J of each head lie side by side; q·k is the same sum."""
        return weight.view(-1, self.size, weight.shape[1])[:, self._order_K].flatten(0, 1)

    def project(self, x_RD: Tensor, weight: Tensor, gain_H: Tensor | None, places: slice, out_RC: Tensor) -> None:
        """Queries or keys of a `paired` weight: product, norm of each head, gain, and turn."""
        torch.mm(x_RD, weight.T, out=out_RC)
        part_RHK = out_RC.view(len(out_RC), -1, self.size)
        inverse_RH1 = inverse_rms(part_RHK)
        part_RHK.mul_(inverse_RH1 if gain_H is None else inverse_RH1.mul_(gain_H[:, None]))
        turn_t1J = self._turn_T1J[places]
        pairs = part_RHK.view(-1, len(turn_t1J), part_RHK.shape[1], self.size // 2, 2)
        torch.view_as_complex(pairs[..., : turn_t1J.shape[2], :]).mul_(turn_t1J)

    def exclude_own_value(self, read_RD: Tensor, v_RC: Tensor) -> None:
        """XSA in place: what a head read without its part along the position's own value (spec pr549.md 2.6)."""
        v_RG1K = v_RC.view(len(v_RC), -1, 1, self.size)
        read_RGHK = read_RD.view(len(v_RC), v_RG1K.shape[1], -1, self.size)
        length_RG11 = torch.linalg.vector_norm(v_RG1K, dim=3, keepdim=True).clamp_min_(VALUE_EPS)
        own_RG1K = v_RG1K / length_RG11
        read_RGHK.sub_((read_RGHK * own_RG1K).sum(dim=3, keepdim=True) * own_RG1K)


def normalise(x_RD: Tensor, out_RD: Tensor, factor: float = 1.0) -> Tensor:
    """`out` = x / sqrt(mean(x²) + RMS_EPS), times `factor`; `out` may be `x`."""
    inverse_R1 = inverse_rms(x_RD)
    return torch.mul(x_RD, inverse_R1 if factor == 1.0 else inverse_R1.mul_(factor), out=out_RD)


def inverse_rms(x: Tensor) -> Tensor:
    """1 / sqrt(mean(x²) + RMS_EPS) over the last dimension, which stays."""
    inverse: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    return inverse.div_(x.shape[-1]).add_(RMS_EPS).rsqrt_()


def _pairs_side_by_side(model: GPT) -> Tensor:
    """The channels of a head: those that rotary turns together, one pair after the other, then the rest."""
    turned, size = model.recipe.turned_channels(), model.recipe.head_size()
    paired = torch.arange(turned).view(2, -1).T.flatten()
    return torch.cat([paired, torch.arange(turned, size)])


def _turns(model: GPT, length: int) -> Tensor:
    """The complex number [T, 1, J] that turns each pair of a head."""
    rotary = model.rotary
    rotary.prepare(length)
    half = rotary.turned // 2
    return torch.complex(rotary.cos_TR[:length, :half], -rotary.sin_TR[:length, :half])[:, None]
