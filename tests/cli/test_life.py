"""The life of a run on the command line: a model of a few thousand weights through every verb."""

import json
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from paramgolf.cli import main
from paramgolf.exhibits import EXHIBITS
from paramgolf.predict.adapt import ADAPTATIONS
from paramgolf.recipe import Recipe

Captured = pytest.CaptureFixture[str]
WORDS = ["one ", "two ", "three ", "four\n", "five ", "six, ", "seven ", "eight. "]
TINY = ["--tokenizer.kind", "bytes", "--tokenizer.vocab_size", "260", "--squeeze.carry_text", "false"]
TINY += ["--model.layers", "1", "--model.width", "16", "--model.heads", "2", "--model.kv_heads", "1"]
TINY += ["--train.sequence", "32", "--train.batch_tokens", "64", "--train.warmup_steps", "1"]
TINY += ["--score.window", "32", "--score.stride", "16", "--score.chunk", "64", "--score.ttt_chunk", "128"]
TINY += ["--score.adapt", "none"]


def _text(seed: int, words: int) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice(WORDS) for _ in range(words))


def _json(captured: Captured) -> dict[str, Any]:
    record = json.loads(captured.readouterr().out.splitlines()[-1])
    assert isinstance(record, dict)
    return record


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with training texts, a held-out file, shards, and a finished run `run`, all made by the verbs."""
    home = tmp_path_factory.mktemp("a home")
    (home / "texts").mkdir()
    for index in range(30):
        (home / "texts" / f"{index:02}.txt").write_text(_text(index, 80))
    (home / "held").mkdir()
    for index in range(4):
        (home / "held" / f"{index}.txt").write_text(_text(100 + index, 60))
    prepare = ["data", "prepare", str(home / "texts"), "--tokenizer", "bytes", "--out", str(home / "shards")]
    assert main(prepare) == 0
    train = ["train", "quickstart", "--data", str(home / "shards"), "--out", str(home / "run"), "--seconds", "60"]
    assert main([*train, *TINY, "--train.max_steps", "4", "--seed", "5"]) == 0
    return home


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return Path(shutil.copytree(home / "run", tmp_path / "run"))


def test_train_leaves_a_complete_run(home: Path) -> None:
    """A finished run has every file that the referee asks for before scoring, and no partial folder beside it."""
    files = {path.name for path in (home / "run").iterdir()}
    assert files >= {"recipe.json", "env.json", "log.txt", "metrics.jsonl", "ledger.json", "model.pyz", "sizes.json"}
    assert not (home / "run.partial").exists()
    recipe = json.loads((home / "run" / "recipe.json").read_text())
    assert recipe["model"]["width"] == 16 and recipe["seed"] == 5 and recipe["budget"]["train_seconds"] == 60
    phases = {entry["name"]: entry["on_clock"] for entry in json.loads((home / "run" / "ledger.json").read_text())}
    assert phases["train"] is True and phases["squeeze and pack"] is False
    environment = json.loads((home / "run" / "env.json").read_text())
    assert environment["train_text"]["bytes"] > 0 and environment["device"] and environment["versions"]["torch"]
    assert environment["commands"][0].startswith("paramgolf train quickstart --data")
    sizes = json.loads((home / "run" / "sizes.json").read_text())
    assert sizes["members"]["file"] == (home / "run" / "model.pyz").stat().st_size


@pytest.mark.slow
def test_score_check_report(home: Path, run: Path, capsys: Captured) -> None:
    """A run is scored into its folder, is found without a broken rule, and gets its page; all keys are there."""
    words = ["score", str(run / "model.pyz"), str(home / "held"), "--out", str(run), "--json"]
    assert main(words) == 0
    scored = _json(capsys)
    assert {"bpb", "bits", "bytes", "tokens", "seconds", "legal", "findings", "audit"} <= set(scored)
    assert {"positions", "max_sum_error", "max_causal_error"} <= set(scored["audit"])
    size = sum(path.stat().st_size for path in (home / "held").iterdir())
    assert scored["bytes"] == size and abs(scored["bits"] / size - scored["bpb"]) < 1e-9
    assert 1 < scored["bpb"] < 9 and not [f for f in scored["findings"] if f["status"] == "FAIL"]
    assert main(words) == 2  # nothing is written over
    assert "score.json exists already" in capsys.readouterr().err
    status = main(["check", str(run), "--text", str(home / "held"), "--json"])
    verdict = _json(capsys)
    failed = [finding for finding in verdict["findings"] if finding["status"] == "FAIL"]
    assert not failed and verdict["ruleset"] and status == (0 if verdict["legal"] else 1)
    assert json.loads((run / "verdict.json").read_text())["ruleset"] == verdict["ruleset"]
    assert main(["report", str(run), "--json"]) == 0
    assert Path(_json(capsys)["page"]).read_text().count("<svg") >= 4


def test_a_limit_takes_whole_documents(home: Path, capsys: Captured) -> None:
    """--limit scores the first documents that fit; a limit below the first is refused with both numbers."""
    first = len((home / "held" / "0.txt").read_bytes())
    words = ["score", str(home / "run" / "model.pyz"), str(home / "held"), "--limit"]
    assert main([*words, str(first + 5), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["bytes"] == first
    assert said.err.endswith(" FILE FILE.pgc\n")  # a folder cannot be encoded
    assert main([*words, str(first - 1)]) == 2
    assert f"{first:,}" in capsys.readouterr().err


@pytest.mark.slow
def test_an_exhibit_is_caught_by_its_rule(home: Path, tmp_path: Path, capsys: Captured) -> None:
    """Scoring with a rogue exits 1, names the rule that must catch it, and keeps the score with its verdict."""
    words = ["score", str(home / "run" / "model.pyz"), str(home / "held"), "--adapt", "exhibit:renormalised-peek"]
    assert main([*words, "--out", str(tmp_path / "rogue"), "--json"]) == 1
    record = _json(capsys)
    assert record["legal"] is False
    assert "blind-to-target" in {finding["rule"] for finding in record["findings"] if finding["status"] == "FAIL"}
    kept = json.loads((tmp_path / "rogue" / "verdict.json").read_text())
    assert kept["legal"] is False and (tmp_path / "rogue" / "bits.npz").exists()
    phases = {entry["name"]: entry["seconds"] for entry in record["ledger"]}
    assert 0 < record["audit_seconds"] <= phases["evaluation: score"]


@pytest.mark.slow
def test_an_exhibit_that_was_not_met_is_not_legal(home: Path, tmp_path: Path, capsys: Captured) -> None:
    """On a text too short for its fault a rogue leaves its rule unproven, and exits 1 as one that never counts."""
    (tmp_path / "short.txt").write_text("".join(chr(33 + index) for index in range(80)))
    words = ["score", str(home / "run" / "model.pyz"), str(tmp_path / "short.txt"), "--adapt", "exhibit:gated-tilt"]
    assert main([*words, "--json"]) == 1
    said = capsys.readouterr()
    record = json.loads(said.out)
    rule = next(one for one in record["findings"] if one["rule"] == "sums-to-one")
    assert record["legal"] is False and rule["status"] == "UNPROVEN" and "did not show its fault" in rule["says"]
    assert "NOT legal: gated-tilt is an exhibit" in said.err


@pytest.mark.slow
def test_another_order_than_the_recipes_is_recorded_and_followed(home: Path, run: Path, capsys: Captured) -> None:
    """`score --order` charges the lengths, names its class, and `check` follows the order that is recorded."""
    words = ["score", str(run / "model.pyz"), str(home / "held")]
    assert main([*words, "--json"]) == 0
    plain = _json(capsys)
    assert main([*words, "--order", "longest-first", "--out", str(run), "--json"]) == 0
    said = capsys.readouterr()
    record = json.loads(said.out.splitlines()[-1])
    assert (plain["order_class"], record["order_class"]) == ("stream", "permuted-stateful")
    assert record["plan"]["order"] == "longest-first" and record["side_bits"] > plain["side_bits"]
    assert "documents longest-first, permuted-stateful:" in said.err
    main(["check", str(run), "--text", str(home / "held"), "--json"])
    found = {finding["rule"]: finding for finding in _json(capsys)["findings"]}
    assert found["document-order"]["numbers"]["class"] == "permuted-stateful"
    assert found["reproducible"]["status"] == "PASS" and "Scored again" in found["reproducible"]["says"]


def test_a_rogue_keeps_to_the_stream(home: Path, capsys: Captured) -> None:
    """An exhibit finds its place by the stream's order, so another one is refused; so is one that does not exist."""
    words = ["score", str(home / "run" / "model.pyz"), str(home / "held"), "--adapt", "exhibit:peek", "--order"]
    assert main([*words, "longest-first"]) == 2 and "runs in the stream's order" in capsys.readouterr().err
    assert main([*words, "shortest-first"]) == 2 and "longest-first" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", EXHIBITS)
