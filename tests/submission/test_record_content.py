"""The record folder against the runs that it was made from."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from paramgolf.cli.submit import ENTRY
from paramgolf.errors import BudgetError, OutputError
from paramgolf.predict.contest import ContestScore
from paramgolf.referee.check import check
from paramgolf.submission.folder import require_within, write_record
from paramgolf.submission.readme import readme_text, says_lossless
from paramgolf.submission.scored_run import ScoredRun
from paramgolf.submission.summary import Credits, Submission, hardware, is_contest_text, submission_record

Published = Callable[[int], ScoredRun]
SEEDS = (42, 1337, 2025)
CODE = 89_458


@pytest.fixture
def submission(published: Published) -> Submission:
    """The three published seeds with the published size of the script."""
    return Submission([published(seed) for seed in SEEDS], Credits("An Author", "author", "A title", "A blurb."), CODE)


def test_submission_json_is_the_published_one(submission: Submission) -> None:
    """Mean score and largest total are the published figures, and say which is which (spec pr549.md 6 and 7-D)."""
    record = submission_record(submission)
    assert {"author", "github_id", "name", "blurb", "date", "val_loss", "val_bpb"} <= set(record)
    assert round(record["val_bpb"], 5) == 1.11938 and round(record["val_loss"], 5) == 1.89002
    assert record["bytes_total"] == 15_990_006 and record["bytes_code"] == CODE
    assert {seed: found["bytes_total"] for seed, found in record["seed_results"].items()} == {
        "1337": 15_977_386,
        "42": 15_876_510,
        "2025": 15_990_006,
    }
    assert "mean" in record["meanings"]["val_bpb"] and "largest" in record["meanings"]["bytes_total"]
    assert record["seeds"] == list(SEEDS) and record["hardware"] == "8 processes on 8 x H100"
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_one_seed_has_no_deviation(published: Published) -> None:
    """A record of one run says null for the spread, names nobody it was not told, and its page says so."""
    single = Submission([published(42)], Credits(), CODE)
    record = submission_record(single)
    assert record["val_bpb_std"] is None and record["author"] is None and record["github_id"] is None
    page = readme_text(single, ["numpy>=2.0"])
    assert "nothing is known of the spread" in page and "| sd |" not in page


def test_readme_rows_are_the_runs(submission: Submission) -> None:
    """Each seed has its row with the numbers of its run; mean and deviation follow; nothing needs a path."""
    page = readme_text(submission, ["numpy>=2.0"])
    assert page.startswith("# A title\n\nA blurb.\n")
    assert "| 1337 | 7,179 | 600.1 | 1.11923 | 1.88977 | 15,887,928 | 89,458 | 15,977,386 | 410.3 |" in page
    assert "| mean | 7,185 | 600.1 | 1.11938 | 1.89002 |" in page and "| sd | 7 | 0.0 | 0.00058 |" in page
    assert "largest total is that of seed 2025: 15,990,006 bytes" in page and "counted twice" in page
    assert (
        "torchrun --standalone --nproc_per_node 8 train_gpt.py --data DATA --text TEXT --out run_seed42 --seed 42"
        in page
    )
    assert "NOT lossless: 17 of 50,000" in page and "* size: a \\| b &lt;c>" in page
    assert str(submission.runs[0].folder) not in page and "contest's bits per byte" not in page


def test_the_contest_figure_is_shown_where_it_is_known(submission: Submission) -> None:
    """With the contest's figures the table has their column, submission.json their mean."""
    known = {seed: ContestScore(1.0 + seed / 10_000, 1, "as it says") for seed in SEEDS}
    full = dataclasses.replace(submission, contest=known)
    page = readme_text(full, [])
    assert "| bits per byte | contest's bits per byte |" in page and "| 1.11923 | 1.13370 |" in page
    assert "as it says" in page
    assert math.isclose(submission_record(full)["val_bpb_contest"], 1.0 + sum(SEEDS) / 30_000)


def test_other_text_is_not_called_the_contest(submission: Submission, published: Published) -> None:
    """A score of a text of another size comes with the sentence that it is no contest score."""
    run = published(42)
    whole = dataclasses.replace(run, score=run.score | {"bytes": 151_080_645})
    assert is_contest_text(whole) and "cannot be compared" not in readme_text(
        dataclasses.replace(submission, runs=[whole]), []
    )
    small = dataclasses.replace(run, score=run.score | {"bytes": 2_938})
    assert "cannot be compared" in readme_text(dataclasses.replace(submission, runs=[small]), [])


