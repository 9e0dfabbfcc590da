"""The live probes: what they measure, what they cannot miss, and that weak evidence is never a pass."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.exhibits.peek import RenormalisedPeek
from paramgolf.exhibits.tables import log_softmax
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import TableRows
from paramgolf.referee.probe_counterfactual import counterfactual_pass
from paramgolf.referee.probe_decode import decode_stretch
from paramgolf.referee.probe_passes import finer, lay_out, noise
from paramgolf.referee.probes import probe_predictor, share_seen

RULES = [
    "sums-to-one",
    "credit-is-row",
    "blind-to-target",
    "blind-to-future",
    "lanes-apart",
    "predict-is-pure",
    "counterfactual-sum",
    "score-before-update",
    "single-pass",
    "blind-decode",
]


class Frequencies:
    """Honest: how often each token was observed, plus one."""

    def __init__(self, vocab_size=8):
        self.vocab_size = vocab_size
        self.counts = np.ones(vocab_size)

    def table(self, chunk):
        row = np.log(self.counts / self.counts.sum())
        return np.broadcast_to(row, (*chunk.tokens.shape, self.vocab_size)).copy()

    def predict(self, chunk):
        return TableRows(self.table(chunk), chunk)

    def observe(self, chunk):
        np.add.at(self.counts, chunk.tokens[chunk.real()], 1)


def text(seed=0, lengths=(90, 70, 40), vocab_size=8):
    rng = np.random.default_rng(seed)
    return [rng.choice(vocab_size - 1, size, p=None) for size in lengths]


def probe(make, documents=None, **options):
    settled = {"lanes": 1, "chunk": 16, "boundary_id": 7, "seed": 1, "positions": 16, "counterfactuals": 2, **options}
    found = probe_predictor(make, text() if documents is None else documents, **settled)
    return {finding.rule: finding for finding in found}


def failed(found):
    return {rule for rule, finding in found.items() if finding.status == "FAIL"}


@given(
    seed=st.integers(0, 2**20),
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    lanes=st.integers(1, 3),
    chunk=st.integers(1, 20),
)
@settings(max_examples=25, deadline=None)
def test_an_honest_predictor_never_fails_whatever_the_text(seed, lengths, lanes, chunk):
    """Any documents, empty ones included, any lanes, any chunk: a rule may stay unproven, none fires."""
    found = probe(lambda _: Frequencies(), text(seed, lengths), lanes=lanes, chunk=chunk, seed=seed, positions=6)
    assert list(found) == [rule for rule in RULES if rule in found]
    assert failed(found) == set()


def test_every_rule_is_proven_on_a_text_of_a_few_hundred_tokens():
    """Nothing is left open where there is text enough."""
    assert {rule: finding.status for rule, finding in probe(lambda _: Frequencies()).items()} == dict.fromkeys(
        RULES, "PASS"
    )


def test_nothing_is_proven_without_text():
    """Empty documents in several lanes give UNPROVEN, never a pass."""
    found = probe(lambda _: Frequencies(), [np.zeros(0, np.int64)], lanes=2)
    assert {finding.status for finding in found.values()} == {"UNPROVEN"}


def test_the_true_bits_are_accepted_as_a_claim_and_others_are_not():
    """single-pass recomputes a claim token by token: a saved 0.01 bit, or a missing token, is seen."""
    order = plan([len(document) for document in text()], chunk=16)
    predictor, bits = Frequencies(), []
    for chunk in order.chunks(text(), 7):
        bits.append(-predictor.predict(chunk).realised()[chunk.real()] / np.log(2))
        predictor.observe(chunk)
    claim = np.concatenate(bits)
    assert probe(lambda _: Frequencies(), claimed_bits=claim)["single-pass"].status == "PASS"
    better = claim.copy()
    better[100] -= 0.01
    for wrong in (better, claim[:-1]):
        found = probe(lambda _: Frequencies(), claimed_bits=wrong)
        assert failed(found) == {"single-pass"}


def test_a_claim_of_a_second_pass_is_not_that_of_a_fresh_predictor():
    """Feeding one object twice and claiming the second pass: the referee's fresh predictor gives other bits."""
    order = plan([len(document) for document in text()], chunk=16)
    predictor = Frequencies()
    for _ in range(2):
        bits = []
        for chunk in order.chunks(text(), 7):
            bits.append(-predictor.predict(chunk).realised()[chunk.real()] / np.log(2))
            predictor.observe(chunk)
    assert failed(probe(lambda _: Frequencies(), claimed_bits=np.concatenate(bits))) == {"single-pass"}


