"""What users give by mistake and what strangers give on purpose, typed at the command line."""

import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from paramgolf.artifact.container import build_container
from paramgolf.cli import main, quickstart, score, train
from paramgolf.cli.judge import Judged
from paramgolf.cli.life import discarded_if_nothing_is_saved
from paramgolf.cli.output import Output
from paramgolf.errors import OutputError
from paramgolf.recipes import get_recipe
from paramgolf.run_folder import RunFolder
from paramgolf.text.text import TrainText

Captured = pytest.CaptureFixture[str]


def refused(words: list[object], capsys: Captured) -> str:
    """Run a command that must leave with 2 and one or two lines on stderr; what it said last."""
    status = main([str(word) for word in words])
    said = capsys.readouterr()
    assert status == 2 and said.out == "" and "Traceback" not in said.err
    return said.err.strip().splitlines()[-1]


def test_quickstart_without_text_leaves_nothing(tmp_path: Path, capsys: Captured) -> None:
    """A run that ends before anything was made leaves neither its folder nor the parents that were made for it."""
    (tmp_path / "empty.txt").touch()
    out = tmp_path / "runs" / "first" / "q"
    assert "no text" in refused(["quickstart", "--text", tmp_path / "empty.txt", "--out", out], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


@pytest.mark.parametrize("data", [b"the same line again\n" * 15_000, bytes(300_000)], ids=["uniform", "noughts"])
def test_quickstart_falls_back_to_bytes(data: bytes) -> None:
    """A large text that cannot fill a vocabulary is read as bytes, for the quickstart has no flag to say so."""
    tokenizer = quickstart._tokenizer(TrainText("text", [data]), Output(as_json=False))
    assert tokenizer.kind == "bytes"


@pytest.mark.parametrize("saved", [False, True])
def test_a_new_run_is_kept_once_a_checkpoint_exists(tmp_path: Path, saved: bool) -> None:
    """What can be resumed stays after a failure; what cannot is removed and frees its name."""
    run = RunFolder.create(tmp_path / "run")
    if saved:
        run.write_bytes("checkpoint.safetensors", b"weights")
    with pytest.raises(KeyboardInterrupt), discarded_if_nothing_is_saved(run):
        raise KeyboardInterrupt
    assert run.path.exists() is saved


def test_train_on_empty_shards_frees_its_name(tmp_path: Path, capsys: Captured) -> None:
    """Shards that are too small for a window are refused, and the same command works once the data is mended."""
    text, data, out = tmp_path / "text.txt", tmp_path / "data", tmp_path / "run"
    text.write_text("a few words\n" * 3)
    assert main(["data", "prepare", str(text), "--tokenizer", "bytes", "--out", str(data)]) == 0
    capsys.readouterr()
    words = ["train", "quickstart", "--tokenizer.kind", "bytes", "--tokenizer.vocab_size", "260", "--data", data]
    assert "a window of sequence" in refused([*words, "--out", out], capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "text.txt"]


@pytest.mark.parametrize(("name", "says"), [("lora-tlit", "did you mean lora-tilt?"), ("exhibit:peek", "honest names")])
def test_train_asks_for_the_adaptation_first(name: str, says: str, tmp_path: Path, capsys: Captured) -> None:
    """What `score` could not honour is refused before a second is trained, and nothing is left."""
    text, data, out = tmp_path / "text.txt", tmp_path / "data", tmp_path / "run"
    text.write_text("a few words\n" * 30)
    assert main(["data", "prepare", str(text), "--tokenizer", "bytes", "--out", str(data)]) == 0
    capsys.readouterr()
    words: list[object] = ["train", "quickstart", "--data", data, "--out", out, "--score.adapt", name]
    said = refused([*words, "--tokenizer.kind", "bytes", "--tokenizer.vocab_size", "260"], capsys)
    assert f"score.adapt={name!r}" in said and says in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--squeeze.corrected_tensors", "9999"], "corrected_tensors=9,999 is more than the"),
        (["--train.batch_tokens", "8192", "--train.packed", "true", "--train.order", "stream"], "micro_tokens=999"),
    ],
)
def test_train_refuses_before_the_run_begins(flags: list[str], says: str, tmp_path: Path, capsys: Captured) -> None:
    """What no training could honour is the one line that is said, and no folder is left."""
    text, data, out = tmp_path / "text.txt", tmp_path / "data", tmp_path / "run"
    text.write_text("a few words\n" * 30)
    assert main(["data", "prepare", str(text), "--tokenizer", "bytes", "--out", str(data)]) == 0
    assert "one document alone: it is cut into" in capsys.readouterr().err
    words = ["train", "quickstart", "--data", data, "--out", out, "--train.micro_tokens", "999", *flags]
    assert main([str(word) for word in [*words, "--tokenizer.kind", "bytes", "--tokenizer.vocab_size", "260"]]) == 2
    said = capsys.readouterr().err
    assert says in said and "recipe quickstart" not in said
    assert not list(tmp_path.glob("run*"))


