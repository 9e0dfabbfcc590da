"""The twelve black-box tests: each fires on the lie it is for, stays silent on honest scorers, and says when it cannot
tell."""

import numpy as np
import pytest

from paramgolf.clock import Entry
from paramgolf.referee.blackbox import (
    TESTS,
    Batched,
    BlackBox,
    Books,
    Builder,
    Effort,
    Exam,
    GuardedTokens,
    Layout,
    from_predictor,
    judge,
)
from paramgolf.referee.blackbox.books import sealed_before_reading
from paramgolf.referee.blackbox.look_ahead import flip_matrix
from paramgolf.referee.blackbox.mass import t5_e_value

V = 8
QUICK = Effort(flips=8, cuts=8, swaps=2, uniform=200, decoded=6)
TOKENS = np.random.default_rng(3).integers(0, V, 65)


def pairs(tokens, declared, seed):
    """Honest: each token's cost from counts of the tokens before it."""
    counts = np.ones(V)
    cost = []
    for token in tokens[1:]:
        cost.append(-np.log(counts[token] / counts.sum()))
        counts[token] += 1
    return np.array(cost)


def statuses(score, box=None, **options):
    found = judge(box or BlackBox.of(score, V), TOKENS, seed=4, effort=QUICK, **options)
    return {finding.rule: finding.status for finding in found}


def failed(score, **options):
    return {rule for rule, status in statuses(score, **options).items() if status == "FAIL"}


def test_an_honest_function_fails_nothing_and_the_rest_is_unproven():
    """With one function only, tests that need more say so."""
    found = statuses(pairs)
    assert list(found) == [test.name for test in TESTS] == [f"T{number}" for number in range(1, 13)]
    assert {rule for rule, status in found.items() if status == "UNPROVEN"} == {"T7", "T8", "T9", "T11", "T12"}
    assert "FAIL" not in found.values()


def test_knowing_the_future_fails_what_looks_ahead():
    """Counts of the whole text: T1, T2, T3, T4 and the decoder."""

    def future(tokens, declared, seed):
        counts = np.bincount(tokens, minlength=V) + 1.0
        return -np.log(counts / counts.sum())[tokens[1:]]

    assert failed(future) == {"T1", "T2", "T3", "T4", "T10"}


def test_a_length_that_is_seen_fails_the_cut_alone():
    """What depends on how long the text is, not on the public length, is told by T3."""

    def length(tokens, declared, seed):
        flat = len(tokens) % 2
        return (
            np.where(tokens[1:] == 0, np.log(2.0), np.log(2.0 * (V - 1)))
            if flat
            else np.full(len(tokens) - 1, np.log(V))
        )

    def public(tokens, declared, seed):
        return length(np.concatenate([tokens, np.zeros(declared + 1 - len(tokens), dtype=int)]), declared, seed)[
            : len(tokens) - 1
        ]

    assert failed(length) == {"T3"}
    assert failed(public) == set()


def test_more_than_one_in_all_fails_sum_gain_and_decoder():
    """Half the cost of every token: no distribution gives that."""
    assert failed(lambda *given: 0.5 * pairs(*given)) == {"T4", "T5", "T10"}


def test_less_than_one_in_all_fails_the_sum():
    """A loss is no crime of T5, and no distribution either."""
    assert "T4" in failed(lambda *given: pairs(*given) + 0.1)
    assert "T5" not in failed(lambda *given: pairs(*given) + 0.1)


def test_state_of_an_object_fails_idempotence():
    """Counts that stay in the object, though every fresh object is honest."""

    def fresh():
        kept = []

        def score(tokens, declared, seed):
            cost = pairs(np.concatenate([*kept, tokens]), declared, seed)[-(len(tokens) - 1) :]
            kept.append(tokens)
            return cost

        return score

    box = BlackBox("kept", V, fresh)
    assert {rule for rule, status in statuses(None, box).items() if status == "FAIL"} == {"T6"}


def test_a_global_state_is_not_taken_for_noise():
    """A function that remembers its calls differs from itself: T6 fails, and differences are not judged."""
    calls = []

    def score(tokens, declared, seed):
        calls.append(1)
        return pairs(tokens, declared, seed) * (1 + 0.01 * len(calls))

    found = statuses(score)
    assert found["T6"] == "FAIL"
    assert {found[rule] for rule in ("T1", "T2", "T3", "T4", "T10")} == {"UNPROVEN"}