def test_an_object_that_is_handed_out_twice_is_not_fresh():
    """A builder that returns the same, ever more learned object cannot pass: twins differ, nothing decodes."""
    shared = Frequencies()
    found = probe(lambda _: shared)
    assert {"predict-is-pure", "single-pass", "blind-decode"} <= failed(found)


def test_a_memory_inside_predict_is_seen_by_the_decoder():
    """Keeping the first chunk that was asked about and lifting its tokens: honest for all the audit's comparisons, not
    blind."""

    class Remembers(Frequencies):
        kept = None

        def predict(self, chunk):
            if self.kept is None:
                self.kept = chunk.tokens.copy()
            logits = self.table(chunk)
            if self.kept.shape == chunk.tokens.shape:
                logits += 2.0 * (np.arange(self.vocab_size) == self.kept[:, :, None])
            return TableRows(log_softmax(logits), chunk)

        def observe(self, chunk):
            super().observe(chunk)
            self.kept = None

    assert {"predict-is-pure", "blind-decode"} <= failed(probe(lambda _: Remembers()))


def test_a_fingerprint_that_moves_in_predict_is_believed():
    """A predictor that offers fingerprints is held to them, even if its rows do not show the change yet."""

    class Counts(Frequencies):
        asked = 0

        def predict(self, chunk):
            self.asked += 1
            return super().predict(chunk)

        def fingerprint(self):
            return str(self.asked)

    found = probe(lambda _: Counts())
    assert failed(found) == {"predict-is-pure"}
    assert found["predict-is-pure"].numbers["fingerprints_changed"] > 0


def test_a_builder_that_looks_at_later_text_only_is_caught_by_score_before_update():
    """What is learnt from the last document shows in the credits before it."""

    class Knows(Frequencies):
        def __init__(self, documents):
            super().__init__()
            self.counts += np.bincount(documents[-1], minlength=8)

    found = probe(Knows, text(lengths=(90, 70, 140)))
    assert {"score-before-update", "single-pass"} <= failed(found)


def test_a_rare_peek_is_met_as_often_as_the_arithmetic_says():
    """A rogue on a share s of positions is missed by n positions with probability (1 - s)^n: 200 trials, s = 0.05, n =
    24."""
    documents, caught = text(lengths=(400,)), 0
    for seed in range(200):
        rogue = RenormalisedPeek(Frequencies(), lift=1.0, share=0.05, seed=seed)
        probed = lay_out(
            documents, lanes=1, chunk=50, boundary_id=7, positions=24, rng=np.random.default_rng(10_000 + seed)
        )
        seen = False
        for step, chunk in enumerate(probed.chunks):
            flat = log_softmax(rogue.base.table(chunk))
            rows = rogue.predict(chunk)
            seen |= any(
                not np.allclose(rows.row(lane, position), flat[lane, position])
                for lane, position in probed.places.get(step, [])
            )
            rogue.observe(chunk)
        caught += seen
    expected = 1 - 0.95**24
    assert abs(caught / 200 - expected) < 4 * math.sqrt(expected * (1 - expected) / 200)


@given(positions=st.integers(1, 5000))
def test_share_seen_is_the_share_that_is_missed_one_time_in_twenty(positions):
    """The number printed beside every finding solves (1 - s)^n = 0.05."""
    assert (1 - share_seen(positions)) ** positions == pytest.approx(0.05)
    assert share_seen(0) == 1.0


class Sharpened(Frequencies):
    """Credits p^(1/2) while its row says p: sums to more than one over the vocabulary."""

    def predict(self, chunk):
        rows = super().predict(chunk)
        honest = rows.realised
        rows.realised = lambda: honest() / 2
        return rows


