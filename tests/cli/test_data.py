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


def test_prepare_caseops_then_inspect(texts: Path, tmp_path: Path, capsys: Captured) -> None:
    """--caseops trains a lossless vocabulary over transformed text; sidecars charge every held-out byte."""
    (texts / "capitals.txt").write_text("The NASA Launch of OpenAI, DON'T! \ue001 é\n" * 40)
    out = tmp_path / "shards"
    words = ["data", "prepare", str(texts), "--caseops", "--vocab-size", "300", "--out", str(out), "--held-out", "0.2"]
    assert main([*words, "--json"]) == 0
    made = _json(capsys)
    assert made["tokenizer"] == "caseops" and made["lossless"] is True and made["vocab_size"] == 300
    assert made["held_out"]["sidecar_bytes"] == made["held_out"]["bytes"]
    assert made["split"] == {"rule": "content", "held_out": 0.2}
    assert main(["data", "inspect", str(out), "--json"]) == 0
    found = _json(capsys)
    assert found["tokenizer"]["kind"] == "caseops" and found["split"] == made["split"]
    assert found["sidecars"]["bytes"] == made["held_out"]["bytes"]
    assert found["sidecars"]["tokens"] == made["held_out"]["tokens"]
    again = ["data", "prepare", str(texts), "--tokenizer", str(out / "tokenizer_caseops.model"), "--caseops"]
    assert main([*again, "--out", str(tmp_path / "again"), "--held-out", "0.2", "--json"]) == 0
    assert _json(capsys)["held_out"] == made["held_out"]


