"""The evaluation clock: one limit for all phases, and a score that is refused when it runs out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from paramgolf.clock import Phase
from paramgolf.predict.evaluation import Evaluation
from paramgolf.predict.partial_file import PARTIAL_FILE, partial_record, save_partial
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Chunk, TableRows
from paramgolf.predict.score import ScoreIncomplete, score

V, BOUNDARY = 6, 5


class Uniform:
    """Each chunk takes a second of a clock that is moved by hand."""

    vocab_size = V

    def __init__(self) -> None:
        self.time = 0.0

    def predict(self, chunk: Chunk) -> TableRows:
        return TableRows(np.full((*chunk.tokens.shape, V), -np.log(V)), chunk)

    def observe(self, chunk: Chunk) -> None:
        self.time += 1.0


def interrupted(limit: float) -> ScoreIncomplete:
    predictor, documents = Uniform(), [np.zeros(99, dtype=np.int64)]
    phase = Phase("evaluation: score", True, limit, 0.0, lambda: predictor.time)
    with pytest.raises(ScoreIncomplete) as caught:
        order = plan([99], chunk=10)
        score(predictor, documents, order, BOUNDARY, raw_bytes=99, text_digest="ab", audit_positions=2, phase=phase)
    return caught.value


def test_a_score_that_runs_out_of_time_is_refused_with_what_was_measured() -> None:
    """After 3.5 s of a text that takes 10, four chunks are credited; the message says so and what to do."""
    error = interrupted(3.5)
    assert error.exit_status == 1
    for words in ("incomplete: 40 of 100 tokens", "3.5 s", "--limit", "torchrun", "score.stride", "--seconds"):
        assert words in str(error)
    assert error.partial is not None
    np.testing.assert_allclose(error.partial.bits, np.full(40, np.log2(6)))


def test_a_limit_that_is_reached_with_the_last_token_is_kept() -> None:
    """The clock is looked at before each chunk: a text that is done is a score."""
    predictor = Uniform()
    phase = Phase("evaluation: score", True, 9.5, 0.0, lambda: predictor.time)
    order = plan([99], chunk=10)
    found = score(predictor, [np.zeros(99, dtype=np.int64)], order, BOUNDARY, raw_bytes=99, text_digest="", phase=phase)
    assert found.tokens == 100


def test_what_was_measured_is_kept_and_labelled(tmp_path: Path) -> None:
    """score.partial.json says that it is no score, and an earlier one is not written over."""
    error = interrupted(2.5)
    record = partial_record(error.partial, [], str(error))
    paths = [save_partial(record, tmp_path / "out") for _ in range(2)]
    assert paths[0].name == PARTIAL_FILE and paths[1] != paths[0]
    kept = json.loads(paths[1].read_text())
    assert kept["tokens_credited"] == 30 and kept["tokens_of_text"] == 100
    assert kept["bits_per_token"] == pytest.approx(np.log2(6))
    assert "bpb" not in kept and kept["incomplete"].startswith("incomplete")


def test_phases_share_one_limit() -> None:
    """What a phase used, and what was used before the clock began, is missing from the limit of the next."""
    evaluation = Evaluation(100.0, used=7.0)
    with evaluation.phase("open") as first:
        assert first.limit == 100.0 and first.seconds() >= 7.0
    with evaluation.phase("score") as second:
        assert second.limit is not None and 92.0 < second.limit <= 93.0
    names = [(entry.name, entry.on_clock) for entry in evaluation.entries()]
    assert names == [("evaluation: open", True), ("evaluation: score", True)]


def test_a_phase_that_comes_too_late_does_not_begin() -> None:
    """With nothing left the next phase is refused by name, and nothing is scored."""
    evaluation = Evaluation(5.0, used=6.0)
    with evaluation.phase("open"):
        pass
    says = r"no token credited, 5 s .* before 'evaluation: tokenise'"
    with pytest.raises(ScoreIncomplete, match=says) as caught, evaluation.phase("tokenise"):
        pass
    assert partial_record(caught.value.partial, evaluation.entries(), "")["tokens_credited"] == 0
