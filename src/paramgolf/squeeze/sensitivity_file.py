"""The file in which a run keeps the sensitivities of its tensors' rows, in the format of its Hessians."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from paramgolf.errors import RunError
from paramgolf.squeeze.hessian import HessianRecord, load_hessians, save_hessians
from paramgolf.squeeze.sensitivity import Sensitivity

SENSITIVITIES = "sensitivities.safetensors"
_OUTPUTS, _LOOKUPS = "outputs of ", "lookups of "


def save_sensitivities(path: Path, found: Mapping[str, Sensitivity], record: HessianRecord) -> None:
    """Write one file whole, as float32; raises `OutputError` on a full disk."""
    arrays = {_OUTPUTS + name: of.outputs_R.astype(np.float32) for name, of in found.items()}
    arrays |= {_LOOKUPS + name: of.lookups_R.astype(np.float32) for name, of in found.items()}
    save_hessians(path, arrays, record)


def load_sensitivities(path: Path) -> tuple[dict[str, Sensitivity], HessianRecord]:
    """Read a file back; `RunError` if it is missing or damaged."""
    arrays, record = load_hessians(path)
    found: dict[str, Sensitivity] = {}
    for key, outputs_R in arrays.items():
        if key.startswith(_OUTPUTS):
            name = key.removeprefix(_OUTPUTS)
            lookups_R = arrays.get(_LOOKUPS + name)
            if lookups_R is None or lookups_R.shape != outputs_R.shape or outputs_R.ndim != 1:
                raise RunError(f"{path} is damaged: the sensitivities of {name} do not fit; calibrate again")
            found[name] = Sensitivity(outputs_R.astype(np.float64), lookups_R.astype(np.float64))
    if 2 * len(found) != len(arrays):
        raise RunError(f"{path} is damaged: {len(arrays)} arrays are no pairs of outputs and lookups; calibrate again")
    return found, record
