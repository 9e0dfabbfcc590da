"""`paramgolf submit` on real runs of a model of a few thousand weights, and the script that it exports."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paramgolf.artifact.open import runtime_matches
from paramgolf.cli import main
from paramgolf.referee.check import check
from paramgolf.referee.finding import Finding

pytestmark = pytest.mark.slow

Captured = pytest.CaptureFixture[str]
WORDS = ["one ", "two ", "three ", "four\n", "five ", "six, ", "seven ", "eight. "]
TINY = ["--tokenizer.kind", "bytes", "--tokenizer.vocab_size", "260", "--squeeze.carry_text", "false"]
TINY += ["--model.layers", "1", "--model.width", "16", "--model.heads", "2", "--model.kv_heads", "1"]
TINY += ["--train.sequence", "32", "--train.batch_tokens", "64", "--train.warmup_steps", "1"]
TINY += ["--score.window", "32", "--score.stride", "16", "--score.chunk", "64", "--score.ttt_chunk", "128"]
# A fixed number of steps at a constant rate: the weights do not depend on the clock.
TINY += ["--score.adapt", "none", "--train.max_steps", "4", "--optim.warmdown", "0"]
SEEDS = (5, 6)


def _json(captured: Captured) -> dict[str, Any]:
    record = json.loads(captured.readouterr().out.splitlines()[-1])
    assert isinstance(record, dict)
    return record


def _text(seed: int, words: int) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice(WORDS) for _ in range(words))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards and two scored runs, `run5` and `run6`, that differ in the seed alone."""
    home = tmp_path_factory.mktemp("home")
    (home / "texts").mkdir()
    for index in range(40):
        (home / "texts" / f"{index:02}.txt").write_text(_text(index, 40))
    words = ["data", "prepare", str(home / "texts"), "--tokenizer", "bytes", "--out", str(home / "shards")]
    assert main([*words, "--held-out", "0.2"]) == 0
    for seed in SEEDS:
        run = str(home / f"run{seed}")
        words = ["train", "quickstart", "--data", str(home / "shards"), "--out", run, "--seconds", "60"]
        assert main([*words, *TINY, "--seed", str(seed)]) == 0
        assert main(["score", f"{run}/model.pyz", str(home / "shards"), "--out", run]) == 0
    return home


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Path:
    """A copy of run5 that a test may change."""
    return Path(shutil.copytree(home / "run5", tmp_path / "run5"))


def test_a_record_is_what_the_runs_are(home: Path, tmp_path: Path, capsys: Captured) -> None:
    """Two runs give a record whose numbers are their scores, that says what is not the contest's, and that can be
    checked."""
    out = tmp_path / "record"
    words = ["submit", str(home / "run6"), str(home / "run5"), "--out", str(out), "--text", str(home / "shards")]
    assert main([*words, "--author", "A", "--github-id", "a", "--json"]) == 0
    shown = _json(capsys)
    scores = {seed: json.loads((home / f"run{seed}" / "score.json").read_text()) for seed in SEEDS}
    assert shown["seeds"] == [5, 6] and shown["author"] == "A" and shown["github_id"] == "a"
    assert shown["val_bpb"] == pytest.approx(sum(score["bpb"] for score in scores.values()) / 2, abs=1e-12)
    script = (out / "train_gpt.py").stat().st_size
    sizes = {seed: (home / f"run{seed}" / "model.pyz").stat().st_size for seed in SEEDS}
    assert shown["bytes_code"] == script and shown["bytes_total"] == script + max(sizes.values())
    submitted = json.loads((out / "submission.json").read_text())
    assert submitted == {name: value for name, value in shown.items() if name not in ("out", "cap")}
    page = (out / "README.md").read_text()
    for seed in SEEDS:
        assert (out / f"model_seed{seed}.pyz").read_bytes() == (home / f"run{seed}" / "model.pyz").read_bytes()
        assert json.loads((out / f"score_seed{seed}.json").read_text()) == scores[seed]
        assert json.loads((out / f"verdict_seed{seed}.json").read_text())["legal"] is True
        assert f"{scores[seed]['bpb']:.5f}" in page and f"val_bpb:{scores[seed]['bpb']:.8f}" in (
            (out / f"train_seed{seed}.log").read_text()
        )
    # One byte a token, BOS without any, and the last boundary not charged: a little below ours.
    contest = shown["seed_results"]["5"]["val_bpb_contest"]
    assert 0.98 * scores[5]["bpb"] < contest < scores[5]["bpb"] and f"{contest:.5f}" in page
    assert "cannot be compared with the contest's" in page and "is lossless" in page
    for path in out.iterdir():
        assert path.suffix == ".pyz" or str(home) not in path.read_text(), path
    assert main(["check", str(out), "--json"]) == 1
    status = {finding["rule"]: finding["status"] for finding in _json(capsys)["findings"]}
    assert status["size"] == status["ledger"] == "PASS" and status["evidence"] == "UNPROVEN"  # two seeds of three
    assert status["bytes"] == "FAIL"  # as the page says: not the contest's text