def test_noise_below_a_thousandth_is_allowed_for():
    """Noise of 1e-5 nats, as other shapes make it, is no violation of T1 to T3; a change of 1e-2 still is."""
    rng = np.random.default_rng(0)

    def noisy(tokens, declared, seed):
        return pairs(tokens, declared, seed) + rng.uniform(-1e-5, 1e-5, len(tokens) - 1)

    assert failed(noisy) & {"T1", "T2", "T3"} == set()
    assert {"T1", "T2"} <= failed(
        lambda *given: noisy(*given) + 0.01 * (given[0][-1] == TOKENS[-1]) + 0.002 * given[0][1:].sum()
    )


def test_flips_are_localised():
    """The matrix shows who sees whom: here every token the one after it."""

    def next_seen(tokens, declared, seed):
        return np.full(len(tokens) - 1, 2.0) + 0.1 * (np.append(tokens[2:], 0) % 2)

    exam = Exam(BlackBox.of(next_seen, V, layout=Layout(block=8)), TOKENS, 1, QUICK, at=9)
    moved = flip_matrix(exam, [*exam.block])
    assert np.argwhere(moved > 1e-9).tolist() == [[i, i + 1] for i in range(7)]


def test_the_block_follows_the_layout():
    """The first batch is larger than the others; the block that is looked at lies between two seams."""
    layout = Layout(stride=4, block=16, first=28)
    assert [layout.block_at(target) for target in (1, 28, 29, 44, 45)] == [
        range(1, 29), range(1, 29), range(29, 45), range(29, 45), range(45, 61)
    ]  # fmt: skip


def test_a_batch_that_is_shared_fails_isolation():
    """Texts side by side that share counts, one that only looks back, and one that the batch size moves."""

    def many(look):
        def score(texts, batch, seed):
            cost = []
            for k, text in enumerate(texts):
                known = look(texts, k, batch)
                counts = np.bincount(np.concatenate([*known, [0]]), minlength=V) + 1.0
                cost.append(-np.log(counts / counts.sum())[text[1:]])
            return cost

        return BlackBox("many", V, lambda: pairs, batched=Batched(score, 2, free=True))

    verdict = {
        name: statuses(None, many(look))["T7"]
        for name, look in {
            "apart": lambda texts, k, batch: [],
            "earlier": lambda texts, k, batch: texts[:k],
            "later": lambda texts, k, batch: texts[k + 1 :],
            "size": lambda texts, k, batch: [np.zeros(batch, dtype=int)],
        }.items()
    }
    assert verdict == {"apart": "PASS", "earlier": "PASS", "later": "FAIL", "size": "FAIL"}


def test_provenance_wants_the_build_to_ignore_the_text():
    """T8 by building twice, with the ledger of a run, and unproven where a build is not repeatable."""

    def verdict(builder):
        return statuses(None, BlackBox("built", V, lambda: pairs, builder=builder))["T8"]

    rng = np.random.default_rng(0)
    assert verdict(Builder(lambda train, val: train.tobytes())) == "PASS"
    assert (
        verdict(Builder(lambda train, val: train.tobytes() + val[:1].tobytes() * 0 + bytes([int(val.sum() % 251)])))
        == "FAIL"
    )
    assert verdict(Builder(lambda train, val: rng.bytes(8))) == "UNPROVEN"
    train, pack = Entry("train", True, 0.0, 10.0), Entry("squeeze and pack", False, 10.0, 2.0)
    assert verdict(Builder(ledger=[train, pack, Entry("score and referee", True, 13.0, 1.0)])) == "PASS"
    early = [train, pack, Entry("score", True, 11.0, 1.0)]
    assert verdict(Builder(ledger=early)) == "FAIL"
    assert verdict(Builder(lambda train, val: b"", early)) == "FAIL"
    assert sealed_before_reading([train]).status == "UNPROVEN"


