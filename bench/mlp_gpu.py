"""The MLP alone, forward and backward, by every path that is here: plain, compiled, and the fused Triton kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gpu_measure import memory, seconds_of
from paramgolf.kernels.mlp import has_fused_mlp, plain_mlp


def mlp_table(recipe: Any, device: Any, tokens: int) -> dict[str, dict[str, float]]:
    """Milliseconds, TFLOP/s and peak memory of one layer's MLP on `tokens` positions."""
    model, dtype = recipe.model, torch.bfloat16 if device.type == "cuda" else torch.float32
    shapes = ((tokens, model.width), (model.mlp_width(), model.width), (model.width, model.mlp_width()))
    inputs = [torch.randn(shape, device=device).mul_(0.05).to(dtype).requires_grad_() for shape in shapes]
    weight = torch.randn(tokens, model.width, device=device).to(dtype)
    flops = 3 * 4 * tokens * model.width * model.mlp_width()
    paths: dict[str, Callable[..., Any]] = {"plain": plain_mlp}
    if device.type == "cuda":
        paths["plain, compiled"] = torch.compile(plain_mlp, fullgraph=True, dynamic=False)
    if has_fused_mlp(device, dtype):
        from paramgolf.kernels.mlp_triton import fused_mlp

        paths["fused"] = fused_mlp
    table = {}
    for name, path in paths.items():

        def call(path: Callable[..., Any] = path) -> Any:
            return torch.autograd.grad(path(*inputs, model.mlp_slope), inputs, weight)

        call()
        before = memory(device, reset=True)["allocated_now_bytes"]
        seconds = seconds_of(call, device, 10)
        peak = memory(device)["allocated_bytes"] - before
        table[name] = {"ms": 1e3 * seconds, "tflops": flops / seconds / 1e12, "peak_bytes": peak}
    return table
