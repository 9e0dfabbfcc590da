"""Orders of documents: pure functions of lengths, every token once, and every bit that tells them paid."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramgolf.errors import RecipeError
from paramgolf.predict.orders import ORDERS, order_class, permutation_bits, processing_order
from paramgolf.predict.plan import elias_gamma_bits, plan

BOUNDARY = 7_000_000
lengths_of_documents = st.lists(st.integers(0, 9), max_size=9)


def texts(lengths):
    return [1000 * d + np.arange(n) + 1 for d, n in enumerate(lengths)]


def test_longest_first_keeps_equals_in_order():
    """Spec 5.1's lengths 5, 3, 9, 4, 7: the longest comes first; two of one length as they come."""
    assert processing_order("longest-first", [5, 3, 9, 4, 7]).tolist() == [2, 4, 0, 3, 1]
    assert processing_order("longest-first", [2, 0, 2, 0]).tolist() == [0, 2, 1, 3]
    assert processing_order("stream", [2, 0, 2]).tolist() == [0, 1, 2]


@given(lengths_of_documents, st.integers(1, 4), st.integers(1, 6))
def test_longest_first_is_the_plan_of_sorted_documents(lengths, lanes, chunk):
    """Chunk by chunk it hands out what the stream of the sorted documents does, and it names the right documents."""
    order = processing_order("longest-first", lengths)
    mine = plan(lengths, lanes=lanes, chunk=chunk, order="longest-first")
    other = plan([lengths[d] for d in order], lanes=lanes, chunk=chunk)
    pairs = zip(mine.chunks(texts(lengths), BOUNDARY), other.chunks([texts(lengths)[d] for d in order], BOUNDARY))
    assert all(one.same_as(two) for one, two in pairs)
    assert mine.steps == other.steps
    assert mine.document_index().tolist() == order[other.document_index()].tolist()
    assert mine.position_index().tolist() == other.position_index().tolist()


@given(lengths_of_documents, st.integers(1, 6))
def test_ranks_share_the_lanes_of_any_order(lengths, chunk):
    """Two ranks with one lane each hand out what one rank with two does."""
    whole = list(plan(lengths, lanes=2, chunk=chunk, order="longest-first").chunks(texts(lengths), BOUNDARY))
    ranks = [plan(lengths, chunk=chunk, rank=rank, world=2, order="longest-first") for rank in range(2)]
    halves = [list(one.chunks(texts(lengths), BOUNDARY)) for one in ranks]
    assert len(halves[0]) == len(halves[1]) == len(whole)
    for step, together in enumerate(whole):
        assert np.concatenate([half[step].tokens for half in halves]).tolist() == together.tokens.tolist()


def test_one_lane_pays_for_the_lengths_once_their_order_counts():
    """In the stream's order the number of tokens is told; in another one the lengths, and the order follows."""
    lengths = [3, 0, 7, 7]
    assert plan(lengths, chunk=4).side_bits == elias_gamma_bits([3 + 0 + 7 + 7 + 4 + 1])
    assert plan(lengths, chunk=4, order="longest-first").side_bits == elias_gamma_bits([4, 1, 8, 8])


@given(lengths_of_documents, st.integers(2, 4))
def test_several_lanes_pay_nothing_more_for_an_order(lengths, lanes):
    """The lengths in document order are told already."""
    bits = {plan(lengths, lanes=lanes, chunk=4, order=order).side_bits for order in ORDERS}
    assert bits == {elias_gamma_bits(np.array(lengths, dtype=np.int64) + 1)}


@given(st.lists(st.integers(0, 3), max_size=6))
def test_permutation_bits_count_the_orders_that_a_decoder_could_mean(lengths):
    """log2 of how many different rows of lengths have these values; at most log2 D!; none for the stream."""
    ways = len(set(itertools.permutations(lengths)))
    assert permutation_bits("longest-first", lengths) == pytest.approx(math.log2(ways), abs=1e-9)
    assert permutation_bits("longest-first", lengths) <= math.log2(math.factorial(len(lengths))) + 1e-9
    assert permutation_bits("stream", lengths) == 0.0
    assert plan(lengths, chunk=3, order="longest-first").permutation_bits == permutation_bits("longest-first", lengths)


def test_the_contests_fifty_thousand_documents_need_half_a_megabit():
    """V12: at most 0.55 to 0.6 Mbit for 50,000 documents (log2 D! is 0.71 Mbit; ties of real lengths save some)."""
    distinct = permutation_bits("longest-first", np.arange(50_000))
    assert distinct == pytest.approx(sum(math.log2(n) for n in range(2, 50_001)))
    tied = np.random.default_rng(0).geometric(1 / 900, 50_000)
    assert 0.4e6 < permutation_bits("longest-first", tied) < 0.6e6


def test_order_classes():
    """V12: an order that no credit depends on is stateless."""
    assert order_class("stream", carries=True) == order_class("stream", carries=False) == "stream"
    assert order_class("longest-first", carries=False) == "permuted-stateless"
    assert order_class("longest-first", carries=True) == "permuted-stateful"


def test_small_texts_and_unknown_orders():
    """No document, one, empty ones, more lanes than documents; an unknown order names the known ones."""
    for lengths in ([], [0], [5], [0, 0]):
        for lanes in (1, 3):
            one = plan(lengths, lanes=lanes, chunk=2, order="longest-first")
            handed = [chunk.tokens[chunk.real()] for chunk in one.chunks(texts(lengths), BOUNDARY)]
            assert sum(map(len, handed)) == one.token_count == sum(lengths) + (len(lengths) if lanes == 1 else 0)
    with pytest.raises(RecipeError, match=r"'shuffled' is none of stream, longest-first"):
        plan([3], chunk=2, order="shuffled")