def test_coverage_counts_targets_and_bytes():
    """T9: once each, all of them, and the bytes of the text."""

    def verdict(credited=lambda tokens: np.arange(1, len(tokens)), extra=0):
        books = Books(credited, lambda tokens: np.ones(len(tokens) - 1, dtype=int) + extra, lambda ids: b"x" * len(ids))
        return statuses(None, BlackBox("books", V, lambda: pairs, books=books))["T9"]

    assert verdict() == "PASS"
    assert verdict(lambda tokens: np.arange(2, len(tokens))) == "FAIL"
    assert verdict(lambda tokens: np.append(np.arange(1, len(tokens)), 5)) == "FAIL"
    assert verdict(lambda tokens: np.append(np.arange(1, len(tokens)), -1)) == "FAIL"
    assert verdict(lambda tokens: np.append(np.arange(1, len(tokens)), len(tokens))) == "FAIL"
    assert verdict(extra=1) == "FAIL"
    assert "T9" in failed(lambda *given: np.where(np.arange(len(given[0]) - 1) == 3, np.nan, pairs(*given)))


def test_rows_that_hold_less_than_was_credited_fail_the_decoder():
    """Honest rows beside a dearer or cheaper score: only the cheaper one is a lie."""

    def rows(tokens, target):
        counts = np.bincount(tokens[1:target], minlength=V) + 1.0
        return np.log(counts / counts.sum())

    def verdict(factor):
        return statuses(None, BlackBox("rows", V, lambda: lambda *given: factor * pairs(*given), logprobs=rows))["T10"]

    assert (verdict(1.0), verdict(0.9)) == ("PASS", "FAIL")
    assert (verdict(1.1), verdict(-1.0)) == ("PASS", "FAIL")
    assert [verdict(bad) for bad in (np.nan, -np.inf, np.inf)] == ["FAIL", "FAIL", "UNPROVEN"]


def test_a_row_that_the_fit_left_out_stands_apart():
    """T11: every fourth row costs more on random tokens."""

    def score(tokens, declared, seed):
        return np.where(np.arange(1, len(tokens)) % 4 == 0, 4.0, 2.0) + 0.1 * (tokens[1:] % 2)

    found = statuses(None, BlackBox.of(score, V, layout=Layout(stride=4, block=16)))
    assert found["T11"] == "FAIL"
    assert statuses(None, BlackBox.of(pairs, V, layout=Layout(stride=4, block=16)))["T11"] == "PASS"


def test_reading_ahead_of_a_cost_is_seen():
    """T12: token by token is in order; whoever looks one further is not, and one commit for all proves nothing."""

    def verdict(ahead, size):
        def stream(tokens, declared, seed):
            for first in range(1, len(tokens), size):
                targets = np.arange(first, min(first + size, len(tokens)))
                tokens[min(targets[-1] + ahead, len(tokens) - 1)]
                yield targets, np.ones(len(targets))

        return statuses(None, BlackBox("stream", V, lambda: pairs, stream=stream))["T12"]

    assert (verdict(0, 1), verdict(0, 8), verdict(1, 8), verdict(0, 64)) == ("PASS", "PASS", "FAIL", "UNPROVEN")


def test_guarded_tokens_count_every_way_of_reading():
    """Index, slice, array of indices, conversion."""
    view = GuardedTokens(np.arange(10, 20))
    assert (len(view), view.highest) == (10, -1)
    assert (view[3], view.highest) == (13, 3)
    assert (view[2:5].tolist(), view.highest) == ([12, 13, 14], 4)
    assert (view[np.array([[1, 6]])].tolist(), view.highest) == ([[11, 16]], 6)
    assert (np.asarray(view).tolist(), view.highest) == ([*range(10, 20)], 9)
    assert (view[-1], view[5:2].tolist()) == (19, [])


def test_the_e_value_takes_any_known_distribution():
    """A = sum ln q - ln p for tokens drawn from any known p (spec pr1430.md 8.3, T5, general form)."""
    share = np.arange(1, V + 1) / np.arange(1, V + 1).sum()
    exam = Exam(BlackBox.of(lambda tokens, *_: -np.log(share)[tokens[1:]], V), TOKENS, 1, QUICK)
    found = t5_e_value(exam, share)
    assert found.status == "PASS"
    assert found.numbers["advantage"] == pytest.approx(0.0, abs=1e-9)
    exam = Exam(BlackBox.of(lambda tokens, *_: -np.log(share)[tokens[1:]] - 0.2, V), TOKENS, 1, QUICK)
    assert t5_e_value(exam, share).status == "FAIL"
    seen = []

    def even(tokens, declared, seed):
        seen.append(tokens)
        return np.full(len(tokens) - 1, np.log(V))

    found = t5_e_value(Exam(BlackBox.of(even, V), TOKENS, 1, QUICK), share)
    (drawn,) = seen
    assert found.numbers["advantage"] == pytest.approx(sum(np.log(1 / V) - np.log(share[drawn[1:]])))
    assert np.bincount(drawn, minlength=V) / len(drawn) == pytest.approx(share, abs=0.12)
    assert found.status == "PASS" and found.numbers["advantage"] < 0


