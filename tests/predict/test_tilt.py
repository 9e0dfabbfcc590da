"""The tilt: closed form, rows that sum to one, blind gates, the same bits coded and decoded (pr2140.md, 6, 9.8)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.codec.arithmetic import decode_plan, decode_tokens, encode_plan, encode_tokens
from paramgolf.errors import RecipeError, TokenizerError
from paramgolf.predict.learning import forgotten_by
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Chunk, TableRows
from paramgolf.predict.score import score
from paramgolf.predict.tilt import Expert, TiltPredictor
from paramgolf.predict.tilt_counts import ContextHints
from paramgolf.predict.tilt_experts import Pieces, token_expert, within_word_expert, word_start_expert
from paramgolf.predict.tilt_hints import Hints
from paramgolf.predict.tilt_kernel import log_normaliser
from paramgolf.recipe import ScoreRecipe
from paramgolf.referee.probes import probe_predictor

V, BOUNDARY = 9, 1
PIECES = Pieces.of([b"?", b"", b" the", b" a", b" of", b"re", b"d", b"x", b"y"], {1})
SETTINGS = ScoreRecipe(tilt_context=2)
FAITHFUL = {"max_examples": 40, "deadline": None}


def one_lane(tokens, start=True):
    tokens = np.array([tokens], dtype=np.int64)
    return Chunk(tokens, np.array([tokens.shape[1]]), np.array([start]))


class Bigrams:
    """An honest base whose rows differ from token to token and learn: counts of pairs, shared by lanes.

    `full`: its rows can be had all at once; `asked` counts the single ones.
    """

    def __init__(self, size=V, full=False):
        self.vocab_size, self.full, self.asked = size, full, 0
        self.pairs = np.arange(size * size).reshape(size, size) % 7 / 7 + 0.1
        self.last = {}

    def before(self, chunk):
        last = [1 if chunk.starts[b] else self.last.get(b, 1) for b in range(len(chunk.tokens))]
        return np.concatenate([np.array(last)[:, None], chunk.tokens[:, :-1]], axis=1)

    def predict(self, chunk):
        rows = TableRows(np.log(self.pairs / self.pairs.sum(axis=1, keepdims=True))[self.before(chunk)], chunk)
        single, base = rows.row, self

        def row(lane, position):
            base.asked += 1
            return single(lane, position)

        rows.row = row
        if self.full:
            rows.all_rows = lambda lane: rows._logprob_BTV[lane, : chunk.lengths[lane]]
        return rows

    def observe(self, chunk):
        np.add.at(self.pairs, (self.before(chunk)[chunk.real()], chunk.tokens[chunk.real()]), 0.5)
        for b, length in enumerate(chunk.lengths):
            if length:
                self.last[b] = int(chunk.tokens[b, length - 1])


def tilted(lanes=1, which="token", full=False, share=0.6):
    """A base that leans: by the published token expert, or by all three in their legal forms."""
    token = Expert(ContextHints(V, BOUNDARY, lanes, exact=2), share, 2.625)
    if which == "token":
        return TiltPredictor(Bigrams(full=full), [token])
    others = [within_word_expert(PIECES, BOUNDARY, lanes), word_start_expert(PIECES, lanes, words=1)]
    return TiltPredictor(Bigrams(full=full), [token, *others], agreement=0.5)


def random_text(seed, count):
    """Documents of repeated words, one of them empty."""
    rng = np.random.default_rng(seed)
    words = [[2, 5, 6], [3, 7], [4, 8, 8], [2, 5, 7], [3, 6, 5, 5]]
    ids = [np.array([t for _ in range(rng.integers(3, count)) for t in words[rng.integers(5)]]) for _ in range(4)]
    return [*ids, np.zeros(0, dtype=np.int64), ids[0][:5]]


@pytest.mark.parametrize(
    ("p", "q", "hit", "boost", "cost"),
    [
        (0.2, 0.2, True, 2.625, 0.254455),
        (0.2, 0.5, False, 2.625, 3.611227),
        (0.9, 0.9, True, 2.625, 0.008017),
        (0.01, 0.9, False, 2.625, 7.132826),
        (0.3, 0.3, True, 0.75, 0.742979),
        (0.2, None, False, 2.625, 1.609438),
    ],
)
def test_the_closed_form_costs_what_the_spec_says(p, q, hit, boost, cost):
    """Oracles of 6.1, through a predictor: token 0 has p, the hint q, the gate is open or (q None) shut."""
    left = 1 - p if hit or q is None else 1 - p - q
    row_V = np.array([p, max(q or 0, 1e-9) if not hit else 1e-9, left])
    hints = Hints(np.array([-1 if q is None else 0 if hit else 1]), np.array([5]), np.array([5]))
    predictor = TiltPredictor(Fixed(row_V), [Expert(Given(3, hints), 0.8, boost)])
    rows = predictor.predict(one_lane([0]))
    assert -rows.realised()[0, 0] == pytest.approx(cost, abs=1e-6)
    assert rows.row(0, 0)[0] == rows.realised()[0, 0]


class Fixed:
    """One distribution for every position."""

    def __init__(self, row_V):
        self.vocab_size, self.row_V = len(row_V), np.asarray(row_V)

    def predict(self, chunk):
        with np.errstate(divide="ignore"):
            return TableRows(np.broadcast_to(np.log(self.row_V), (*chunk.tokens.shape, self.vocab_size)), chunk)

    def observe(self, chunk):
        pass


class Given:
    """Hints that stand from the start."""

    def __init__(self, vocab_size, hints):
        self.vocab_size, self._hints = vocab_size, hints

    def hints(self, chunk, lane):
        return self._hints

    def observe(self, chunk):
        pass


@given(st.floats(-745.0, 0.0), st.floats(0.0, 20.0))
def test_the_normaliser_is_log1p_of_q_expm1(log_q, boost):
    """The same bits everywhere, and the library's value to rounding."""
    expected = math.log1p(math.exp(log_q) * math.expm1(boost))
    assert log_normaliser(log_q, boost) == pytest.approx(expected, abs=1e-14, rel=1e-13)


