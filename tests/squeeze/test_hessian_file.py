"""The file of Hessians: shared ones once, damage noticed."""

from __future__ import annotations

import numpy as np
import pytest

from paramgolf.errors import RunError
from paramgolf.squeeze.hessian import HessianRecord, load_hessians, save_hessians, weights_digest


@pytest.fixture
def file(tmp_path):
    """A file with one shared and one lone Hessian."""
    shared = np.arange(40_000, dtype=np.float32).reshape(200, 200)
    path = tmp_path / "hessians.safetensors"
    save_hessians(path, {"q": shared, "k": shared, "down": np.eye(5, dtype=np.float32)}, HessianRecord("ab12", 64))
    return path


def test_back_as_it_was_and_shared_once(file):
    """Arrays, sharing and record come back, and a shared array takes its bytes once."""
    found, record = load_hessians(file)
    assert record == HessianRecord("ab12", 64)
    assert list(found) == ["q", "k", "down"]
    assert found["q"] is found["k"]
    assert (found["q"] == np.arange(40_000).reshape(200, 200)).all()
    assert (found["down"] == np.eye(5)).all()
    assert file.stat().st_size < 40_000 * 4 + 2000


def test_damage_is_noticed(file, tmp_path):
    """A missing file, a cut one, and a changed byte of the arrays or of the header raise `RunError` with the path."""
    data = file.read_bytes()
    for spoilt in (b"", data[:3], data[:100], data[:-4], data[:-1] + bytes([data[-1] ^ 1]), b"x" * 400):
        file.write_bytes(spoilt)
        with pytest.raises(RunError, match="damaged"):
            load_hessians(file)
    with pytest.raises(RunError, match="none"):
        load_hessians(tmp_path / "none")


def test_the_digest_of_weights_changes_with_any_of_them():
    """Another number, name or sign gives another digest; another order of names the same."""
    weights = {"a": np.ones((2, 2), np.float32), "b": np.zeros(3, np.float32)}
    digest = weights_digest(weights)
    assert digest == weights_digest(dict(reversed(weights.items())))
    for changed in (
        weights | {"a": np.full((2, 2), 1.0000001, np.float32)},
        weights | {"b": np.float32([0, -0.0, 0])},
        {"a": weights["a"], "c": weights["b"]},
    ):
        assert weights_digest(changed) != digest
