"""SentencePiece tokenizers trained here are lossless for any bytes; foreign ones encode as SentencePiece does."""

import argparse
import hashlib
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from paramgolf.errors import LeakError, TokenizerError
from paramgolf.text.byte_table import contest_byte_table, exact_byte_table
from paramgolf.text.byte_tokenizer import ByteTokenizer
from paramgolf.text.losslessness import check_losslessness
from paramgolf.text.sentencepiece_tokenizer import SentencePieceTokenizer, train_sentencepiece
from paramgolf.text.text import HeldOutText, TrainText
from paramgolf.text.tokenizer import load_tokenizer, tokenizer_from_bytes

TEXT = TrainText("self", [Path(__file__).read_bytes() * 3, "Žluťoučký kůň — naïve café … 日本語\n".encode() * 40])
LOSSLESS = train_sentencepiece(TEXT, 500)
ODD = [
    b"",
    b"\0",
    b" ",
    b"   ",
    b"\n",
    b"\n\n    \t x\r\n",
    b"\xff\xfe",
    b"a\x80b",
    b"\xed\xa0\x80 lone surrogate",
    b"\xf4\x90\x80\x80",
    "\u2581".encode(),
    "a\u2581\u2581b \u2581".encode(),
    "\u2581".encode()[:2],
    b"<s></s><unk><pad>",
    b"<0x41><0x00>",
    "\u2585\ufeff\ufffd\ufffe\U0010ffff\u0085\u2028".encode(),
    "e\u0301 \ufb01 \uff11 \u00a0 \u00bd".encode(),
    b"x" * 5000,
    b" " * 5000,
    b"\n" * 5000,
    "é".encode() * 5000,
    "日".encode() * 5000 + b"\xe6\x97",
    bytes(range(256)) * 40,
]


def train_plain(text=TEXT.documents[0], **settings):
    """A model trained by SentencePiece itself, byte fallback and reserved ids as the contest's unless told."""
    model = io.BytesIO()
    options = {"byte_fallback": True, "vocab_size": 400, "bos_id": 1, "pad_id": 0, "eos_id": 2, "unk_id": 3}
    lines = [line for line in text.decode().split("\n") if line]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        hard_vocab_limit=False,
        minloglevel=2,
        **{**options, **settings},
    )
    return model.getvalue()


