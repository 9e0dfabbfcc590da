"""The spot-audit: what it finds, and that a predictor cannot get round it by watching how it is asked."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import RunError
from paramgolf.predict.audit import (
    TOLERANCE,
    Audit,
    PositionAudit,
    ask_audited,
    audit_position,
    choose_positions,
    largest_difference,
    replace_tokens,
    sum_error,
)
from paramgolf.predict.protocol import Chunk, TableRows

V = 11


def log_softmax(logits):
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


class Bigram:
    """Honest: each row depends on the token before, nothing else."""

    vocab_size = V

    def __init__(self):
        self.table = log_softmax(np.random.default_rng(5).standard_normal((V, V)))

    def logits(self, chunk):
        before = np.concatenate([np.zeros((len(chunk.tokens), 1), np.int64), chunk.tokens[:, :-1]], axis=1)
        return self.table[before].copy()

    def predict(self, chunk):
        return TableRows(log_softmax(self.logits(chunk)), chunk)

    def observe(self, chunk):
        pass


def some_chunk(seed=0, lanes=3, length=9):
    rng = np.random.default_rng(seed)
    lengths = np.array([length, length - 2, 0][:lanes])
    return Chunk(rng.integers(0, V, (lanes, length)), lengths, np.zeros(lanes, np.bool_))


def every_position(chunk):
    return [(int(lane), int(position)) for lane, position in np.argwhere(chunk.real())]


def audit_of(predictor, chunk=None, seed=1):
    chunk = some_chunk() if chunk is None else chunk
    _, audits, _ = ask_audited(predictor, chunk, every_position(chunk), np.random.default_rng(seed))
    return Audit.of(seed, audits)


def test_an_honest_predictor_shows_no_error_at_all():
    """In one fixed shape on a CPU the noise of asking again is zero, bit for bit."""
    audit = audit_of(Bigram())
    assert audit.positions == 16
    assert audit.max_sum_error < 1e-12
    assert audit.max_credit_error == audit.max_repeat_error == audit.max_causal_error == 0.0
    assert audit.passed()


class Looks(Bigram):
    """Adds to the row's logits what it sees at one distance: 0 is the target, 1 the token after, "lane" the others."""

    def __init__(self, where):
        super().__init__()
        self.where = where

    def logits(self, chunk):
        logits = super().logits(chunk)
        lanes, length = chunk.tokens.shape
        for lane in range(lanes):
            for position in range(length):
                if self.where == "lane":
                    seen = chunk.tokens[(lane + 1) % 2, 0]
                elif position + self.where < length:
                    seen = chunk.tokens[lane, position + self.where]
                else:
                    continue
                logits[lane, position, seen] += 0.01
        return logits


@pytest.mark.parametrize(
    ("where", "found"),
    [(0, "max_target_error"), (1, "max_future_error"), (5, "max_future_error"), ("lane", "max_lane_error")],
)
def test_each_place_that_a_row_may_not_see_has_its_own_error(where, found):
    """A glance worth 0.01 nats at the target, a later token or another lane shows in that error and in no other."""
    audit = audit_of(Looks(where))
    errors = {name: getattr(audit, name) for name in ("max_target_error", "max_future_error", "max_lane_error")}
    assert [name for name, error in errors.items() if error > 1e-3] == [found]
    assert audit.max_credit_error == audit.max_repeat_error == 0.0
    assert not audit.passed()


def test_unnormalised_rows_and_credits_beside_the_row_are_told_apart():
    """A row that sums to 1.1 is a sum error; a credit above an honest row is a credit error."""

    class Unnormalised(Bigram):
        def predict(self, chunk):
            return TableRows(self.logits(chunk) + math.log(1.1), chunk)

    class Generous(Bigram):
        def predict(self, chunk):
            rows = super().predict(chunk)
            honest = rows.realised
            rows.realised = lambda: honest() + 0.02 * chunk.real()
            return rows

    assert audit_of(Unnormalised()).max_sum_error == pytest.approx(0.1)
    assert audit_of(Unnormalised()).max_credit_error == 0.0
    assert audit_of(Generous()).max_credit_error == pytest.approx(0.02)
    assert audit_of(Generous()).max_sum_error < 1e-12


def test_a_predictor_that_answers_differently_when_asked_again_is_seen():
    """State that moves in predict is a repeat error."""

    class Drifts(Bigram):
        asked = 0

        def logits(self, chunk):
            self.asked += 1
            logits = super().logits(chunk)
            logits[:, :, 0] += 0.01 * self.asked
            return logits

    assert audit_of(Drifts()).max_repeat_error > 1e-3


