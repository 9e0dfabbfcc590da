"""What tests of several rooms share."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

# How long an example takes depends on what else the machine does, so no test fails for it.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch computes on one thread: the bits of sums, and the time of small ones, depend on how many there are."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def plain_gpt() -> ModuleType:
    """The model of every recipe in plain NumPy, float64: `plain_gpt.logits(weights, recipe, tokens, ...)`."""
    return load("model/plain_gpt.py")


@pytest.fixture(scope="session")
def small_models() -> ModuleType:
    """Recipes of small models (`.COMPOSED`, `.mixtures()`, ...) and the filled model of spec pr549.md 8.10."""
    return load("small_models.py")


@pytest.fixture(scope="session")
def on_ranks() -> Callable[..., list[Any]]:
    """`on_ranks(world, work)`: what `work(ranks)` gives on each of `world` ranks, which are threads."""
    return load("thread_ranks.py").on_ranks


def load(path: str) -> ModuleType:
    """A module beside the tests: pytest's way of importing lets no test import another file."""
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
