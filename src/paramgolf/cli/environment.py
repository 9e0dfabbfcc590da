"""What this machine and this installation are: for `doctor`, for `env.json` and for the captions of a report."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from paramgolf import __version__

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def describe_installation() -> dict[str, Any]:
    """Versions of Python, paramgolf (with its commit in a checkout) and each dependency; torch is not imported."""
    return {
        "paramgolf": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": dependency_versions(),
    }


def describe_machine() -> dict[str, Any]:
    """CPU, cores and memory; no torch needed."""
    return {"cpu": cpu_name(), "cores": usable_cores(), "memory_bytes": memory_bytes()}


def describe_torch() -> dict[str, Any]:
    """Threads and GPUs as torch sees them (imports torch)."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"threads": torch.get_num_threads(), "gpus": gpus, "cuda": torch.version.cuda}


def dependency_versions() -> dict[str, str | None]:
    """Installed version of each declared dependency, None for one that is missing; extras only if installed.

    The tools of development are left out: they decide no number.
    """
    try:
        declared = importlib.metadata.requires("paramgolf") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    versions: dict[str, str | None] = {}
    for requirement in declared:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        optional = "extra ==" in requirement
        if re.search(r"""extra == ['"]dev['"]""", requirement):
            continue
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if not optional:
                versions[name] = None
    return versions


def commit() -> str | None:
    """The commit of the checkout that runs, with `-changed` if files differ from it; None outside of one."""
    root = Path(__file__).resolve().parents[3]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            [git, "-C", str(root), "describe", "--always", "--dirty=-changed", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def cpu_name() -> str:
    """The processor as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Memory of the machine, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def browser() -> str | None:
    """A browser that can draw a page without a screen, used by the tests of the report."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)
