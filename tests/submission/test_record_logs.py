"""The logs of a record: lines that parsers know, and no line that was not measured."""

import dataclasses
import re
from collections.abc import Callable

import pytest

from paramgolf.clock import Entry
from paramgolf.referee.record_log import read_log
from paramgolf.submission.log_lines import final_label, log_text
from paramgolf.submission.scored_run import ScoredRun

Published = Callable[[int], ScoredRun]


def test_the_referee_reads_back_what_was_measured(published: Published) -> None:
    """What the referee reads in a stranger's log is, number for number, what the run's files hold (spec section 6)."""
    facts = read_log("x.log", log_text(published(1337), 89_458))
    assert (facts.seed, facts.vocab_size, facts.val_tokens) == (1337, 1024, 62_023_616)
    assert (facts.val_loss, facts.val_bpb) == (1.88976776, 1.11922988)
    assert facts.train_seconds == 600.128 and facts.eval_seconds == 410.268 and facts.hessian_seconds == 0
    assert (facts.total_bytes, facts.code_bytes) == (15_977_386, 89_458)
    assert facts.compressed_code_bytes is None


def test_published_line_forms(published: Published) -> None:
    """The lines that spec pr549.md 6 lists for parsers have the published forms."""
    text = log_text(published(1337), 89_458)
    for form in (
        r"^step:1/1000000 train_loss:6\.9322 train_time:84ms step_avg:83\.60ms tok/s:9400000$",
        r"^step:7179/1000000 train_loss:1\.7900 train_time:600128ms step_avg:83\.59ms$",
        r"^stopping_early: wallclock_cap train_time:600128ms step:7179/1000000$",
        r"^swa:start step:6500$",
        r"^Serialized model \S+: 15887928 bytes$",
        r"^Code size: 89458 bytes$",
        r"^Total submission size \S+: 15977386 bytes$",
        r"^legal_ttt_exact val_loss:1\.88976776 val_bpb:1\.11922988 eval_time:410268ms$",
    ):
        assert len(re.findall(form, text, re.MULTILINE)) == 1, form


def test_what_was_not_measured_has_no_line(published: Published) -> None:
    """Without a GPU, versions, an early stop or a log of its own, a run's log says nothing of them."""
    run = published(42)
    recipe = dataclasses.replace(run.recipe, train=dataclasses.replace(run.recipe.train, max_steps=7_182))
    text = log_text(dataclasses.replace(run, recipe=recipe, environment={"device": "cpu", "cuda": None}, log=()), 5)
    for word in ("stopping_early", "cuda:", "version.", "train_text", "swa:", "peak", "pre-quant", "roundtrip"):
        assert word not in text, word
    assert "device:cpu" in text.splitlines()


def test_the_final_line_names_what_was_done(published: Published) -> None:
    """The label of the final line is never that of a technique which was not used."""
    run = published(42)
    plain = dataclasses.replace(run, score=run.score | {"adapt": "none"})
    assert final_label(plain) == "final_sliding_window_exact"
    whole = dataclasses.replace(plain.recipe.score, stride=plain.recipe.score.window)
    assert final_label(dataclasses.replace(plain, recipe=dataclasses.replace(plain.recipe, score=whole))) == (
        "final_roundtrip_exact"
    )
    assert final_label(dataclasses.replace(run, score=run.score | {"adapt": "ttt+ngram"})) == "final_ttt_ngram_exact"


def test_calibration_on_training_text_counts_in_the_log(published: Published) -> None:
    """The log prints the seconds of the calibration, so that a reader's training time is the run's own (#609)."""
    run = published(42)
    calibrated = dataclasses.replace(run, ledger=(*run.ledger, Entry("calibrate", True, 603.2, 13.25, 14.0)))
    facts = read_log("x.log", log_text(calibrated, 5))
    assert facts.train_seconds == 600.128 and facts.hessian_seconds == 13.25
    assert facts.train_seconds + facts.hessian_seconds == pytest.approx(calibrated.train_seconds)
    own = dataclasses.replace(run, ledger=(*run.ledger, Entry("second moments of own text", False, 603.2, 200.0)))
    assert "Hessians" not in log_text(own, 5) and own.train_seconds == 600.128


def test_all_phases_of_the_evaluation_count(published: Published) -> None:
    """Where the phases of the evaluation were timed, their sum is its time, not that of the scoring loop alone."""
    run = published(42)
    phase = {"name": "evaluation: score", "on_clock": True, "start": 0.0, "seconds": 408.049, "limit": 600.0}
    timed = run.score | {"ledger": [phase, phase | {"name": "evaluation: open", "seconds": 20.0}]}
    assert dataclasses.replace(run, score=timed).eval_seconds == 428.049 and run.eval_seconds == 408.049


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("10:00:00 recipe pr549 359e2ed23495 on /home/jane doe/shards", "recipe pr549 359e2ed23495"),
        ("10:00:00 recipe pr549 359e2ed23495, seed 3, on ../shards", "recipe pr549 359e2ed23495, seed 3"),
        ("10:00:00 resumed on /home/jane/shards", "resumed"),
        ("10:00:00 squeezed again from the weights of /home/jane/run1", "squeezed again"),
        ("10:00:00 trained for 3.8 of 5 s", "trained for 3.8 of 5 s"),
    ],
)
def test_no_path_of_the_author_is_told(published: Published, line: str, kept: str) -> None:
    """The log of a record names no folder of the machine that the run was made on, and keeps the rest of the line."""
    text = log_text(dataclasses.replace(published(42), log=(line,)), 5)
    assert kept in text.splitlines() and "jane" not in text and "shards" not in text
