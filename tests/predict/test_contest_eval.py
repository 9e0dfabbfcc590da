"""The published evaluations of #549 on the tiny model of spec pr549.md, section 8.10."""

from __future__ import annotations

import dataclasses
from types import ModuleType

import numpy as np
import pytest

from paramgolf.model.gpt import GPT
from paramgolf.predict.contest_eval import ContestFigure, plain_evaluation, sliding_evaluation, ttt_evaluation
from paramgolf.recipe import ScoreRecipe
from paramgolf.text.byte_table import ByteTable

TOKENS = np.array([(7 * i * i + 3 * i) % 16 for i in range(21)])
IDS = np.arange(16)
TABLE = ByteTable(np.array([0, 1, 2, 3])[IDS // 4], IDS >= 8, IDS < 4)
TTT = ScoreRecipe(window=8, stride=2, ttt_chunk=8, ttt_lr=0.002, ttt_optimizer="sgd", ttt_schedule="cosine")


@pytest.fixture
def model(small_models: ModuleType) -> GPT:
    """The filled model of section 8.10."""
    return small_models.spec_model()


def is_close(found: ContestFigure, loss: float, bpb: float | None = None, tolerance: float = 1e-5) -> bool:
    same_loss = found.loss == pytest.approx(loss, abs=tolerance)
    return same_loss and (bpb is None or found.bpb == pytest.approx(bpb, abs=tolerance))


def test_the_byte_table_is_that_of_the_oracle() -> None:
    """The 20 targets are charged 37 bytes (section 8.1)."""
    charged = TABLE.bytes_of(TOKENS[:-1], TOKENS[1:])
    assert "".join(map(str, charged)) == "20244443020111102024"


def test_plain_sequences(model: GPT) -> None:
    """Sequences of 5 (section 8.10)."""
    found = plain_evaluation(model, TOKENS, TABLE, 5)
    assert is_close(found, 2.81164300, 2.19261806, 1e-7)


def test_the_sliding_window_with_its_tail(model: GPT) -> None:
    """Window 8, stride 2: 26 positions and 55 bytes, duplicates included; the exact rule has 20 and 37 (8.10)."""
    found = sliding_evaluation(model, TOKENS, TABLE, 8, 2)
    assert is_close(found, 2.83085666, 1.93064790, 1e-7)
    assert (found.positions, found.bytes) == (26, 55)
    exact = sliding_evaluation(model, TOKENS, TABLE, 8, 2, exact=True)
    assert (exact.positions, exact.bytes) == (20, 37)


@pytest.mark.parametrize(
    ("epochs", "chunk", "loss", "bpb"),
    [
        (0, 8, 2.83085670, None),
        (1, 8, 2.82936963, 1.92963374),
        (3, 8, 2.89270931, 1.97283149),
        (3, 16, 2.82755936, 1.92839914),
    ],
)
def test_test_time_training(model: GPT, epochs: int, chunk: int, loss: float, bpb: float | None) -> None:
    """Score first, then train, by the published rule (section 8.10)."""
    settings = dataclasses.replace(TTT, ttt_chunk=chunk)
    assert is_close(ttt_evaluation(model, TOKENS, TABLE, settings, epochs=epochs), loss, bpb)


def test_the_published_freeze_reaches_gains_alone(model: GPT) -> None:
    """Freezing two blocks freezes their 68 control values and none of their matrices (sections 5.4, 8.10)."""
    frozen = {name for name, _ in model.named_parameters() if name.startswith(("blocks.0.", "blocks.1."))}
    assert sum(value.numel() for name, value in model.named_parameters() if name in frozen) == 68
    assert is_close(ttt_evaluation(model, TOKENS, TABLE, TTT, epochs=3, frozen=frozen), 2.82684673, 1.92791312)


def test_the_model_is_left_as_it_was(model: GPT, small_models: ModuleType) -> None:
    """Training happens on a copy."""
    ttt_evaluation(model, TOKENS, TABLE, TTT, epochs=1)
    assert all((a == b).all() for a, b in zip(model.parameters(), small_models.spec_model().parameters(), strict=True))
