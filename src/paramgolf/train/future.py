"""Heads that predict further ahead than the next token (multi-token prediction, MTP). Training alone has them.

Legend: K heads, V vocabulary, D model width, S sequences, T tokens of a sequence, N positions of all sequences.
Source: Gloeckle et al. 2024 (arXiv 2404.19737), in the form of spec pr1185.md 2.5: one matrix a head over the shared
states. Published, no optimizer had the heads: they stayed zero, taught the model nothing, and their gradients, never
cleared, shortened all others in the clipping. Here AdamW moves them, and they count in the clipped norm like the rest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from paramgolf.kernels.loss import Softcap, softcapped_loss


class FutureHeads(nn.Module):
    """`weight` [K, V, D], zero at the start, so that the model's own gradients are then as without them."""

    def __init__(self, heads: int, vocab_size: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, vocab_size, width))

    def loss(self, h_STD: Tensor, targets_ST: Tensor, softcap: Softcap, boundary_id: int | None = None) -> Tensor:
        """Mean over the heads of each one's mean cross-entropy, nats a token, under the model's `softcap`.

        `targets_ST` are the next tokens. Head k = 1..K predicts the k-th token after the next, so the last k positions
        of a sequence have no target and do not count: T must be larger than K. With `boundary_id`, in a packed row,
        neither count positions whose target lies beyond the token that begins the next document. Caps that are learnt
        belong to the next token: the heads do not move them.
        """
        if isinstance(softcap, Tensor):
            softcap = softcap.detach()
        losses = []
        for ahead, head_VD in enumerate(self.weight.to(h_STD.dtype).unbind(0), start=1):
            h_ND, targets_N = h_STD[:, :-ahead].flatten(0, 1), targets_ST[:, ahead:].flatten()
            if boundary_id is None:
                losses.append(softcapped_loss(h_ND, head_VD, targets_N, softcap))
            else:
                inside_N = _inside(targets_ST, ahead, boundary_id).flatten()
                losses.append(_loss_where(inside_N, h_ND, head_VD, targets_N, softcap))
        return torch.stack(losses).mean()


def _inside(targets_ST: Tensor, ahead: int, boundary_id: int) -> Tensor:
    """Whether no document begins between each position [S, T - ahead] and its target."""
    begins_ST = targets_ST == boundary_id
    length = targets_ST.shape[1] - ahead
    crossed_ST = torch.stack([begins_ST[:, k : k + length] for k in range(ahead)]).any(dim=0)
    return ~crossed_ST


def _loss_where(inside_N: Tensor, h_ND: Tensor, head_VD: Tensor, targets_N: Tensor, softcap: Softcap) -> Tensor:
    """Mean over the positions inside; 0 if there are none.

    The others get a state of noughts: their logits are 0, their loss is ln V and their gradients vanish. So shapes do
    not depend on the text, and the fast losses need no mask.
    """
    outside = (~inside_N).sum(dtype=torch.promote_types(h_ND.dtype, torch.float32))
    mean = softcapped_loss(h_ND * inside_N[:, None].to(h_ND.dtype), head_VD, targets_N, softcap)
    total = mean * len(h_ND) - outside * math.log(len(head_VD))
    return total / (len(h_ND) - outside).clamp_min(1)
