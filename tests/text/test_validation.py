"""Which validation targets count, the bytes they stand for, and published figures from them, digit by digit."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import TextError, TokenizerError
from paramgolf.text import validation
from paramgolf.text.byte_table import ByteTable, contest_byte_table
from paramgolf.text.sentencepiece_tokenizer import SentencePieceTokenizer, train_model
from paramgolf.text.tokenizer import load_tokenizer
from paramgolf.text.validation import (
    Denominator,
    contest_bpb,
    kept_tokens,
    plain_denominator,
    published_sliding_denominator,
    published_tail_spans,
    validation_tokens,
)

SHARED = Path(__file__).resolve().parents[3] / "shared"
IDS = np.arange(16)
TABLE = ByteTable(base=IDS // 4, leading_space=IDS >= 8, boundary=IDS < 4)  # spec pr549.md 8.1
TOKENS = np.array([(7 * i * i + 3 * i) % 16 for i in range(21)], dtype=np.uint16)

PLAIN, SLIDING = Denominator(62_021_632, 151_080_363), Denominator(62_023_616, 151_084_796)
PUBLISHED = [
    (PLAIN, 1.93358885, "1.14518023"),
    (PLAIN, 1.93502821, "1.14603270"),
    (PLAIN, 1.93273877, "1.14467677"),
    (SLIDING, 1.89385556, "1.12165091"),
    (SLIDING, 1.89556781, "1.12266500"),
    (SLIDING, 1.89307789, "1.12119033"),
    (SLIDING, 1.88976776, "1.11922988"),
    (SLIDING, 1.89110239, "1.12002032"),
    (SLIDING, 1.88919190, "1.11888882"),
]


@pytest.mark.parametrize(("denominator", "loss", "bpb"), PUBLISHED)
def test_published_scores_follow_from_their_losses(denominator, loss, bpb):
    """Spec pr549.md 6: every 8-digit bpb of the logs from its loss, to the last digit; four bytes more would not."""
    assert f"{denominator.bpb(loss):.8f}" == bpb
    assert f"{contest_bpb(loss, denominator.targets, denominator.bytes + 4):.8f}" != bpb


def test_the_tables_of_the_spec():
    """Spec pr549.md 8.1: the bytes of the twenty targets, 37 together."""
    assert TOKENS.tolist() == [0, 10, 2, 8, 12, 14, 14, 12, 8, 2, 10, 0, 4, 6, 6, 4, 0, 10, 2, 8, 12]
    expected = [2, 0, 2, 4, 4, 4, 4, 3, 0, 2, 0, 1, 1, 1, 1, 0, 2, 0, 2, 4]
    assert TABLE.bytes_of(TOKENS[:-1], TOKENS[1:]).tolist() == expected
    assert plain_denominator(TOKENS, TABLE) == Denominator(20, 37)


def test_the_tiny_models_scores_follow_from_their_losses():
    """Spec pr549.md 8.10: plain and sliding bpb of the tiny model from its losses, 37 and 55 bytes."""
    sliding = published_sliding_denominator(TOKENS, TABLE, window=8, stride=2)
    assert sliding == Denominator(26, 55)
    assert f"{sliding.bpb(2.83085666):.8f}" == "1.93064790"
    assert plain_denominator(TOKENS, TABLE).bpb(2.81164300) == pytest.approx(2.19261806, abs=1e-8)


def test_the_dropped_tail_of_the_contest():
    """Spec pr549.md 1.5: of 62,021,846 tokens 62,021,632 targets are kept at sequence 2048, 213 are dropped."""
    kept = kept_tokens(62_021_846, 2048)
    assert kept - 1 == 62_021_632 and 62_021_846 - kept == 213


@given(tokens=st.integers(2, 200), sequence=st.integers(1, 60), cut=st.integers(0, 200))
@settings(deadline=None)
def test_whole_sequences_are_kept(tokens, sequence, cut):
    """Targets kept are the most that whole sequences hold; without a sequence nothing is dropped."""
    stream = np.arange(tokens, dtype=np.uint16)
    shards = np.split(stream, [min(cut, tokens)])
    assert (validation_tokens(shards) == stream).all()
    if tokens <= sequence:
        with pytest.raises(TextError, match=f"{tokens} validation tokens hold no sequence of {sequence}"):
            validation_tokens(shards, sequence)
        return
    kept = validation_tokens(shards, sequence)
    targets = len(kept) - 1
    assert targets % sequence == 0 and 0 <= tokens - 1 - targets < sequence
    assert (kept == stream[: len(kept)]).all()


@pytest.mark.parametrize("shards", [[], [np.zeros(0, np.uint16)], [np.array([1], np.uint16)]])
def test_no_target_is_an_error(shards):
    """No shard, no token and a lone BOS have nothing to score."""
    with pytest.raises(TextError, match="hold no target"):
        validation_tokens(shards)
    with pytest.raises(TextError, match="hold no target"):
        plain_denominator(np.array([1], np.uint16), TABLE)


def test_the_published_tail_is_counted_32_times():
    """Spec pr549.md 5.3: 62,021,632 targets become 62,023,616; the last 64 count 31 times more, 31 x 143 = 4,433."""
    spans = published_tail_spans(62_021_632, 2048, 64)
    assert spans[0] == (0, 62_021_632) and spans[1:] == [(62_021_568, 62_021_632)] * 31
    assert sum(last - first for first, last in spans) == SLIDING.targets
    # A stream whose last 64 targets hold 143 bytes: 38 of 3, one of 4, 25 of 1.
    tokens = np.full(6 * 2048 + 1, 4, dtype=np.uint16)
    tokens[-64:-26], tokens[-26] = 8, 12
    plain, sliding = plain_denominator(tokens, TABLE), published_sliding_denominator(tokens, TABLE, 2048, 64)
    assert sliding.targets - plain.targets == 31 * 64
    assert sliding.bytes - plain.bytes == SLIDING.bytes - PLAIN.bytes == 31 * 143 == 4433


def walked_multiplicities(targets, window, stride, drop_short):
    """How often each target is scored, by going through the windows one by one (spec pr549.md 5.3, 5.4)."""
    counts = [0] * targets
    for start in range(0, targets, stride):
        end = min(start + window, targets)
        length = end - start
        if drop_short and start and length < stride:
            continue
        for position in range(0 if start == 0 else max(length - stride, 0), length):
            counts[start + position] += 1
    return counts


def multiplicities(targets, window, stride, drop_short):
    """The same from the spans."""
    counts = [0] * targets
    for first, last in published_tail_spans(targets, window, stride, drop_short=drop_short):
        for target in range(first, last):
            counts[target] += 1
    return counts


@pytest.mark.parametrize(
    ("targets", "drop_short", "scored", "last_two"),
    [(20, False, 26, [4, 4]), (20, True, 26, [4, 4]), (21, True, 26, [4, 3]), (21, False, 27, [4, 4])],
)
def test_the_windows_of_the_spec(targets, drop_short, scored, last_two):
    """Spec pr549.md 8.7: scored positions for T = 20 and 21 at S = 8, s = 2, with and without the short window."""
    counts = multiplicities(targets, 8, 2, drop_short)
    assert sum(counts) == scored and counts[-2:] == last_two and set(counts[:18]) == {1}


@given(targets=st.integers(1, 90), window=st.integers(1, 30), data=st.data(), drop_short=st.booleans())
@settings(deadline=None, max_examples=200)
def test_spans_hold_every_target_as_often_as_the_windows_score_it(targets, window, data, drop_short):
    """Any length, window and stride: the few spans and the walk through all windows agree target by target."""
    stride = data.draw(st.integers(1, window))
    expected = walked_multiplicities(targets, window, stride, drop_short)
    assert multiplicities(targets, window, stride, drop_short) == expected


@given(tokens=st.lists(st.integers(0, 15), min_size=2, max_size=60), at_once=st.integers(1, 9))
@settings(deadline=None)
def test_bytes_do_not_depend_on_how_they_are_summed(tokens, at_once):
    """Parts of any size sum to the bytes of all targets together."""
    stream = np.array(tokens, dtype=np.uint16)
    usual = validation._AT_ONCE
    validation._AT_ONCE = at_once
    try:
        found = plain_denominator(stream, TABLE)
    finally:
        validation._AT_ONCE = usual
    assert found.bytes == int(TABLE.bytes_of(stream[:-1], stream[1:]).sum())


def test_ids_beyond_the_tables_are_refused():
    """Tokens of another vocabulary than the tables' are an error, not a guess (spec rules V29)."""
    with pytest.raises(TokenizerError, match="16 is outside the vocabulary of 16"):
        plain_denominator(np.array([1, 16], np.uint16), TABLE)


