"""The exported script as a file: what it says, what it holds, and what it leaves out."""

import ast
import base64
import dataclasses
import importlib.metadata
import io
import lzma
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import paramgolf
from paramgolf.cli.submit import ENTRY
from paramgolf.errors import RunError
from paramgolf.recipe import Recipe
from paramgolf.submission.loader import extract, main
from paramgolf.submission.script import build_script, exported_sources, required_packages

pytestmark = pytest.mark.slow

PACKAGE = Path(paramgolf.__file__).parent
RECIPE = Recipe("tiny")


@pytest.fixture(scope="module")
def script() -> str:
    """The script of a plain recipe."""
    return build_script(RECIPE, ENTRY, "abc123-changed").decode()


def _constants(script: str) -> dict[str, str]:
    """The string constants of a script, read and never run."""
    found = {}
    for node in ast.parse(script).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


def _archive(script: str) -> zipfile.ZipFile:
    payload = "".join(_constants(script)["PAYLOAD"].split())
    return zipfile.ZipFile(io.BytesIO(lzma.decompress(base64.b85decode(payload))))


def test_header_and_recipe_are_readable(script: str) -> None:
    """The first lines name the packages, the commands and the commit; the recipe reads back as it was."""
    docstring = ast.get_docstring(ast.parse(script)) or ""
    for word in ("torch", "numba", "--data DATA --out RUN", "--extract DIR", "abc123-changed", "recipe tiny"):
        assert word in docstring, word
    assert Recipe.from_json(_constants(script)["RECIPE"]) == RECIPE
    assert all(len(line) <= 1000 for line in script.splitlines())
    assert all(len(line) <= 120 for line in docstring.splitlines())


def test_payload_is_the_package_itself(script: str) -> None:
    """Each source of the payload is byte for byte the package's own file, the exhibits' empty table apart."""
    with _archive(script) as archive:
        names = archive.namelist()
        for name in names:
            if name.startswith("paramgolf/") and not name.startswith("paramgolf/exhibits/"):
                assert archive.read(name) == (PACKAGE.parent / name).read_bytes(), name
    assert names == sorted(names)
    for name in ("train/loop", "optim/muon", "model/gpt", "artifact/pack", "artifact/runtime", "referee/check"):
        assert f"paramgolf/{name}.py" in names
    for room in ("report", "submission", "exhibits", "cli/quickstart"):
        assert not [name for name in names if name.startswith(f"paramgolf/{room}") and "__init__" not in name]


def test_every_import_of_the_payload_is_in_it() -> None:
    """No source imports a module of the package that the payload lacks."""
    sources = exported_sources(ENTRY)
    for name, data in sources.items():
        for node in ast.walk(ast.parse(data)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("paramgolf"):
                path = (node.module or "").replace(".", "/")
                assert {f"{path}.py", f"{path}/__init__.py"} & set(sources), f"{name} imports {node.module}"


def test_the_same_runs_give_the_same_script(script: str) -> None:
    """Nothing of the time or the machine is in the script."""
    assert build_script(RECIPE, ENTRY, "abc123-changed").decode() == script


def test_a_name_cannot_end_the_header() -> None:
    """A recipe whose name holds quotes or code stays a name: the script parses and its recipe reads back."""
    odd = dataclasses.replace(RECIPE, name='x"""; import os; os.abort() #\\')
    script = build_script(odd, ENTRY, 'evil"""').decode()
    assert Recipe.from_json(_constants(script)["RECIPE"]) == odd
    assert [type(node).__name__ for node in ast.parse(script).body].count("Expr") == 1


def test_requirements_are_those_of_the_project() -> None:
    """The packages are the project's own with their versions, without those that the script never imports."""
    declared = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text())["project"]["dependencies"]
    mine = {re.split(r"[<>=]", line)[0]: set(re.split(r"[^<>=0-9.,]", line)[-1].split(",")) for line in declared}
    found = required_packages(exported_sources(ENTRY))
    names = [re.split(r"[<>=]", line)[0] for line in found]
    assert {"torch", "numpy", "numba", "sentencepiece", "constriction", "safetensors"} <= set(names) <= set(mine)
    assert not {"matplotlib", "jinja2", "pyppmd"} & set(names)
    for name, line in zip(names, found):
        assert set(line.removeprefix(name).split(",")) == mine[name]


def test_without_an_installation_the_requirements_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout that is not installed gives a sentence instead of a script without versions."""

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    with pytest.raises(RunError, match="pip install"):
        required_packages({})


def test_extract_writes_readable_sources(script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--extract writes the sources and the recipe to a new folder, refuses one that exists, and runs nothing else."""
    constants = _constants(script)
    words = ["--extract", str(tmp_path / "sources")]
    assert main(constants["RECIPE"], constants["PAYLOAD"], "no.such.module", words) == 0
    with _archive(script) as archive:
        for name in archive.namelist():
            assert (tmp_path / "sources" / name).read_bytes() == archive.read(name)
    assert Recipe.from_json((tmp_path / "sources" / "recipe.json").read_text()) == RECIPE
    assert main(constants["RECIPE"], constants["PAYLOAD"], "no.such.module", words) == 2
    assert "exists already" in capsys.readouterr().err
    assert extract(b"", "", []) == 2 and "--extract DIR" in capsys.readouterr().err


def test_the_script_runs_its_own_sources(script: str, tmp_path: Path) -> None:
    """In a clean folder --help comes from the sources inside the script, and its temporary files are gone after it."""
    probe = script.replace(
        "raise SystemExit(main(",
        "status = main(",
    ).replace("sys.argv[1:]))", "sys.argv[1:])\n    print(sys.modules['paramgolf'].__file__, status)")
    (tmp_path / "train_gpt.py").write_text(probe)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {"TMPDIR": str(scratch), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "train_gpt.py", "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == "" and "usage: train_gpt.py" in done.stdout
    origin, status = done.stdout.splitlines()[-1].split()
    assert origin.startswith(str(scratch)) and "sources.zip" in origin and status == "0"
    assert list(scratch.iterdir()) == []


def test_bad_words_give_one_line(script: str, tmp_path: Path) -> None:
    """A missing folder of shards, an unknown flag and no flag at all are one line and exit status 2."""
    (tmp_path / "train_gpt.py").write_text(script)
    for words, says in (
        (["--data", "nowhere", "--out", "run"], "nowhere"),
        (["--dta", "x"], "did you mean --data?"),
        ([], "--data"),
        (["--data", "x", "--seconds", "-1"], "'-1' is not a positive number of seconds"),
    ):
        done = subprocess.run(
            [sys.executable, "-I", "train_gpt.py", *words], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["train_gpt.py"]
