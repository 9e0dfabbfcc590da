"""Promises of `plan`: every token once, in an order that lengths alone decide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramgolf.errors import TextError
from paramgolf.predict.plan import Plan, elias_gamma_bits, plan

BOUNDARY = 7_000_000
lengths_of_documents = st.lists(st.integers(0, 40), max_size=12)
shapes = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 3))


def distinct_tokens(lengths: list[int]) -> list[np.ndarray]:
    """Documents whose every token names its document and position: 1000 d + t + 1."""
    return [1000 * d + np.arange(n, dtype=np.int32) + 1 for d, n in enumerate(lengths)]


def plans_of_all_ranks(lengths: list[int], lanes: int, chunk: int, world: int) -> list[Plan]:
    return [plan(lengths, lanes=lanes, chunk=chunk, rank=rank, world=world) for rank in range(world)]


def credited(one: Plan, lengths: list[int]) -> np.ndarray:
    """The tokens that a scorer would credit, in plan order."""
    chunks = one.chunks(distinct_tokens(lengths), BOUNDARY)
    return np.concatenate([chunk.tokens[chunk.real()] for chunk in chunks] or [np.zeros(0, dtype=np.int64)])


@given(lengths_of_documents, shapes)
def test_every_token_is_visited_exactly_once(lengths: list[int], shape: tuple[int, int, int]) -> None:
    """Over all ranks each token of each document is credited once; one lane adds one boundary a document."""
    lanes, chunk, world = shape
    ranks = plans_of_all_ranks(lengths, lanes, chunk, world)
    seen = np.concatenate([credited(one, lengths) for one in ranks])
    expected = np.concatenate([np.zeros(0, dtype=np.int64), *distinct_tokens(lengths)])
    if lanes * world == 1:
        expected = np.append(expected, np.full(len(lengths), BOUNDARY))
    np.testing.assert_array_equal(np.sort(seen), np.sort(expected))
    assert sum(one.token_count for one in ranks) == len(expected)


@given(lengths_of_documents, shapes)
def test_the_index_names_each_credited_token(lengths: list[int], shape: tuple[int, int, int]) -> None:
    """document_index and position_index are those of the token that the chunk hands out at that place."""
    lanes, chunk, world = shape
    for one in plans_of_all_ranks(lengths, lanes, chunk, world):
        tokens = credited(one, lengths)
        named = 1000 * one.document_index() + one.position_index() + 1
        ends = one.position_index() == np.array(lengths, dtype=np.int64)[one.document_index()]
        np.testing.assert_array_equal(tokens, np.where(ends, BOUNDARY, named))


@given(lengths_of_documents, st.integers(1, 9))
def test_one_lane_is_the_stream(lengths: list[int], chunk: int) -> None:
    """One lane hands out doc, boundary, doc, boundary ... in full chunks but the last, and starts once."""
    documents = distinct_tokens(lengths)
    stream = [token for ids in documents for token in [*ids.tolist(), BOUNDARY]]
    one = plan(lengths, chunk=chunk)
    chunks = list(one.chunks(documents, BOUNDARY))
    assert [int(c.lengths[0]) for c in chunks] == [min(chunk, len(stream) - i) for i in range(0, len(stream), chunk)]
    assert credited(one, lengths).tolist() == stream
    assert [bool(c.starts[0]) for c in chunks] == [i == 0 for i in range(len(chunks))]
    assert one.side_bits == len(elias_gamma(len(stream) + 1))


def plain_lanes(lengths: list[int], lanes: int, chunk: int) -> list[list[tuple[int, int, int]]]:
    """The rule of the contract, one step at a time: [step][lane] = (document, offset, length) or (-1, 0, 0)."""
    waiting = [d for d, n in enumerate(lengths) if n]
    work: list[tuple[int, int] | None] = [None] * lanes
    steps = []
    while waiting or any(work):
        for lane in range(lanes):
            if work[lane] is None and waiting:
                work[lane] = (waiting.pop(0), 0)
        row = []
        for lane in range(lanes):
            if work[lane] is None:
                row.append((-1, 0, 0))
                continue
            document, offset = work[lane]
            length = min(chunk, lengths[document] - offset)
            row.append((document, offset, length))
            work[lane] = (document, offset + length) if offset + length < lengths[document] else None
        steps.append(row)
    return steps


@given(lengths_of_documents, st.integers(2, 4), st.integers(1, 9))
def test_lanes_follow_the_rule_in_its_plainest_form(lengths: list[int], lanes: int, chunk: int) -> None:
    """Each lane takes the next document when it is free; chunks end at document ends; starts mark first chunks."""
    steps = plain_lanes(lengths, lanes, chunk)
    documents = distinct_tokens(lengths)
    chunks = list(plan(lengths, lanes=lanes, chunk=chunk).chunks(documents, BOUNDARY))
    assert len(chunks) == len(steps)
    for handed, row in zip(chunks, steps, strict=True):
        assert handed.tokens.shape == (lanes, chunk)
        for lane, (document, offset, length) in enumerate(row):
            assert handed.lengths[lane] == length
            assert handed.starts[lane] == (document >= 0 and offset == 0)
            if document >= 0:
                expected = documents[document][offset : offset + length]
                np.testing.assert_array_equal(handed.tokens[lane, :length], expected)
                assert not handed.tokens[lane, length:].any()


@given(lengths_of_documents, st.integers(1, 9))
def test_ranks_split_the_lanes_of_one_machine(lengths: list[int], chunk: int) -> None:
    """Two ranks with two lanes hand out, row for row, what one rank with four lanes does."""
    documents = distinct_tokens(lengths)
    whole = list(plan(lengths, lanes=4, chunk=chunk).chunks(documents, BOUNDARY))
    halves = [list(one.chunks(documents, BOUNDARY)) for one in plans_of_all_ranks(lengths, 2, chunk, 2)]
    assert len(halves[0]) == len(halves[1]) == len(whole)
    for step, together in enumerate(whole):
        for name in ("tokens", "lengths", "starts"):
            joined = np.concatenate([getattr(half[step], name) for half in halves])
            np.testing.assert_array_equal(joined, getattr(together, name))


def elias_gamma(number: int) -> str:
    binary = bin(number)[2:]
    return "0" * (len(binary) - 1) + binary


@given(st.lists(st.integers(1, 2**40), max_size=20))
def test_elias_gamma_bits_are_those_of_the_code(numbers: list[int]) -> None:
    """The count equals the length of the written-out code, also next to powers of two."""
    for known in (numbers, [2**k - 1 for k in range(1, 50)], [2**k for k in range(50)]):
        assert elias_gamma_bits(known) == sum(len(elias_gamma(number)) for number in known)


def test_lanes_pay_for_the_lengths() -> None:
    """Side information: length + 1 of every document with several lanes, the number of tokens + 1 with one."""
    assert plan([0, 1, 6, 7], lanes=2, chunk=4).side_bits == sum(len(elias_gamma(n)) for n in (1, 2, 7, 8))
    assert plan([0, 1, 6, 7], chunk=4).side_bits == len(elias_gamma(18 + 1))


def test_an_empty_document_has_only_its_boundary() -> None:
    """Empty documents cost one token in the stream and nothing in lanes."""
    assert credited(plan([0, 0], chunk=3), [0, 0]).tolist() == [BOUNDARY, BOUNDARY]
    assert plan([0, 0], lanes=2, chunk=3).steps == 0
    assert plan([], chunk=3).steps == 0


def test_another_text_is_refused() -> None:
    """Documents of other lengths than the plan was made for raise at once, with both totals."""
    with pytest.raises(TextError, match=r"2 documents, 5 tokens.*2 documents, 6 tokens"):
        plan([2, 3], chunk=4).chunks([np.zeros(2), np.zeros(4)], 0)


@pytest.mark.parametrize("wrong", [{"chunk": 0}, {"lanes": 0}, {"world": 0}, {"rank": 1}, {"lengths": [3, -1]}])
def test_impossible_plans_are_refused(wrong: dict[str, object]) -> None:
    """Sizes below one, a rank outside the world and negative lengths raise ValueError."""
    settings: dict[str, object] = {"lengths": [3], "chunk": 4, **wrong}
    with pytest.raises(ValueError, match="plan:"):
        plan(settings.pop("lengths"), **settings)
