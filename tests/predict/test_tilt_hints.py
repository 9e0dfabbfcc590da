"""Hints: exact contexts, the older of equals, nothing but the past (spec pr2140.md, 6.2, 6.3 and 9.7)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import RecipeError, TokenizerError
from paramgolf.predict.ngram_counts import NgramCounts
from paramgolf.predict.protocol import Chunk
from paramgolf.predict.tilt_counts import BYTES_A_SYMBOL, ContextHints
from paramgolf.predict.tilt_experts import Pieces
from paramgolf.predict.tilt_words import WordStartHints
from paramgolf.text.byte_tokenizer import ByteTokenizer
from paramgolf.text.tokenizer import load_tokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared"
CASEOPS = SHARED / "tokenizers" / "fineweb_8192_bpe_caseops_v1.model"
CORPUS = SHARED / "corpus" / "fineweb_val_head.jsonl"

# Spec 9.7: boundary 1, new words {2, 3, 4}, pieces that go on {5..8}.
STREAM = [1, 2, 5, 6, 3, 7, 2, 5, 6, 4, 8, 2, 5, 7, 1, 2, 5, 6, 2, 5]
KINDS = np.array([0, 2, 1, 1, 1, 0, 0, 0, 0], dtype=np.int8)
TEXTS = ("", "", " the", " a", " of", "re", "d", "x", "y")
FAITHFUL = {"max_examples": 60, "deadline": None}


def one_lane(tokens, start=True):
    tokens = np.array([tokens], dtype=np.int64)
    return Chunk(tokens, np.array([tokens.shape[1]]), np.array([start]))


def shown(hints):
    """(index, token, share) of each hint."""
    return [(i, int(t), round(c / n, 6)) for i, (t, c, n) in enumerate(zip(*hints, strict=True)) if t >= 0]


class PlainHints:
    """What `ContextHints` promises, with dictionaries and one token at a time."""

    def __init__(self, boundary, lanes, *, exact, kinds=None, every=True):
        self.boundary, self.exact, self.kinds, self.every = boundary, exact, kinds, every
        self.known, self.runs = {}, [self.begun() for _ in range(lanes)]

    def begun(self):
        return [self.boundary] if self.exact else []

    def read(self, lane, starts, tokens):
        """The hint before each token, which is then learnt."""
        if starts:
            self.runs[lane] = self.begun()
        found = []
        for token in tokens:
            run, kind = self.runs[lane], 0 if self.kinds is None else self.kinds[token]
            context = tuple(run[-self.exact :] if self.exact else run)
            ready = len(run) >= self.exact if self.exact else 0 < len(run) <= 64
            found.append((-1, 0, 0))
            if ready:
                counts, leader = self.known.get(context, ({}, -1))
                if counts:
                    found[-1] = (leader, counts[leader], sum(counts.values()))
                if self.every or kind == 0:
                    counts[token] = counts.get(token, 0) + 1
                    if counts[token] > counts.get(leader, 0):
                        leader = token
                    self.known[context] = (counts, leader)
            if kind:
                self.runs[lane] = []
            if kind != 2:
                self.runs[lane] = [*self.runs[lane][-64:], token]
        return found


def listed(hints):
    return [tuple(int(part[t]) for part in hints) for t in range(len(hints.token_T))]


def test_token_hints_of_the_published_kernel():
    """Spec 9.7: context of 2, seed token 1."""
    found = ContextHints(9, 1, exact=2).hints(one_lane(STREAM), 0)
    expected = [(8, 6, 1), (9, 3, 1), (13, 6, 1), (16, 5, 1), (17, 6, 0.666667), (18, 3, 0.5)]
    assert shown(found) == expected


def test_ties_keep_the_older_leader():
    """Spec 9.7, "Ties": a token must exceed the leader to replace it."""
    found = ContextHints(10, 9, exact=2).hints(one_lane([9, 9, 4, 9, 9, 5, 9, 9, 5, 9, 9, 4, 9, 9, 4, 9, 9, 7]), 0)
    expected = [(2, 9, 1), (5, 9, 0.5), (8, 9, 0.333333), (9, 9, 1), (10, 9, 1), (11, 5, 0.5), (12, 9, 1), (13, 9, 1)]
    expected += [(14, 5, 0.4), (15, 9, 1), (16, 9, 1), (17, 4, 0.5)]
    assert shown(found) == expected


def test_a_period_of_twenty_is_hinted_from_its_second_round():
    """Spec 9.7: order 16, first hint at index 35, 25 hints, all of them right."""
    stream = list(range(10, 30)) * 3
    found = ContextHints(30, 10, exact=15).hints(one_lane(stream), 0)
    hinted = np.flatnonzero(found.token_T >= 0)
    assert hinted[0] == 35
    assert len(hinted) == 25
    assert found.token_T[hinted].tolist() == np.array(stream)[hinted].tolist()


def test_hints_within_words_of_the_published_kernel():
    """Spec 9.7: where the published kernel is asked (the target goes on with a word), these are its hints."""
    found = ContextHints(9, 1, exact=0, kind_V=KINDS, every=False).hints(one_lane(STREAM), 0)
    asked = KINDS[STREAM] == 0
    published = [(7, 5, 1), (8, 6, 1), (12, 5, 1), (13, 6, 1), (16, 5, 1), (17, 6, 0.666667), (19, 5, 1)]
    assert [one for one in shown(found) if asked[one[0]]] == published


def test_hints_of_word_starts_as_published():
    """Spec 9.7, order 2 (one word): at word starts there are hints at index 9 (3, 1.0) and 18 (3, 0.5) alone."""
    found = WordStartHints(TEXTS, KINDS, words=1).hints(one_lane(STREAM), 0)
    starts = [t for t, token in enumerate(STREAM) if KINDS[token] == 1]
    assert [one for one in shown(found) if one[0] in starts] == [(9, 3, 1), (18, 3, 0.5)]


def test_words_are_trimmed_lower_cased_and_dropped_when_empty():
    """Spec 6.3: "(The" and "the," are one word; a piece of punctuation is none."""
    texts = ("", " (The", " the,", " cat", " .", " sat", " on")
    kinds = np.array([2, 1, 1, 1, 1, 1, 1], dtype=np.int8)
    source = WordStartHints(texts, kinds, words=2)
    source.observe(one_lane([1, 3, 5]))
    found = source.hints(one_lane([2, 4, 3, 6]), 0)
    assert listed(found)[3] == (5, 1, 1)


chunkings = st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.lists(st.integers(0, 4), max_size=12)), max_size=14)


@settings(**FAITHFUL)
@given(chunkings, st.integers(0, 4), st.booleans())
def test_any_text_has_the_plain_hints(pieces, exact, every):
    """Two lanes in chunks of any length, with documents that begin anywhere: what dictionaries say, whatever is asked
    in between."""
    kinds = None if exact else np.array([0, 0, 1, 2, 0], dtype=np.int8)
    fast = ContextHints(5, 3, 2, exact=exact, kind_V=kinds, every=every, expected_tokens=1)
    plain = PlainHints(3, 2, exact=exact, kinds=kinds, every=every)
    for lane, starts, tokens in pieces:
        chunk = Chunk(np.zeros((2, len(tokens)), dtype=np.int64), np.zeros(2, dtype=np.int64), np.zeros(2, dtype=bool))
        chunk.tokens[lane], chunk.lengths[lane], chunk.starts[lane] = tokens, len(tokens), starts
        found, again = fast.hints(chunk, lane), fast.hints(chunk, lane)
        assert listed(found) == listed(again) == plain.read(lane, starts, tokens)
        fast.observe(chunk)


@settings(**FAITHFUL)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 3))
def test_counts_are_those_of_the_exact_engine(tokens, exact):
    """Total and leader's count of a context of `exact` tokens are those of `NgramCounts` for the same context."""
    counts, source = NgramCounts(exact, 4, 0), ContextHints(4, 0, exact=exact)
    chunk = one_lane(tokens)
    found = source.hints(chunk, 0)
    for t in range(len(tokens)):
        followers = counts.followers(chunk, 0, t)
        if len(followers) <= exact:
            assert found.token_T[t] == -1
            continue
        by_token = dict(zip(followers[exact].tokens.tolist(), followers[exact].counts.tolist(), strict=True))
        assert found.total_T[t] == sum(by_token.values())
        assert found.top_T[t] == by_token[int(found.token_T[t])] == max(by_token.values())