def test_an_estimated_sum_never_passes():
    """With more tokens than candidates the sum is a sample: guilt shows, innocence does not."""
    effort = Effort(flips=2, cuts=4, swaps=2, candidates=6, uniform=50, decoded=2)

    def verdict(factor):
        box = BlackBox.of(lambda tokens, *_: np.full(len(tokens) - 1, factor * np.log(V)), V)
        return judge(box, TOKENS, seed=1, effort=effort)[3].status

    assert (verdict(1.0), verdict(0.1)) == ("UNPROVEN", "FAIL")


@pytest.mark.parametrize("seed", range(8))
def test_a_sample_without_the_likely_token_condemns_nobody(seed):
    """An honest scorer that is nearly sure of one token never fails an estimate from a few, whichever they are."""
    size = 64
    text = np.random.default_rng(seed).integers(0, size, 25)

    def sure(tokens, declared, seed):
        return np.where(tokens[1:] == (5 * tokens[:-1] + 1) % size, -np.log(0.99), -np.log(0.01 / (size - 1)))

    effort = Effort(flips=2, cuts=4, swaps=4, candidates=16, uniform=50, decoded=2)
    found = judge(BlackBox.of(sure, size, layout=Layout(block=8)), text, seed=seed, effort=effort)
    assert {finding.status for finding in found[:6]} == {"PASS", "UNPROVEN"}
    assert found[3].status == "UNPROVEN"


def test_a_scorer_that_breaks_is_told_so():
    """An exception is a FAIL of the test that met it; a wrong number of costs leaves nothing to judge."""

    def fragile(tokens, declared, seed):
        if len(tokens) < 60:
            raise IndexError("text too short")
        return pairs(tokens, declared, seed)

    found = judge(BlackBox.of(fragile, V), TOKENS, seed=1, effort=QUICK)
    assert found[2].status == "FAIL"
    assert "the scorer fails: IndexError: text too short" in found[2].says
    found = statuses(lambda tokens, *_: np.zeros(3))
    assert (found["T1"], found["T9"]) == ("UNPROVEN", "FAIL")


def _broken(*given):
    raise KeyError("lost")


@pytest.mark.parametrize(
    ("test", "parts"),
    [
        ("T7", {"batched": Batched(_broken, 2)}),
        (
            "T7",
            {"batched": Batched(lambda texts, batch, seed: [pairs(text, 0, 0) for text in texts], 2, steps=_broken)},
        ),
        ("T7", {"batched": Batched(lambda texts, batch, seed: [pairs(texts[0], 0, 0)], 2)}),
        ("T8", {"builder": Builder(_broken)}),
        ("T9", {"books": Books(_broken, _broken, _broken)}),
        ("T10", {"logprobs": _broken}),
        ("T12", {"stream": _broken}),
        ("T12", {"stream": lambda tokens, declared, seed: map(_broken, range(3))}),
    ],
)
def test_every_part_of_a_box_may_break(test, parts):
    """Whatever a box offers, its exception, or a list of the wrong length, fails the test that asked, and no other."""
    found = judge(BlackBox("broken", V, lambda: pairs, **parts), TOKENS, seed=1, effort=QUICK)
    assert [finding.rule for finding in found if finding.status == "FAIL"] == [test]
    assert "the scorer fails: " in next(finding.says for finding in found if finding.rule == test)


def test_a_cost_too_few_in_one_of_the_texts_is_the_scorers_failure():
    """A scorer that drops a cost where one token is swapped or flipped gets no excuse from the harness."""

    def drops(tokens, declared, seed):
        return pairs(tokens, declared, seed)[: None if (tokens == TOKENS).sum() != len(TOKENS) - 1 else -1]

    found = {finding.rule: finding for finding in judge(BlackBox.of(drops, V), TOKENS, seed=1, effort=QUICK)}
    for test in ("T2", "T4", "T10"):
        assert (found[test].status, found[test].says) == (
            "FAIL",
            "the scorer fails: it gives (63,) costs for 64 targets",
        )


