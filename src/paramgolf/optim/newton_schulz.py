"""The nearest (nearly) orthogonal matrices, by polynomials instead of a singular value decomposition.

Legend: N matrices of one shape, R rows (out), C columns (in).
Sources: Jordan et al. 2024, "Muon", and spec pr549.md 3.2 (the quintic); Amsel et al. 2025, "The Polar Express", and
spec pr2140.md 3.3 (coefficients that change with every step).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Scheme = Literal["quintic", "polar-express"]
Polynomials = tuple[tuple[float, float, float], ...]

# One step maps a singular value s to a s + b s³ + c s⁵; five of them take 0.002..1 into 0.68..1.21.
QUINTIC = ((3.4445, -4.7750, 2.0315),)
# One polynomial for each of five steps: 0.001..1 goes into 0.859..1.141.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
SCHEMES: dict[Scheme, Polynomials] = {"quintic": QUINTIC, "polar-express": POLAR_EXPRESS}
LEAST_NORM = 1e-7


def orthogonalise(update_NRC: Tensor, steps: int = 5, scheme: Scheme = "quintic") -> Tensor:
    """Push all singular values of each matrix towards one; directions stay. The last polynomial serves further steps.

    float32 on a CPU, bfloat16 on CUDA (half the traffic; the iteration forgives rounding). Zero matrices stay zero.
    Takes [N, R, C] or [R, C]; returns the same shape in the dtype of the work, tall matrices as a transposed view.
    """
    dtype = torch.bfloat16 if update_NRC.is_cuda else torch.promote_types(update_NRC.dtype, torch.float32)
    return iterate(update_NRC.to(dtype), steps, scheme)


def iterate(x: Tensor, steps: int, scheme: Scheme = "quintic") -> Tensor:
    """`orthogonalise` in the dtype of `x`."""
    polynomials = SCHEMES[scheme]
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + LEAST_NORM)
    for step in range(steps):
        a, b, c = polynomials[min(step, len(polynomials) - 1)]
        gram = x @ x.mT
        mixed = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) if x.dim() == 3 else b * gram + c * (gram @ gram)
        x = torch.baddbmm(x, mixed, x, beta=a) if x.dim() == 3 else a * x + mixed @ x
    return x.mT if tall else x


def normalise_rows(update_NRC: Tensor) -> Tensor:
    """Rows of length one, in the dtype given (MuonEq-R, spec pr2140.md 3.3); rows shorter than 1e-7 stay short."""
    lengths_NR1: Tensor = torch.linalg.vector_norm(update_NRC, dim=-1, keepdim=True)
    return update_NRC / lengths_NR1.clamp_min(LEAST_NORM)
