"""The command line inside the file, run as a user runs it: in a process that knows nothing of this project."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paramgolf.artifact.open import open_artifact
from paramgolf.predict.score_text import score_text
from paramgolf.text.text import HeldOutText

pytestmark = pytest.mark.slow

TEXT = b"def add(a, b):\n    return a + b\n" * 6


def run(model, *words, cwd=None, **environment):
    command = [sys.executable, "-I", str(model), *map(str, words)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, capture_output=True, cwd=cwd, env=env, check=False)


def test_help_answers_at_once(model):
    """`--help` names every verb, and takes a fraction of the second that importing torch alone would."""
    begin = time.perf_counter()
    child = run(model, "--help")
    seconds = time.perf_counter() - begin
    assert child.returncode == 0
    for verb in ("score", "encode", "decode", "sample"):
        assert verb in child.stdout.decode()
        assert run(model, verb, "--help").returncode == 0
    assert "rows" not in child.stdout.decode()
    assert seconds < 2.0  # 0.1 s on an idle machine; torch takes above 3


def test_score_runs_from_the_file_alone_and_agrees_with_the_library(model, tmp_path):
    """`score` gives the bits that the library computes here, audited, and every module of paramgolf came from the zip,
    though another paramgolf is installed.
    """
    file, probe = tmp_path / "text.py", tmp_path / "probe.py"
    file.write_bytes(TEXT)
    probe.write_text(
        "import json, runpy, sys\n"
        f"sys.argv = [{str(model)!r}, 'score', {str(file)!r}, '--json']\n"
        f"sys.path.insert(0, {str(model)!r})\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as leave:\n    assert not leave.code, leave.code\n"
        "print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'paramgolf']))\n"
    )
    child = subprocess.run([sys.executable, "-I", str(probe)], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    record, files = map(json.loads, child.stdout.splitlines()[-2:])
    assert len(files) > 15
    assert all(name.startswith(f"{model}{os.sep}") for name in files)
    artifact = open_artifact(model)
    expected = score_text(artifact, HeldOutText("text.py", [TEXT]))
    assert record["bpb"] == pytest.approx(expected.bpb, abs=1e-4)
    assert record["bytes"] == len(TEXT)
    assert record["artifact_digest"] == artifact.digest
    assert record["audit_passed"] is True
    assert "bits per byte" in child.stderr


@pytest.mark.slow
def test_encode_and_decode_give_the_file_back(model, tmp_path):
    """Two processes, one that compresses and one that restores, and any bytes come back."""
    for name, content in {"text": TEXT, "empty": b"", "binary": bytes(range(256)) + b"\xff\xfe"}.items():
        source, coded, back = (tmp_path / f"{name}.{end}" for end in ("in", "coded", "out"))
        source.write_bytes(content)
        child = run(model, "encode", source, coded, "--json")
        assert child.returncode == 0, child.stderr.decode()
        assert json.loads(child.stdout)["bytes_coded"] == coded.stat().st_size
        assert run(model, "decode", coded, back).returncode == 0
        assert back.read_bytes() == content


@pytest.mark.slow
def test_sample_goes_on_from_the_prompt(model):
    """`sample` prints the prompt and something after it; the same seed gives the same text."""
    words = ("sample", "--prompt", "def ", "--tokens", "20", "--seed", "3")
    first, second = run(model, *words), run(model, *words)
    assert first.returncode == 0, first.stderr.decode()
    assert first.stdout.startswith(b"def ")
    assert first.stdout == second.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "VERB"),
        (("scoer", "x"), "invalid choice"),
        (("score",), "FILE"),
        (("score", "none.txt"), "none.txt"),
        (("score", "none.txt", "--limit", "0"), "at least 1"),
        (("encode", "none.txt", "out"), "none.txt"),
        (("encode", "model.pyz", "model.pyz"), "exists already"),
        (("decode", "model.pyz", "out"), ""),
    ],
)
def test_mistakes_cost_one_line_and_status_2(model, words, says):
    """A user's mistake gives one line that names it, exit status 2, no traceback, and no output file."""
    child = run(model, *words, cwd=model.parent)
    error = child.stderr.decode()
    assert child.returncode == 2, error
    assert says in error
    assert "Traceback" not in error
    assert error.strip().count("\n") <= 1
    assert not (model.parent / "out").exists()


def test_errors_are_json_when_asked(model):
    """With --json the last line of stdout is an object with the message and the status."""
    child = run(model, "score", "none.txt", "--json")
    assert json.loads(child.stdout.splitlines()[-1])["exit_status"] == child.returncode == 2


def test_a_damaged_copy_says_so(model, tmp_path):
    """A file with one changed byte in its weights refuses to score, in one line."""
    damaged = bytearray(model.read_bytes())
    damaged[damaged.index(b"PGOLFWTS") + 40] ^= 1
    copy = tmp_path / "copy.pyz"
    copy.write_bytes(damaged)
    child = run(copy, "sample", "--tokens", "1")
    assert child.returncode == 2
    assert "SHA-256 does not fit" in child.stderr.decode()


@pytest.mark.slow
def test_without_a_place_for_compiled_code_it_only_takes_longer(model, tmp_path):
    """Where neither the file's folder nor the home can be written the verbs still work."""
    source, coded = tmp_path / "in", tmp_path / "coded"
    source.write_bytes(TEXT)
    child = run(model, "encode", source, coded, HOME="/proc/nowhere")
    assert child.returncode == 0, child.stderr.decode()
    assert coded.stat().st_size > 0


def test_a_renamed_or_moved_file_still_runs(model, tmp_path):
    """The name does not matter: no suffix, spaces and all."""
    moved = tmp_path / "my best model"
    shutil.copy(model, moved)
    assert run(moved, "--help").stdout.startswith(b"usage: my best model")
    assert run(Path("./my best model"), "score", "none", cwd=tmp_path).returncode == 2