class Remembers(Bigram):
    """Lifts the tokens of one chunk that it keeps in predict: the first it is asked about, or the likeliest so far."""

    def __init__(self, keep):
        super().__init__()
        self.keep = keep
        self.kept = None

    def logits(self, chunk):
        logits = super().logits(chunk)
        if self.kept is None or (self.keep == "likeliest" and self.likelihood(chunk) > self.likelihood(self.kept)):
            self.kept = Chunk(chunk.tokens.copy(), chunk.lengths, chunk.starts)
        target = self.kept.tokens[:, :, None]
        np.put_along_axis(logits, target, np.take_along_axis(logits, target, 2) + 0.5, 2)
        return logits

    def likelihood(self, chunk):
        return TableRows(super().logits(chunk), chunk).realised().sum()


def bigram_text(seed, length=12):
    """A chunk drawn from the predictor's own distribution, so that it can tell text from noise."""
    rng, table = np.random.default_rng(seed), np.exp(Bigram().table)
    tokens = [0]
    for _ in range(length):
        tokens.append(rng.choice(V, p=table[tokens[-1]]))
    return Chunk(np.array([tokens[1:]]), np.array([length]), np.zeros(1, np.bool_))


def test_remembering_the_likeliest_chunk_asked_about_is_seen():
    """The blind ask comes before the true one, so a row that later knows the token is another row."""
    knew = 0
    for seed in range(40):
        chunk, rogue = bigram_text(seed), Remembers("likeliest")
        _, audits, _ = ask_audited(rogue, chunk, [(0, 3)], np.random.default_rng(seed))
        if np.array_equal(rogue.kept.tokens, chunk.tokens):
            knew += 1
            assert not Audit.of(seed, audits).passed()
    assert knew > 20


def test_remembering_the_first_chunk_asked_about_gains_nothing_where_it_is_audited():
    """What was asked first is noise from the audited position on, so the memory holds the truth only by chance."""
    right = []
    for seed in range(60):
        chunk, rogue = bigram_text(seed), Remembers("first")
        ask_audited(rogue, chunk, [(0, 0)], np.random.default_rng(seed))
        right.append((rogue.kept.tokens == chunk.tokens).mean())
    assert np.mean(right) < 2 / V


def test_rewriting_the_referees_tokens_does_not_help():
    """Each ask gets its own copy of the chunk: overwriting it changes neither the credits nor the comparison."""

    class Overwrites(Bigram):
        def predict(self, chunk):
            rows = super().predict(chunk)
            chunk.tokens[:] = rows.row(0, 0).argmax()
            return TableRows(rows._logprob_BTV, chunk)

    chunk = some_chunk()
    before = chunk.tokens.copy()
    audit = audit_of(Overwrites(), chunk)
    assert np.array_equal(chunk.tokens, before)
    assert not audit.passed()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_no_number_never_passes(bad):
    """NaN and infinity in a row are infinite errors, not silence."""

    class Broken(Bigram):
        def predict(self, chunk):
            table = self.logits(chunk)
            table[:, :, 3] = bad
            return TableRows(table, chunk)

    assert audit_of(Broken()).max_sum_error == math.inf


def test_impossible_tokens_make_no_false_alarm():
    """-inf entries are legal as long as they stay where they are."""

    class Certain(Bigram):
        def logits(self, chunk):
            logits = super().logits(chunk)
            logits[:, :, 7] = -np.inf
            return logits

    assert audit_of(Certain()).passed()


def test_a_row_of_another_size_is_an_error():
    """A row that does not cover the vocabulary cannot be compared with a credit."""

    class Short(Bigram):
        def predict(self, chunk):
            rows = super().predict(chunk)
            rows.row = lambda lane, position: np.array([0.0])
            return rows

    assert audit_of(Short()).max_credit_error == math.inf


def test_audit_position_judges_the_credits_it_is_given():
    """The plain entry compares credits made earlier with rows asked now."""
    chunk, rng = some_chunk(), np.random.default_rng(0)
    realised = Bigram().predict(chunk).realised()
    assert audit_position(Bigram(), chunk, realised, 0, 3, rng).credit_error == 0.0
    realised[0, 3] += 0.5
    assert audit_position(Bigram(), chunk, realised, 0, 3, rng).credit_error == pytest.approx(0.5)
    with pytest.raises(ValueError, match="lane 1 position 8 is padding"):
        audit_position(Bigram(), chunk, realised, 1, 8, rng)


