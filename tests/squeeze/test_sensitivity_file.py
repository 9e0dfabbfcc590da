"""The file of sensitivities: back as they were, damage noticed."""

from __future__ import annotations

import numpy as np
import pytest

from paramgolf.errors import RunError
from paramgolf.squeeze.hessian import HessianRecord, save_hessians
from paramgolf.squeeze.sensitivity import Sensitivity
from paramgolf.squeeze.sensitivity_file import load_sensitivities, save_sensitivities


def test_back_as_they_were(tmp_path):
    """Names with their order, both sides of each, and the record come back to float32."""
    path, record = tmp_path / "file", HessianRecord("ab12", 9)
    found = {"b": Sensitivity(np.arange(5.0), np.zeros(5)), "a": Sensitivity(np.ones(3), np.full(3, 0.25))}
    save_sensitivities(path, found, record)
    back, about = load_sensitivities(path)
    assert about == record and list(back) == ["b", "a"]
    for name, of in found.items():
        assert (back[name].outputs_R == of.outputs_R).all() and (back[name].lookups_R == of.lookups_R).all()


@pytest.mark.parametrize(
    "arrays",
    [
        {"outputs of a": np.ones(3)},
        {"outputs of a": np.ones(3), "lookups of a": np.ones(4)},
        {"outputs of a": np.ones((3, 3)), "lookups of a": np.ones((3, 3))},
        {"lookups of a": np.ones(3)},
        {"a": np.ones((3, 3))},
    ],
)
def test_files_of_something_else_are_refused(tmp_path, arrays):
    """Half a pair, sides of different length and a file of Hessians raise."""
    save_hessians(tmp_path / "file", arrays, HessianRecord("ab12", 9))
    with pytest.raises(RunError, match="damaged"):
        load_sensitivities(tmp_path / "file")


def test_damage_and_absence_are_noticed(tmp_path):
    """A changed byte, a cut and a missing file raise."""
    path = tmp_path / "file"
    with pytest.raises(RunError, match="cannot read"):
        load_sensitivities(path)
    save_sensitivities(path, {"a": Sensitivity(np.ones(3), np.ones(3))}, HessianRecord("ab12", 9))
    whole = path.read_bytes()
    for spoilt in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(spoilt)
        with pytest.raises(RunError, match="damaged"):
            load_sensitivities(path)