def test_a_counterfactual_sum_is_exact_over_a_small_vocabulary():
    """Eight tokens of probability 1/8 credited with their square roots sum to 8 / sqrt 8."""
    probed = lay_out([np.arange(7)], lanes=1, chunk=8, boundary_id=7, positions=3, rng=np.random.default_rng(0))
    place, rng = (0, 0, 0), np.random.default_rng(1)
    (found,) = counterfactual_pass(Sharpened(), probed, [place], 2048, rng)
    assert found.total == pytest.approx(math.sqrt(8))
    assert found.asked == 8
    (found,) = counterfactual_pass(Frequencies(), probed, [place], 2048, rng)
    assert found.total == pytest.approx(1.0)


def test_a_counterfactual_sum_over_a_large_vocabulary_is_sampled_without_bias():
    """Of 3000 tokens 64 are tried; as soon as one is off, 512 are, and a uniform square root gives its true sum."""
    probed = lay_out([np.arange(40)], lanes=1, chunk=40, boundary_id=7, positions=1, rng=np.random.default_rng(0))
    (step,) = probed.places
    place = (step, *probed.places[step][0])
    rng = np.random.default_rng(1)
    (honest,) = counterfactual_pass(Frequencies(3000), probed, [place], 512, rng)
    assert honest.total == pytest.approx(1.0)
    assert honest.asked == 64
    fresh = lay_out([np.arange(3)], lanes=1, chunk=1, boundary_id=7, positions=4, rng=np.random.default_rng(0))
    (rogue,) = counterfactual_pass(Sharpened(3000), fresh, [(0, 0, 0)], 512, rng)
    assert rogue.total == pytest.approx(math.sqrt(3000))
    assert rogue.asked == 512


def test_noise_replaces_what_is_scored_later_and_nothing_else():
    """Tokens of chunks before the cut stay, all later ones are redrawn, lengths stay."""
    documents = [np.full(30, 3), np.full(25, 4)]
    probed = lay_out(documents, lanes=1, chunk=7, boundary_id=7, positions=0, rng=np.random.default_rng(0))
    made = noise(probed, 8, np.random.default_rng(1), from_chunk=5)
    assert np.array_equal(made[0], documents[0])
    assert np.array_equal(made[1][:4], documents[1][:4])  # 30 tokens and a boundary leave 4 of chunk 4
    assert len(made[1]) == 25
    assert len(set(made[1][4:].tolist())) > 3
    assert [len(document) for document in noise(probed, 8, np.random.default_rng(1))] == [30, 25]


@given(chunk=st.integers(1, 5000), most=st.integers(0, 5000))
def test_a_short_text_is_cut_into_divisors_of_the_chunk(chunk, most):
    """Whatever the chunk divided (an update interval), the finer one divides too."""
    found = finer(chunk, most)
    assert chunk % found == 0
    assert found <= max(most, 1) or chunk <= most


def test_places_are_real_distinct_and_as_many_as_asked():
    """The draw covers the text alike: no padding, no repetition, all of it if as many are asked for."""
    probed = lay_out(text(), lanes=3, chunk=16, boundary_id=7, positions=10**6, rng=np.random.default_rng(0))
    places = [(step, *place) for step, places in probed.places.items() for place in places]
    real = [(step, int(b), int(t)) for step, chunk in enumerate(probed.chunks) for b, t in np.argwhere(chunk.real())]
    assert sorted(places) == sorted(real)


def test_a_stretch_that_decodes_must_also_be_as_short_as_credited():
    """A decodable predictor whose credits are 20 % too good has compressed nothing to the claimed size."""
    probed = lay_out(
        text(lengths=(3000,)), lanes=1, chunk=100, boundary_id=7, positions=0, rng=np.random.default_rng(0)
    )
    predictor, credited = Frequencies(), []
    for chunk in probed.chunks:
        credited.append(predictor.predict(chunk).realised())
        predictor.observe(chunk)
    done = decode_stretch(Frequencies(), Frequencies(), probed.chunks, credited, 3, 800)
    assert done.proven()
    assert done.tokens == done.right == 800
    assert abs(done.code_bits - done.credited_bits) < 96
    flattered = decode_stretch(Frequencies(), Frequencies(), probed.chunks, [0.8 * c for c in credited], 3, 800)
    assert flattered.right == 800
    assert not flattered.proven()