@settings(**FAITHFUL)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(0, 29), st.lists(st.integers(0, 4)))
def test_a_hint_knows_only_what_came_before(tokens, place, other):
    """All three sources: whatever stands at a place and after it, the hints up to there stay (8.1, gate invariance)."""
    kinds, texts = np.array([0, 0, 1, 2, 1], dtype=np.int8), ("a", "b", " c", "", " d")
    place = min(place, len(tokens) - 1)
    changed = [*tokens[:place], *(other + tokens)][: len(tokens)]
    for make in (
        lambda: ContextHints(5, 3, exact=2),
        lambda: ContextHints(5, 3, exact=0, kind_V=kinds, every=False),
        lambda: WordStartHints(texts, kinds, words=1),
    ):
        source = make()
        source.observe(one_lane([0, 2, 1, 0, 4, 2, 1, 0, 2, 1, 3, 0, 2, 1]))
        one, two = (listed(source.hints(one_lane(text), 0)) for text in (tokens, changed))
        assert one[: place + 1] == two[: place + 1]


def arrays(source):
    return [array.tobytes() for array in (*source._table, source._lanes_B2)]


@pytest.mark.parametrize("exact", [0, 2])
def test_asking_leaves_every_byte_as_it_was(exact):
    """`hints` is pure, contexts that are new or get their second follower included."""
    rng = np.random.default_rng(exact)
    source = ContextHints(6, 0, 2, exact=exact, kind_V=np.array([2, 1, 0, 0, 0, 0]))
    for _ in range(6):
        tokens = rng.integers(0, 6, (2, 40))
        chunk = Chunk(tokens, np.array([40, 17]), rng.random(2) < 0.4)
        source.hints(chunk, 0)  # what it grows by, it keeps
        before = arrays(source)
        for lane in (1, 0, 1):
            source.hints(chunk, lane)
            assert arrays(source) == before
        source.observe(chunk)


