"""The rogues: each pretends a gain, each is caught by the rule that names it, and it is known what else gives it
away."""

import functools
import inspect
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from paramgolf.errors import CheckFailed
from paramgolf.exhibits import EXHIBITS
from paramgolf.exhibits.adapter import Adapter
from paramgolf.exhibits.hashed_cache import HashedCache
from paramgolf.exhibits.history import History
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Chunk, TableRows
from paramgolf.predict.score import score
from paramgolf.referee.probes import probe_predictor

V, BOUNDARY = 49, 48


@functools.cache
def text():
    """Five documents of source code in an alphabet of 48 characters."""
    sources = [inspect.getsource(module) for module in (textwrap, functools, inspect)]
    common = "".join(character for character, _ in Counter("".join(sources)).most_common(47))
    ids = [np.array([common.find(character) % 48 for character in source[300:1400]]) for source in sources]
    return (ids[0][:300], ids[1][:250], ids[2][:200], ids[0][500:750], ids[1][500:650])


class Bigrams:
    """The honest base: counts of pairs, learnt in observe, mixed with the counts of single tokens."""

    vocab_size = V

    def __init__(self):
        self.pairs = np.zeros((V, V))
        self.last = None

    def before(self, chunk):
        last = np.full(len(chunk.tokens), BOUNDARY) if self.last is None else self.last
        first = np.where(chunk.starts, BOUNDARY, last)
        return np.concatenate([first[:, None], chunk.tokens[:, :-1]], axis=1)

    def predict(self, chunk):
        single = (self.pairs.sum(axis=0) + 1) / (self.pairs.sum() + V)
        mixed = (self.pairs + 5 * single) / (self.pairs.sum(axis=1, keepdims=True) + 5)
        return TableRows(np.log(mixed)[self.before(chunk)], chunk)

    def observe(self, chunk):
        real = chunk.real()
        np.add.at(self.pairs, (self.before(chunk)[real], chunk.tokens[real]), 1)
        ends = chunk.tokens[np.arange(len(chunk.tokens)), np.maximum(chunk.lengths - 1, 0)]
        last = np.full(len(ends), BOUNDARY) if self.last is None else self.last
        self.last = np.where(chunk.lengths > 0, ends, last)


def bits_per_token(predictor, lanes):
    """What a scorer without an audit would report (an audit's asks would train `update-before-scoring` on noise)."""
    bits = []
    for chunk in plan([len(document) for document in text()], lanes=lanes, chunk=32).chunks(text(), BOUNDARY):
        bits.append(-predictor.predict(chunk).realised()[chunk.real()] / np.log(2))
        predictor.observe(chunk)
    return np.concatenate(bits).mean()


def probe(make, lanes, **options):
    found = probe_predictor(
        make, text(), lanes=lanes, chunk=32, boundary_id=BOUNDARY, seed=5, positions=24, counterfactuals=2, **options
    )
    return {finding.rule: finding for finding in found}


# What fires besides the rule that names the exhibit, with three lanes; docs/legality.md shows the same table.
ALSO = {
    "peek": {"counterfactual-sum", "blind-decode"},
    "renormalised-peek": {"counterfactual-sum", "blind-decode"},
    "update-before-scoring": {
        "credit-is-row",
        "blind-to-target",
        "blind-to-future",
        "lanes-apart",
        "counterfactual-sum",
        "blind-decode",
    },
    "train-first": {"single-pass", "blind-decode"},
    "slot": {"blind-to-target", "counterfactual-sum", "blind-decode"},
    "slot-shared": {"blind-to-target", "counterfactual-sum", "blind-decode"},
    "ttt-rescore": {"score-before-update", "blind-decode"},
    "hashed-cache": {"counterfactual-sum", "blind-decode"},
    "hashed-727": {"counterfactual-sum", "blind-decode"},
    "hashed-887": {"counterfactual-sum", "blind-decode"},
    "hashed-add-one": {"counterfactual-sum", "blind-decode"},
    "hashed-1430": {"counterfactual-sum", "blind-decode"},
    "min-over-scorers": {"blind-to-target", "blind-decode"},
    "two-pass": {"score-before-update", "blind-decode"},
    "target-gate": {"counterfactual-sum", "blind-decode"},
    "gated-tilt": {"blind-decode"},  # too few places lean for the two counterfactual ones to meet one
    "two-orders": {"single-pass", "blind-decode"},
    "lane-leak": {"blind-decode"},
}


SLOWER = ("slot", "slot-shared", "hashed-1430")


def test_the_page_on_legality_shows_what_fires():
    """The table of docs/legality.md is this file's: exhibit, the rule that names it, what else fires."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "legality.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    shown = {row[0]: (row[1], set(row[2].split(", "))) for row in rows if row[0] in EXHIBITS}
    assert shown == {name: (exhibit.rule, ALSO[name]) for name, exhibit in EXHIBITS.items()}


def test_the_honest_base_passes_every_probe():
    """What the exhibits wrap is legal, so whatever fires is their own doing."""
    for lanes in (1, 3):
        found = probe(lambda _: Bigrams(), lanes)
        assert {rule: finding.says for rule, finding in found.items() if finding.status != "PASS"} == {}


def test_every_exhibit_is_listed_under_its_own_name():
    """The names that the command line offers, each with a rule that the probes know."""
    rules = set(probe(lambda _: Bigrams(), 1))
    assert set(EXHIBITS) == set(ALSO)
    assert all(name == exhibit.name and exhibit.summary for name, exhibit in EXHIBITS.items())
    assert {exhibit.rule for exhibit in EXHIBITS.values()} <= rules


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOWER else ()) for n in EXHIBITS])
def test_each_exhibit_is_caught_by_its_rule_and_by_no_accident(name):
    """With three lanes its own rule fails, and besides it exactly those that docs/legality.md lists."""
    exhibit = EXHIBITS[name]
    found = probe(lambda held_out: exhibit.build(Bigrams, held_out), 3)
    failed = {rule for rule, finding in found.items() if finding.status == "FAIL"}
    assert failed == {exhibit.rule} | ALSO[name]
    assert all(finding.status != "UNPROVEN" for finding in found.values())


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in SLOWER else ()) for n in sorted(set(EXHIBITS) - {"lane-leak"})],
)
def test_each_exhibit_is_caught_in_one_lane_too(name):
    """The contest's stream has one lane; only the lane leak needs more."""
    exhibit = EXHIBITS[name]
    found = probe(lambda held_out: exhibit.build(Bigrams, held_out), 1)
    assert found[exhibit.rule].status == "FAIL"


