"""data prepare and data inspect, with the bad input that users have."""

import json
import random
from pathlib import Path

import pytest

from paramgolf.cli import main

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of forty small text files."""
    folder = tmp_path / "my texts"
    folder.mkdir()
    rng = random.Random(3)
    for index in range(40):
        words = (rng.choice(["alpha ", "beta ", "gamma\n", "delta "]) for _ in range(60))
        (folder / f"{index}.txt").write_text(f"{index} {''.join(words)}")
    return folder


def _json(captured: Captured) -> dict[str, object]:
    record = json.loads(captured.readouterr().out.splitlines()[-1])
    assert isinstance(record, dict)
    return record


def test_prepare_then_inspect(texts: Path, tmp_path: Path, capsys: Captured) -> None:
    """What prepare says of a folder of text is what inspect finds in the shards, and all bytes are on one side."""
    out = tmp_path / "shards"
    words = ["data", "prepare", str(texts), "--tokenizer", "train", "--vocab-size", "300", "--out", str(out)]
    assert main([*words, "--held-out", "0.2", "--json"]) == 0
    made = _json(capsys)
    assert main(["data", "inspect", str(out), "--json"]) == 0
    found = _json(capsys)
    for side in ("train", "held_out"):
        assert all(made[side][key] == found[side][key] > 0 for key in ("documents", "bytes", "tokens", "shards"))
    total = sum(path.stat().st_size for path in texts.iterdir())
    assert made["train"]["bytes"] + made["held_out"]["bytes"] == total
    assert found["lossless"] is True and found["verified_files"] == 3 and found["tokenizer"]["vocab_size"] == 300
    assert main(["data", "inspect", str(out)]) == 0
    assert "next: paramgolf train" in capsys.readouterr().out


def test_prepare_never_writes_over(texts: Path, tmp_path: Path, capsys: Captured) -> None:
    """An output that exists is refused before any work, whatever it is, and stays as it was."""
    out = tmp_path / "precious"
    out.write_text("mine")
    assert main(["data", "prepare", str(texts), "--tokenizer", "bytes", "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err and out.read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "no text"), (b"x", "1 byte cannot be split"), (None, "no such file")],
    ids=["empty", "one byte", "missing"],
)
def test_too_little_text(content: bytes | None, says: str, tmp_path: Path, capsys: Captured) -> None:
    """No text, one byte of it and a missing file give one clear line and no output."""
    path = tmp_path / "input.txt"
    if content is not None:
        path.write_bytes(content)
    assert main(["data", "prepare", str(path), "--tokenizer", "bytes", "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err.splitlines()
    assert says in shown[-1] and len(shown) <= 2
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_a_binary_file_that_is_named_is_taken_as_it_is(tmp_path: Path, capsys: Captured) -> None:
    """A named binary file is bytes like any other: it goes in and is accounted for to the byte."""
    (tmp_path / "noise.bin").write_bytes(random.Random(1).randbytes(5000))
    command = ["data", "prepare", str(tmp_path / "noise.bin"), "--tokenizer", "bytes", "--out", str(tmp_path / "out")]
    assert main([*command, "--json"]) == 0
    record = _json(capsys)
    assert record["train"]["bytes"] + record["held_out"]["bytes"] == 5000 and record["lossless"] is True


def test_flags_that_contradict(texts: Path, tmp_path: Path, capsys: Captured) -> None:
    """--vocab-size with a finished tokenizer is refused with both values."""
    command = ["data", "prepare", str(texts), "--tokenizer", "bytes", "--out", str(tmp_path / "out")]
    assert main([*command, "--vocab-size", "512"]) == 2
    assert "--vocab-size 512 is for --tokenizer train, this is --tokenizer bytes" in capsys.readouterr().err


def test_a_vocabulary_that_the_text_cannot_fill(texts: Path, tmp_path: Path, capsys: Captured) -> None:
    """A tokenizer larger than the text allows says which size is possible."""
    command = ["data", "prepare", str(texts), "--tokenizer", "train", "--vocab-size", "60000"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "too few for vocab_size=60000; the largest possible is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("offset", "value", "says"),
    [
        (0, b"\0\0\0\0", "expected magic 20240520, found 0"),
        (4, b"\2\0\0\0", "expected version 1, found 2"),
        (8, b"\1\0\0\0", "found count 1 in a file of"),
        (1024, b"\xff\xff", "expected an id below 260, found 65535"),
    ],
    ids=["magic", "version", "length", "ids"],
)
def test_bad_shards(offset: int, value: bytes, says: str, texts: Path, tmp_path: Path, capsys: Captured) -> None:
    """A damaged shard is refused with its name, the offset, what was expected and what was found, exit 2."""
    out = tmp_path / "shards"
    assert main(["data", "prepare", str(texts), "--tokenizer", "bytes", "--out", str(out)]) == 0
    shard = next(out.glob("*_train_*.bin"))
    damaged = bytearray(shard.read_bytes())
    damaged[offset : offset + len(value)] = value
    shard.write_bytes(damaged)
    capsys.readouterr()
    for command in (["data", "inspect", str(out)], ["train", "quickstart", "--data", str(out), "--out", "never"]):
        assert main(command) == 2
        shown = capsys.readouterr().err
        assert shard.name in shown and f"offset {offset}" in shown and says in shown


def test_a_changed_file_is_noticed(texts: Path, tmp_path: Path, capsys: Captured) -> None:
    """A shard whose ids are still valid but not those that were written fails the digest check of inspect."""
    out = tmp_path / "shards"
    assert main(["data", "prepare", str(texts), "--tokenizer", "bytes", "--out", str(out)]) == 0
    shard = next(out.glob("*_val_*.bin"))
    damaged = bytearray(shard.read_bytes())
    damaged[-2] ^= 1
    shard.write_bytes(damaged)
    assert main(["data", "inspect", str(out)]) == 2
    assert "expected SHA-256" in capsys.readouterr().err
