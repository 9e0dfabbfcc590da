"""Strict SLOT: what it sees, what it serves, and that nothing else moves."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.codec.arithmetic import decode_tokens, encode_tokens
from paramgolf.errors import CheckFailed, RecipeError
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.model.gpt import GPT
from paramgolf.predict.mix import MixPredictor
from paramgolf.predict.ngram import NgramPredictor
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Chunk, Float64, Predictor, TableRows
from paramgolf.predict.score import score
from paramgolf.predict.slot import SlotPredictor
from paramgolf.predict.slot_fit import fit
from paramgolf.predict.slot_lane import Offsets
from paramgolf.predict.slot_readout import FixedReadout
from paramgolf.predict.step import StepPredictor
from paramgolf.predict.ttt import TttPredictor
from paramgolf.predict.window import WindowPredictor
from paramgolf.recipe import ModelRecipe, ScoreRecipe

pytestmark = pytest.mark.usefixtures("one_thread")

V, BOUNDARY = 40, 1
MODEL = ModelRecipe(layers=2, width=16, heads=4, kv_heads=2)
SCORE = ScoreRecipe(window=16, stride=12, chunk=24, slot_context=20, slot_interval=8, slot_steps=4, slot_lr=0.1)
ON = ("hidden", "logits", "both")
KINDS = [
    dataclasses.replace(SCORE, slot_on=on, slot_optimizer=optimizer, slot_warm=warm)
    for on, optimizer, warm in [
        ("hidden", "adamw", 0.0),
        ("logits", "lbfgs", 0.9),
        ("both", "adamw", 0.5),
        ("both", "lbfgs", 0.0),
    ]
]


def make_weights(vocab_size: int = V) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = tensor_shapes(MODEL, vocab_size)
    return {name: (rng.standard_normal(shape) * 0.3).astype(np.float32) for name, shape in shapes.items()}


def make_step(recipe: ScoreRecipe = SCORE, vocab_size: int = V) -> StepPredictor:
    return StepPredictor(make_weights(vocab_size), MODEL, recipe, vocab_size, BOUNDARY)


def make_window(recipe: ScoreRecipe = SCORE, lanes: int = 1) -> WindowPredictor:
    model = GPT(MODEL, V)
    model.load_exported(make_weights())
    return WindowPredictor(model, recipe, V, BOUNDARY, lanes)


def slot_step(recipe: ScoreRecipe = SCORE) -> SlotPredictor:
    return SlotPredictor(make_step(recipe), recipe)


def slot_window(recipe: ScoreRecipe = SCORE, lanes: int = 1) -> SlotPredictor:
    return SlotPredictor(make_window(recipe, lanes), recipe, lanes)


def make_chunk(tokens: np.ndarray, lengths: list[int] | None = None, starts: list[bool] | None = None) -> Chunk:
    tokens = np.atleast_2d(np.asarray(tokens, dtype=np.int64))
    lanes, length = tokens.shape
    return Chunk(tokens, np.array(lengths or [length] * lanes), np.array(starts or [False] * lanes))


def rows_of(predictor: SlotPredictor, tokens: np.ndarray, size: int) -> Float64:
    """The rows of a lane that is fed in chunks of one length."""
    parts = [np.zeros((0, predictor.vocab_size))]
    for first in range(0, len(tokens), size):
        chunk = make_chunk(tokens[first : first + size])
        parts.append(predictor.predict(chunk).all_rows(0))
        predictor.observe(chunk)
    return np.concatenate(parts)


def text(count: int, seed: int = 0) -> np.ndarray:
    """Tokens of a few kinds only, so that there is something to fit."""
    return np.random.default_rng(seed).integers(0, 9, count)


def plain(recipe: ScoreRecipe, tokens: np.ndarray) -> Float64:
    """The definition: before every `slot_interval`-th position a fit on the `slot_context` tokens before it."""
    neural = make_step(recipe).predict(make_chunk(tokens))
    readout = make_step(recipe).readout(recipe.slot_on)
    features = neural.all_rows(0) if recipe.slot_on == "logits" else neural.states(0)
    rows, found = neural.all_rows(0).copy(), np.zeros(readout.parameters)
    for p in range(recipe.slot_interval, len(tokens), recipe.slot_interval):
        seen = slice(max(0, p - recipe.slot_context), p)
        found = fit(readout.objective(features[seen], tokens[seen]), recipe.slot_warm * found, recipe)
        rows[p : p + recipe.slot_interval] = readout.rows(features[p : p + recipe.slot_interval], found)
    return rows


@pytest.mark.parametrize("recipe", KINDS, ids=lambda r: f"{r.slot_on}-{r.slot_optimizer}")
def test_rows_are_those_of_the_definition(recipe: ScoreRecipe) -> None:
    """In one chunk, and token by token, the rows are bit for bit those of a plain loop over fits."""
    tokens = text(53)
    expected = plain(recipe, tokens)
    assert (rows_of(slot_step(recipe), tokens, 53) == expected).all()
    assert (rows_of(slot_step(recipe), tokens, 1) == expected).all()
    credits = slot_step(recipe).predict(make_chunk(tokens)).realised()[0]
    assert (credits == expected[np.arange(53), tokens]).all()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.sampled_from(KINDS))
def test_rows_have_the_same_bits_however_the_stream_is_cut(cuts: list[int], recipe: ScoreRecipe) -> None:
    """Over the stepwise model chunks of any lengths, empty ones too, give exactly the rows of one chunk."""
    tokens = text(sum(cuts))
    expected = rows_of(slot_step(recipe), tokens, max(len(tokens), 1))
    predictor, at = slot_step(recipe), 0
    for size in cuts:
        chunk = make_chunk(tokens[None, at : at + size])
        assert (predictor.predict(chunk).all_rows(0) == expected[at : at + size]).all()
        predictor.observe(chunk)
        at += size


@pytest.mark.parametrize("recipe", KINDS, ids=lambda r: f"{r.slot_on}-{r.slot_optimizer}")
def test_batched_and_stepwise_rows_are_near(recipe: ScoreRecipe) -> None:
    """From states the moved rows of both forms are equal to 1e-4; from rows, one of them rounded, to 0.02."""
    tokens = text(60)
    window, step = rows_of(slot_window(recipe), tokens, 24), rows_of(slot_step(recipe), tokens, 24)
    near = 0.02 if recipe.slot_on == "logits" else 1e-4
    np.testing.assert_allclose(window[8:], step[8:], atol=near)
    np.testing.assert_allclose(window[:8], step[:8], atol=1 / 256 + 1e-4)


def test_without_scored_context_the_rows_are_the_models() -> None:
    """The first interval of a lane has the bits of the model's own rows; the row after it has not."""
    tokens = text(20)
    for make, wrap in ((make_step, slot_step), (make_window, slot_window)):
        neural, rows = make().predict(make_chunk(tokens)), wrap().predict(make_chunk(tokens))
        assert (rows.all_rows(0)[:8] == neural.all_rows(0)[:8]).all()
        assert (rows.realised()[0, :8] == neural.realised()[0, :8]).all()
        assert all((rows.row(0, t) == neural.row(0, t)).all() for t in range(8))
        assert np.abs(rows.row(0, 8) - neural.row(0, 8)).max() > 1e-3


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_later_tokens_never_move_an_earlier_row(data: st.DataObject) -> None:
    """Replace the tokens of a chunk from any place on: every row up to that place keeps its bits."""
    recipe = data.draw(st.sampled_from(KINDS))
    length, seen = data.draw(st.integers(1, 40)), data.draw(st.integers(0, 20))
    cut = data.draw(st.integers(0, length - 1))
    other = text(length, seed=1)
    for predictor in (slot_step(recipe), slot_window(recipe)):
        predictor.observe(make_chunk(text(seen)[None]))
        tokens = text(length, seed=2)
        rows = predictor.predict(make_chunk(tokens)).all_rows(0)
        tokens[cut:] = other[cut:] + 20
        assert (predictor.predict(make_chunk(tokens)).all_rows(0)[: cut + 1] == rows[: cut + 1]).all()


