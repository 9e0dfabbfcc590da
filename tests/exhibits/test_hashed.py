"""The hashed n-gram caches: published hashes and tables to the number, sums that are not one, no other fault."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramgolf.exhibits import EXHIBITS
from paramgolf.exhibits.hashed_ngram import HashedNgram, filled
from paramgolf.exhibits.hashed_tables import (
    FIVE,
    PR727,
    PR887,
    PR1430,
    TEN,
    HashedFamily,
    HashedTables,
    context_keys,
    pair_keys,
)
from paramgolf.predict.protocol import Chunk, TableRows
from paramgolf.referee.probes import probe_predictor

MASK = (1 << 22) - 1


def counted(family: HashedFamily, vocab_size: int, tokens: list[int]) -> HashedTables:
    """Tables that have counted one stream, as one rank does."""
    size = max(family.orders) - 1
    tables = HashedTables(family, vocab_size)
    joined = np.array([[-1] * size + tokens])
    tables.count(joined, np.ones((1, len(tokens)), dtype=np.bool_))
    return tables


def asked(tables: HashedTables, context: list[int]) -> tuple[np.ndarray, int]:
    """What the tables say of every token after a context, and the order that said it."""
    size = max(tables.family.orders) - 1
    joined = np.array([[*([-1] * size + context)[-size:], 0]])
    said, order = tables.ratios(joined, size)
    return said[0, 0], int(order[0, 0])


@pytest.mark.parametrize(
    ("context", "token", "context_key", "pair_key"),
    [
        ([5], 7, 181565, 8892),
        ([1, 2], 3, 22967, 132234),
        ([1, 2, 3], 4, 132234, 459950),
        ([1023] * 3, 1023, 12096943, 71726680),
        (list(range(1, 22)), 22, 15436441, 14854691),
    ],
)
def test_the_keys_of_1430(context: list[int], token: int, context_key: int, pair_key: int) -> None:
    """pr1430.md 11: context and pair keys, for up to 21 tokens of context."""
    key = context_keys(np.array(context), TEN)
    assert (int(key), int(pair_keys(key, np.array(token), len(context) + 1, TEN))) == (context_key, pair_key)


def test_the_buckets_of_1430() -> None:
    """pr1430.md 11: 2^22 buckets mask the key, 4,000,000 buckets take the remainder."""
    assert [key & MASK for key in (12096943, 71726680, 15436441, 14854691)] == [3708335, 423512, 2853529, 2271779]
    for buckets, expected in ((1 << 22, (3708335, 423512)), (4_000_000, (96943, 3726680))):
        tables = counted(HashedFamily((4,), TEN, buckets), 1024, [1023] * 4)
        assert (int(tables.context[0].argmax()), int(tables.pair[0].argmax())) == expected


def test_the_hash_of_1430_cannot_tell_positions_ten_apart() -> None:
    """pr1430.md 11 and 6.2: swapping tokens 0 and 10 leaves the key, and equal ones cancel."""
    context = np.arange(1, 22)
    swapped = context.copy()
    swapped[[0, 10]] = swapped[[10, 0]]
    assert context_keys(context, TEN) == context_keys(swapped, TEN)
    one, other = context.copy(), context.copy()
    one[[0, 10]], other[[0, 10]] = 7, 900
    assert context_keys(one, TEN) == context_keys(other, TEN)
    assert int(context_keys(np.array([3, 2, 1]), TEN)) == 111706  # the ancestor's lookup, newest first


def test_the_weights_of_1430() -> None:
    """pr1430.md 11: alpha for nine entropies."""
    entropies = np.array([0, 0.5, 1, 1.5, 2, 2.5, 3, 4, math.log(1024)])
    expected = [0.203681, 0.209892, 0.226084, 0.265562, 0.347918, 0.475, 0.602082, 0.723916, 0.749922]
    assert PR1430.alpha(entropies) == pytest.approx(expected, abs=5e-7)


MIXER = dataclasses.replace(PR1430, orders=(2, 3), weight=1, active_after=0)


@pytest.mark.parametrize(
    ("context", "token", "order", "p", "nll"),
    [
        ([1, 2], 3, 3, 1.0, 0.859362),
        ([1, 2], 4, 3, 0.0, 1.936957),
        ([3, 3], 1, 2, 1.0, 0.859362),
        ([4], 1, 1, 1 / 3, 1.438688),
        ([4], 4, 1, 0.047619, 1.848702),
    ],
)
def test_the_mixer_of_1430(context: list[int], token: int, order: int, p: float, nll: float) -> None:
    """pr1430.md 11: V=5, 2^22 buckets, orders to 3, a uniform model; order that hits, ratio, cost of the mixture."""
    said, hit = asked(counted(MIXER, 5, [1, 2, 3, 1, 2, 3, 1, 2]), context)
    assert hit == order and said[token] == pytest.approx(p, abs=5e-7)
    weight = float(MIXER.alpha(np.array(math.log(5))))
    assert weight == pytest.approx(0.279290, abs=5e-7)
    assert -math.log((1 - weight) / 5 + weight * said[token]) == pytest.approx(nll, abs=1e-6)


def test_the_predictor_credits_the_mixture() -> None:
    """The same numbers through `observe` and `predict`, one token at a time or a stream at once."""
    stream = [1, 2, 3, 1, 2, 3, 1, 2]
    for pieces in ([stream], [[token] for token in stream]):
        predictor = HashedNgram(Uniform(5), MIXER)
        for number, piece in enumerate(pieces):
            predictor.observe(Chunk(np.array([piece]), np.array([len(piece)]), np.array([number == 0])))
        row = predictor.predict(Chunk(np.array([[3]]), np.array([1]), np.array([False]))).row(0, 0)
        assert row[3] == pytest.approx(-0.859362, abs=1e-6) and row[4] == pytest.approx(-1.936957, abs=1e-6)


def test_four_buckets_as_in_1430() -> None:
    """pr1430.md 11, collisions: both tables of order 2, the ratios after [1], their sum, and by their own sum."""
    tables = counted(dataclasses.replace(MIXER, orders=(2,), buckets=4), 5, [1, 2, 3, 1, 2, 3, 1, 2])
    assert tables.context[0].tolist() == [0, 3, 2, 2] and tables.pair[0].tolist() == [2, 0, 0, 5]
    said, _ = asked(tables, [1])
    assert said == pytest.approx([0, 0, 1, 2 / 3, 0]) and said.sum() == pytest.approx(1.6667, abs=5e-5)
    cells = tables.pair[0][pair_keys(context_keys(np.array([1]), TEN), np.arange(5), 2, TEN) % 4]
    assert cells / cells.sum() == pytest.approx([0, 0, 5 / 7, 2 / 7, 0])


STREAM = [0, 1, 2, 3, 1, 2, 0, 1, 2, 2, 3, 0]


def test_the_counterexample_to_hashed_tables() -> None:
    """pr1185.md 4.7: tables, ratios and sums of every context, with and without add-one."""
    raw = counted(HashedFamily((2,), FIVE, 4, min_count=1), 4, STREAM)
    assert raw.context[0].tolist() == [2, 3, 4, 2] and raw.pair[0].tolist() == [2, 0, 1, 8]
    expected = [[1, 1, 0.5, 0], [0, 1 / 3, 1, 2 / 3], [0.25, 0, 0.5, 1], [1, 1, 0, 0.5]]
    assert np.array([asked(raw, [u])[0] for u in range(4)]) == pytest.approx(np.array(expected))
    one = counted(HashedFamily((2,), FIVE, 4, min_count=1, add_one=True), 4, STREAM)
    assert [asked(one, [u])[0].sum() for u in range(4)] == pytest.approx([2.5, 15 / 7, 1.875, 2.5])


@given(st.integers(1, 200), st.integers(2, 40))
def test_one_bucket_is_the_limit(events: int, vocab_size: int) -> None:
    """pr1185.md 4.7: with one bucket the ratios sum to V, add-one to V (n + 1) / (n + V)."""
    tokens = [n % vocab_size for n in range(events + 1)]
    for add_one, total in ((False, vocab_size), (True, vocab_size * (events + 1) / (events + vocab_size))):
        tables = counted(HashedFamily((2,), FIVE, 1, min_count=1, add_one=add_one), vocab_size, tokens)
        assert asked(tables, [0])[0].sum() == pytest.approx(total)


def test_oracle_seven() -> None:
    """pr1185.md 7, O7: V=8 and ten events in one bucket sum to 8, and to 4.8888888889 with add-one."""
    for add_one, total in ((False, 8.0), (True, 4.8888888889)):
        tables = counted(HashedFamily((2,), FIVE, 1, add_one=add_one), 8, [n % 8 for n in range(11)])
        assert asked(tables, [3])[0].sum() == pytest.approx(total, abs=1e-10)


@given(st.lists(st.integers(0, 7), min_size=8, max_size=60), st.sampled_from([PR727, PR887, PR1430]))
def test_the_tables_are_those_of_a_plain_dictionary(tokens: list[int], family: HashedFamily) -> None:
    """Counting token by token into a dictionary of buckets gives the same tables."""
    family = dataclasses.replace(family, buckets=97, orders=family.orders[:4])
    context: dict[tuple[int, int], int] = {}
    pair: dict[tuple[int, int], int] = {}
    for end in range(len(tokens)):
        for order in family.orders:
            if end >= order - 1:
                key = 0
                for k, token in enumerate(tokens[end - order + 1 : end]):
                    key ^= token * family.primes[k % len(family.primes)]
                both = key ^ (tokens[end] * family.primes[(order - 1) % len(family.primes)])
                context[order, key % 97] = context.get((order, key % 97), 0) + family.weight
                pair[order, both % 97] = pair.get((order, both % 97), 0) + family.weight
    tables = counted(family, 8, tokens)
    for index, order in enumerate(family.orders):
        assert tables.context[index].tolist() == [context.get((order, bucket), 0) for bucket in range(97)]
        assert tables.pair[index].tolist() == [pair.get((order, bucket), 0) for bucket in range(97)]


class Uniform:
    """Knows nothing."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def predict(self, chunk: Chunk) -> TableRows:
        return TableRows(np.full((*chunk.tokens.shape, self.vocab_size), -np.log(self.vocab_size)), chunk)

    def observe(self, chunk: Chunk) -> None:
        pass


