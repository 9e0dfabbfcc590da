"""What the benches of a GPU share: clocks, memory, the machine's own ceilings, and single kernels timed alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from paramgolf.kernels.attention import attention_backend, causal_attention
from paramgolf.kernels.loss import loss_backend, plain_softcapped_loss, softcapped_loss

# Dense bfloat16 TFLOP/s of data sheets, by a part of the device's name.
PEAKS = {"H100 80GB": 989.0, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0}


def device_name(device: Any) -> str:
    """As the driver calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def data_sheet_tflops(name: str) -> float | None:
    """Dense bfloat16 TFLOP/s of a device's data sheet, None for one that is not listed."""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def synchronise(device: Any) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(function: Callable[[], Any], device: Any, times: int, warm: int = 2) -> float:
    """Median seconds of a call, the device's work included."""
    for _ in range(warm):
        function()
    taken = []
    for _ in range(times):
        synchronise(device)
        begin = time.perf_counter()
        function()
        synchronise(device)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def ceilings(device: Any, smoke: bool) -> dict[str, float]:
    """The machine's own limits, on random numbers: TFLOP/s of a large bfloat16 product, TB/s of a copy."""
    size, dtype = (256, torch.float32) if smoke else (8192, torch.bfloat16)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = 2 * size**3 / seconds_of(lambda: a @ b, device, 10) / 1e12
    source = torch.randn(1 << 20 if smoke else 1 << 30, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / seconds_of(lambda: target.copy_(source), device, 10) / 1e12
    return {"product_tflops": product, "copy_tb_per_second": copied}


def memory(device: Any, reset: bool = False) -> dict[str, int]:
    """Bytes: peaks since the last reset, and now; noughts on a CPU."""
    if device.type != "cuda":
        return {"allocated_bytes": 0, "reserved_bytes": 0, "allocated_now_bytes": 0, "device_bytes": 0}
    synchronise(device)
    if reset:
        torch.cuda.reset_peak_memory_stats(device)
    return {
        "allocated_bytes": torch.cuda.max_memory_allocated(device),
        "reserved_bytes": torch.cuda.max_memory_reserved(device),
        "allocated_now_bytes": torch.cuda.memory_allocated(device),
        "device_bytes": torch.cuda.get_device_properties(device).total_memory,
    }


def attention_table(recipe: Any, device: Any, sequences: int) -> dict[str, dict[str, float]]:
    """Milliseconds and TFLOP/s of attention alone, forward and backward, by kernel; those that refuse are left out."""
    model, length = recipe.model, recipe.train.sequence
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shapes = [(sequences, length, heads, model.head_size()) for heads in (model.heads, model.kv_heads, model.kv_heads)]
    inputs = [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for shape in shapes]
    q, k, v = (x.transpose(1, 2) for x in inputs)
    weight = torch.randn_like(q)
    flops = 2 * model.width * (length + 1) * sequences * length

    def own(backend: Any) -> Callable[[], Any]:
        def attend() -> Any:
            with sdpa_kernel(backend):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        return attend

    kernels = {f"ours: {attention_backend(device, dtype, model.head_size())}": lambda: causal_attention(q, k, v)}
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        kernels[f"torch: {backend.name.lower()}"] = own(backend)
    table = {}
    for name, attend in kernels.items():
        try:
            forward = seconds_of(attend, device, 10)
            both = seconds_of(lambda call=attend: torch.autograd.grad(call(), inputs, weight), device, 10)
        except (RuntimeError, UserWarning):
            continue
        backward = max(1e-9, both - forward)
        table[name] = {
            "forward_ms": 1e3 * forward,
            "backward_ms": 1e3 * backward,
            "forward_tflops": flops / forward / 1e12,
            "backward_tflops": 2.5 * flops / backward / 1e12,  # the scores are computed again
        }
    return table


def loss_table(recipe: Any, device: Any, tokens: int, vocabulary: int) -> dict[str, dict[str, float]]:
    """Milliseconds and peak memory of the loss alone, forward and backward: the kernel, the plain one, and compiled."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    h = torch.randn(tokens, recipe.model.width, device=device, dtype=dtype, requires_grad=True)
    head = (0.05 * torch.randn(vocabulary, recipe.model.width, device=device)).to(dtype).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,), device=device)
    paths = {f"ours: {loss_backend(device, dtype)}": softcapped_loss, "plain": plain_softcapped_loss}
    if device.type == "cuda":
        paths["plain, compiled"] = torch.compile(plain_softcapped_loss, fullgraph=True, dynamic=False)
    table = {}
    for name, path in paths.items():

        def call(path: Callable[..., Any] = path) -> Any:
            return torch.autograd.grad(path(h, head, targets, recipe.model.softcap), (h, head))

        call()
        before = memory(device, reset=True)["allocated_now_bytes"]
        milliseconds = 1e3 * seconds_of(call, device, 10)
        table[name] = {"ms": milliseconds, "peak_bytes": memory(device)["allocated_bytes"] - before}
    return table
