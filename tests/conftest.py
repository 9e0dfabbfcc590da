"""What tests of several rooms share."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def plain_gpt() -> ModuleType:
    """The model of every recipe in plain NumPy, float64: `plain_gpt.logits(weights, recipe, tokens, ...)`."""
    return load("model/plain_gpt.py")


@pytest.fixture(scope="session")
def small_models() -> ModuleType:
    """Recipes of small models (`small_models.COMPOSED`, ...) and the filled model of spec pr549.md 8.10."""
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
