"""The quickstart end to end, on a small text so that it takes a minute: what the README's first command does."""

import json
import shutil
import sysconfig
from pathlib import Path

import pytest

from paramgolf.cli import main
from paramgolf.referee.evidence import RUN_FILES

MODULES = ("argparse", "ast", "bdb", "calendar", "cgi", "cmd", "code", "codecs", "copy", "csv", "dis", "difflib")
KEYS = {"bpb", "artifact_bytes", "train_seconds", "score_seconds", "legal", "proof", "peers", "run"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished quickstart on a dozen modules of the library: its folder and what --json printed."""
    folder = tmp_path_factory.mktemp("quickstart")
    (folder / "text").mkdir()
    for name in MODULES:
        source = Path(sysconfig.get_path("stdlib"), f"{name}.py")
        if source.exists():  # some modules left the library after 3.11
            shutil.copy(source, folder / "text")
    return folder


def called(words, capsys):
    status = main([str(word) for word in words])
    return status, json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_life_of_a_run(run, capsys):
    """One command gives a legal score, a proof that restores the text, all files of a run, and verbs that go on."""
    out = run / "run"
    words = ["quickstart", "--text", run / "text", "--seconds", "6", "--out", out, "--json"]
    status, record = called(words, capsys)
    assert status == 0 and record["legal"] is True
    assert set(record) >= KEYS and set(record["peers"]) >= {"xz", "brotli", "zstd", "ppmd"}
    assert record["proof"]["identical"] is True and record["proof"]["bytes_in"] == 20_480
    assert record["proof"]["bytes_coded"] < 20_480
    assert all((out / name).stat().st_size > 0 for name in (*RUN_FILES, "verdict.json", "report.html"))
    assert record["artifact_bytes"] == (out / "model.pyz").stat().st_size
    assert abs(json.loads((out / "score.json").read_text())["bpb"] - record["bpb"]) < 1e-12
    assert record["bpb"] < min(record["peers"]["xz"], record["peers"]["zstd"], record["peers"]["brotli"])

    status, checked = called(["check", out, "--json"], capsys)
    assert (status, checked["legal"]) == (0, True), checked
    status, again = called(["score", out / "model.pyz", out / "data", "--adapt", "ngram-only", "--json"], capsys)
    assert status == 0 and again["audit"]["positions"] > 0
    given, coded, back = run / "given", run / "coded", run / "back"
    given.write_bytes(b"\xff\x00 def f(x):\n    return x\n" * 20)
    assert main(["encode", str(out / "model.pyz"), str(given), str(coded)]) == 0
    assert main(["decode", str(out / "model.pyz"), str(coded), str(back)]) == 0
    assert back.read_bytes() == given.read_bytes()
    assert main(["sample", str(out / "model.pyz"), "--prompt", "def ", "--tokens", "20"]) == 0
    assert main(["report", str(out)]) == 0
    assert main([str(word) for word in words]) == 2  # the folder exists: nothing is overwritten


@pytest.mark.parametrize("content", [b"", b"x"])
def test_hardly_any_text_is_refused_and_leaves_nothing(content, tmp_path, capsys):
    """An empty file or one byte ends in one clear message, without a half-made run."""
    (tmp_path / "text.txt").write_bytes(content)
    status, record = called(
        ["quickstart", "--text", tmp_path / "text.txt", "--out", tmp_path / "run", "--json"], capsys
    )
    assert status == 2 and record["error"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt"]
