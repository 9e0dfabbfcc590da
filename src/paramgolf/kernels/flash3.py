"""FlashAttention-3 (the package `flash_attn_interface`, Hopper GPUs) as two operators that are opaque to a compiler.

The package changed over time whether its own functions can be compiled and what they return; its public functions and
the order of its backward pass's first arguments did not, so only these are used here.

Legend: B batch, T positions, H query heads, G key/value heads, K channels of a head, N positions of all documents,
S documents + 1.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

PACKAGE = "flash_attn_interface"
HOPPER = 9


@torch.compiler.assume_constant_result
def usable(device: torch.device) -> bool:
    """Whether the package is installed, loads, and the GPU is a Hopper GPU."""
    return torch.cuda.get_device_capability(device)[0] == HOPPER and installed()


def installed() -> bool:
    """Whether the package can be imported here."""
    if importlib.util.find_spec(PACKAGE) is None:
        return False
    try:
        _library()
    except (ImportError, OSError):  # built for another torch or CUDA
        return False
    return True


def causal(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
    """Causal attention [B, T, H, K], scale `1/sqrt(K)`; differentiable once. Only the channels need be contiguous."""
    out_BTHK: Tensor
    out_BTHK, _ = _forward(q_BTHK, k_BTGK, v_BTGK, None, 0)
    return out_BTHK


def causal_packed(q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, ends_S: Tensor, longest: int) -> Tensor:
    """Causal attention within documents laid end to end; `ends_S` (int32) starts with 0, `longest` bounds a length."""
    out_NHK: Tensor
    out_NHK, _ = _forward(q_NHK, k_NGK, v_NGK, ends_S, longest)
    return out_NHK


def _library() -> ModuleType:
    return importlib.import_module(PACKAGE)


@torch.library.custom_op("paramgolf::flash3_forward", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor, ends_S: Tensor | None, longest: int) -> tuple[Tensor, Tensor]:
    """Output and the logarithm of each row's softmax sum."""
    library = _library()
    function = library.flash_attn_func if ends_S is None else library.flash_attn_varlen_func
    # Releases before this argument existed always returned the pair.
    asks = {"return_attn_probs": True} if "return_attn_probs" in inspect.signature(function).parameters else {}
    shape = () if ends_S is None else (ends_S, ends_S, longest, longest)
    out, sums = function(*map(_channels_last, (q, k, v)), *shape, causal=True, **asks)
    return out, sums


@_forward.register_fake
def _fake_forward(q: Tensor, k: Tensor, v: Tensor, ends_S: Tensor | None, longest: int) -> tuple[Tensor, Tensor]:
    shape = (len(q), q.shape[2], q.shape[1]) if ends_S is None else (q.shape[1], len(q))  # [B, H, T] or [H, N]
    return q.new_empty(q.shape), q.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("paramgolf::flash3_backward", mutates_args=())
def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, ends_S: Tensor | None, longest: int
) -> tuple[Tensor, Tensor, Tensor]:
    grad, q, k, v = map(_channels_last, (grad, q, k, v))
    grads = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
    limits = None if ends_S is None else longest
    documents = (ends_S, ends_S, None, None, limits, limits)
    scale = 1.0 / math.sqrt(q.shape[-1])
    _library()._flash_attn_backward(grad, q, k, v, out, sums, *documents, *grads, scale, True)
    return grads


@_backward.register_fake
def _fake_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, ends_S: Tensor | None, longest: int
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ends_S, ctx.longest = inputs
    ctx.save_for_backward(q, k, v, *output, ends_S)


def _differentiate(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
    q, k, v, out, sums, ends_S = ctx.saved_tensors
    grad_q, grad_k, grad_v = _backward(grad, q, k, v, out, sums, ends_S, ctx.longest)
    return grad_q, grad_k, grad_v, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)


def _channels_last(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