def test_bounded_memory_forgets_the_old_and_stays_exact():
    """However the text is cut, the same is forgotten; no context has more followers than the text gave it, and a
    pattern of late is known."""
    rng = np.random.default_rng(0)
    tokens = [*rng.integers(0, 50, 4000).tolist(), *([1, 2, 3, 4, 5] * 12)]
    source = ContextHints(50, 0, exact=3, most_bytes=600 * BYTES_A_SYMBOL)
    cuts = ContextHints(50, 0, exact=3, most_bytes=600 * BYTES_A_SYMBOL)
    source.observe(one_lane(tokens))
    for at, token in enumerate(tokens):
        cuts.observe(one_lane([token], start=at == 0))
    assert source.forgotten == cuts.forgotten > 1000
    probe = one_lane([*range(50), 1, 2, 3, 4, 5, 1], start=False)
    assert listed(source.hints(probe, 0)) == listed(cuts.hints(probe, 0))
    found = listed(source.hints(probe, 0))
    assert found[53][0] == 4
    assert found[55][0] == 1
    assert found[55][1] >= 11
    everything = PlainHints(0, 1, exact=3)
    everything.read(0, True, tokens)
    plain = everything.read(0, False, probe.tokens[0].tolist())
    assert all(one[2] <= all_of_it[2] for one, all_of_it in zip(found, plain, strict=True))
    assert source.contexts_in_use() <= 600


def test_bounded_memory_that_is_full_of_followers_begins_anew():
    """One context with ever new followers cannot be forgotten piece by piece."""
    kinds = np.zeros(3000, dtype=np.int8)
    kinds[0] = 1
    source = ContextHints(3000, 1, exact=0, kind_V=kinds, most_bytes=1200 * BYTES_A_SYMBOL)
    source.observe(one_lane([token for follower in range(2, 2900) for token in (0, follower)]))
    assert source.forgotten > 0
    assert listed(source.hints(one_lane([0, 5], start=False), 0))[1][0] >= 2


def test_primed_documents_are_known_at_once():
    """Training documents count before the first row, their boundaries among them, and lanes begin anew after them."""
    source = ContextHints(9, 0, 2, exact=2)
    source.prime([np.array([1, 2, 3], dtype=np.int32), np.array([4], dtype=np.int32)])
    chunk = Chunk(np.array([[1, 2, 3, 0], [3, 0, 4, 0]]), np.array([4, 4]), np.array([True, False]))
    assert [one[0] for one in listed(source.hints(chunk, 0))] == [-1, 2, 3, 0]
    assert [one[0] for one in listed(source.hints(chunk, 1))] == [-1, -1, 4, 0]