@pytest.mark.parametrize("vocab_size", [256, 1024])
def test_rows_sum_to_one(vocab_size: int) -> None:
    """Moved rows are distributions to 1e-10 at the vocabularies of the contest."""
    tokens = np.random.default_rng(0).integers(0, vocab_size, 30)
    for recipe in KINDS:
        predictor = SlotPredictor(make_step(recipe, vocab_size), recipe)
        rows = rows_of(predictor, tokens, 30)
        np.testing.assert_allclose(np.exp(rows).sum(axis=1), 1.0, atol=1e-10)


@pytest.mark.parametrize("recipe", KINDS, ids=lambda r: f"{r.slot_on}-{r.slot_optimizer}")
def test_fitting_helps_on_a_text_of_few_tokens(recipe: ScoreRecipe) -> None:
    """Where nine tokens of forty occur, every form saves a tenth of the bits of the model at least."""
    tokens = text(240)
    at = np.arange(240)
    base = make_step().predict(make_chunk(tokens)).all_rows(0)[at, tokens].sum()
    strong = dataclasses.replace(recipe, slot_lr=0.5, slot_steps=12, slot_context=120)
    assert rows_of(slot_step(strong), tokens, 24)[at, tokens].sum() > 0.9 * base


def test_asking_changes_nothing() -> None:
    """Other chunks, asked about at any moment, long, short or with a start, leave every row as it was."""
    rng, recipe = np.random.default_rng(3), KINDS[2]
    tokens = text(40)
    expected = rows_of(slot_step(recipe), tokens, 1)
    predictor = slot_step(recipe)
    for t, token in enumerate(tokens):
        chunk = make_chunk([token])
        predictor.predict(make_chunk(rng.integers(0, V, 1 + t % 19), starts=[t % 5 == 0])).realised()
        assert (predictor.predict(chunk).row(0, 0) == expected[t]).all()
        predictor.predict(make_chunk(rng.integers(0, V, 3)))
        predictor.observe(chunk)