def test_a_fault_of_the_harness_condemns_nobody(monkeypatch):
    """An exception outside the scorer's code leaves the test unproven, and says that it was not the scorer's."""
    from paramgolf.referee.blackbox import look_ahead

    monkeypatch.setattr(look_ahead, "difference", lambda one, other: one[10**6])
    found = judge(BlackBox.of(pairs, V), TOKENS, seed=1, effort=QUICK)
    assert [(finding.rule, finding.status) for finding in found[:3]] == [
        ("T1", "UNPROVEN"), ("T2", "PASS"), ("T3", "UNPROVEN")
    ]  # fmt: skip
    assert "the test itself fails, outside the scorer: IndexError" in found[0].says


@pytest.mark.parametrize("at", [0, -3, 65, 1000])
def test_a_block_outside_the_text_is_refused(at):
    """No honest scorer fails because of where it was to be looked at: targets are 1..64 here."""
    with pytest.raises(ValueError, match=rf"at={at} is no target of the text, whose targets are 1\.\.64"):
        judge(BlackBox.of(pairs, V), TOKENS, seed=1, effort=QUICK, at=at)


@pytest.mark.parametrize("at", [1, 64])
def test_the_first_and_the_last_target_can_be_looked_at(at):
    """The ends of the text are targets like any other."""
    assert failed(pairs, at=at) == set()


@pytest.mark.parametrize("tokens", [[0], [0, V], [0, -1]])
def test_texts_that_cannot_be_judged_are_refused(tokens):
    """Too short, or ids outside the vocabulary."""
    with pytest.raises(ValueError, match=r"at least 2 of 0\.\.7"):
        judge(BlackBox.of(pairs, V), np.array(tokens))


def test_whoever_names_no_text_gets_random_tokens():
    """Text and seed come from the system if they are not given."""
    found = judge(BlackBox.of(pairs, V), effort=QUICK)
    assert not [finding for finding in found if finding.status == "FAIL"]


def test_a_predictor_is_a_black_box():
    """An honest predictor passes what it offers; its rows, lanes and reading order are all looked at."""
    from paramgolf.predict.protocol import TableRows

    class Counts:
        vocab_size = V

        def __init__(self):
            self.counts = np.ones(V)

        def predict(self, chunk):
            return TableRows(np.broadcast_to(np.log(self.counts / self.counts.sum()), (*chunk.tokens.shape, V)), chunk)

        def observe(self, chunk):
            np.add.at(self.counts, chunk.tokens[chunk.real()], 1)

    class Told(Counts):
        """Was shown the documents when it was made."""

        def __init__(self, documents):
            super().__init__()
            for document in documents:
                np.add.at(self.counts, np.asarray(document), 1)

    def verdict(make):
        return statuses(None, from_predictor("it", make, V, chunk=8, boundary_id=0))

    honest = verdict(lambda documents, lanes, tokens: Counts())
    assert {rule for rule, status in honest.items() if status == "UNPROVEN"} == {"T8", "T9", "T11"}
    assert "FAIL" not in honest.values()
    told = verdict(lambda documents, lanes, tokens: Told(documents))
    assert {rule for rule, status in told.items() if status == "FAIL"} == {"T1", "T2", "T3", "T4", "T7", "T10", "T12"}


def predictor_that_slows(known):
    """A toy whose step falls from 1 to 0 over the text, as long as `known(documents, tokens)` says it is."""
    from paramgolf.predict.protocol import TableRows

    class Slowing:
        vocab_size = V

        def __init__(self, length):
            self.counts, self.seen, self.length = np.ones(V), 0, length

        def predict(self, chunk):
            return TableRows(np.broadcast_to(np.log(self.counts / self.counts.sum()), (*chunk.tokens.shape, V)), chunk)

        def observe(self, chunk):
            np.add.at(self.counts, chunk.tokens[chunk.real()], max(0.0, 1.0 - self.seen / self.length))
            self.seen += int(chunk.lengths.sum())

    def make(documents, lanes, tokens):
        return Slowing(known(documents, tokens))

    return from_predictor("slowing", make, V, chunk=8, boundary_id=0)


