"""The nearest (nearly) orthogonal matrices, by a polynomial instead of a singular value decomposition.

Legend: N matrices of one shape, R rows (out), C columns (in).
Source: Jordan et al. 2024, "Muon"; spec pr549.md 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

# One step maps a singular value s to a s + b s³ + c s⁵; five of them take 0.002..1 into 0.68..1.21.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(update_NRC: Tensor, steps: int = 5) -> Tensor:
    """Push all singular values of each matrix towards one (0.68..1.21 after five steps); directions stay.

    float32 on a CPU, bfloat16 on CUDA (half the traffic; the iteration forgives rounding). Zero matrices stay zero.
    Takes [N, R, C] or [R, C]; returns the same shape in the dtype of the work, tall matrices as a transposed view.
    """
    dtype = torch.bfloat16 if update_NRC.is_cuda else torch.promote_types(update_NRC.dtype, torch.float32)
    return iterate(update_NRC.to(dtype), steps)


def iterate(x: Tensor, steps: int) -> Tensor:
    """`orthogonalise` in the dtype of `x`."""
    a, b, c = QUINTIC
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        mixed = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) if x.dim() == 3 else b * gram + c * (gram @ gram)
        x = torch.baddbmm(x, mixed, x, beta=a) if x.dim() == 3 else a * x + mixed @ x
    return x.mT if tall else x
