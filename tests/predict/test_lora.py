"""Adapters that learn each document: LoraPredictor."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from paramgolf.codec.arithmetic import decode_plan, decode_tokens, encode_plan, encode_tokens
from paramgolf.errors import RecipeError, TokenizerError
from paramgolf.model.adapters import LoraAdapters
from paramgolf.model.gpt import GPT
from paramgolf.predict.lora import LoraPredictor
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Chunk
from paramgolf.predict.score import Score, score
from paramgolf.predict.window import WindowPredictor
from paramgolf.recipe import ModelRecipe, ScoreRecipe

pytestmark = pytest.mark.usefixtures("one_thread")

V, BOUNDARY = 40, 1
MODEL = ModelRecipe(
    layers=3,
    width=16,
    heads=4,
    kv_heads=2,
    mlp_slope=0.3,
    smear="gated",
    gate_channels=4,
    unet=True,
    skip_gates=True,
    looped_layers=(1,),
    loops=2,
    parallel_layers=1,
    sparse_gates=True,
    residual_mix=True,
    asymmetric_softcap=True,
)
SCORE = ScoreRecipe(window=24, stride=12, chunk=16, lora_rank=3, lora_alpha=6.0, lora_chunks=(8,), lora_lr=0.02)


def make_model(*, exact: bool = False) -> GPT:
    """A model of random weights; `exact` in float64: a first step of AdamW is a sign, which noise may turn."""
    generator = torch.Generator().manual_seed(0)
    model = GPT(MODEL, V)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "softcaps":
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.double().eval() if exact else model.eval()


def learner(
    lanes: int = 1, recipe: ScoreRecipe = SCORE, *, exact: bool = False, chunk: int | None = None
) -> LoraPredictor:
    return LoraPredictor(WindowPredictor(make_model(exact=exact), recipe, V, BOUNDARY, lanes), chunk=chunk)


def make_chunk(tokens: Sequence[int] | np.ndarray, start: bool = False) -> Chunk:
    return Chunk(np.array([tokens], dtype=np.int64), np.array([len(tokens)]), np.array([start]))


def text(count: int, seed: int = 0) -> np.ndarray:
    """A document that repeats itself with errors, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    tokens = np.tile(rng.integers(2, V, 9), count // 9 + 1)[:count]
    return np.where(rng.random(count) < 0.1, rng.integers(2, V, count), tokens)


def stream_of(documents: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.append(document, BOUNDARY) for document in documents]).astype(np.int64)


def all_rows(predictor: LoraPredictor, tokens: np.ndarray, size: int) -> np.ndarray:
    parts = []
    for first in range(0, len(tokens), size):
        chunk = make_chunk(tokens[first : first + size], start=first == 0)
        parts.append(predictor.predict(chunk).all_rows(0))
        predictor.observe(chunk)
    return np.concatenate(parts)


def score_of(predictor: LoraPredictor, documents: Sequence[np.ndarray], lanes: int, audit_positions: int = 0) -> Score:
    order = plan([len(d) for d in documents], lanes=lanes, chunk=predictor.recipe.chunk)
    return score(
        predictor, documents, order, BOUNDARY, raw_bytes=1000, text_digest="x", audit_positions=audit_positions, seed=4
    )


def by_hand(document: np.ndarray, recipe: ScoreRecipe = SCORE) -> np.ndarray:
    """The rows of one document: each piece alone in its own window, torch's AdamW between two of them."""
    model = make_model(exact=True).requires_grad_(False)
    adapters = LoraAdapters(MODEL, V, 1, recipe.lora_rank, recipe.lora_alpha, recipe.lora_query_value)
    optimizer = torch.optim.AdamW(
        adapters.parameters(),
        lr=recipe.lora_lr,
        betas=(0.0, recipe.lora_beta2),
        eps=1e-10,
        weight_decay=recipe.lora_weight_decay,
    )
    line, end, rows = np.append([BOUNDARY], document), 0, []
    while end < len(document):
        first = end
        end = first + recipe.lora_chunks[sum(first >= until for until in recipe.lora_chunks_until)]
        start = max(0, end - recipe.window)
        inputs = torch.from_numpy(line[start : min(end, len(document))][None])
        h = model.hidden(inputs, adapters=adapters)[:, first - start :]
        logits = model.logits(h, adapters.delta("head", 0, h))[0]
        rows.append(functional.log_softmax(logits.detach().double(), dim=-1).numpy())
        if end <= len(document):
            optimizer.zero_grad()
            functional.cross_entropy(logits, torch.from_numpy(document[first:end])).backward()
            optimizer.step()
    return np.concatenate(rows)