def test_extreme_rows_stay_distributions():
    """A hint of probability zero, one, or slightly above one by rounding; all rows sum to one."""
    for share in (0.0, 1.0, 1.0 + 1e-12, 1e-300):
        row_V = np.array([share, 1.0 - min(share, 1.0), 0.0])
        hints = Hints(np.array([0]), np.array([1]), np.array([1]))
        row = TiltPredictor(Fixed(row_V), [Expert(Given(3, hints), 0.8, 2.625)]).predict(one_lane([1])).row(0, 0)
        assert np.exp(row).sum() == pytest.approx(1.0, abs=1e-9)


texts = st.lists(st.integers(0, 8), min_size=1, max_size=40)


@settings(**FAITHFUL)
@given(texts, texts, st.sampled_from(["token", "all"]), st.booleans())
def test_every_target_gets_its_share_of_one(prefix, tokens, which, full):
    """Spec 9.8: after any prefix, the credits of all possible targets sum to one, and each is its row's entry, bit for
    bit."""
    predictor = tilted(which=which, full=full)
    predictor.observe(one_lane(prefix))
    chunk = one_lane(tokens, start=False)
    for place in {0, len(tokens) // 2, len(tokens) - 1}:
        row = predictor.predict(chunk).row(0, place)
        total = 0.0
        for target in range(V):
            changed = Chunk(chunk.tokens.copy(), chunk.lengths, chunk.starts)
            changed.tokens[0, place] = target
            credit = predictor.predict(changed).realised()[0, place]
            assert credit == row[target]
            total += math.exp(credit)
        assert abs(total - 1.0) < 1e-9


@settings(**FAITHFUL)
@given(st.integers(0, 10**6), st.sampled_from(["token", "all"]), st.integers(1, 9))
def test_cutting_a_lane_changes_no_row(seed, which, size):
    """Chunk invariance: one token at a time, chunks of any size, and all at once give the same credits; `all_rows`,
    `row` and `realised` agree to the bit."""
    text = np.concatenate(random_text(seed, 12))
    whole = tilted(which=which, full=True)
    whole.neural.observe = lambda chunk: None  # this base learns from chunk to chunk alone
    rows = whole.predict(one_lane(text))
    credits, table = rows.realised()[0], rows.all_rows(0)
    assert [rows.row(0, t).tobytes() for t in range(len(text))] == [row.tobytes() for row in table]
    assert credits.tolist() == table[np.arange(len(text)), text].tolist()
    cut = tilted(which=which)
    before = 1
    for first in range(0, len(text), size):
        chunk = one_lane(text[first : first + size], start=first == 0)
        cut.neural.pairs, cut.neural.last = Bigrams().pairs, {0: before}
        assert cut.predict(chunk).realised()[0].tolist() == credits[first : first + size].tolist()
        cut.observe(chunk)
        before = int(text[first : first + size][-1])


@pytest.mark.parametrize("which", ["token", "all"])
@pytest.mark.parametrize("lanes", [1, 3])
def test_the_referee_finds_nothing(which, lanes):
    """All live probes pass, in the stream and in lanes, on a text where hints are trusted."""
    documents = random_text(1, 60)
    found = probe_predictor(
        lambda _: tilted(lanes, which), documents, lanes=lanes, chunk=16, boundary_id=BOUNDARY, seed=3, positions=16
    )
    assert {one.rule: one.says for one in found if one.status != "PASS"} == {}
    predictor, leans = tilted(lanes, which), 0
    for chunk in plan([len(ids) for ids in documents], lanes=lanes, chunk=16).chunks(documents, BOUNDARY):
        leans += sum(predictor.leaning(chunk, lane).gated for lane in range(lanes))
        predictor.observe(chunk)
    assert leans > 50


@pytest.mark.parametrize("which", ["token", "all"])
def test_coded_tokens_come_back(which):
    """Encoder and decoder, token by token in one stream and chunk by chunk in lanes, over both orders of documents."""
    documents = random_text(2, 12)
    stream = np.concatenate(documents)
    assert decode_tokens(tilted(which=which), encode_tokens(tilted(which=which), stream), len(stream)).tolist() == (
        stream.tolist()
    )
    for order in ("stream", "longest-first"):
        for lanes in (1, 2, 9):
            one = plan([len(ids) for ids in documents], lanes=lanes, chunk=8, order=order)
            code, _ = encode_plan(tilted(lanes, which), documents, one, BOUNDARY)
            back = decode_plan(tilted(lanes, which), code, one, BOUNDARY)
            assert [ids.tolist() for ids in back] == [ids.tolist() for ids in documents]


def test_whole_rows_are_asked_for_only_where_a_hint_misses():
    """Of a long lane with few wrong hints the model is asked for those rows alone; with many, for all at once."""
    period = [2, 5, 6, 3, 7] * 30
    period[75] = 8
    predictor = tilted(share=0.8)
    chunk = one_lane(period)
    leaning, tokens = predictor.leaning(chunk, 0), np.array(period)
    missed = ((leaning.hint_T >= 0) & (leaning.hint_T != tokens)).sum()
    predictor.predict(chunk).realised()
    assert leaning.gated > 100
    assert predictor.neural.asked == missed == 1


def test_a_tilt_towards_what_repeats_saves_bits():
    """A text of repeated words costs less with the tilt than without."""
    documents = random_text(3, 60)
    order = plan([len(ids) for ids in documents], chunk=16)
    bits = [
        score(one, documents, order, BOUNDARY, raw_bytes=1, text_digest="", audit_positions=4, seed=0).total_bits
        for one in (Bigrams(), TiltPredictor(Bigrams(), [token_expert(ScoreRecipe(tilt_context=3), V, BOUNDARY)]))
    ]
    assert bits[1] < bits[0]


@settings(**FAITHFUL)
@given(st.permutations(range(5)), st.integers(0, 4), st.integers(0, 10**6))
def test_whatever_was_scored_before_hints_come_from_scored_text_alone(order, place, seed):
    """Spec 9.8, second half: score documents in any order; the hints in one of them change when a document scored
    before it changes perhaps, but never when one that is still to come does."""
    documents = [ids[:20] for ids in random_text(seed, 12)[:5]]
    seen = order.index(place)

    def hints_of(texts):
        predictor = tilted(which="all")
        for document in order[:seen]:
            predictor.observe(one_lane(texts[document]))
        leaning = predictor.leaning(one_lane(texts[place]), 0)
        return leaning.hint_T.tolist(), leaning.boost_T.tolist()

    others = [documents[d] if d == place or d in order[:seen] else 8 - documents[d][::-1] for d in range(5)]
    assert hints_of(documents) == hints_of(others)
    # And nothing but those documents in that order is needed to get them: a fresh predictor that never saw the rest.
    alone = [documents[d] if d == place or d in order[:seen] else np.zeros(0, dtype=np.int64) for d in range(5)]
    assert hints_of(documents) == hints_of(alone)


def test_the_choice_among_experts_is_the_published_one():
    """Spec 6.3: the largest p b - log1p(p (e^b - 1)); ties to the earlier; two that agree add to the boost."""

    def hint(token, top, total):
        return Given(V, Hints(np.array([token]), np.array([top]), np.array([total])))

    def chosen(*experts):
        found = TiltPredictor(Bigrams(), experts, agreement=0.5).leaning(one_lane([2]), 0)
        return int(found.hint_T[0]), float(found.boost_T[0])

    sure, unsure = Expert(hint(3, 9, 10), 0.45, 0.75), Expert(hint(4, 5, 10), 0.45, 0.75)
    assert chosen(unsure, sure) == (3, 0.75)
    assert chosen(sure, Expert(hint(5, 9, 10), 0.45, 0.75)) == (3, 0.75)
    assert chosen(sure, Expert(hint(3, 5, 10), 0.45, 2.0))[1] in (1.25, 2.5)
    assert chosen(unsure, Expert(hint(5, 4, 10), 0.45, 0.75)) == (4, 0.75)
    assert chosen(Expert(hint(5, 4, 10), 0.45, 0.75)) == (-1, 0.0)


def test_boosts_by_the_recipe():
    """The token expert has the recipe's context, share and boost, and its memory is bounded by `ngram_bytes`."""
    expert = token_expert(ScoreRecipe(tilt_context=3, tilt_share=0.7, tilt_boost=1.5, ngram_bytes=50_000), V, BOUNDARY)
    assert (expert.share, expert.boost) == (0.7, 1.5)
    predictor = TiltPredictor(Bigrams(), [expert])
    predictor.observe(one_lane(np.random.default_rng(0).integers(0, V, 5000)))
    assert forgotten_by(predictor) == predictor.forgotten > 0
    primed = token_expert(SETTINGS, V, BOUNDARY, primer=[np.array([2, 5, 6], dtype=np.int32)]).source
    assert primed.contexts_in_use() == 3  # boundary and 2; 2, 5; 5, 6
    assert primed.hints(one_lane([2, 5]), 0).token_T.tolist() == [-1, 5]


def test_bad_input_is_refused():
    """Ids outside the vocabulary before anything is learnt, vocabularies that differ, impossible shares and boosts."""
    predictor = tilted(which="all")
    for verb in (predictor.predict, predictor.observe):
        with pytest.raises(TokenizerError, match=r"2\.\.9 are not in the vocabulary 0\.\.8"):
            verb(one_lane([2, 9]))
    assert predictor.experts[0].source.contexts_in_use() == 0
    with pytest.raises(ValueError, match="vocabularies differ"):
        TiltPredictor(Bigrams(7), [Expert(ContextHints(V, 1, exact=2), 0.8, 1.0)])
    for share, boost in ((1.5, 1.0), (0.8, -1.0), (0.8, 1e9), (math.nan, 1.0), (0.8, math.nan)):
        with pytest.raises(RecipeError, match=r"score\.tilt_"):
            Expert(ContextHints(V, 1, exact=2), share, boost)
    with pytest.raises(IndexError, match="padding"):
        predictor.predict(one_lane([2, 3])).row(0, 2)