def test_bad_input_is_refused():
    """Ids outside the vocabulary, contexts beyond 32 tokens, too little memory (the message names the least)."""
    source = ContextHints(5, 0, exact=2)
    with pytest.raises(TokenizerError, match=r"ids 1\.\.5 are not in the vocabulary 0\.\.4"):
        source.observe(one_lane([1, 5]))
    with pytest.raises(TokenizerError, match="-1"):
        source.hints(one_lane([-1, 2]), 0)
    with pytest.raises(TokenizerError):
        WordStartHints(TEXTS, KINDS, words=2).observe(one_lane([9]))
    with pytest.raises(RecipeError, match="tilt_context=33"):
        ContextHints(5, 0, exact=33)
    with pytest.raises(RecipeError, match="use at least") as error:
        ContextHints(5, 0, exact=2, most_bytes=100)
    least = int(str(error.value).split("at least ")[1].split(",")[0])
    ContextHints(5, 0, exact=2, most_bytes=least).observe(one_lane([1, 2, 3] * 100))
    assert source.contexts_in_use() == 0


def test_empty_chunks_and_documents_change_nothing():
    """A lane of no tokens has no hints, and a start without tokens still ends the text before."""
    source = ContextHints(5, 0, exact=2)
    source.observe(one_lane([1, 2, 3, 1, 2]))
    assert listed(source.hints(one_lane([], start=False), 0)) == []
    assert listed(source.hints(one_lane([3], start=False), 0))[0][0] == 3
    source.observe(one_lane([]))
    assert listed(source.hints(one_lane([3], start=False), 0))[0][0] == -1


def test_pieces_say_what_they_do_to_a_word():
    """A leading space begins a word, the bare space too; what stands between words is named; all else goes on."""
    pieces = Pieces.of([b"", b" the", b"re", b" ", b"\n", b"!", b"\xff", b""], {0, 4})
    assert pieces.kind_V.tolist() == [2, 1, 0, 1, 2, 0, 0, 0]
    assert pieces.text[1] == " the"


def test_bytes_up_to_the_space_stand_between_words():
    """Tokens that are single bytes: control bytes, the space and the boundary end a word (8.27 repaired)."""
    tokenizer = ByteTokenizer()
    kinds = Pieces.of_tokenizer(tokenizer).kind_V
    ids = tokenizer.encode(b"a \n\x1c!\xff")
    assert kinds[ids].tolist() == [0, 2, 2, 2, 0, 0] and kinds[tokenizer.boundary_id] == 2


@pytest.mark.skipif(not CASEOPS.is_file(), reason="the contest's tokenizers are not next to the checkout")
def test_pieces_of_the_published_vocabulary():
    """Spec 1.3's ids: the bare space mark begins a word, operators go on with it and have no text; of the bytes, only
    those up to 0x20 end one (6.3)."""
    tokenizer = load_tokenizer(CASEOPS)
    pieces = Pieces.of_tokenizer(tokenizer)
    nasa, cup = [4, 320, 8133, 5, 5566, 8136, 8133, 4, 1632, 1709], [8160, 234, 137, 140, 8162, 2419]
    assert tokenizer.encode(b"The NASA Launch").tolist() == nasa
    assert pieces.kind_V[nasa].tolist() == [0, 0, 1, 0, 0, 0, 1, 0, 0, 0]
    assert "".join(pieces.text[token] for token in nasa) == "the nasa launch"
    assert pieces.kind_V[cup].tolist() == [0, 0, 0, 0, 0, 1]
    assert (pieces.kind_V == 1).sum() == 4188
    assert np.flatnonzero(pieces.kind_V == 2).tolist() == [0, 1, 2, *range(8, 8 + 0x21)]


@pytest.mark.slow
@pytest.mark.skipif(not CORPUS.is_file(), reason="the contest's documents are not next to the checkout")
def test_gates_on_the_contests_documents_are_those_of_exact_contexts():
    """Order 16 over 450 validation documents (spec 6.7): gates and hits are those of dictionaries, near the published
    hit rate of exact contexts, .8802 on the twice as long prefix."""
    tokenizer = load_tokenizer(SHARED / "tokenizers" / "fineweb_1024_bpe.model")
    records = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
    documents = [np.append(tokenizer.encode(one["text"].encode()), tokenizer.boundary_id) for one in records]
    stream = np.concatenate(documents)
    assert len(stream) == sum(one["tokens_sp1024"] for one in records) + 450
    found = ContextHints(1024, tokenizer.boundary_id, exact=15).hints(one_lane(stream), 0)
    gates = found.gates(0.8)
    plain = PlainHints(tokenizer.boundary_id, 1, exact=15).read(0, True, stream.tolist())
    assert listed(found) == plain
    assert 0.84 < (found.token_T == stream)[gates].mean() < 0.92