GROWING = {"lora_chunks": (4, 6, 8), "lora_chunks_until": (8, 14)}


@pytest.mark.parametrize("settings", [{"lora_query_value": True}, GROWING])
def test_rows_are_those_of_a_plain_loop_over_the_document(settings: dict[str, Any]) -> None:
    """Windows, rows and AdamW written out with torch's own optimizer give the rows of the predictor."""
    recipe = dataclasses.replace(SCORE, **settings)
    document = text(44)
    rows = all_rows(learner(recipe=recipe, exact=True), document, 16)
    np.testing.assert_allclose(rows, by_hand(document, recipe), atol=5e-4)
    plain = by_hand(document, dataclasses.replace(recipe, lora_lr=1e-12))
    first = recipe.lora_chunks[0]
    np.testing.assert_allclose(rows[:first], plain[:first], atol=1e-5)
    assert np.abs(rows[first:16] - plain[first:16]).max() > 1e-3


def test_learning_lowers_the_cost_of_a_document_that_repeats() -> None:
    """The second half of a document that repeats itself costs a tenth less than without learning."""
    document = text(80)
    at = np.arange(80)
    still = all_rows(learner(recipe=dataclasses.replace(SCORE, lora_lr=1e-12)), document, 16)
    learnt = all_rows(learner(), document, 16)
    assert learnt[at, document][40:].sum() > 0.9 * still[at, document][40:].sum()


def test_rows_do_not_depend_on_how_the_stream_is_cut() -> None:
    """Chunks of 1, 16 and 200 tokens of a stream with empty and short documents give the same rows."""
    tokens = stream_of([text(17, 1), text(0), text(8, 2), text(0), text(7, 3), text(10, 4)])
    rows = [all_rows(learner(), tokens, size) for size in (16, 1, 200)]
    for other in rows[1:]:
        np.testing.assert_allclose(other, rows[0], atol=1e-4)


@pytest.mark.parametrize("settings", [pytest.param({}, marks=pytest.mark.slow), GROWING])
def test_documents_are_independent_of_lane_and_order(settings: dict[str, Any]) -> None:
    """Each document's rows are those it has alone, in a stream and in any lane beside pieces of any other size."""
    recipe, documents = dataclasses.replace(SCORE, **settings), [text(n, n) for n in (25, 13, 1)]
    alone = [score_of(learner(2, recipe, exact=True), [document], 2).bits for document in documents]
    for lanes in (2, 3):
        found = score_of(learner(lanes, recipe, exact=True), documents, lanes)
        of_document = found.plan.document_index()
        for number, bits in enumerate(alone):
            np.testing.assert_allclose(found.bits[of_document == number], bits, atol=1e-5)
    found = score_of(learner(1, recipe, exact=True), documents, 1)
    for number, bits in enumerate(alone):
        np.testing.assert_allclose(found.bits[found.plan.document_index() == number][:-1], bits, atol=1e-5)


def test_reset_is_exact() -> None:
    """After a document the rows of the next one have the very bits that a fresh predictor gives."""
    predictor, document = learner(), text(40, 5)
    fresh = all_rows(learner(), document, 8)
    all_rows(predictor, stream_of([text(33, 6)]), 8)
    again = []
    for first in range(0, 40, 8):
        chunk = make_chunk(document[first : first + 8])
        again.append(predictor.predict(chunk).all_rows(0))
        predictor.observe(chunk)
    np.testing.assert_array_equal(np.concatenate(again), fresh)


def test_inner_matrices_are_kept_on_demand() -> None:
    """With `lora_keeps_inner` A goes on from where the last document left it, B and the moments begin at nought."""
    recipe = dataclasses.replace(SCORE, lora_keeps_inner=True)
    predictor = learner(recipe=recipe)
    fresh = copy.deepcopy(predictor.adapters)
    all_rows(predictor, stream_of([text(20)]), 8)
    learnt = copy.deepcopy(predictor.adapters)
    predictor.observe(make_chunk(text(3, 1)))
    for kind in fresh.kinds:
        (first_a, _), (learnt_a, learnt_b), (now_a, now_b) = (
            x.factors(kind) for x in (fresh, learnt, predictor.adapters)
        )
        assert torch.equal(now_a, learnt_a) and not torch.equal(now_a, first_a)
        assert learnt_b.any() and not now_b.any()
    twice = [score_of(learner(2, recipe), [text(n, n) for n in (16, 24, 25, 10)], 2).bits for _ in range(2)]
    np.testing.assert_array_equal(*twice)