def test_prepare_with_the_contests_normalisation_says_what_is_lost(
    texts: Path, tmp_path: Path, capsys: Captured
) -> None:
    """How many documents do not come back, and how many have operators off their words; inspect says it normalises."""
    (texts / "degrees.txt").write_text("It was 0.3ºC, then 12ºC.\n" * 20)
    words = ["data", "prepare", str(texts), "--caseops", "--contest-normalisation", "--vocab-size", "320"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "not lossless: 41 of 41 documents do not come back" in shown
    assert "tolerant decoding: normalisation moved operators of 1 documents" in shown and "sidecars: " in shown
    assert main(["data", "inspect", str(tmp_path / "out")]) == 0
    assert "normalises, so documents may not come back" in capsys.readouterr().out


def test_validation_of_another_split_is_refused(tmp_path: Path, capsys: Captured) -> None:
    """Training shards after the first 5 documents, validation of the first 8: both numbers, exit 2, nothing written."""
    lines = [json.dumps({"text": f"document {index} of the Text " * 9}) for index in range(30)]
    (tmp_path / "docs.jsonl").write_text("\n".join(lines))
    source = ["data", "prepare", str(tmp_path / "docs.jsonl")]
    data, val = tmp_path / "data", tmp_path / "val"
    assert main([*source, "--caseops", "--vocab-size", "300", "--held-out-first", "5", "--out", str(data)]) == 0
    capsys.readouterr()
    ask = [*source, "--train-shards", str(data), "--out", str(val)]
    assert main([*ask, "--held-out-first", "8"]) == 2
    shown = capsys.readouterr().err
    assert "the first 5 documents are held out, here the first 8 documents" in shown and not val.exists()
    manifest = json.loads((data / "manifest.json").read_text())
    (data / "manifest.json").write_text(json.dumps({**manifest, "split": None}))
    assert main([*ask, "--held-out-first", "8"]) == 2
    assert "3 of 8 held-out documents are also in the training shards" in capsys.readouterr().err and not val.exists()
    assert main([*ask, "--held-out-first", "5", "--json"]) == 0
    assert _json(capsys)["held_out"]["documents"] == 5
    assert main(["data", "inspect", str(val)]) == 0
    assert "next:" not in capsys.readouterr().out


def test_own_validation_text_for_training_shards_of_others(tmp_path: Path, capsys: Captured) -> None:
    """Ten new documents beside shards that held out twelve are taken whole; of those that were trained on each is
    refused, or left out and counted."""

    def write(name: str, numbers: range) -> Path:
        lines = [json.dumps({"text": f"document {index} of the text " * 9}) for index in numbers]
        (tmp_path / name).write_text("\n".join(lines))
        return tmp_path / name

    data, source = tmp_path / "data", write("docs.jsonl", range(30))
    words = ["data", "prepare", str(source), "--tokenizer", "bytes", "--held-out-first", "12", "--out", str(data)]
    assert main(words) == 0
    capsys.readouterr()
    new, mixed = write("new.jsonl", range(100, 110)), write("mixed.jsonl", range(27, 37))
    ask = ["--train-shards", str(data), "--json"]
    assert main(["data", "prepare", str(new), "--out", str(tmp_path / "a"), *ask]) == 0
    told = _json(capsys)
    assert told["held_out"]["documents"] == 10 and told["split"] == {"rule": "first", "held_out": 12}
    assert main(["data", "prepare", str(source), "--out", str(tmp_path / "b"), *ask]) == 0
    assert _json(capsys)["held_out"]["documents"] == 12
    assert main(["data", "prepare", str(mixed), "--out", str(tmp_path / "c"), *ask]) == 2
    assert "3 of 10 held-out documents are also in the training shards" in capsys.readouterr().err
    assert main(["data", "prepare", str(mixed), "--out", str(tmp_path / "c"), "--leave-out-copies", *ask]) == 0
    shown = capsys.readouterr()
    assert "left out: 3 of 10 documents are in the training shards" in shown.err
    assert json.loads(shown.out)["held_out"]["documents"] == 7


def test_all_of_a_text_can_be_held_out_beside_training_shards(texts: Path, tmp_path: Path, capsys: Captured) -> None:
    """With --train-shards --held-out-first may name every document: nothing need be left to learn from."""
    text, data, val = tmp_path / "new.jsonl", tmp_path / "data", tmp_path / "val"
    text.write_text("".join(json.dumps({"text": word}) + "\n" for word in ("a new one", "", "\ue001Capitals")))
    assert main(["data", "prepare", str(texts), "--tokenizer", "bytes", "--out", str(data)]) == 0
    words = ["data", "prepare", str(text), "--train-shards", str(data), "--out", str(val), "--held-out-first"]
    capsys.readouterr()
    part = [word if word != str(val) else str(tmp_path / "part") for word in words[:-1]]
    assert main(part) == 0 and "--held-out-first 3 takes all" in capsys.readouterr().err
    assert main([*words, "4"]) == 2 and "first 4 of 3" in capsys.readouterr().err
    assert main([*words, "3", "--json"]) == 0
    assert "3 documents" in capsys.readouterr().err.splitlines()[-1]


def test_copies_of_held_out_documents_are_refused_or_left_out(tmp_path: Path, capsys: Captured) -> None:
    """A document on both sides of --held-out-first is refused; --leave-out-copies drops it from training."""
    texts = [f"document {index} of the text " * 9 for index in [0, 1, 2, 3, 1, 4]]
    (tmp_path / "docs.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    words = ["data", "prepare", str(tmp_path / "docs.jsonl"), "--tokenizer", "bytes", "--held-out-first", "2"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "held-out document 1" in (said := capsys.readouterr().err) and "--leave-out-copies" in said
    assert main([*words, "--leave-out-copies", "--out", str(tmp_path / "out"), "--json"]) == 0
    assert _json(capsys)["train"]["documents"] == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--tokenizer is needed: a .model file, 'bytes', or 'train'"),
        (["--caseops", "--tokenizer", "bytes"], "--caseops is for SentencePiece, this is --tokenizer bytes"),
        (["--tokenizer", "train", "--contest-normalisation"], "--contest-normalisation is for --caseops"),
        (["--tokenizer", "bytes", "--leave-out-copies"], "--leave-out-copies is for --held-out-first"),
        (["--train-shards", "d", "--caseops"], "--caseops with --train-shards d: it has its tokenizer"),
        (["--tokenizer", "bytes", "--held-out", "0.1", "--held-out-first", "3"], "not allowed with argument"),
        (["--tokenizer", "bytes", "--held-out-first", "50000"], "the first 50,000 of 40 documents"),
    ],
)
def test_caseops_and_split_flags_that_contradict(
    words: list[str], says: str, texts: Path, tmp_path: Path, capsys: Captured
) -> None:
    """Each is refused in a line that names the flags and values, before anything is written."""
    assert main(["data", "prepare", str(texts), "--out", str(tmp_path / "out"), *words]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_model_without_operators_is_no_caseops_model(texts: Path, tmp_path: Path, capsys: Captured) -> None:
    """--caseops with a plain model is refused; a CaseOps model without the flag is taken for one, and it is said."""
    plain = ["data", "prepare", str(texts), "--tokenizer", "train", "--vocab-size", "300", "--out", str(tmp_path / "a")]
    assert main(plain) == 0
    words = ["data", "prepare", str(texts), "--caseops", "--tokenizer", str(tmp_path / "a" / "tokenizer.model")]
    assert main([*words, "--out", str(tmp_path / "b")]) == 2
    assert "is no CaseOps model: it lacks user-defined symbols" in capsys.readouterr().err
    made = ["data", "prepare", str(texts), "--caseops", "--vocab-size", "300", "--out", str(tmp_path / "c")]
    assert main(made) == 0 and "is a CaseOps model" not in capsys.readouterr().err
    words = ["data", "prepare", str(texts), "--tokenizer", str(tmp_path / "c" / "tokenizer_caseops.model")]
    assert main([*words, "--out", str(tmp_path / "d")]) == 0
    assert "tokenizer_caseops.model is a CaseOps model: taken as with --caseops" in capsys.readouterr().err