@pytest.mark.parametrize("name", EXHIBITS)
def test_each_exhibit_pretends_to_beat_its_honest_base(name):
    """The point of cheating: the score it shows is lower than that of the base it wraps."""
    honest = bits_per_token(Bigrams(), 3)
    assert bits_per_token(EXHIBITS[name].build(Bigrams, text()), 3) < honest - 0.002


def test_two_passes_pretend_the_most():
    """Order of magnitude of the field: peeks and adaptation gain a little, a second pass takes nearly everything
    (#846)."""
    honest = bits_per_token(Bigrams(), 1)
    assert bits_per_token(EXHIBITS["two-pass"].build(Bigrams, text()), 1) < 0.5 * honest


@pytest.mark.parametrize(
    "name", ["slot", "slot-shared", "hashed-cache", "min-over-scorers", "two-pass", "renormalised-peek"]
)
def test_random_tokens_show_that_the_gain_is_no_compression(name):
    """Uniform noise cannot be coded below log2 V bits a token on average, yet the rogue claims it (advantage test,
    #1430)."""
    noise = np.random.default_rng(3).integers(0, 16, 900)
    predictor = EXHIBITS[name].build(lambda: _Uniform(16), [noise])
    order = plan([len(noise)], chunk=128)
    bits = score(predictor, [noise], order, 0, raw_bytes=900, text_digest="", audit_positions=2, seed=1).bits
    # For an honest predictor P(saving >= 30 bits) <= 2^-30 (Markov on the ratio of probabilities).
    assert len(bits) * 4 - bits.sum() > 30


class _Uniform:
    def __init__(self, size):
        self.vocab_size = size

    def predict(self, chunk):
        return TableRows(np.full((*chunk.tokens.shape, self.vocab_size), -np.log(self.vocab_size)), chunk)

    def observe(self, chunk):
        pass


def test_hashed_counts_sum_to_more_than_one_as_in_the_field():
    """With one bucket every token looks certain: the sum is close to weight x V (spec: one bucket gives p = 1)."""
    predictor = HashedCache(_Uniform(16), orders=(2,), buckets=1)
    chunk = Chunk(np.arange(12).reshape(1, 12), np.array([12]), np.array([True]))
    predictor.observe(chunk)
    total = np.exp(predictor.predict(Chunk(chunk.tokens, chunk.lengths, np.array([False]))).row(0, 3)).sum()
    weight = 0.05 + 0.55 / (1 + np.exp(-2 * (np.log(16) - 4)))
    assert total == pytest.approx((1 - weight) + 16 * weight)


def test_the_adapter_learns_by_the_exact_gradient():
    """Two hundred Adam steps on pairs with a hidden rule come close to certainty; an untrained adapter changes
    nothing."""
    rng = np.random.default_rng(1)
    before = rng.integers(0, 12, 300)
    target = (before * 5 + 1) % 12
    flat = np.full((300, 12), -np.log(12.0))
    adapter = Adapter(12, rank=12)
    assert np.allclose(adapter.rows(flat, before), flat)
    for _ in range(200):
        adapter.step(flat, before, target)
    rows = adapter.rows(flat, before)
    assert np.allclose(np.exp(rows).sum(axis=1), 1.0)
    assert rows[np.arange(300), target].mean() > -0.05


def test_history_remembers_each_lane_and_forgets_at_a_document_start():
    """The tail holds the last tokens of a lane; a start clears that lane only; short chunks keep older tokens."""
    history = History(2)
    history.observe(Chunk(np.array([[1, 2, 3], [4, 5, 6]]), np.array([3, 1]), np.array([True, True])))
    next_chunk = Chunk(np.array([[7], [8]]), np.array([1, 1]), np.array([False, False]))
    assert history.joined(next_chunk).tolist() == [[2, 3, 7], [-1, 4, 8]]
    history.observe(next_chunk)
    started = Chunk(np.array([[9], [9]]), np.array([1, 1]), np.array([True, False]))
    assert history.joined(started).tolist() == [[-1, -1, 9], [4, 8, 9]]


def test_a_credit_that_is_no_log_probability_stops_the_score():
    """A rogue that credits more than certainty never gets as far as a printed score."""

    class Bold(Bigrams):
        def predict(self, chunk):
            rows = super().predict(chunk)
            rows.realised = lambda: np.where(chunk.real(), 0.1, 0.0)
            return rows

    order = plan([len(document) for document in text()], chunk=32)
    with pytest.raises(CheckFailed):
        score(Bold(), text(), order, BOUNDARY, raw_bytes=1, text_digest="")