@pytest.fixture(scope="module")
def contest_like():
    """A model trained with the settings of spec pr549.md 1.3."""
    text = Path(__file__).read_text(encoding="utf-8").split("\n") * 3
    text += ["hello world café naïve A1 fine 1⁄2 a b x ...", "the fox and the hen: hello, world!"] * 30
    lines = [line.strip() for line in text if line.strip()]
    settings = {"character_coverage": 0.999, "normalization_rule_name": "nmt_nfkc"}
    return SentencePieceTokenizer(train_model(lines, 1024, "contest-like", settings))


CASES = [
    ("hello world", 11, 11),
    (" hello", 5, 6),
    ("a\n\nb", 3, 4),
    ("a  b", 3, 4),
    ("x ", 1, 2),
    ("\ufb01ne", 4, 5),
    ("\uff21\uff11", 2, 6),
    ("caf\u00e9", 5, 5),
    ("\u00bd", 5, 2),
    ("x\u200bb", 3, 5),
    ("\u2026", 3, 3),
]


@pytest.mark.parametrize(("text", "charged", "raw"), CASES)
def test_the_normalised_text_is_charged(contest_like, text, charged, raw):
    """Spec pr549.md 8.1: charged and raw bytes; charged bytes are those of decode(encode(text))."""
    ids = contest_like.encode(text.encode())
    table = contest_byte_table(contest_like)
    stream = np.concatenate([[1], ids])
    assert len(text.encode()) == raw
    assert plain_denominator(stream, table) == Denominator(len(ids), charged)
    assert len(contest_like.decode(ids)) == charged