HASHED = ["hashed-cache", "hashed-727", "hashed-887", "hashed-add-one", "hashed-1430"]
DOCUMENTS = [np.random.default_rng(n).zipf(1.3, 250) % 48 for n in range(3)]


@pytest.mark.parametrize("name", HASHED)
@pytest.mark.parametrize("lanes", [1, 3])
def test_each_is_caught_by_its_sum_and_has_no_other_fault(name: str, lanes: int) -> None:
    """Causal, pure, scored before learnt: of all probes those on the sum alone fail."""
    exhibit = EXHIBITS[name]
    assert exhibit.rule == "sums-to-one"
    found = probe_predictor(
        lambda held_out: exhibit.build(lambda: Uniform(49), held_out),
        DOCUMENTS, lanes=lanes, chunk=32, boundary_id=48, seed=5, positions=12, counterfactuals=1,
    )  # fmt: skip
    failed = {finding.rule for finding in found if finding.status == "FAIL"}
    assert failed == {"sums-to-one", "counterfactual-sum", "blind-decode"}


@pytest.mark.parametrize("name", HASHED)
def test_each_saves_on_noise_what_cannot_be_saved(name: str) -> None:
    """Uniform tokens cost less than ln V a token, by more than chance gives an honest predictor (pr1430.md 8.3, T5)."""
    noise = np.random.default_rng(3).integers(0, 32, 3200)
    predictor = EXHIBITS[name].build(lambda: Uniform(32), [noise])
    nats = 0.0
    for begin in range(0, len(noise), 64):
        chunk = Chunk(noise[None, begin : begin + 64], np.array([64]), np.array([begin == 0]))
        nats -= float(predictor.predict(chunk).realised().sum())
        predictor.observe(chunk)
    assert len(noise) * math.log(32) - nats > 20.7


def test_the_exhibits_have_few_buckets_and_nothing_else_changed() -> None:
    """`filled` makes the tables small and the wait short, and leaves the published rule alone."""
    small = filled(PR1430)
    assert (small.buckets, small.active_after) == (256, 64) and PR1430.buckets == 1 << 22
    assert dataclasses.replace(small, buckets=PR1430.buckets, active_after=5000) == PR1430
    assert PR1430.orders == tuple(range(2, 23)) and PR727.orders == tuple(range(2, 8))
