"""What tests of several rooms share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def plain_gpt() -> ModuleType:
    """The model of every recipe in plain NumPy, float64: `plain_gpt.logits(weights, recipe, tokens, ...)`."""
    name = "plain_gpt"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "model" / "plain_gpt.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
