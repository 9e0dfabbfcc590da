"""Heads that predict further ahead than the next token (multi-token prediction, MTP). Training alone has them.

Legend: K heads, V vocabulary, D model width, S sequences, T tokens of a sequence, N positions of all sequences.
Source: Gloeckle et al. 2024 (arXiv 2404.19737), in the form of spec pr1185.md 2.5: one matrix a head over the shared
states. Published, no optimizer had the heads: they stayed zero, taught the model nothing, and their gradients, never
cleared, shortened all others in the clipping. Here AdamW moves them, and they count in the clipped norm like the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paramgolf.kernels.loss import softcapped_loss


class FutureHeads(nn.Module):
    """`weight` [K, V, D], zero at the start, so that the model's own gradients are then as without them."""

    def __init__(self, heads: int, vocab_size: int, width: int, softcap: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, vocab_size, width))
        self._softcap = softcap

    def loss(self, h_STD: Tensor, targets_ST: Tensor) -> Tensor:
        """Mean over the heads of each one's mean cross-entropy, nats a token, under the model's softcap.

        `targets_ST` are the next tokens. Head k = 1..K predicts the k-th token after the next, so the last k positions
        of a sequence have no target and do not count: T must be larger than K.
        """
        losses = []
        for ahead, head_VD in enumerate(self.weight.to(h_STD.dtype).unbind(0), start=1):
            h_ND, targets_N = h_STD[:, :-ahead].flatten(0, 1), targets_ST[:, ahead:].flatten()
            losses.append(softcapped_loss(h_ND, head_VD, targets_N, self._softcap))
        return torch.stack(losses).mean()
