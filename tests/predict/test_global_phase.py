"""The global phase: all weights train on documents that were scored."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from paramgolf.codec.arithmetic import decode_tokens, encode_tokens
from paramgolf.model.gpt import GPT
from paramgolf.predict.global_phase import global_rate, phase_documents, train_on_all, training_steps
from paramgolf.predict.lora import LoraPredictor
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Chunk
from paramgolf.predict.score import Score, score
from paramgolf.predict.window import WindowPredictor
from paramgolf.ranks import Ranks
from paramgolf.recipe import ModelRecipe, ScoreRecipe

pytestmark = pytest.mark.usefixtures("one_thread")

V, BOUNDARY = 30, 1
MODEL = ModelRecipe(layers=2, width=16, heads=2, kv_heads=1, smear="gated", gate_channels=4)
SCORE = ScoreRecipe(
    window=16,
    stride=8,
    chunk=12,
    lora_rank=2,
    lora_chunks=(6,),
    lora_lr=1e-3,
    global_documents=4,
    global_phases=2,
    global_chunk=24,
    global_lr=0.05,
)


def make_model() -> GPT:
    generator = torch.Generator().manual_seed(0)
    model = GPT(MODEL, V)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def learner(lanes: int = 1, recipe: ScoreRecipe = SCORE, **given: int) -> LoraPredictor:
    return LoraPredictor(WindowPredictor(make_model(), recipe, V, BOUNDARY, lanes), **given)


def text(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, 9, count)


DOCUMENTS = [text(n, n) for n in (10, 20, 0, 3, 15, 6, 9, 12)]


def score_of(predictor: LoraPredictor, lanes: int, audit_positions: int = 0) -> Score:
    order = plan([len(d) for d in DOCUMENTS], lanes=lanes, chunk=predictor.recipe.chunk)
    given = {"raw_bytes": 900, "text_digest": "x", "audit_positions": audit_positions, "seed": 3}
    return score(predictor, DOCUMENTS, order, BOUNDARY, **given)


def test_the_published_learning_rate() -> None:
    """Spec pr2140.md 9.5: 344 chunks."""
    expected = {0: 0.001, 1: 0.000999979, 171: 0.00050229, 342: 2.1e-8}
    for chunk, rate in expected.items():
        assert global_rate(ScoreRecipe(), chunk, 344) == pytest.approx(rate, rel=5e-3 if chunk == 342 else 1e-6)
    assert global_rate(ScoreRecipe(), 0, 1) == 0.001


def test_phases_come_after_their_share_of_the_documents() -> None:
    """Spec pr2140.md 5.4: floor(N (j + 1) / k); phases without a document fall away."""

    def due(documents: int, phases: int) -> list[int]:
        return phase_documents(ScoreRecipe(global_documents=documents, global_phases=phases))

    assert due(2500, 3) == [833, 1666, 2500]
    assert due(2500, 1) == [2500]
    assert due(2, 5) == [1, 2]
    assert due(0, 3) == []


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), max_size=8), st.integers(1, 20), st.integers(1, 60))
def test_every_token_is_a_target_once(lengths: list[int], window: int, chunk: int) -> None:
    """All documents, in order and whole, each token once after its true predecessor, in steps within their size."""
    recipe = ScoreRecipe(window=window, stride=1, global_chunk=chunk, lora_chunks=(1,))
    documents = [text(length, length) for length in lengths]
    steps = training_steps(documents, BOUNDARY, recipe)
    found = [pair for step in steps for line in step for pair in zip(line[:-1].tolist(), line[1:].tolist())]
    expected = [pair for d in documents for pair in zip([BOUNDARY, *d[:-1].tolist()], d.tolist())]
    assert found == expected
    for step in steps:
        counts = [len(line) - 1 for line in step]
        assert step and min(counts) >= 1 and max(counts) <= window
        assert sum(counts) <= chunk or len(counts) == 1


def test_steps_are_momentum_sgd_on_documents_apart() -> None:
    """Each sequence alone through the model, torch's SGD and clip written out, give the same weights."""
    documents = [text(n, n) for n in (10, 40, 3)]
    steps = training_steps(documents, BOUNDARY, SCORE)
    assert len(steps) == 4
    fast, plain = make_model().double(), make_model().double()
    assert train_on_all(fast, steps, SCORE, Ranks()) is None
    optimizer = torch.optim.SGD(plain.parameters(), lr=1.0, momentum=0.9)
    for index, step in enumerate(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + np.cos(np.pi * index / 4))
        optimizer.zero_grad()
        total = sum(
            functional.cross_entropy(
                plain(torch.from_numpy(line[None, :-1]))[0], torch.from_numpy(line[1:]), reduction="sum"
            )
            for line in step
        )
        (total / sum(len(line) - 1 for line in step)).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
    moved = dict(make_model().double().named_parameters())
    for name, weight in fast.named_parameters():
        torch.testing.assert_close(weight, dict(plain.named_parameters())[name], atol=1e-9, rtol=0)
        assert name == "smear.scale" or not torch.equal(weight, moved[name])
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in fast.parameters())


def losses_of(model: GPT, documents: list[np.ndarray]) -> float:
    with torch.no_grad():
        lines = [torch.from_numpy(np.append([BOUNDARY], d)[None]) for d in documents if len(d)]
        return float(sum(functional.cross_entropy(model(line[:, :-1])[0], line[0, 1:]) for line in lines))


