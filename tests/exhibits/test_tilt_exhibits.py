"""The tilt of #2140 as published, around honest bases: what gives each form away, and where it is harmless."""

from __future__ import annotations

import numpy as np
import pytest

from paramgolf.exhibits.gated_tilt import GatedTilt, UnspelledGatedTilt
from paramgolf.exhibits.toys.tilt import PIECES, OneRow
from paramgolf.exhibits.two_orders import HintsMadeBefore, TwoOrders
from paramgolf.predict.orders import processing_order
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Chunk
from paramgolf.predict.tilt import Expert, TiltPredictor
from paramgolf.predict.tilt_counts import ContextHints
from paramgolf.predict.tilt_experts import within_word_expert, word_start_expert

V = 9
FLAT = OneRow(np.full(V, 1 / V))


def documents(seed=0):
    rng = np.random.default_rng(seed)
    words = [[2, 5, 6], [3, 7], [4, 8, 8], [2, 5, 7]]
    return [np.array([t for _ in range(count) for t in words[rng.integers(4)]]) for count in (30, 12, 25, 4, 18)]


def one_lane(tokens, start=True):
    tokens = np.array([tokens], dtype=np.int64)
    return Chunk(tokens, np.array([tokens.shape[1]]), np.array([start]))


@pytest.mark.parametrize("lanes", [1, 3])
def test_gated_credits_are_the_rows_and_add_up_to_more_than_one(lanes):
    """The published form shows what every target would get: entries and credits agree, sums are one or more."""
    within, start = within_word_expert(PIECES, 1, lanes), word_start_expert(PIECES, lanes, words=1)
    predictor, sums = GatedTilt(FLAT, PIECES, within=within, start=start), []
    texts = documents()
    for chunk in plan([len(ids) for ids in texts], lanes=lanes, chunk=16).chunks(texts, 1):
        rows = predictor.predict(chunk)
        credits = rows.realised()
        for lane, position in np.argwhere(chunk.real()).tolist():
            row = rows.row(lane, position)
            assert row[chunk.tokens[lane, position]] == credits[lane, position]
            sums.append(float(np.exp(row).sum()))
        predictor.observe(chunk)
    assert min(sums) > 1 - 1e-9
    assert max(sums) > 1.05


def test_with_the_token_expert_alone_it_is_the_honest_tilt():
    """#2140's correction: without the two experts for words the same machine gives the same rows as `TiltPredictor`."""

    def expert():
        return Expert(ContextHints(V, 1, exact=2), 0.8, 2.625)

    text = np.concatenate(documents())
    gated, honest = GatedTilt(FLAT, PIECES, token=expert()), TiltPredictor(FLAT, [expert()])
    assert gated.predict(one_lane(text)).realised().tolist() == honest.predict(one_lane(text)).realised().tolist()


def test_a_published_score_is_lower_than_any_legal_form_of_it():
    """The leak spares the tilt where it would cost: less is credited than with the same hints offered to all."""
    words = [[2, 5, 6], [2, 5, 6], [2, 5], [3, 7], [3]]  # some go on where others end
    text = np.array([token for which in np.random.default_rng(0).integers(0, 5, 60) for token in words[which]])

    def experts():
        return within_word_expert(PIECES, 1), word_start_expert(PIECES, words=1)

    within, start = experts()
    gated = GatedTilt(FLAT, PIECES, within=within, start=start).predict(one_lane(text)).realised().sum()
    legal = TiltPredictor(FLAT, experts(), 0.5).predict(one_lane(text)).realised().sum()
    assert gated > legal


def test_gated_tilt_needs_no_spelling():
    """As an exhibit it wraps any base, and some row adds up to more than one."""
    predictor = UnspelledGatedTilt(FLAT)
    text = np.array([0, 3, 4, 8, 5, 0, 3, 4] * 8)
    rows = predictor.predict(one_lane(text))
    assert max(np.exp(rows.row(0, t)).sum() for t in range(len(text))) > 1.01


def test_gated_tilt_takes_any_number_of_lanes():
    """300 lanes are read like one."""
    predictor, tokens = UnspelledGatedTilt(FLAT), np.tile([0, 3, 4, 8, 5], (300, 8))
    chunk = Chunk(tokens, np.full(300, 40), np.ones(300, dtype=bool))
    predictor.observe(chunk)
    rows = predictor.predict(Chunk(tokens[:, :4], np.full(300, 4), np.zeros(300, dtype=bool)))
    assert max(np.exp(rows.row(299, t)).sum() for t in range(4)) > 1.01


@pytest.mark.parametrize("lanes", [1, 2, 7])
def test_hints_made_before_are_found_again_by_place(lanes):
    """Every token of every document is offered the hint that the pass over the other order made for it."""
    texts = [*documents(), np.zeros(0, dtype=np.int64)]
    lengths = [len(ids) for ids in texts]
    order = processing_order("longest-first", lengths)
    source = HintsMadeBefore(V, texts, order, np.arange(len(texts)), 2)
    honest, expected = ContextHints(V, 0, exact=2), {}
    for document in order.tolist():
        chunk = one_lane(texts[document])
        expected[document] = honest.hints(chunk, 0).token_T.tolist()
        honest.observe(chunk)
    one = plan(lengths, lanes=lanes, chunk=8)
    found = {document: [] for document in range(len(texts))}
    rows = one.segments
    for step, chunk in enumerate(one.chunks(texts, 1)):
        offered = [source.hints(chunk, lane).token_T.tolist() for lane in range(lanes)]
        for s in np.flatnonzero(rows.step == step):
            column, length = int(rows.column[s]), int(rows.length[s])
            found[int(rows.document[s])] += offered[int(rows.lane[s])][column : column + length]
        source.observe(chunk)
    for document, length in enumerate(lengths):
        assert found[document][:length] == expected[document]
        assert found[document][length:] == ([-1] if lanes == 1 else [])


def test_hints_of_another_order_hold_unscored_text():
    """Spec 9.8, second half, failed on purpose: another text in a document that is scored later moves an earlier
    one's credits. With one order for both nothing moves."""
    texts = documents(1)
    order = plan([len(ids) for ids in texts], chunk=16)
    first = len(texts[0])

    def credits_of_the_first(others, make):
        held_out = [texts[0], *others]
        predictor, found = make(held_out), []
        for chunk in order.chunks(held_out, 1):
            found.append(predictor.predict(chunk).realised()[0])
            predictor.observe(chunk)
        return np.concatenate(found)[:first].tolist()

    def two(held_out):
        return TwoOrders(FLAT, held_out, context=2)

    def one(_):
        return TiltPredictor(FLAT, [Expert(ContextHints(V, 1, exact=2), 0.6, 2.0)])

    others = [8 - ids for ids in texts[1:]]
    assert credits_of_the_first(texts[1:], one) == credits_of_the_first(others, one)
    assert credits_of_the_first(texts[1:], two) != credits_of_the_first(others, two)