def test_every_exhibit_is_caught_by_its_rule(name: str, home: Path, capsys: Captured) -> None:
    """On the command line each rogue exits 1 with the rule that its own line of --help names among the broken ones."""
    words = ["score", str(home / "run" / "model.pyz"), str(home / "held"), "--adapt", f"exhibit:{name}", "--json"]
    words += ["--limit", "800"]
    assert main(words) == 1
    broken = {finding["rule"] for finding in _json(capsys)["findings"] if finding["status"] == "FAIL"}
    assert EXHIBITS[name].rule in broken


@pytest.mark.slow
@pytest.mark.parametrize("name", ADAPTATIONS)
def test_every_honest_adaptation_is_legal_and_decodes(name: str, home: Path, tmp_path: Path, capsys: Captured) -> None:
    """On the command line each one scores with exit 0, and 5 kB that it has coded come back bit for bit."""
    artifact, text = str(home / "run" / "model.pyz"), tmp_path / "text"
    assert main(["score", artifact, str(home / "held"), "--adapt", name, "--limit", "800", "--json"]) == 0
    assert _json(capsys)["legal"] is True
    text.write_text(_text(7, 1200)[:5120])
    assert main(["encode", artifact, str(text), str(tmp_path / "coded"), "--adapt", name]) == 0
    assert main(["decode", artifact, str(tmp_path / "coded"), str(tmp_path / "back")]) == 0
    assert (tmp_path / "back").read_bytes() == text.read_bytes() and text.stat().st_size == 5120