@pytest.mark.parametrize(("lanes", "keeps_inner"), [pytest.param(1, False, marks=pytest.mark.slow), (3, True)])
def test_a_score_passes_its_audit_without_any_error(lanes: int, keeps_inner: bool) -> None:
    """The scorer's audit finds every row bitwise the same, with updates inside chunks and documents that end there."""
    recipe = dataclasses.replace(SCORE, chunk=20, lora_keeps_inner=keeps_inner)
    documents = [text(n, n) for n in (34, 1, 0, 25)]
    result = score_of(learner(lanes, recipe), documents, lanes, audit_positions=5)
    assert result.audit.passed()
    assert result.audit.max_causal_error == 0 and result.audit.max_repeat_error == 0
    assert result.learning is not None and result.learning.updates == 4 + 3 and not result.learning.stopped


def test_predict_changes_nothing() -> None:
    """Whatever was asked before, with whatever tokens, the rows of a chunk have the same bits."""
    tokens = stream_of([text(21), text(12, 1)])
    untouched, asked = learner(), learner()
    rng = np.random.default_rng(0)
    for first in range(0, len(tokens), 10):
        chunk = make_chunk(tokens[first : first + 10])
        other = make_chunk(rng.integers(0, V, 10))
        asked.predict(other).realised()
        asked.predict(other).all_rows(0)
        np.testing.assert_array_equal(asked.predict(chunk).all_rows(0), untouched.predict(chunk).all_rows(0))
        asked.predict(make_chunk(rng.integers(0, V, 10))).row(0, 9)
        asked.observe(chunk)
        untouched.observe(chunk)