def test_a_schedule_may_know_the_declared_length():
    """A step that falls over the public length is honest; over the length of what is left, it is told by T3 alone."""

    def verdict(known):
        return {rule for rule, status in statuses(None, predictor_that_slows(known)).items() if status == "FAIL"}

    assert verdict(lambda documents, tokens: tokens) == set()
    assert verdict(lambda documents, tokens: sum(len(document) for document in documents)) == {"T3"}


def test_the_length_that_is_declared_counts_every_token_that_is_fed():
    """Alone: token 0 and all targets, cut or not; side by side: the targets, and a boundary in a single lane."""
    told = []
    box = predictor_that_slows(lambda documents, tokens: told.append(tokens) or tokens)
    box.score(TOKENS[:20], 64, 1)
    box.logprobs(TOKENS, 30)
    box.batched.score([TOKENS[:9], TOKENS[:5]], 3, 1)
    box.batched.score([TOKENS[:9], TOKENS[:5]], 1, 1)
    assert told == [65, 65, 12, 14]


def test_chunks_begin_where_the_text_does():
    """Token 0 shares its chunk with the first targets, every chunk but the last is full, and the layout says so."""
    from paramgolf.predict.protocol import TableRows

    seen = []

    class Even:
        vocab_size = V

        def predict(self, chunk):
            return TableRows(np.full((*chunk.tokens.shape, V), -np.log(V)), chunk)

        def observe(self, chunk):
            seen.append((chunk.tokens[0, : chunk.lengths[0]].tolist(), bool(chunk.starts[0])))

    box = from_predictor("even", lambda documents, lanes, tokens: Even(), V, chunk=8, boundary_id=0)
    assert box.score(TOKENS[:21], 20, 1).tolist() == [np.log(V)] * 20
    assert seen == [(TOKENS[:8].tolist(), True), (TOKENS[8:16].tolist(), False), (TOKENS[16:21].tolist(), False)]
    commits = [targets.tolist() for targets, _ in box.stream(GuardedTokens(TOKENS[:21]), 20, 1)]
    assert commits == [[*range(1, 8)], [*range(8, 16)], [*range(16, 21)]]
    assert [box.layout.block_at(target) for target in (1, 8, 16)] == [range(1, 8), range(8, 16), range(16, 24)]
    with pytest.raises(ValueError, match="target 21 of 21 tokens"):
        box.logprobs(TOKENS[:21], 21)
    single = from_predictor("even", lambda documents, lanes, tokens: Even(), V, chunk=1, boundary_id=0)
    assert single.score(TOKENS[:4], 3, 1).tolist() == [np.log(V)] * 3
    assert single.layout.block_at(1) == range(1, 2)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_training_that_follows_the_score_fails_nothing(schedule):
    """A real model that trains on what it has scored (#461, #549), with the schedule of #1430, is honest everywhere."""
    import torch

    from paramgolf.model.gpt import GPT
    from paramgolf.predict.ttt import TttPredictor
    from paramgolf.predict.window import WindowPredictor
    from paramgolf.recipe import ModelRecipe, ScoreRecipe

    recipe = ScoreRecipe(window=16, stride=12, chunk=24, ttt_chunk=48, ttt_lr=1e-2, ttt_schedule=schedule)
    generator = torch.Generator().manual_seed(0)
    model = GPT(ModelRecipe(layers=1, width=16, heads=2, kv_heads=1), V)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    made = []

    def make(documents, lanes, tokens):
        made.append(TttPredictor(WindowPredictor(model, recipe, V, 1, lanes), tokens=tokens))
        return made[-1]

    box = from_predictor("ttt", make, V, chunk=24, boundary_id=1)
    text = np.random.default_rng(5).integers(0, V, 121)
    effort = Effort(flips=3, cuts=5, swaps=1, uniform=100, decoded=4)
    found = {finding.rule: finding for finding in judge(box, text, seed=3, effort=effort, at=96)}
    passed = {rule for rule, finding in found.items() if finding.status == "PASS"}
    assert passed == {"T1", "T2", "T3", "T4", "T5", "T6", "T7", "T10", "T12"}, found
    assert made[0].learning.updates == 2  # after 48 and 96 of 121 tokens: the block from 96 on has both behind it