NORMALISING = train_plain(normalization_rule_name="nmt_nfkc", add_dummy_prefix=False)
DUMMY_PREFIX = train_plain(normalization_rule_name="nmt_nfkc")
NO_BYTES = train_plain(normalization_rule_name="identity", byte_fallback=False, vocab_size=200)
TOKENIZERS = {
    "trained": LOSSLESS,
    "bytes": ByteTokenizer(),
    "normalising": SentencePieceTokenizer(NORMALISING),
    "dummy prefix": SentencePieceTokenizer(DUMMY_PREFIX),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("document", ODD)
def test_odd_documents_come_back_exactly(name, document):
    """`decode(encode_exact(d)) == d` for everything that trips tokenizers, whatever the model does to text."""
    tokenizer = TOKENIZERS[name]
    assert tokenizer.decode(tokenizer.encode_exact(document)) == document


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(deadline=None, max_examples=150)
@given(document=st.one_of(st.binary(), st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_any_bytes_come_back_exactly(name, document):
    """The same for any bytes and any unicode; and where the tokenizer calls itself lossless, `encode` is the same."""
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode_exact(document)
    assert ids.dtype == np.int32 and tokenizer.decode(ids) == document
    assert tokenizer.boundary_id not in ids
    if tokenizer.lossless:
        assert (tokenizer.encode(document) == ids).all()


@settings(deadline=None, max_examples=100)
@given(text=st.text(alphabet=st.sampled_from(list("ab \n\t\u2581<s>0x41é日\udc80\ud800\ufffd"))))
@example(text="a\u2581 \u2581a")
def test_texts_made_of_trouble_come_back(text):
    """Marks, spaces, control spellings and surrogates in every mixture come back."""
    document = text.encode("utf-8", "surrogatepass")
    for tokenizer in TOKENIZERS.values():
        assert tokenizer.decode(tokenizer.encode_exact(document)) == document


def test_only_models_that_keep_text_are_called_lossless():
    """`lossless` follows from the model's own settings: identity with byte pieces yes, NFKC or no byte pieces no."""
    assert {name: tokenizer.lossless for name, tokenizer in TOKENIZERS.items()} == {
        "trained": True,
        "bytes": True,
        "normalising": False,
        "dummy prefix": False,
    }
    assert not SentencePieceTokenizer(NO_BYTES).lossless
    keeps = train_plain(normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False)
    assert SentencePieceTokenizer(keeps).lossless


def test_a_model_whose_space_has_no_piece_is_not_lossless_but_exact():
    """Without a piece for the space, SentencePiece spells it as U+2581 in bytes (rules V27): caught by the probe."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["abcabcab", "bcabca"] * 50),
        model_writer=model,
        model_type="bpe",
        vocab_size=263,
        byte_fallback=True,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        minloglevel=2,
    )
    tokenizer = SentencePieceTokenizer(model.getvalue())
    if any(piece.text == "\u2581" for piece in tokenizer.proto.pieces):
        pytest.skip("this SentencePiece always gives the space a piece")
    assert not tokenizer.lossless
    assert tokenizer.decode(tokenizer.encode_exact(b"a b")) == b"a b"


@pytest.mark.parametrize("model", [NORMALISING, DUMMY_PREFIX, NO_BYTES], ids=["nfkc", "dummy prefix", "no bytes"])
def test_foreign_models_encode_as_sentencepiece_does(model):
    """For models that normalise, `encode` is SentencePiece's own, and `decode` gives what its decoder gives."""
    plain = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokenizer = SentencePieceTokenizer(model)
    text = Path(__file__).read_text(encoding="utf-8") + " ﬁ １ … e\u0301  two\n\nlines \u2581 x "
    for part in [text, *text.split("\n")]:
        ids = tokenizer.encode(part.encode())
        assert ids.tolist() == plain.encode(part)
        if 3 not in ids:
            assert tokenizer.decode(ids).decode() == plain.decode(ids.tolist())


def test_a_normalising_model_keeps_plain_words_as_pieces_when_it_spells_the_rest():
    """Exact spelling touches what would change only: most of an ordinary document still uses ordinary pieces."""
    document = (b"the documents that SentencePiece keeps as they are " * 20) + "… \n\n ﬁn".encode()
    tokenizer = TOKENIZERS["normalising"]
    exact, plain = tokenizer.encode_exact(document), tokenizer.encode(document)
    assert tokenizer.decode(plain) != document == tokenizer.decode(exact)
    assert len(plain) < len(exact) < len(plain) + 20


def test_without_byte_pieces_what_cannot_be_spelled_is_an_error():
    """A model without byte fallback encodes text it knows and refuses, in exact mode, what it does not."""
    tokenizer = SentencePieceTokenizer(NO_BYTES)
    known = tokenizer.decode(tokenizer.encode(b"return"))
    assert tokenizer.decode(tokenizer.encode_exact(known)) == known
    with pytest.raises(TokenizerError, match="byte_fallback"):
        tokenizer.encode_exact(b"\xff")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_outside_the_vocabulary_are_refused_and_control_ids_are_silent(name):
    """`decode` raises for any id out of range and for fractions, and gives no bytes for pad, bos, eos, unk."""
    tokenizer = TOKENIZERS[name]
    for bad in (-1, tokenizer.vocab_size, 2**40):
        with pytest.raises(TokenizerError, match=f"token id {bad} is outside"):
            tokenizer.decode([5, bad])
    with pytest.raises(TokenizerError, match="integers"):
        tokenizer.decode([1.5])
    assert tokenizer.decode([0, 1, 2, 3]) == b"" == tokenizer.decode([])


def test_training_twice_gives_the_same_model_with_the_contests_reserved_ids():
    """Training is deterministic; ids 0..3 are pad, bos, eos, unk and 4..259 the bytes (spec pr549 1.3)."""
    assert train_sentencepiece(TEXT, 500).to_bytes() == LOSSLESS.to_bytes()
    names = [piece.text for piece in LOSSLESS.proto.pieces]
    assert names[:4] == ["<pad>", "<s>", "</s>", "<unk>"]
    assert names[4:260] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert LOSSLESS.vocab_size == 500 and LOSSLESS.boundary_id == 1
    assert LOSSLESS.digest == hashlib.sha256(b"sentencepiece\0" + LOSSLESS.to_bytes()).hexdigest()


def test_pieces_span_indentation_and_line_ends_and_save_tokens():
    """On source code the vocabulary has runs of spaces and line ends, and needs fewer tokens than a word-wise one."""
    texts = [piece.text for piece in LOSSLESS.proto.pieces[260:]]
    assert any(text.startswith("\u2581" * 4) for text in texts) and any("\n" in text for text in texts)
    keeps = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False}
    source = Path(argparse.__file__).read_bytes()
    ours = train_sentencepiece(TrainText("source", [source]), 600)
    plain = SentencePieceTokenizer(train_plain(text=source, vocab_size=600, **keeps))
    assert len(ours.encode(source)) < 0.85 * len(plain.encode(source))


def test_training_leaves_no_files_behind(tmp_path, monkeypatch, capfd):
    """No interim files, neither here nor in the temporary folder, and nothing on the terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    train_sentencepiece(TEXT, 400)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_held_out_text_cannot_train_a_tokenizer():
    """Fitting a vocabulary on held-out text is a leak, refused at run time."""
    with pytest.raises(LeakError, match="tokenizer"):
        train_sentencepiece(HeldOutText("h", TEXT.documents), 400)


@pytest.mark.parametrize("document", [b"x", b"tiny text", b"\xff\xfe\xfd", b"\0", b"0123456789" * 100, b"a" * 100_000])
def test_a_text_too_small_for_the_vocabulary_says_what_fits(document):
    """Too little text is one clear error, and the vocabulary size that it names can really be trained."""
    with pytest.raises(TokenizerError, match="byte tokenizer") as error:
        train_sentencepiece(TrainText("small", [document]), 1024)
    words = str(error.value).split("largest possible is ")
    if len(words) == 2:
        largest = int(words[1].split(",")[0])
        tokenizer = train_sentencepiece(TrainText("small", [document]), largest)
        assert tokenizer.vocab_size == largest and tokenizer.decode(tokenizer.encode(document)) == document


@pytest.mark.parametrize("vocab_size", [0, -5, 263, 65537])
def test_impossible_vocabulary_sizes_are_refused(vocab_size):
    """A vocabulary must hold the bytes and controls and fit into 16 bits."""
    with pytest.raises(TokenizerError, match=f"vocab_size={vocab_size} "):
        train_sentencepiece(TEXT, vocab_size)


def test_many_scripts_do_not_starve_the_vocabulary():
    """A text of thousands of different characters still trains: rare ones are spelled in bytes."""
    text = "".join(chr(0x4E00 + (number * 7919) % 6000) for number in range(40_000))
    lines = "\n".join(text[at : at + 40] for at in range(0, len(text), 40))
    tokenizer = train_sentencepiece(TrainText("han", [lines.encode()]), 600)
    assert tokenizer.lossless and tokenizer.decode(tokenizer.encode(lines.encode())) == lines.encode()


def test_models_and_kinds_are_read_back_and_damage_is_refused(tmp_path):
    """`to_bytes` and `tokenizer_from_bytes` are inverse; truncation and garbage raise `TokenizerError`."""
    for tokenizer in TOKENIZERS.values():
        again = tokenizer_from_bytes(tokenizer.kind, tokenizer.to_bytes())
        assert (again.digest, again.vocab_size, again.lossless) == (
            tokenizer.digest,
            tokenizer.vocab_size,
            tokenizer.lossless,
        )
    (tmp_path / "t.model").write_bytes(LOSSLESS.to_bytes())
    assert load_tokenizer(tmp_path / "t.model").digest == LOSSLESS.digest
    assert load_tokenizer("bytes").vocab_size == 260
    for model in (b"", b"garbage", LOSSLESS.to_bytes()[:5000], b"\x0a\xff\xff\xff\xff\x0f"):
        with pytest.raises(TokenizerError):
            tokenizer_from_bytes("sentencepiece", model)
    with pytest.raises(TokenizerError):
        tokenizer_from_bytes("bytes", b"{}")
    with pytest.raises(TokenizerError, match="unknown tokenizer kind"):
        tokenizer_from_bytes("wordpiece", b"")
    with pytest.raises(TokenizerError, match="cannot read tokenizer"):
        load_tokenizer(tmp_path / "none.model")


@settings(deadline=None, max_examples=200)
@given(at=st.integers(0, len(LOSSLESS.to_bytes()) - 1), value=st.integers(0, 255))
def test_a_changed_byte_in_a_model_gives_a_tokenizer_or_an_error(at, value):
    """No damaged model crashes the process or breaks exactness."""
    model = bytearray(LOSSLESS.to_bytes())
    model[at] = value
    try:
        tokenizer = SentencePieceTokenizer(bytes(model))
        document = b"def f(x):\n    return x  # \xff"
        assert tokenizer.decode(tokenizer.encode_exact(document)) == document
    except TokenizerError:
        pass


@settings(deadline=None, max_examples=150)
@given(text=st.text())
def test_the_exact_table_sums_to_the_raw_bytes(text):
    """Byte attribution over the ids of any unicode text sums to its length in bytes."""
    document = text.encode("utf-8", "surrogatepass")
    for tokenizer in (LOSSLESS, ByteTokenizer(), TOKENIZERS["normalising"]):
        ids = tokenizer.encode_exact(document)
        assert exact_byte_table(tokenizer).bytes_of_document(ids, tokenizer.boundary_id) == len(document)


@settings(deadline=None, max_examples=150)
@given(text=st.text())
def test_the_contest_table_counts_the_normalised_text(text):
    """The contest's tables sum to the length of what a normalising model makes of the text, not of the text."""
    tokenizer = TOKENIZERS["normalising"]
    ids = tokenizer.encode(text.encode("utf-8", "surrogatepass"))
    table = contest_byte_table(tokenizer)
    assert table.bytes_of_document(ids, tokenizer.boundary_id) == len(tokenizer.decode(ids))


def test_the_contest_table_follows_its_definition():
    """Control, unknown: 0 bytes, boundary; byte piece: 1; a leading mark is charged unless a boundary stands before."""
    tokenizer = TOKENIZERS["normalising"]
    table = contest_byte_table(tokenizer)
    texts = [piece.text for piece in tokenizer.proto.pieces]
    assert table.base[:4].tolist() == [0, 0, 0, 0] and table.boundary[:4].all() and not table.boundary[4:].any()
    assert (table.base[4:260] == 1).all()
    led = next(token for token, text in enumerate(texts) if text.startswith("\u2581") and len(text) > 1)
    size = len(texts[led]) - 1
    assert table.bytes_of([1, 300, 300], [led, led, 4]).tolist() == [size, size + 1, 1]
    with pytest.raises(TokenizerError):
        table.bytes_of([0], [tokenizer.vocab_size])
    with pytest.raises(ValueError, match="2 previous ids for 1 ids"):
        table.bytes_of([0, 0], [1])


def test_the_contest_table_overcounts_runs_of_spaces_in_one_piece():
    """An interior U+2581 is charged three bytes (spec pr549 1.6, pitfalls): why the exact table exists."""
    ids = LOSSLESS.encode(b"x\n        return")
    contest = contest_byte_table(LOSSLESS).bytes_of_document(ids, 1)
    assert contest > exact_byte_table(LOSSLESS).bytes_of_document(ids, 1) == 16


def test_the_losslessness_report_counts_and_shows_the_first_difference():
    """The report names how many documents differ and where the first one does."""
    documents = [b"fine", b"two  spaces", "½".encode()]
    report = check_losslessness(TOKENIZERS["normalising"], documents)
    assert (report.documents, report.differ, report.lossless) == (3, 2, False)
    assert report.first is not None and (report.first.document, report.first.offset) == (1, 4)
    assert (report.first.expected, report.first.found) == (b" spaces", b"spaces")
    assert "2 of 3 documents differ; first at document 1, byte 4" in report.says()
    fine = check_losslessness(LOSSLESS, documents)
    assert fine.lossless and fine.first is None and "all 3 documents" in fine.says()


def test_one_huge_document_is_encoded_in_bounded_pieces():
    """Megabytes of zeros, of one letter and of noise come back, in seconds."""
    for document in (b"0" * 1_000_000, bytes(1_000_000), b"a" * 1_000_000, np.random.default_rng(0).bytes(300_000)):
        assert LOSSLESS.decode(LOSSLESS.encode(document)) == document