def test_an_unknown_adaptation_is_refused(home: Path, tmp_path: Path, capsys: Captured) -> None:
    """A misspelt name gives the nearest one; a rogue cannot be used to code."""
    words = ["score", str(home / "run" / "model.pyz"), str(home / "held"), "--adapt", "exhibit:peak"]
    assert main(words) == 2 and "did you mean exhibit:peek? (`paramgolf score --help` lists" in capsys.readouterr().err
    words = ["encode", str(home / "run" / "model.pyz"), str(home / "held" / "0.txt"), str(tmp_path / "x")]
    assert main([*words, "--adapt", "exhibit:peek"]) == 2 and not (tmp_path / "x").exists()


def test_encode_then_decode(home: Path, tmp_path: Path, capsys: Captured) -> None:
    """A file comes back bit for bit; an output that exists is refused and stays as it was."""
    artifact, given = str(home / "run" / "model.pyz"), home / "held" / "1.txt"
    coded, back = tmp_path / "coded", tmp_path / "back"
    assert main(["encode", artifact, str(given), str(coded), "--json"]) == 0
    record = _json(capsys)
    assert record["bytes_in"] == given.stat().st_size and record["bytes_coded"] == coded.stat().st_size
    assert main(["decode", artifact, str(coded), str(back), "--json"]) == 0
    assert back.read_bytes() == given.read_bytes()
    for verb, source in (("encode", given), ("decode", coded)):
        assert main([verb, artifact, str(source), str(back)]) == 2
        assert "exists already" in capsys.readouterr().err
    assert back.read_bytes() == given.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "coded"]