@given(text=st.text(min_size=1, max_size=40))
@settings(deadline=None, max_examples=150)
def test_any_text_is_charged_what_comes_back(contest_like, text):
    """Charged bytes are the bytes of decode(encode(text)), whatever the text; an interior U+2581 aside (spec 1.6)."""
    if "\u2581" in unicodedata.normalize("NFKC", text):
        return
    ids = contest_like.encode(text.encode())
    stream = np.concatenate([[1], ids, [1]])
    assert plain_denominator(stream, contest_byte_table(contest_like)).bytes == len(contest_like.decode(ids))


def test_a_model_of_the_contests_settings_has_its_ids(contest_like):
    """Spec pr549.md 1.3: ids 4..259 are the byte pieces, one byte each; control ids are silent and end a word."""
    table = contest_byte_table(contest_like)
    assert table.base[4:260].tolist() == [1] * 256 and not table.boundary[4:260].any()
    assert table.base[:4].tolist() == [0] * 4 and table.boundary[:4].all() and not table.boundary[4:].any()


CORPUS = SHARED / "corpus" / "fineweb_val_head.jsonl"


@pytest.mark.skipif(not CORPUS.is_file(), reason="the contest's documents are not next to the checkout")
def test_the_head_of_the_contests_stream():
    """BOS and the ids of each document: T counts every token but the first, B is the sum of the published bytes."""
    records = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()[:200]]
    tokenizer = load_tokenizer(SHARED / "tokenizers" / "fineweb_1024_bpe.model")
    documents = [np.concatenate([[1], tokenizer.encode(record["text"].encode())]) for record in records]
    stream = validation_tokens([np.concatenate(documents).astype(np.uint16)])
    found = plain_denominator(stream, contest_byte_table(tokenizer))
    assert found.targets == sum(record["tokens_sp1024"] for record in records) + len(records) - 1
    assert found.bytes == sum(record["bytes"] for record in records)