@pytest.mark.parametrize(("differ", "says"), [(0, "is lossless"), (3, "NOT lossless: 3 of 9"), (None, "not looked at")])
def test_losslessness_is_said_as_it_was_found(differ: int | None, says: str) -> None:
    """Lossless, not lossless and not looked at are three different sentences."""
    assert says in says_lossless({"documents_not_lossless": differ, "documents": 9})


def test_hardware_without_a_gpu(published: Published) -> None:
    """A run on a CPU names the processor, also where the machine has GPUs that were not used."""
    run = published(42)
    cpu = dataclasses.replace(run, environment=run.environment | {"device": "cpu", "ranks": 1, "threads": 1})
    assert hardware(cpu) == "1 process on CPU Some CPU, 64 cores, 1 thread"


def test_the_cap_names_both_sizes_and_the_next_step(submission: Submission) -> None:
    """Exactly the cap passes; one byte more is refused with script, model, cap and the budget that would fit."""
    require_within(submission, 15_990_006)
    with pytest.raises(BudgetError) as refused:
        require_within(submission, 15_990_005)
    says = str(refused.value)
    assert "(89,458 bytes)" in says and "(15,900,548)" in says and "15,990,006 bytes, 1 above the cap" in says
    assert f"pack {submission.runs[2].folder} --budget 15900547" in says and len(says.splitlines()) == 2
    with pytest.raises(BudgetError, match="script alone does not fit"):
        require_within(submission, CODE)


def test_the_folder_passes_what_files_can_show(published: Published, tmp_path: Path) -> None:
    """The referee finds sizes, times, bytes and evidence of a written record in order, and nothing broken."""
    runs = [published(seed) for seed in SEEDS]
    for run in runs:  # the published denominator counts the tail twice, and is beyond the contest's
        run.score["tokens"] -= 1_770
    report = write_record(runs, tmp_path / "record", ENTRY, Credits(), commit="abc", cap=17_000_000)
    names = {path.name for path in report.folder.iterdir()}
    per_seed = {f"{kind}_seed{seed}{end}" for seed in SEEDS for kind, end in (
        ("train", ".log"), ("model", ".pyz"), ("score", ".json"), ("verdict", ".json")
    )}  # fmt: skip
    assert names == per_seed | {"README.md", "submission.json", "train_gpt.py", "requirements.txt"}
    script = (report.folder / "train_gpt.py").stat().st_size
    assert report.submission["bytes_code"] == script and f"| {script:,} |" in (report.folder / "README.md").read_text()
    assert json.loads((report.folder / "submission.json").read_text()) == report.submission
    for run in runs:
        assert (report.folder / f"model_seed{run.seed}.pyz").read_bytes() == b"model of %d" % run.seed
    findings = {finding.rule: finding for finding in check(report.folder).findings}
    broken = {rule for rule, found in findings.items() if found.status == "FAIL"}
    # The models are a few bytes of text here and do not open; logged sizes and this script exceed 16 MB.
    assert broken == {"size", "reproducible"}
    assert {rule for rule, found in findings.items() if found.status == "PASS"} >= {"ledger", "bytes", "evidence"}
    assert findings["size"].numbers["bytes_raw_code"] == script + 15_900_548


def test_nothing_is_written_over_and_nothing_half_stays(published: Published, tmp_path: Path) -> None:
    """An output that exists stays as it was; a failure midway leaves no folder of any name."""
    run, out = published(42), tmp_path / "sub" / "record"
    (run.folder / "model.pyz").unlink()
    with pytest.raises(OutputError):
        write_record([run], out, ENTRY, Credits(), cap=17_000_000)  # above the published model and this script
    assert not out.exists() and list((tmp_path / "sub").iterdir()) == []
    out.mkdir()
    (out / "mine").write_text("x")
    with pytest.raises(OutputError, match="exists already"):
        write_record([published(42)], out, ENTRY, Credits())
    assert [path.name for path in out.iterdir()] == ["mine"]
