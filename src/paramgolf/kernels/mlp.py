"""The MLP of the squared leaky ReLU, `leaky(x upᵀ)² downᵀ`, by a path that the caller names.

The model takes the plain path everywhere: the fused one has not been measured on a GPU yet, and a compiler fuses most
of what it saves. `bench/train_step_gpu.py` compares the two; one that pays there belongs behind `block.mlp`.

Legend: N positions, D model width, M channels of the MLP.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from paramgolf.kernels.loss import HAS_TRITON
from paramgolf.kernels.relu_squared import relu_squared


def plain_mlp(x_ND: Tensor, up_MD: Tensor, down_DM: Tensor, slope: float) -> Tensor:
    """The definition; any float dtype and device. Oracle of the activation: spec pr2140.md 2.3."""
    return functional.linear(relu_squared(functional.linear(x_ND, up_MD), slope), down_DM)


def has_fused_mlp(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `fused_mlp` of `mlp_triton.py` can run."""
    return device.type == "cuda" and HAS_TRITON and dtype in (torch.bfloat16, torch.float32)