def test_the_ranks_share_a_step() -> None:
    """The gradients of three ranks, one of them without a sequence at times, add up to that of one."""
    steps = training_steps([text(n, n) for n in (10, 40, 3, 3)], BOUNDARY, SCORE)

    class Alone(Ranks):
        """Adds nothing: each rank's own part stays."""

        def add(self, tensor: torch.Tensor) -> torch.Tensor:
            return tensor

    still = dataclasses.replace(SCORE, global_clip_norm=1e9, global_momentum=0.0, global_lr=1e-3)
    start = make_model().double()
    for step in steps:
        moves = []
        for ranks in (Ranks(), *(Alone(rank, 3) for rank in range(3))):
            model = make_model().double()
            train_on_all(model, [step], still, ranks)
            moves.append([after - before for after, before in zip(model.parameters(), start.parameters())])
        for whole, *parts in zip(*moves):
            torch.testing.assert_close(sum(parts), whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("lanes", [1, 3, 12])
def test_weights_move_once_documents_were_scored(lanes: int) -> None:
    """Before the first phase rows are those without one, afterwards not; the audit finds no error at all."""
    plain = score_of(learner(lanes, dataclasses.replace(SCORE, global_documents=0)), lanes)
    found = score_of(learner(lanes), lanes, audit_positions=6)
    assert found.audit.passed() and found.audit.max_causal_error == 0
    same = np.abs(found.bits - plain.bits) < 1e-4
    if lanes == 12:
        assert same.all()
        return
    first = int(np.argmin(same))
    ended = found.plan.document_index()[first:].min()
    assert first > 0 and not same.all() and ended >= 1
    assert found.learning.updates > plain.learning.updates


def test_a_phase_lowers_the_cost_of_what_it_has_seen() -> None:
    """Documents of one phase cost less afterwards, and so do others of the same kind."""
    predictor = learner(1, dataclasses.replace(SCORE, global_phases=1, global_lr=0.02))
    before, others = losses_of(predictor.model, DOCUMENTS[:4]), losses_of(predictor.model, DOCUMENTS[6:])
    score_of(predictor, 1)
    assert losses_of(predictor.model, DOCUMENTS[:4]) < before
    assert losses_of(predictor.model, DOCUMENTS[6:]) < others


def rows_of(predictor: LoraPredictor, tokens: np.ndarray, size: int) -> np.ndarray:
    parts = []
    for first in range(0, len(tokens), size):
        part = tokens[None, first : first + size]
        chunk = Chunk(part, np.array([part.shape[1]]), np.array([first == 0]))
        parts.append(predictor.predict(chunk).all_rows(0))
        predictor.observe(chunk)
    return np.concatenate(parts)


STREAM = np.concatenate([np.append(document, BOUNDARY) for document in DOCUMENTS]).astype(np.int64)


def test_a_stream_has_its_phases_at_the_same_place_in_any_chunks() -> None:
    """Chunks of 12 tokens and of 1 give the same rows: weights move where `score.chunk` says, after documents ended."""
    rows = [rows_of(learner(chunk=size), STREAM, size) for size in (12, 1)]
    for other in rows[1:]:
        np.testing.assert_allclose(other, rows[0], atol=2e-3)
    plain = rows_of(learner(recipe=dataclasses.replace(SCORE, global_documents=0)), STREAM, 12)
    # Documents of 10 and 20 tokens and their boundaries end at 32: the next place is 36.
    assert np.abs(rows[0][:36] - plain[:36]).max() < 1e-4 < np.abs(rows[0][36] - plain[36]).max()


def test_a_stream_with_phases_decodes() -> None:
    """Token by token, over both phases."""
    code = encode_tokens(learner(chunk=1), STREAM)
    np.testing.assert_array_equal(decode_tokens(learner(chunk=1), code, len(STREAM)), STREAM)


def test_a_phase_after_the_last_token_is_not_run() -> None:
    """Nobody would see it: with the number of tokens known, the time is saved."""
    recipe = dataclasses.replace(SCORE, global_documents=len(DOCUMENTS), global_phases=1, chunk=len(STREAM))
    for tokens, moved in ((None, True), (len(STREAM), False)):
        predictor = learner(recipe=recipe, tokens=tokens)
        rows_of(predictor, STREAM, len(STREAM))
        start = make_model().embedding.weight
        assert torch.equal(predictor.model.embedding.weight, start) is not moved


@pytest.mark.parametrize("moves", [True, False])
def test_an_open_document_goes_on_with_fresh_adapters(moves: bool) -> None:
    """Once a phase moved the weights all lanes have first adapters, inner matrices too; else they keep their own."""
    recipe = dataclasses.replace(SCORE, lora_keeps_inner=True, global_chunk=12, global_lr=0.05 if moves else 1e38)
    predictor = learner(3, recipe)
    first = [parameter.clone() for parameter in predictor.adapters.parameters()]
    tokens = np.random.default_rng(0).integers(2, 9, (3, 12))
    for start in (True, True, True):  # documents of lanes 0 and 1 end twice; that of lane 2 stays open
        predictor.observe(Chunk(tokens, np.full(3, 12), np.array([start, start, False])))
    assert (predictor.learning.stopped == "") is moves
    same = [torch.equal(now, old) for now, old in zip(predictor.adapters.parameters(), first, strict=True)]
    assert all(same) is moves
    predictor.observe(Chunk(tokens[:, :6], np.full(3, 6), np.zeros(3, dtype=bool)))
    assert (predictor._states.steps > 0).all()


def test_a_step_to_no_numbers_is_taken_back_for_good() -> None:
    """Weights go back to those before the step that broke, later phases fall away, and the record says so."""
    recipe = dataclasses.replace(SCORE, global_lr=1e38)
    predictor = learner(recipe=recipe)
    rows = rows_of(predictor, STREAM, 12)
    assert np.isfinite(rows).all()
    assert all(weight.isfinite().all() for weight in predictor.model.parameters())
    assert "on all weights, after 36 tokens, met numbers that are not finite" in predictor.learning.stopped
