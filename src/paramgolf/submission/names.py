"""What the files of a record are called; not the names of a run's files, or the folder would be taken for a run."""

from __future__ import annotations

SCRIPT = "train_gpt.py"


def log_name(seed: int | str) -> str:
    return f"train_seed{seed}.log"


def model_name(seed: int | str) -> str:
    return f"model_seed{seed}.pyz"


def score_name(seed: int | str) -> str:
    return f"score_seed{seed}.json"


def verdict_name(seed: int | str) -> str:
    return f"verdict_seed{seed}.json"


def calibration_name(seed: int | str) -> str:
    return f"calibration_seed{seed}.json"