def test_a_damaged_coded_file_is_refused(home: Path, tmp_path: Path, capsys: Captured) -> None:
    """One flipped bit in a coded file means no output, one line, exit 2."""
    artifact, coded = str(home / "run" / "model.pyz"), tmp_path / "coded"
    assert main(["encode", artifact, str(home / "held" / "2.txt"), str(coded)]) == 0
    damaged = bytearray(coded.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    coded.write_bytes(damaged)
    capsys.readouterr()
    assert main(["decode", artifact, str(coded), str(tmp_path / "back")]) == 2
    shown = capsys.readouterr().err
    assert "damaged" in shown and len(shown.splitlines()) == 1 and not (tmp_path / "back").exists()


@pytest.mark.parametrize("damage", ["cut", "flip", "evil", "text", "folder", "missing"])
def test_a_hostile_artifact_is_refused_by_every_verb(damage: str, home: Path, tmp_path: Path, capsys: Captured) -> None:
    """A file that is no sound artifact gives one or two lines and exit 2, and none of its code runs."""
    path, trap = tmp_path / "model.pyz", tmp_path / "trap"
    sound = (home / "run" / "model.pyz").read_bytes()
    if damage == "cut":
        path.write_bytes(sound[: len(sound) // 2])
    elif damage == "flip":
        path.write_bytes(sound[:5000] + bytes([sound[5000] ^ 1]) + sound[5001:])
    elif damage == "evil":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("__main__.py", f"open({str(trap)!r}, 'w')")
            archive.writestr("../../escape.py", "")
            archive.writestr("weights.pkl", b"cposix\nsystem\n(S'touch trap'\ntR.")
    elif damage == "text":
        path.write_text("not an artifact")
    elif damage == "folder":
        path.mkdir()
    given = str(home / "held" / "0.txt")
    verbs = [["score", str(path), given], ["sample", str(path)]]
    verbs += [["encode", str(path), given, str(tmp_path / "o")], ["decode", str(path), given, str(tmp_path / "o")]]
    for words in verbs:
        assert main(words) == 2
        shown = capsys.readouterr().err
        assert "model.pyz" in shown and len(shown.splitlines()) <= 2
    assert not trap.exists() and not (tmp_path / "o").exists()


def test_train_refuses_what_cannot_work(home: Path, tmp_path: Path, capsys: Captured) -> None:
    """An output that exists, another tokenizer, a contradiction, missing data: one or two lines, before any work."""
    train, data = ["train", "quickstart"], ["--data", str(home / "shards")]
    cases = [
        ([*train, *data, *TINY, "--out", str(home / "run")], "exists already"),
        ([*train, *data, "--out", str(tmp_path / "x")], "wants tokenizer sentencepiece of 1024 ids"),
        (
            [*train, *data, *TINY, "--model.heads", "3", "--out", str(tmp_path / "x")],
            "heads=3 does not divide width=16",
        ),
        ([*train, "--data", str(tmp_path / "nothing"), "--out", str(tmp_path / "x")], "nothing"),
        (train, "--data DIR is needed"),
        (["train"], "give either a RECIPE or --resume RUN"),
        (["train", "quickstar", *data], "did you mean 'quickstart'?"),
        (["train", "--resume", str(tmp_path / "nothing")], "no run at"),
        (["train", "--resume", str(home / "run")], "is finished"),
        (["train", "--resume", str(home / "run"), "--model.width", "8"], "--model.width cannot change a run"),
    ]
    for words, says in cases:
        assert main(words) == 2, words
        shown = capsys.readouterr().err
        assert says in shown and len(shown.splitlines()) <= 2, shown
    assert list(tmp_path.iterdir()) == []


def test_a_budget_that_nothing_meets(home: Path, tmp_path: Path, capsys: Captured) -> None:
    """Too small a budget names the smallest possible size, writes no file, and leaves the run as it was."""
    before = sorted(path.name for path in (home / "run").iterdir())
    assert main(["pack", str(home / "run"), "--budget", "1000", "--out", str(tmp_path / "x.pyz")]) == 2
    assert "too small: this model takes at least" in capsys.readouterr().err
    assert not (tmp_path / "x.pyz").exists() and sorted(path.name for path in (home / "run").iterdir()) == before


@pytest.mark.slow
def test_pack_again_into_a_run_folder(home: Path, tmp_path: Path, capsys: Captured) -> None:
    """`pack --new-run` makes a run of the same training with a smaller model, which `check` takes for what it is."""
    run, smaller = home / "run", tmp_path / "smaller"
    old = (run / "model.pyz").stat().st_size
    assert main(["pack", str(run), "--budget", str(old - 2000), "--new-run", str(smaller)]) == 0
    assert (smaller / "model.pyz").stat().st_size <= old - 2000
    recipe = Recipe.from_json((smaller / "recipe.json").read_text())
    assert recipe.budget.packed_bytes() == old - 2000
    assert recipe.budget.artifact_bytes == Recipe.from_json((run / "recipe.json").read_text()).budget.artifact_bytes
    assert (smaller / "ledger.json").read_bytes() == (run / "ledger.json").read_bytes()
    capsys.readouterr()
    assert main(["pack", str(run), "--new-run", str(smaller)]) == 2
    assert capsys.readouterr().err.strip().startswith(f"paramgolf pack: {smaller} exists")  # before any work
    assert main(["pack", str(run), "--out", "x.pyz", "--new-run", "y"]) == 2


@pytest.mark.slow
def test_pack_again_with_fewer_bits(home: Path, tmp_path: Path, capsys: Captured) -> None:
    """pack writes a smaller artifact of the same weights that opens and is scored; the run's own stays."""
    own = (home / "run" / "model.pyz").read_bytes()
    out = tmp_path / "small.pyz"
    words = [
        "pack",
        str(home / "run"),
        "--out",
        str(out),
        "--squeeze.matrix_bits",
        "3",
        "--squeeze.embedding_bits",
        "3",
    ]
    assert main([*words, "--json"]) == 0
    record = _json(capsys)
    assert record["artifact_bytes"] == out.stat().st_size < len(own)
    assert (home / "run" / "model.pyz").read_bytes() == own
    assert main(["score", str(out), str(home / "held"), "--limit", "1000", "--json"]) == 0
    assert main(words) == 2 and "exists already" in capsys.readouterr().err


def test_sample_is_repeatable(home: Path, capsys: Captured) -> None:
    """The same seed gives the same text, --tokens bounds it, and the prompt comes first."""
    words = ["sample", str(home / "run" / "model.pyz"), "--prompt", "one two ", "--tokens", "12"]
    assert main([*words, "--seed", "3"]) == 0
    first = capsys.readouterr().out
    assert first.startswith("one two ")
    assert main([*words, "--seed", "3"]) == 0 and capsys.readouterr().out == first
    assert main([*words, "--seed", "3", "--json"]) == 0
    record = _json(capsys)
    assert record["prompt"] == "one two " and record["bytes"] <= 12 and first == f"one two {record['text']}\n"


def test_an_unfinished_run_is_kept(home: Path, tmp_path: Path, capsys: Captured) -> None:
    """A run whose packing fails keeps all of its training, and a new run of that name points to --resume."""
    out = tmp_path / "run"
    train = ["train", "quickstart", "--data", str(home / "shards"), "--out", str(out), *TINY]
    assert main([*train, "--train.max_steps", "2", "--budget.artifact_bytes", "1000"]) == 2
    assert "too small: this model takes at least" in capsys.readouterr().err
    partial = tmp_path / "run.partial"
    assert not out.exists() and (partial / "checkpoint.safetensors").exists()
    assert main([*train, "--train.max_steps", "2"]) == 2
    assert f"train --resume {out}" in capsys.readouterr().err
    lines = (partial / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 2 and (partial / "checkpoint.safetensors").exists()


@pytest.mark.slow
def test_an_interrupted_run_goes_on(
    home: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between training and packing gives status 130; --resume packs what was trained, without another step."""
    out = tmp_path / "run"
    words = ["train", "quickstart", "--data", str(home / "shards"), "--out", str(out), *TINY, "--train.max_steps", "3"]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("paramgolf.cli.life.pack_run", interrupted)
        assert main(words) == 130
    assert "interrupted" in capsys.readouterr().err and not out.exists()
    before = (tmp_path / "run.partial" / "metrics.jsonl").read_bytes()
    assert main(["train", "--resume", str(out), "--json"]) == 0
    assert _json(capsys)["artifact_bytes"] == (out / "model.pyz").stat().st_size
    assert (out / "metrics.jsonl").read_bytes() == before and not (tmp_path / "run.partial").exists()
    phases = [entry["name"] for entry in json.loads((out / "ledger.json").read_text())]
    assert phases.count("train") == 1 and "squeeze and pack" in phases


@pytest.mark.slow
def test_two_ranks_make_one_run(home: Path, tmp_path: Path) -> None:
    """Under torchrun both ranks train, and one of them writes a run that the same command alone could have written."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "-m", "paramgolf", "train", "quickstart"]
    command += ["--data", str(home / "shards"), "--out", str(out), *TINY, "--train.max_steps", "3", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == 1 and json.loads(lines[0])["run"] == str(out)
    assert json.loads((out / "env.json").read_text())["ranks"] == 2
    assert len((out / "metrics.jsonl").read_text().splitlines()) >= 1 and (out / "model.pyz").exists()


@pytest.mark.slow
def test_a_file_that_may_not_grow(home: Path, tmp_path: Path) -> None:
    """Where the disk takes no more, encode gives one line, exit 2, and leaves nothing behind."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)); "
        "from paramgolf.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    given, out = home / "held" / "0.txt", tmp_path / "out"
    words = ["encode", str(home / "run" / "model.pyz"), str(given), str(out)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert str(out) in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
