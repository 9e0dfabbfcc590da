"""Promises of `build_predictor` and its maker: copies share nothing, and what codes files never leaves the CPU."""

import dataclasses

import numpy as np
import pytest
import torch

from paramgolf.artifact.artifact import Artifact
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.predict.adapt import ADAPTATIONS, build_predictor, predictor_maker
from paramgolf.predict.protocol import Chunk
from paramgolf.predict.score_file import score_record
from paramgolf.predict.score_text import score_text
from paramgolf.recipe import ModelRecipe, Recipe, ScoreRecipe, TokenizerRecipe
from paramgolf.referee.live import probe_subject, subject_of
from paramgolf.text.byte_tokenizer import ByteTokenizer
from paramgolf.text.text import HeldOutText

TOKENIZER = ByteTokenizer()
MODEL = ModelRecipe(layers=1, width=16, heads=2, kv_heads=1)
# 100 tokens between updates: no chunk of the probes' usual length divides that.
SCORE = ScoreRecipe(
    lora_chunks=(8,),
    lora_rank=2,
    window=32,
    stride=20,
    chunk=50,
    ttt_chunk=100,
    ttt_lr=1e-2,
    ngram_order=3,
    cache_least_order=2,
)


def make_artifact() -> Artifact:
    rng = np.random.default_rng(3)
    shapes = tensor_shapes(MODEL, TOKENIZER.vocab_size)
    weights = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    recipe = Recipe("tiny", TokenizerRecipe("bytes", TOKENIZER.vocab_size), MODEL, score=SCORE)
    return Artifact(recipe, TOKENIZER, weights, (TOKENIZER.encode(b"a carried text, a carried word"),))


def some_chunk(first: int) -> Chunk:
    tokens = np.frombuffer(b"the text that is read, token by token, and read again. " * 9, dtype=np.uint8)
    part = tokens[None, first : first + 50].astype(np.int64)
    return Chunk(part, np.array([50]), np.array([first == 0]))


@pytest.mark.parametrize("adapt", ADAPTATIONS)
def test_predictors_of_one_maker_share_nothing(adapt: str) -> None:
    """What one of them observes, updates of the weights included, moves no row of another or of a later one."""
    make = predictor_maker(make_artifact(), adapt, lanes=1)
    busy, idle = make(500), make(500)
    before = idle.predict(some_chunk(0)).realised()
    for first in range(0, 300, 50):
        busy.predict(some_chunk(first)).realised()
        busy.observe(some_chunk(first))
    assert (idle.predict(some_chunk(0)).realised() == before).all()
    assert (make(500).predict(some_chunk(0)).realised() == before).all()
    if adapt != "none":
        assert (busy.predict(some_chunk(300)).realised() != idle.predict(some_chunk(300)).realised()).any()


@pytest.mark.parametrize("adapt", ["ttt", "ttt-ngram"])
def test_training_while_coding_stays_on_the_cpu(adapt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU sums gradients in another order each time, so a file that was coded there could not be decoded."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    predictor = build_predictor(make_artifact(), adapt, incremental=True)
    neural = getattr(predictor, "neural", predictor)
    assert {weight.device.type for weight in neural._model.parameters()} == {"cpu"}


def test_any_honest_spacing_of_updates_can_be_probed() -> None:
    """The probes cut the text so that no chunk straddles an update of the weights, and pass across several updates."""
    subject = subject_of(make_artifact(), "ttt-ngram")
    text = b"".join(b"line %d of the text that is probed\n" % number for number in range(12))
    findings = probe_subject(subject, [text], seed=11)
    assert len(text) > 3 * SCORE.ttt_chunk
    assert {finding.status for finding in findings} == {"PASS"}


@pytest.mark.parametrize("adapt", ["ngram", "backoff"])
def test_a_score_says_what_counts_forgot(adapt: str) -> None:
    """Counts with room for little score all the same, and the score says how much they had to forget."""
    artifact = make_artifact()
    rng = np.random.default_rng(3)
    text = HeldOutText("noise", [rng.integers(0, 256, 6000, dtype=np.uint8).tobytes()])
    least = dataclasses.replace(artifact.recipe.score, ngram_bytes=70_000)
    bounded = dataclasses.replace(artifact, recipe=dataclasses.replace(artifact.recipe, score=least))
    found = score_text(bounded, text, adapt, audit_positions=2)
    assert found.forgotten > 0 and found.audit.passed()
    assert score_record(found)["forgotten"] == found.forgotten
    assert score_text(artifact, text, adapt, audit_positions=2).forgotten == 0