def test_a_row_alone_has_the_bits_of_all() -> None:
    """Whether one row is asked for, the credits or the lane: the same bits, in any order."""
    for recipe in KINDS:
        predictor = slot_window(recipe)
        predictor.observe(make_chunk(text(13)))
        chunk = make_chunk(text(30, seed=4))
        rows = predictor.predict(chunk).all_rows(0)
        assert all((predictor.predict(chunk).row(0, t) == rows[t]).all() for t in (29, 0, 17, 2))
        assert (predictor.predict(chunk).realised()[0] == rows[np.arange(30), chunk.tokens[0]]).sum() >= 27
        np.testing.assert_allclose(predictor.predict(chunk).realised()[0], rows[np.arange(30), chunk.tokens[0]])


def test_lanes_do_not_know_each_other() -> None:
    """Lanes of unequal length, one that starts a document, one that is empty: each has the rows it has alone."""
    recipe, rng = KINDS[2], np.random.default_rng(5)
    tokens, lengths = rng.integers(0, V, (4, 3, 21)), [[21, 4, 0], [21, 0, 13], [9, 21, 1], [3, 2, 21]]
    starts = [[True, True, True], [False, False, False], [True, False, False], [False, True, False]]
    together = slot_window(recipe, lanes=3)
    alone = [slot_window(recipe) for _ in range(3)]
    for part, size, start in zip(tokens, lengths, starts):
        chunk = make_chunk(part, size, start)
        rows = together.predict(chunk)
        assert (rows.realised()[~chunk.real()] == 0).all()
        for b in range(3):
            one = make_chunk(part[b], [size[b]], [start[b]])
            np.testing.assert_allclose(rows.all_rows(b), alone[b].predict(one).all_rows(0), atol=1e-4)
            alone[b].observe(one)
        together.observe(chunk)


def test_a_document_start_forgets_the_lane() -> None:
    """After a start the rows are those of a fresh predictor."""
    predictor, tokens = slot_step(KINDS[1]), text(30)
    predictor.observe(make_chunk(text(33, seed=6)))
    chunk = make_chunk(tokens, starts=[True])
    assert (predictor.predict(chunk).all_rows(0) == rows_of(slot_step(KINDS[1]), tokens, 30)).all()
    predictor.observe(chunk)
    follows, fresh = make_chunk(text(9)), slot_step(KINDS[1])
    fresh.observe(make_chunk(tokens))
    assert (predictor.predict(follows).all_rows(0) == fresh.predict(follows).all_rows(0)).all()


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("over", ["window", "ttt", "mix"])
def test_a_score_passes_its_audit(lanes: int, over: str) -> None:
    """The scorer's audit finds no error: empty documents, long ones, alone, over TTT and under a mixture."""
    recipe = dataclasses.replace(KINDS[2], ttt_chunk=48, ttt_lr=1e-2)
    neural: Predictor = make_window(recipe, lanes)
    if over == "ttt":
        neural = TttPredictor(make_window(recipe, lanes))
    predictor: Predictor = SlotPredictor(neural, recipe, lanes)
    if over == "mix":
        predictor = MixPredictor(predictor, NgramPredictor(2, V, BOUNDARY, lanes))
    documents = [text(n) for n in (130, 0, 1, 64, 0, 45)]
    order = plan([len(d) for d in documents], lanes=lanes, chunk=recipe.chunk)
    result = score(predictor, documents, order, BOUNDARY, raw_bytes=240, text_digest="x", audit_positions=12)
    assert result.audit.passed()
    assert result.audit.max_causal_error == 0