@given(seed=st.integers(0, 10**6), vocab=st.integers(2, 30))
@settings(max_examples=60, deadline=None)
def test_replaced_tokens_are_all_others_and_only_where_asked(seed, vocab):
    """Every token to be replaced changes, nothing else does, padding stays, ids stay in the vocabulary."""
    rng = np.random.default_rng(seed)
    chunk = Chunk(rng.integers(0, vocab, (2, 7)), np.array([7, 4]), np.array([True, False]))
    where = rng.random((2, 7)) < 0.5
    other = replace_tokens(chunk, where, vocab, rng)
    assert np.array_equal(other.tokens != chunk.tokens, where & chunk.real())
    assert other.tokens.min() >= 0
    assert other.tokens.max() < vocab


def test_positions_are_drawn_alike_from_all_real_ones():
    """Padding is never drawn and each real position comes with the asked share."""
    chunk, rng = some_chunk(), np.random.default_rng(0)
    counts = np.zeros(chunk.tokens.shape)
    for _ in range(2000):
        for place in choose_positions(chunk, 0.25, rng):
            counts[place] += 1
    assert not counts[~chunk.real()].any()
    assert abs(counts[chunk.real()] / 2000 - 0.25).max() < 0.05


def test_difference_clips_the_improbable_and_refuses_nan():
    """Entries below 1e-26 count as equal; NaN and other shapes are infinitely far."""
    assert largest_difference(np.array([-np.inf, -1.0]), np.array([-900.0, -1.5])) == 0.5
    assert largest_difference(np.array([np.nan]), np.array([np.nan])) == math.inf
    assert largest_difference(np.zeros(2), np.zeros(3)) == math.inf
    assert sum_error(np.log(np.array([0.5, 0.25]))) == pytest.approx(0.25)


def test_an_audit_is_read_back_from_json_with_its_infinities():
    """JSON holds the worst errors, and what was tampered with is refused."""
    audit = Audit.of(9, [PositionAudit(0, 1, 0.0, 1e-9, 0.0, math.inf, 2e-5, 0.0)])
    assert Audit.from_json(audit.to_json()) == audit
    assert audit.max_causal_error == math.inf
    record = json.loads(audit.to_json())
    for broken in (
        {**record, "max_causal_error": 0.0},
        {**record, "positions": -1},
        {**record, "max_sum_error": "nan"},
    ):
        with pytest.raises(RunError):
            Audit.from_record(broken)
    for text in ("[1]", "{", '{"seed": 1}'):
        with pytest.raises(RunError):
            Audit.from_json(text)


def test_an_audit_of_nothing_does_not_pass():
    """No positions, no proof."""
    assert not Audit(0).passed()
    assert Audit(0, 1, TOLERANCE.sum).passed()
    assert not Audit(0, 1, TOLERANCE.sum * 1.01).passed()


def narrow_audit_of(predictor, seed=1):
    chunk = some_chunk()
    asked = ask_audited(predictor, chunk, every_position(chunk), np.random.default_rng(seed), narrow=True)
    return Audit.of(seed, asked.audits)


def test_a_narrow_audit_of_an_honest_predictor_shows_no_error():
    """It sees as many positions, and the noise of asking again is zero."""
    audit = narrow_audit_of(Bigram())
    assert audit.positions == 16 and audit.passed()
    assert audit.max_repeat_error == audit.max_causal_error == 0.0


@pytest.mark.parametrize("where", [0, 1, 5, "lane"])
def test_a_narrow_audit_sees_what_a_row_may_not(where):
    """A glance at the target, a later token or another lane fails it too."""
    audit = narrow_audit_of(Looks(where))
    assert audit.max_causal_error > 1e-3
    assert not audit.passed()


def test_a_narrow_audit_sees_a_predictor_that_moves_when_asked():
    """Two asks about the true chunk must agree, and the credit must be the row's entry."""

    class Drifts(Bigram):
        asks = 0

        def logits(self, chunk):
            self.asks += 1
            return super().logits(chunk) * (1 + 0.01 * self.asks)

    assert narrow_audit_of(Drifts()).max_repeat_error > 1e-3


def test_a_narrow_audit_asks_for_one_set_of_credits():
    """Of a lazy predictor it wants the credits once and single rows otherwise: that is what makes it cheap."""

    class Counted(Bigram):
        credits = 0

        def predict(self, chunk):
            rows, outer = super().predict(chunk), self

            class Rows:
                row = rows.row

                def realised(self):
                    outer.credits += 1
                    return rows.realised()

            return Rows()

    predictor = Counted()
    assert narrow_audit_of(predictor).passed()
    assert predictor.credits == 1