def _edit(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        record = json.loads((run / name).read_text())
        change(record)
        (run / name).write_text(json.dumps(record))

    return damage


def _unsay(*names: str) -> Callable[[Path], None]:
    return lambda run: [(run / name).unlink() for name in names] and None


def _only_a_partial_score(run: Path) -> None:
    (run / "score.json").rename(run / "score.partial.json")


def _failed_sums(verdict: dict[str, Any]) -> None:
    finding = next(finding for finding in verdict["findings"] if finding["rule"] == "sums-to-one")
    finding |= {"status": "FAIL", "says": "rows sum to 1.2."}
    verdict["legal"] = False


def _part_of_a_text(score: dict[str, Any]) -> None:
    score["text"]["name"] += " (first 3 documents)"


def _other_bits(score: dict[str, Any]) -> None:
    score["bpb"] /= 2


@pytest.mark.parametrize(
    ("damage", "says", "status"),
    [
        (_unsay("score.json", "bits.npz", "verdict.json"), "it was not scored; first: paramgolf score", 2),
        (_only_a_partial_score, "has an incomplete score only", 2),
        (_unsay("verdict.json"), "has no verdict.json", 2),
        (
            _unsay("model.pyz", "recipe.json"),
            "is not the folder of a finished run: it has no recipe.json, model.pyz",
            2,
        ),
        (_edit("verdict.json", _failed_sums), "sums-to-one FAIL: rows sum to 1.2.", 1),
        (_edit("score.json", _part_of_a_text), "a part of the text only", 2),
        (_edit("score.json", _other_bits), "adds up to", 2),
        (_edit("ledger.json", lambda ledger: ledger[1].update(seconds=700.0)), "its files say now: ledger FAIL", 1),
        (_edit("recipe.json", lambda recipe: recipe.update(seed=7)), "reproducible FAIL", 1),
        (lambda run: (run / "metrics.jsonl").write_text(""), "lists no training step", 2),
        (lambda run: (run / "score.json").write_text("{"), "score.json is not JSON", 2),
    ],
)
def test_what_is_no_record_is_refused(
    damage: Callable[[Path], None], says: str, status: int, run: Path, tmp_path: Path, capsys: Captured
) -> None:
    """A run that was not scored whole, that broke a rule or was changed is refused with the reason, and nothing is
    written."""
    damage(run)
    assert main(["submit", str(run), "--out", str(tmp_path / "record")]) == status
    shown = capsys.readouterr()
    assert says in shown.err and len(shown.err.splitlines()) <= 2 and shown.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["run5"]


def _unproven_separation(verdict: dict[str, Any]) -> None:
    finding = next(finding for finding in verdict["findings"] if finding["rule"] == "data-separation")
    finding |= {"status": "UNPROVEN", "says": "no hashes."}
    verdict["legal"] = False


def test_what_is_unproven_is_never_silent(run: Path, tmp_path: Path, capsys: Captured) -> None:
    """A rule without evidence is refused with the flag that lets it stand; then page, JSON and output all name it.
    The flag never lets a broken rule stand."""
    (run / "train_documents.npy").unlink()
    _edit("verdict.json", _unproven_separation)(run)
    words = ["submit", str(run), "--out", str(tmp_path / "record")]
    assert main(words) == 1
    shown = capsys.readouterr().err
    assert "data-separation UNPROVEN" in shown and "--unproven data-separation" in shown
    assert len(shown.splitlines()) == 2
    assert main([*words, "--unproven", "data-separation"]) == 0
    assert "NOT proven legal" in capsys.readouterr().out
    record = json.loads((tmp_path / "record" / "submission.json").read_text())
    assert record["unproven"] == ["data-separation"] and record["legal"] is False
    assert "NOT PROVEN" in (tmp_path / "record" / "README.md").read_text()
    _edit("verdict.json", _failed_sums)(run)
    words[-1] = str(tmp_path / "other")
    assert main([*words, "--unproven", "data-separation", "--unproven", "sums-to-one"]) == 1
    assert "sums-to-one FAIL" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_probes_prove_what_few_audits_leave_open(run: Path, tmp_path: Path) -> None:
    """A slow model's score audits too few positions to prove its promises; the verdict with its probes counts."""
    _edit("score.json", lambda score: score["audit"].update(positions=2))(run)
    assert {f.rule for f in check(run).with_status("UNPROVEN")} >= {"sums-to-one", "blind-to-target"}
    assert main(["submit", str(run), "--out", str(tmp_path / "record")]) == 0
    assert json.loads((tmp_path / "record" / "submission.json").read_text())["legal"] is True


def test_a_changed_model_is_refused(home: Path, run: Path, tmp_path: Path, capsys: Captured) -> None:
    """The score of one model beside the file of another is named as that."""
    shutil.copyfile(home / "run6" / "model.pyz", run / "model.pyz")
    assert main(["submit", str(run), "--out", str(tmp_path / "record")]) == 1
    assert "reproducible FAIL" in capsys.readouterr().err


def test_runs_that_do_not_belong_together(home: Path, run: Path, tmp_path: Path, capsys: Captured) -> None:
    """The same seed twice, no run at all, a missing one, an unfinished one, and another text are refused."""
    run6, out, nowhere = str(home / "run6"), tmp_path / "record", tmp_path / "nowhere"
    (tmp_path / "half.partial").mkdir()
    cases = [
        ([str(run), str(home / "run5")], "have one seed, 5"),
        ([], "required: RUN"),
        ([run6, str(nowhere)], f"no run folder {nowhere}"),
        ([run6, str(tmp_path / "half")], "is unfinished; go on with"),
        ([run6, str(tmp_path / "half.partial")], "is an unfinished run"),
        ([run6, str(home / "shards")], "is not the folder of a finished run"),
        ([run6, "--text", str(home / "texts")], "was scored on text"),
        ([run6, "--cap", "1k"], "the script alone does not fit"),
    ]
    for words, says in cases:
        assert main(["submit", *words, "--out", str(out)]) == 2, words
        assert says in capsys.readouterr().err
    assert not out.exists()


def test_the_cap_is_on_script_and_model_together(home: Path, tmp_path: Path, capsys: Captured) -> None:
    """Above the cap both sizes and the budget that fits are named; at the cap the record is written."""
    out, model = tmp_path / "record", (home / "run5" / "model.pyz").stat().st_size
    assert main(["submit", str(home / "run5"), "--out", str(out)]) == 0
    script = (out / "train_gpt.py").stat().st_size
    shutil.rmtree(out)
    capsys.readouterr()
    words = ["submit", str(home / "run5"), "--out", str(out), "--cap"]
    assert main([*words, str(script + model - 1)]) == 2
    says = capsys.readouterr().err
    assert f"{script:,}" in says and f"{model:,}" in says and f"pack {home / 'run5'} --budget {model - 1}" in says
    assert not out.exists() and main([*words, str(script + model)]) == 0
    before = sorted((path.name, path.stat().st_mtime_ns) for path in out.iterdir())
    assert main([*words, "16M"]) == 2 and "exists already" in capsys.readouterr().err
    assert sorted((path.name, path.stat().st_mtime_ns) for path in out.iterdir()) == before


@pytest.fixture(scope="module")
def clean(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean folder with the exported script and shards, and `site`: what is installed, without this package."""
    clean = tmp_path_factory.mktemp("clean")
    assert main(["submit", *(str(home / f"run{seed}") for seed in SEEDS), "--out", str(clean / "record")]) == 0
    shutil.copy(clean / "record" / "train_gpt.py", clean)
    shutil.copytree(home / "shards", clean / "data")
    (clean / "site").mkdir()
    for folder in (Path(entry) for entry in sys.path if entry.endswith("-packages")):
        for path in folder.iterdir():
            link = clean / "site" / path.name
            if "paramgolf" not in path.name and not link.exists():
                link.symlink_to(path)
    return clean


def _python(clean: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the clean folder with what is installed but this package, which is proven to be absent first."""
    code = (
        "import importlib.util, runpy, sys\n"
        f"sys.path.append({str(clean / 'site')!r})\n"
        "assert importlib.util.find_spec('paramgolf') is None\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-S", "-c", code, *words]
    return subprocess.run(command, cwd=clean, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_exported_script_makes_the_same_model(home: Path, clean: Path, tmp_path: Path, capsys: Captured) -> None:
    """In a clean folder, without this package, the script trains the very same file, scores it the same, and its run
    can be submitted in turn, with the same script."""
    done = _python(clean, "train_gpt.py", "--data", "data", "--out", "made", "--seed", "6", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["legal"] is True and result["run"] == "made"
    made = clean / "made"
    assert (made / "model.pyz").read_bytes() == (home / "run6" / "model.pyz").read_bytes()
    assert runtime_matches(made / "model.pyz")
    assert result["bpb"] == json.loads((home / "run6" / "score.json").read_text())["bpb"]
    assert (made / "recipe.json").read_bytes() == (home / "run6" / "recipe.json").read_bytes()
    environment = json.loads((made / "env.json").read_text())
    # The script's own list of packages, not the installed one, which has more.
    assert environment["versions"]["torch"] and "matplotlib" not in environment["versions"]
    assert environment["commands"] == ["python train_gpt.py --data data --out made --seed 6"]
    assert {path.name for path in (home / "run6").iterdir()} == {path.name for path in made.iterdir()}
    assert main(["submit", str(made), str(home / "run5"), "--out", str(tmp_path / "again"), "--json"]) == 0
    assert _json(capsys)["seeds"] == [5, 6]
    assert (tmp_path / "again" / "train_gpt.py").read_bytes() == (clean / "train_gpt.py").read_bytes()


@pytest.mark.slow
def test_extracted_sources_run_too(clean: Path) -> None:
    """The sources that --extract writes do what the script does; a run that is there is never written over."""
    assert _python(clean, "train_gpt.py", "--extract", "sources").returncode == 0
    done = _python(clean, "sources", "--data", "data", "--out", "other", "--seconds", "5")
    assert done.returncode == 0, done.stderr
    assert json.loads((clean / "other" / "recipe.json").read_text())["budget"]["train_seconds"] == 5
    again = _python(clean, "train_gpt.py", "--data", "data", "--out", "other")
    assert again.returncode == 2 and "exists already" in again.stderr
    for name in ("score.json", "bits.npz", "verdict.json"):
        (clean / "other" / name).unlink()
    resumed = _python(clean, "train_gpt.py", "--data", "data", "--resume", "other")
    assert resumed.returncode == 0 and (clean / "other" / "score.json").exists(), resumed.stderr


@pytest.mark.slow
def test_the_exported_script_runs_under_torchrun(clean: Path) -> None:
    """Two ranks train and score together and leave one run, whose ledger has every phase once."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["train_gpt.py", "--data", "data", "--out", "two"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=clean, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((clean / "two" / "env.json").read_text())["ranks"] == 2
    assert json.loads((clean / "two" / "verdict.json").read_text())["legal"] is True
    phases = [entry["name"] for entry in json.loads((clean / "two" / "ledger.json").read_text())]
    assert "train" in phases and any("evaluation" in name for name in phases) and len(phases) == len(set(phases))


@pytest.mark.slow
def test_the_exported_script_stops_when_its_evaluation_does(home: Path, clean: Path) -> None:
    """A score that its time does not suffice for is refused with exit status 1, what was measured is kept as no score,
    and the run cannot be submitted."""
    script = (clean / "train_gpt.py").read_text().replace('"eval_seconds": 600.0', '"eval_seconds": 1e-06')
    (clean / "hurried.py").write_text(script)
    done = _python(clean, "hurried.py", "--data", "data", "--out", "hurried")
    assert done.returncode == 1 and "incomplete" in done.stderr and "Traceback" not in done.stderr
    assert (clean / "hurried" / "score.partial.json").exists() and not (clean / "hurried" / "score.json").exists()
    assert main(["submit", str(clean / "hurried"), "--out", str(clean / "never")]) == 2


def _status(captured: Captured) -> dict[str, str]:
    return {finding["rule"]: finding["status"] for finding in _json(captured)["findings"]}


def _by_rule(record: Path) -> dict[str, Finding]:
    return {finding.rule: finding for finding in check(record).findings}


@pytest.fixture(scope="module")
def whole_record(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of both runs."""
    out = tmp_path_factory.mktemp("records") / "record"
    assert main(["submit", str(home / "run5"), str(home / "run6"), "--out", str(out)]) == 0
    return out


@pytest.fixture
def record(whole_record: Path, tmp_path: Path) -> Path:
    """A copy of the record that a test may change."""
    return Path(shutil.copytree(whole_record, tmp_path / "record"))


AUDITED = ("sums-to-one", "credit-is-row", "blind-to-target", "blind-to-future", "lanes-apart", "predict-is-pure")


def test_a_record_of_ours_is_judged_by_its_models(
    home: Path, whole_record: Path, tmp_path: Path, capsys: Captured
) -> None:
    """`check RECORD` judges each seed's model and score; --text runs and probes them; what only the run can show is
    left unproven; a record without our models has nothing to run, and that is said."""
    found = _by_rule(whole_record)
    assert {found[rule].status for rule in (*AUDITED, "reproducible")} == {"PASS"}
    assert found["credited-once"].status == found["data-separation"].status == "UNPROVEN"
    largest = max((whole_record / f"model_seed{seed}.pyz").stat().st_size for seed in SEEDS)
    assert found["size"].numbers["bytes_raw_code"] == largest + (whole_record / "train_gpt.py").stat().st_size
    capsys.readouterr()
    assert main(["check", str(whole_record), "--text", str(home / "shards"), "--json"]) == 1
    probed = _status(capsys)
    assert probed["single-pass"] == probed["blind-decode"] == probed["reproducible"] == "PASS"
    assert main(["check", str(whole_record), "--text", str(home / "texts" / "00.txt")]) == 2
    assert "the recorded score is of a text" in capsys.readouterr().err
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    shutil.copyfile(whole_record / "submission.json", foreign / "submission.json")
    assert main(["check", str(foreign)]) == 1 and "--text" not in capsys.readouterr().out
    assert main(["check", str(foreign), "--text", str(home / "shards")]) == 2
    assert "has no model_seedN.pyz" in capsys.readouterr().err


def _swapped(record: Path) -> None:
    shutil.copyfile(record / "model_seed5.pyz", record / "model_seed6.pyz")


def _few_positions(score: dict[str, Any]) -> None:
    score["audit"]["positions"] = 2


@pytest.mark.parametrize(
    ("damage", "rule", "status", "says"),
    [
        (_swapped, "reproducible", "FAIL", "seed 6: score.json is of an artifact"),
        (_swapped, "evidence", "FAIL", "model_seed6.pyz holds a recipe of seed 5"),
        (lambda record: (record / "model_seed6.pyz").write_bytes(b"no model"), "reproducible", "FAIL", "seed 6"),
        (lambda record: (record / "score_seed6.json").write_text("{"), "sums-to-one", "UNPROVEN", "seed 6"),
        (lambda record: (record / "score_seed6.json").unlink(), "sums-to-one", "UNPROVEN", "seed 6"),
        (_edit("score_seed6.json", _few_positions), "blind-to-future", "UNPROVEN", "seed 6: only 2 of"),
        (
            _edit("score_seed6.json", lambda score: score["audit"].update(max_target_error=0.5, max_causal_error=0.5)),
            "blind-to-target",
            "FAIL",
            "seed 6: a row moves",
        ),
        (_edit("score_seed6.json", _other_bits), "evidence", "FAIL", "train_seed6.log ends in"),
        (_edit("verdict_seed6.json", _failed_sums), "sums-to-one", "FAIL", "seed 6: rows sum to 1.2."),
        (lambda record: (record / "verdict_seed6.json").write_text("[" * 100_000), "evidence", "FAIL", "seed 6"),
    ],
)
def test_one_bad_seed_spoils_the_record(
    damage: Callable[[Path], None], rule: str, status: str, says: str, record: Path
) -> None:
    """What is wrong or missing with one of the seeds shows, whatever the others are, and is said with its number."""
    damage(record)
    found = _by_rule(record)[rule]
    assert found.status == status and says in found.says


def test_a_rule_that_does_not_exist_cannot_stay_unproven(home: Path, tmp_path: Path, capsys: Captured) -> None:
    """A misspelt --unproven is refused with the rules that there are, and nothing is written."""
    words = ["submit", str(home / "run5"), "--out", str(tmp_path / "record"), "--unproven", "data-seperation"]
    assert main(words) == 2
    says = capsys.readouterr().err
    assert "--unproven data-seperation: no such rule" in says and "data-separation" in says
    assert list(tmp_path.iterdir()) == []


def test_squeezed_again_it_has_no_evaluation_yet(home: Path, tmp_path: Path) -> None:
    """`pack --new-run` of a scored run takes over its training phases, not the evaluation of the other model."""
    old = json.loads((home / "run5" / "ledger.json").read_text())
    assert any(entry["name"].startswith("evaluation") for entry in old)
    assert main(["pack", str(home / "run5"), "--new-run", str(tmp_path / "again")]) == 0
    new = json.loads((tmp_path / "again" / "ledger.json").read_text())
    assert new == [entry for entry in old if not entry["name"].startswith("evaluation")] and len(new) >= 2