def test_every_setting_with_a_comment_has_its_line_of_help(capsys: Captured) -> None:
    """`train --help` describes settings by what stands behind them in the recipe's source."""
    assert main(["train", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "of the squared activation below zero" in said and "tokens of the context that gives a hint" in said


def test_train_says_what_calibration_takes_of_its_seconds() -> None:
    """The first line tells why the display counts fewer seconds than were asked for, where calibration takes some."""
    assert train._kept(get_recipe("pr2140_tiny")) == ", 15 of 300 s are kept for calibration"
    assert train._kept(get_recipe("quickstart")) == ""


def test_a_missing_folder_of_shards_is_called_missing(tmp_path: Path, capsys: Captured) -> None:
    """A misspelt folder is not asked for its tokenizer."""
    missing = tmp_path / "nope"
    assert "no such folder of shards" in refused(["data", "inspect", missing], capsys)
    assert "no such folder of shards" in refused(["train", "quickstart", "--data", missing], capsys)


def test_a_bad_tokenizer_is_named(tmp_path: Path, capsys: Captured) -> None:
    """Bytes that are no tokenizer are refused with the file's name and what would do."""
    text, model = tmp_path / "text.txt", tmp_path / "noise.model"
    text.write_text("some words\n" * 50)
    model.write_bytes(bytes(range(256)))
    words = ["data", "prepare", text, "--tokenizer", model, "--out", tmp_path / "out"]
    said = refused(words, capsys)
    assert str(model) in said and "'bytes'" in said and not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("verb", ["score", "encode", "decode", "sample", "check"])
def test_code_of_a_strangers_file_never_runs(tmp_path: Path, verb: str) -> None:
    """No verb runs the `__main__.py` of a file, however well it is sealed; check says no, the others refuse."""
    trap = tmp_path / "trap"
    source = f"open({str(trap)!r}, 'w').close()\n".encode()
    artifact, given = tmp_path / "model.pyz", tmp_path / "given"
    artifact.write_bytes(build_container({"__main__.py": source, "paramgolf/__init__.py": source}))
    given.write_text("some text\n")
    words = [verb, artifact]
    words += {"score": [given], "encode": [given, tmp_path / "o"], "decode": [given, tmp_path / "o"]}.get(verb, [])
    command = [sys.executable, "-m", "paramgolf", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == (1 if verb == "check" else 2) and "Traceback" not in done.stderr
    assert not trap.exists() and not (tmp_path / "o").exists()


@pytest.mark.parametrize("verb", ["encode", "decode"])
def test_a_missing_output_folder_is_noticed_before_the_work(tmp_path: Path, verb: str, capsys: Captured) -> None:
    """An OUT in no folder is refused before the artifact is even opened, which does not exist here."""
    (tmp_path / "given").write_text("text")
    said = refused([verb, tmp_path / "no.pyz", tmp_path / "given", tmp_path / "nowhere" / "out"], capsys)
    assert f"no folder {tmp_path / 'nowhere'} for out" in said


def test_a_score_that_cannot_be_kept_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fills up while a score is written, its new folder is removed again."""

    def full(judged: object, folder: Path) -> None:
        (folder / "score.json").write_text("{}")
        raise OutputError("disk full")

    monkeypatch.setattr("paramgolf.cli.judge.save_judged", full)
    with pytest.raises(OutputError, match="disk full"):
        score._keep(cast(Judged, None), tmp_path / "kept")
    assert not list(tmp_path.iterdir())


def test_full_disk_while_preparing(tmp_path: Path, capsys: Captured) -> None:
    """A disk that is full is named with what is needed and what is free; /dev/full is one that always is."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    from paramgolf.run_folder import says_unwritten

    with pytest.raises(OSError, match="No space left") as full, Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"x")
    said = says_unwritten(tmp_path / "shards", 5000, full.value, at_most=True)
    assert "disk full" in said and "up to 5,000 bytes" in said and "bytes free" in said
