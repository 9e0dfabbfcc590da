"""What this machine can do: versions, cores, memory, GPUs, disk, and a few seconds of measured speed."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from paramgolf.cli.output import Output

LEAST_FREE_BYTES = 2_000_000_000
LEAST_MEMORY_BYTES = 3_000_000_000
SECONDS = 1.0  # of each speed test


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Doctor takes no settings."""


def run(options: argparse.Namespace, output: Output) -> int:
    """Look, measure, and list what is missing; exit status 1 if something is."""
    from paramgolf.cli.environment import browser, describe_installation, describe_machine

    record: dict[str, Any] = {**describe_installation(), **describe_machine(), "browser": browser()}
    record["disk_free_bytes"] = shutil.disk_usage(Path.cwd()).free
    missing = [name for name, version in record["versions"].items() if version is None]
    problems = [f"{name} is not installed" for name in missing]
    if not missing:
        record |= _measure()
    problems += _problems(record)
    record["problems"] = problems
    output.table([(name, text) for name, text in _lines(record)])
    for problem in problems:
        output.say(f"problem: {problem}")
    if problems:
        output.say("next: mend what is listed above, then run paramgolf doctor again")
    else:
        output.next("paramgolf", "quickstart")
    output.result(record)
    return 1 if problems else 0


def _measure() -> dict[str, Any]:
    from paramgolf.cli.environment import describe_torch

    found = {**describe_torch(), "kernels": _kernels()}
    return {**found, "matmul_gflops": _matmul_gflops(), "tokens_per_second": _token_speed(), "numba_cache": _numba()}


def _kernels() -> dict[str, str]:
    """Which kernel serves each call on the device that trains, in the precision of the contest's models there."""
    import torch

    from paramgolf.kernels.attention import attention_backend
    from paramgolf.kernels.loss import loss_backend
    from paramgolf.kernels.varlen import varlen_backend
    from paramgolf.ranks import pick_device

    device = pick_device(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return {
        "attention": attention_backend(device, dtype),
        "packed documents": varlen_backend(device, dtype),
        "loss": loss_backend(device, dtype),
    }


def _matmul_gflops() -> float:
    """Speed of a float32 matrix product of 1024 x 1024, in 10^9 operations a second, on the device that trains."""
    import torch

    from paramgolf.ranks import pick_device

    device = pick_device(0)
    a = torch.ones(1024, 1024, device=device)
    products, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < SECONDS:
        a @ a
        products += 1
        if device.type == "cuda":
            torch.cuda.synchronize()
    return 2 * 1024**3 * products / (time.perf_counter() - begin) / 1e9


def _token_speed() -> float:
    """Training speed of the quickstart's model without its optimizer, in tokens a second."""
    import torch

    from paramgolf.model.gpt import GPT
    from paramgolf.ranks import pick_device
    from paramgolf.recipes import get_recipe

    recipe, device = get_recipe("quickstart"), pick_device(0)
    model = GPT(recipe.model, recipe.tokenizer.vocab_size).to(device)
    tokens = torch.randint(recipe.tokenizer.vocab_size, (8, recipe.train.sequence), device=device)

    def step() -> None:
        model.loss(tokens, tokens).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        model.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    step()
    steps, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < SECONDS:
        step()
        steps += 1
    return steps * tokens.numel() / (time.perf_counter() - begin)


def _numba() -> bool:
    """Whether compiled code can be kept between runs: numba caches beside the package or in the user's cache."""
    import paramgolf

    folders = [Path(paramgolf.__file__).parent, Path.home() / ".cache"]
    return any(_writable(folder) for folder in folders)


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _problems(record: dict[str, Any]) -> list[str]:
    problems = []
    if record["disk_free_bytes"] < LEAST_FREE_BYTES:
        problems.append(f"{record['disk_free_bytes']:,} bytes free here; a run needs up to {LEAST_FREE_BYTES:,}")
    memory = record["memory_bytes"]
    if memory is not None and memory < LEAST_MEMORY_BYTES:
        problems.append(f"{memory:,} bytes of memory; training needs about {LEAST_MEMORY_BYTES:,}")
    if record.get("numba_cache") is False:
        problems.append("no folder for numba's cache can be written: every run compiles for some seconds again")
    return problems


def _lines(record: dict[str, Any]) -> list[tuple[str, str]]:
    gpus = record.get("gpus")
    memory = record["memory_bytes"]
    lines = [
        ("paramgolf", f"{record['paramgolf']} {record['commit'] or ''}".strip()),
        ("python", f"{record['python']} on {record['platform']}"),
        ("cpu", f"{record['cpu']}, {record['cores']} cores, {record.get('threads', '?')} threads"),
        ("memory", f"{memory / 1e9:.1f} GB" if memory else "unknown"),
        ("gpu", ", ".join(gpus) if gpus else "none: everything works on the CPU, only slower"),
        ("disk", f"{record['disk_free_bytes'] / 1e9:.1f} GB free here"),
        ("browser", record["browser"] or "none: the page opens in any browser, only its test is skipped"),
    ]
    if "matmul_gflops" in record:
        lines += [
            ("kernels", ", ".join(f"{call}: {kernel}" for call, kernel in record["kernels"].items())),
            ("matmul", f"{record['matmul_gflops']:,.0f} GFLOP/s in float32"),
            ("training", f"{record['tokens_per_second']:,.0f} tokens/s, quickstart model, optimizer left out"),
            ("numba", "caches compiled code" if record["numba_cache"] else "cannot cache compiled code"),
        ]
    return lines + [(name, version or "missing") for name, version in record["versions"].items()]
