"""The scripts that a new machine starts with."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [ROOT / "scripts" / name for name in ("quickstart", "test", "check")] + [ROOT / ".ci" / "run"]
BASH = shutil.which("bash")

pytestmark = pytest.mark.skipif(BASH is None, reason="no bash")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script: Path) -> None:
    """Each script is executable bash that stops at the first failure, and bash can parse it."""
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines
    assert subprocess.run([str(BASH), "-n", str(script)]).returncode == 0


def test_ci_calls_check_and_test_and_nothing_else() -> None:
    """What continuous integration runs is what a person can run: scripts/check and scripts/test."""
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in commands if "scripts/" in line] == ['"$here/scripts/check"', '"$here/scripts/test" --all']
    assert len(commands) == 4


def test_no_package_index_is_named() -> None:
    """Where packages come from is the machine's own choice: no script names an index."""
    for path in [*SCRIPTS, ROOT / "scripts" / "setup", ROOT / "pyproject.toml"]:
        assert "http" not in path.read_text() and "index-url" not in path.read_text()


def _machine(folder: Path, pythons: dict[str, int]) -> dict[str, str]:
    """An environment whose PATH holds a few tools and pretended Pythons that pass (0) or fail (1) the version check."""
    folder.mkdir()
    for name in ("cat", "cksum", "dirname", "env", "tee"):
        (folder / name).symlink_to(str(shutil.which(name)))
    for name, status in pythons.items():
        (folder / name).write_text(f"#!{BASH}\nexit {status}\n")
        (folder / name).chmod(0o755)
    return {"PATH": str(folder), "HOME": str(folder)}


def _setup(project: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Source a copy of scripts/setup in a project of its own and run `setup`."""
    (project / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup", project / "scripts" / "setup")
    (project / "pyproject.toml").write_text("[project]\n")
    code = 'set -euo pipefail; source "$1/scripts/setup"; setup ""'
    command = [str(BASH), "-c", code, "bash", str(project)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")


@pytest.mark.parametrize("pythons", [{}, {"python3": 1, "python": 1}], ids=["none", "too old"])
def test_a_machine_without_a_fitting_python(pythons: dict[str, int], tmp_path: Path) -> None:
    """Without Python 3.11 one line says what is needed, and no .venv is begun."""
    done = _setup(tmp_path / "a project", _machine(tmp_path / "bin", pythons))
    assert done.returncode == 2
    assert "paramgolf needs Python 3.11 or newer" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "a project" / ".venv").exists()


def test_the_newest_fitting_python_is_found(tmp_path: Path) -> None:
    """A python3 that is too old is passed over for a python3.12, and a venv that cannot be made is one clear line."""
    # The pretended Python passes the version check and makes no .venv, so set-up must not go on.
    environment = _machine(tmp_path / "bin", {"python3": 1})
    fitting = tmp_path / "bin" / "python3.12"
    fitting.write_text(f'#!{BASH}\n[ "$1" = "-m" ] && exit 1\n[ "$1" = "--version" ] && echo Python 3.12.1\nexit 0\n')
    fitting.chmod(0o755)
    done = _setup(tmp_path / "a project", environment)
    assert done.returncode == 2 and "with Python 3.12.1" in done.stderr
    assert "could not make" in done.stderr and "venv module" in done.stderr


def test_a_finished_setup_does_nothing(tmp_path: Path) -> None:
    """With a .venv made here for this pyproject.toml nothing is installed, whatever Python the machine has."""
    environment, project = _machine(tmp_path / "bin", {}), tmp_path / "a project"
    venv = project / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").write_text(f'#!{BASH}\n[ "$3" = --version ] && exit 0\necho >"{project}/installed"\n')
    (venv / "bin" / "python").chmod(0o755)
    checksum = subprocess.run(["cksum"], input="[project]\n", capture_output=True, text=True).stdout
    (venv / ".installed").write_text(checksum)
    (venv / ".made-for").write_text(f"{project}\n")
    assert _setup(project, environment).returncode == 0
    assert not (project / "installed").exists()
    (venv / ".installed").write_text("another\n")
    shutil.rmtree(project / "scripts")
    assert _setup(project, environment).returncode == 0 and (venv / ".installed").read_text() == checksum