def test_a_caller_may_write_into_the_chunk_that_it_showed() -> None:
    """Predicting one chunk, overwriting its arrays and observing them learns from what was observed."""
    plain, reused = learner(), learner()
    first, second = text(8), text(8, 1)
    chunk = make_chunk(first)
    reused.predict(chunk).realised()
    chunk.tokens[0] = second
    reused.observe(chunk)
    plain.observe(make_chunk(second))
    for ours, theirs in zip(reused.adapters.parameters(), plain.adapters.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert reused.learning.updates == 1


@pytest.mark.parametrize("foreign", [-1, V])
def test_unknown_ids_are_refused(foreign: int) -> None:
    """An id outside the vocabulary is refused with the range found, before anything changes; padding may hold it."""
    predictor, untouched = learner(), learner()
    chunk, good = make_chunk([2, 3, foreign]), make_chunk(text(8))
    for ask in (predictor.predict, predictor.observe):
        with pytest.raises(TokenizerError, match=rf"token ids .*{foreign}.* are not in the vocabulary 0\.\.39"):
            ask(chunk)
    padded = Chunk(np.append(good.tokens, [[foreign]], axis=1), good.lengths, good.starts)
    np.testing.assert_array_equal(predictor.predict(padded).all_rows(0), untouched.predict(good).all_rows(0))


def test_rows_agree_with_each_other() -> None:
    """`realised`, `row` and `all_rows` say the same bits, rows sum to one, padding is refused and credited 0."""
    predictor = learner(3)
    rng = np.random.default_rng(0)
    chunk = Chunk(rng.integers(2, V, (3, 20)), np.array([20, 0, 13]), np.array([True, False, True]))
    rows = predictor.predict(chunk)
    credits = rows.realised()
    for lane, length in enumerate(chunk.lengths):
        whole = rows.all_rows(lane)
        assert whole.shape == (length, V)
        np.testing.assert_allclose(np.exp(whole).sum(axis=1), 1.0, atol=1e-9)
        for t in range(length):
            np.testing.assert_array_equal(rows.row(lane, t), whole[t])
            assert credits[lane, t] == whole[t, chunk.tokens[lane, t]]
    assert not credits[1].any() and not credits[2, 13:].any()
    with pytest.raises(IndexError, match="lane 2 position 13 is padding"):
        rows.row(2, 13)


@pytest.mark.parametrize("size", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_a_stream_decodes(size: int) -> None:
    """Two documents and an empty one coded and decoded with equal predictors, in chunks of any length."""
    tokens = stream_of([text(9), text(0), text(2, 1)])
    code = encode_tokens(learner(), tokens, size)
    np.testing.assert_array_equal(decode_tokens(learner(), code, len(tokens), size), tokens)


def test_lanes_decode() -> None:
    """Documents side by side, more lanes than some need, are given back by the plan's lengths alone."""
    documents = [text(n, n) for n in (18, 0, 8, 3)]
    order = plan([len(d) for d in documents], lanes=3, chunk=16)
    code, claimed = encode_plan(learner(3), documents, order, BOUNDARY)
    assert len(code) * 8 < claimed + 64
    for found, document in zip(decode_plan(learner(3), code, order, BOUNDARY), documents, strict=True):
        np.testing.assert_array_equal(found, document)


@pytest.mark.slow
def test_one_document_in_many_lanes() -> None:
    """Lanes that never get a token change nothing."""
    document = text(25)
    np.testing.assert_allclose(
        score_of(learner(5), [document], 5).bits, score_of(learner(2), [document], 2).bits, atol=1e-5
    )


def test_the_model_that_was_given_never_changes() -> None:
    """The window's model keeps its weights and still takes gradients."""
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    predictor = LoraPredictor(WindowPredictor(model, dataclasses.replace(SCORE, global_documents=1), V, BOUNDARY))
    score_of(predictor, [text(20), text(20, 1)], 1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_lane_whose_numbers_are_not_finite_rests_and_the_others_go_on() -> None:
    """An infinite gradient in one lane leaves its adapters as they were until its document ends; others learn."""
    predictor, clean = learner(3), learner(3)
    rng = np.random.default_rng(3)
    first, second = (Chunk(rng.integers(2, V, (3, 8)), np.full(3, 8), np.array([start] * 3)) for start in (True, False))
    poison = np.zeros(3, dtype=bool)
    poison[1] = True
    gradients = tuple(
        torch.where(torch.from_numpy(poison)[:, None, None], math.inf, 0.1).expand(p.shape)
        for p in predictor.adapters.parameters()
    )
    for one in (predictor, clean):
        one.observe(first)
    before = predictor._states
    after = before.stepped(gradients, np.ones(3, dtype=bool))
    assert after.resting.tolist() == [False, True, False]
    assert after.steps.tolist() == [2, 1, 2]
    for new, old in zip(after.adapters.parameters(), before.adapters.parameters(), strict=True):
        assert torch.equal(new[..., 1, :, :], old[..., 1, :, :])
        assert new.isfinite().all()
    assert not torch.equal(after.adapters.head_b[0], before.adapters.head_b[0])
    predictor._states = after
    predictor.observe(second)
    assert torch.equal(predictor.adapters.head_b[1], before.adapters.head_b[1])
    predictor.observe(Chunk(first.tokens, first.lengths, np.array([False, True, False])))
    assert predictor._states.resting.tolist() == [False] * 3 and predictor.adapters.head_b[1].any()


def test_weights_that_make_no_numbers_stop_with_a_word() -> None:
    """A model whose gradients overflow scores on with its adapters as they were, and the record says why."""
    recipe = dataclasses.replace(SCORE, lora_alpha=1e38)
    predictor = learner(recipe=recipe)
    rows = all_rows(predictor, text(40), 8)
    assert np.isfinite(rows).all()
    assert "lane 0" in predictor.learning.stopped and predictor.learning.updates == 0


def test_settings_that_cannot_be_are_refused() -> None:
    """A piece longer than the window, or chunks that straddle where weights move, name the numbers."""
    with pytest.raises(RecipeError, match=r"lora_chunks=8 names more than score\.window=7"):
        learner(recipe=dataclasses.replace(SCORE, window=7, stride=4))
    phased = dataclasses.replace(SCORE, global_documents=1)
    with pytest.raises(RecipeError, match=r"score\.chunk=16 is no multiple of chunks of 5"):
        learner(recipe=phased, chunk=5)
    predictor = learner(recipe=phased)
    predictor.observe(make_chunk(text(10)))
    with pytest.raises(ValueError, match="chunk of 7 tokens straddles"):
        predictor.predict(make_chunk(text(7)))
    with pytest.raises(ValueError, match="a chunk of 1 lanes for a predictor of 2"):
        learner(2).predict(make_chunk(text(7)))