def test_over_ttt_it_reads_the_weights_of_the_moment() -> None:
    """With updates on the way the rows do not depend on the cut, and zero offsets give the learner's own rows."""
    recipe = dataclasses.replace(SCORE, ttt_chunk=48, ttt_lr=1e-2)
    tokens = text(120)

    def over_ttt(recipe: ScoreRecipe, size: int) -> Float64:
        return rows_of(SlotPredictor(TttPredictor(make_window(recipe), chunk=size), recipe), tokens, size)

    np.testing.assert_allclose(over_ttt(recipe, 24), over_ttt(recipe, 6), atol=5e-3)
    still = dataclasses.replace(recipe, slot_lr=1e-12, slot_least_lr=0.0)
    learner = TttPredictor(make_window(recipe))
    expected = []
    for first in range(0, 120, 24):
        expected.append(learner.predict(make_chunk(tokens[first : first + 24])).all_rows(0))
        learner.observe(make_chunk(tokens[first : first + 24]))
    np.testing.assert_allclose(over_ttt(still, 24), np.concatenate(expected), atol=2e-5)


@pytest.mark.parametrize("recipe", KINDS, ids=lambda r: f"{r.slot_on}-{r.slot_optimizer}")
def test_a_text_comes_back_from_its_code(recipe: ScoreRecipe) -> None:
    """Encoder and decoder, built apart, meet the same rows token by token; the encoder may look ahead in chunks."""
    tokens = text(90)
    code = encode_tokens(slot_step(recipe), tokens)
    assert (decode_tokens(slot_step(recipe), code, 90) == tokens).all()
    assert encode_tokens(slot_step(recipe), tokens, chunk=17) == code


def test_a_copy_goes_its_own_way() -> None:
    """A deep copy taken in the middle gives the same rows and shares nothing that moves."""
    predictor, tokens = slot_step(KINDS[2]), text(60)
    expected = rows_of(slot_step(KINDS[2]), tokens, 1)
    predictor.observe(make_chunk(tokens[:21]))
    twin = copy.deepcopy(predictor)
    twin.observe(make_chunk(text(9, seed=7)))
    assert (predictor.predict(make_chunk(tokens[21:])).all_rows(0) == expected[21:]).all()


def test_a_fit_that_meets_no_numbers_leaves_the_rows() -> None:
    """Offsets that come out as no number are dropped: the model's rows stand."""
    recipe = dataclasses.replace(SCORE, slot_lr=1e300, slot_least_lr=1e300, slot_on="logits")
    tokens = text(30)
    assert (rows_of(slot_step(recipe), tokens, 30) == make_step().predict(make_chunk(tokens)).all_rows(0)).all()


class Flat:
    """A base without states and without rows in full."""

    vocab_size = 16

    def predict(self, chunk: Chunk) -> TableRows:
        return TableRows(np.full((*chunk.tokens.shape, 16), -np.log(16.0)), chunk)

    def observe(self, chunk: Chunk) -> None:
        pass


def test_a_base_without_states_takes_a_bias_only() -> None:
    """On such a base "logits" is the fit of the definition, and the others are refused with the way out."""
    recipe = dataclasses.replace(SCORE, slot_on="logits")
    tokens = text(24)
    rows = rows_of(SlotPredictor(Flat(), recipe), tokens, 5)
    flat = np.full((20, 16), -np.log(16.0))
    readout = FixedReadout("logits", 16)
    bias = fit(readout.objective(flat[:16], tokens[:16]), np.zeros(16), recipe)
    np.testing.assert_allclose(rows[16:], readout.rows(flat[:8], bias), atol=1e-12)
    for on in ("hidden", "both"):
        with pytest.raises(RecipeError, match=f"slot_on='{on}' needs a model whose states .* not Flat; take 'logits'"):
            SlotPredictor(Flat(), dataclasses.replace(SCORE, slot_on=on))


def test_offsets_never_serve_what_they_were_fitted_on() -> None:
    """The built-in assertion: the last target of a fit lies before the first position it serves (spec section 12)."""
    offsets = Offsets(np.zeros(3), 7)
    assert offsets.for_position(8) is offsets
    with pytest.raises(CheckFailed, match="score-before-update: offsets fitted on position 7 for position 7"):
        offsets.for_position(7)


def test_bad_chunks_are_refused() -> None:
    """Another number of lanes, and ids outside the vocabulary, are named."""
    with pytest.raises(ValueError, match="a chunk of 2 lanes for a predictor of 1"):
        slot_window().predict(make_chunk(np.zeros((2, 3))))
    with pytest.raises(ValueError, match=r"tokens 0\.\.40 are outside 0\.\.39"):
        slot_window().predict(make_chunk([0, 40]))
    with pytest.raises(IndexError, match="padding"):
        slot_window().predict(make_chunk([1, 2, 3], [2])).row(0, 2)
