"""CaseOps tokenizers: lossless ones keep any bytes, normalising ones say what they lose; raw bytes of every token."""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import LeakError, TokenizerError
from paramgolf.text.caseops import OPERATORS, encode, encode_bytes, is_stream
from paramgolf.text.caseops_plain import count_bytes_plain, encode_plain
from paramgolf.text.caseops_tokenizer import CaseOpsTokenizer
from paramgolf.text.caseops_training import train_caseops, train_contest_caseops
from paramgolf.text.losslessness import check_losslessness
from paramgolf.text.sentencepiece_tokenizer import train_sentencepiece
from paramgolf.text.text import HeldOutText, TrainText
from paramgolf.text.tokenizer import load_tokenizer, tokenizer_from_bytes
from paramgolf.text.train_tokenizer import train_tokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared"
PUBLISHED = SHARED / "tokenizers" / "fineweb_8192_bpe_caseops_v1.model"
CORPUS = SHARED / "corpus" / "fineweb_val_head.jsonl"

WORDS = "The NASA Launch, iPhone OpenAI; McDonald said: DON'T! 12 ½ cups of é and 😀.\n\n" * 20
SOURCE = Path(argparse.__file__).read_text(encoding="utf-8")
TEXT = TrainText("self", [SOURCE.encode(), WORDS.encode()])
LOSSLESS = train_caseops(TEXT, 500)
CONTEST = train_contest_caseops(TEXT, 500)
ODD = st.text(
    alphabet=st.sampled_from([*"aAbBzZ  \n\t\r\u3000\u00a0½…™ºé\u0301\ufb01\u200b\x07\u2581\ufffd<", *OPERATORS, "😀"])
)


def surfaces(tokenizer: CaseOpsTokenizer, stream: str) -> list[str]:
    """What SentencePiece itself says each token covers."""
    model = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.to_bytes())
    if not hasattr(model, "encode_as_offset_mapping"):
        pytest.skip("this SentencePiece does not tell offsets")
    return [stream[first:last] for first, last in model.encode_as_offset_mapping(stream)["offsets"]]


@settings(deadline=None, max_examples=250)
@given(document=st.one_of(st.binary(), st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_any_bytes_come_back(document):
    """A lossless model gives back any bytes from `encode`, every model from `encode_exact`; all bytes are charged."""
    ids = LOSSLESS.encode(document)
    assert ids.dtype == np.int32 and LOSSLESS.decode(ids) == document
    for tokenizer in (LOSSLESS, CONTEST):
        exact = tokenizer.encode_exact(document)
        assert tokenizer.decode(exact) == document and tokenizer.boundary_id not in exact
        assert tokenizer.bytes_of(exact).sum() == len(document)
    counted, counts = LOSSLESS.encode_counted(document)
    assert (counted == ids).all() and (counts == LOSSLESS.bytes_of(ids)).all()


@settings(deadline=None, max_examples=400)
@given(text=ODD)
def test_texts_made_of_trouble_are_charged_as_sentencepiece_covers_them(text):
    """Of a normalising model every token is charged the raw bytes of its surface, counted by the plain machine."""
    ids, counts = CONTEST.encode_counted(text.encode())
    stream = encode_plain(text)
    assert counts.tolist() == count_bytes_plain(surfaces(CONTEST, stream))
    assert len(ids) == len(counts) and counts.sum() <= len(text.encode())
    exact, charged = LOSSLESS.encode_counted(text.encode())
    assert LOSSLESS.decode(exact) == text.encode() and charged.sum() == len(text.encode())


@settings(deadline=None, max_examples=200)
@given(text=st.text(alphabet=st.sampled_from(list("aAbB \n\t\r.é"))))
def test_white_space_is_followed_without_the_models_own_map(text):
    """Where only white space was changed, the fast way to the surfaces gives what SentencePiece's map gives."""
    stream = encode_bytes(text.encode())
    ids = CONTEST.encode(text.encode())
    places = CONTEST.surface_ends(stream, ids)
    raw = [len(stream[:place].decode().translate(dict.fromkeys(map(ord, OPERATORS))).encode()) for place in places]
    assert CONTEST.count_bytes(stream, ids).tolist() == np.diff(raw).tolist()


@settings(deadline=None, max_examples=150)
@given(ids=st.lists(st.integers(0, 499), max_size=60))
def test_any_ids_decode(ids):
    """A model may write what no encoder does: decoding never fails, and counting charges no more than was spelled."""
    for tokenizer in (LOSSLESS, CONTEST):
        tokenizer.decode(ids)
        assert 0 <= tokenizer.bytes_of(ids).sum() <= len(tokenizer.stream(ids))


def test_bytes_that_are_no_utf8_survive_or_are_left_out():
    """Lossless: charged to the byte. Normalising: they become spaces, as U+FFFD does, charged unless at an end."""
    document = b"caf\xc3 A\xff\xfeB \xee\x80"
    ids, counts = LOSSLESS.encode_counted(document)
    assert LOSSLESS.decode(ids) == document and counts.sum() == len(document)
    ids, counts = CONTEST.encode_counted(document)
    assert CONTEST.decode(ids) == b"caf A B" and counts.sum() == len("caf\0 A\0\0B")


def test_operators_act_within_their_document():
    """A stream of two documents decodes as the two do: what one left open ends with it."""
    first, second = LOSSLESS.encode(b"ABC"), LOSSLESS.encode(b"def")
    assert LOSSLESS.decode([1, *first, 1, *second]) == b"ABCdef"
    open_end = [*LOSSLESS.operator_ids[:1], 1, *second]
    assert LOSSLESS.decode(open_end) == b"def"
    for bad in (-1, 500):
        with pytest.raises(TokenizerError, match=f"token id {bad} is outside"):
            LOSSLESS.decode([4, bad])


@pytest.mark.parametrize("tokenizer", [LOSSLESS, CONTEST], ids=["lossless", "contest"])
def test_ids_are_the_contests(tokenizer):
    """Spec pr2140.md 1.3: pad, bos, eos, unk, the four operators 4..7, byte b at 8 + b."""
    names = [piece.text for piece in tokenizer.proto.pieces]
    assert names[:8] == ["<pad>", "<s>", "</s>", "<unk>", *OPERATORS] and tokenizer.vocab_size == 500
    assert names[8:264] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert tokenizer.operator_ids.tolist() == [4, 5, 6, 7] and tokenizer.boundary_id == 1
    assert tokenizer.digest == hashlib.sha256(b"caseops\0" + tokenizer.to_bytes()).hexdigest()
    ids, counts = tokenizer.encode_counted("\ue001é".encode())
    assert ids[:2].tolist() == [7, 4] and counts[:2].tolist() == [0, 3] and counts.sum() == 5


def test_a_vocabulary_of_small_letters():
    """Words are learnt once for all spellings: no piece but byte pieces and controls holds a capital, tokens are saved
    on shouted text."""
    for tokenizer in (LOSSLESS, CONTEST):
        assert not any(set(piece.text) & set("ABCXYZ") for piece in tokenizer.proto.pieces[264:])
    shouted = SOURCE[:20_000].upper().encode()
    assert len(LOSSLESS.encode(shouted)) < len(train_sentencepiece(TEXT, 500).encode(shouted))


def test_training_twice_gives_the_same_model():
    """Training is deterministic, and refuses held-out text and sizes that do not fit."""
    assert train_caseops(TEXT, 500).to_bytes() == LOSSLESS.to_bytes()
    assert train_tokenizer(TEXT, "caseops", 500).digest == LOSSLESS.digest
    for train in (train_caseops, train_contest_caseops):
        with pytest.raises(LeakError, match="tokenizer"):
            train(HeldOutText("h", TEXT.documents), 500)
        for size in (200, 70_000):
            with pytest.raises(TokenizerError, match=f"vocab_size={size} is outside"):
                train(TEXT, size)
        with pytest.raises(TokenizerError, match="too few for vocab_size=4000"):
            train(TrainText("small", [b"Hello World " * 20]), 4000)


def test_lossiness_is_reported_and_streams_that_normalisation_broke_decode():
    """Strict decoding refuses what NFKC makes of "0.3ºC" (spec 1.2); the tokenizer decodes it, and is not lossless."""
    assert LOSSLESS.lossless and not CONTEST.lossless
    document = "It is 0.3ºC".encode()
    ids = CONTEST.encode(document)
    assert not is_stream(CONTEST.stream(ids)) and CONTEST.decode(ids) == b"It is 0.3oC"
    found = check_losslessness(CONTEST, [document, b"plain Words", b"two\n\nlines"])
    assert (found.documents, found.differ) == (3, 2) and found.says().startswith("not lossless: 2 of 3")
    assert check_losslessness(LOSSLESS, [document, b"plain Words", b"two\n\nlines"]).lossless


def test_the_kind_is_what_tells_a_caseops_model(tmp_path):
    """A file with the operators is read as CaseOps; an artifact's kind decides, and a model without them is refused."""
    (tmp_path / "t.model").write_bytes(LOSSLESS.to_bytes())
    again = load_tokenizer(tmp_path / "t.model")
    assert (again.kind, again.digest, again.lossless) == ("caseops", LOSSLESS.digest, True)
    assert tokenizer_from_bytes("caseops", LOSSLESS.to_bytes()).digest == LOSSLESS.digest
    assert tokenizer_from_bytes("sentencepiece", LOSSLESS.to_bytes()).kind == "sentencepiece"
    plain = train_sentencepiece(TEXT, 300).to_bytes()
    for model in (plain, b"", b"garbage", LOSSLESS.to_bytes()[:5000]):
        with pytest.raises(TokenizerError) as error:
            tokenizer_from_bytes("caseops", model)
        assert len(str(error.value).splitlines()) <= 2


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published tokenizer is not next to the checkout")
@pytest.mark.parametrize(
    ("text", "ids", "counts"),
    [
        ("The NASA Launch", [4, 320, 8133, 5, 5566, 8136, 8133, 4, 1632, 1709], [0, 3, 1, 0, 3, 1, 1, 0, 2, 4]),
        ("iPhone OpenAI", [8138, 6, 2087, 8133, 4, 3094, 6, 8136, 6, 8138], [1, 0, 5, 1, 0, 4, 0, 1, 0, 1]),
        ("é", [203, 177], [0, 2]),
        ("😀", [248, 167, 160, 136], [0, 0, 0, 4]),
        ("½ cup", [8160, 234, 137, 140, 8162, 2419], [0, 0, 0, 0, 2, 4]),
        ("\ue001", [7, 4], [0, 3]),
    ],
)
def test_the_published_tokens_and_bytes(text, ids, counts):
    """Spec pr2140.md 1.3, ids and bytes of the published model."""
    found, charged = load_tokenizer(PUBLISHED).encode_counted(text.encode())
    assert (found.tolist(), charged.tolist()) == (ids, counts)


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published tokenizer is not next to the checkout")
@pytest.mark.parametrize(
    ("text", "decoded", "lost"),
    [
        ("a\n\nb", "a b", 0),
        ("hello  world", "hello world", 0),
        (" hello", "hello", 1),
        ("½", "1⁄2", 0),
        ("ﬁne", "fine", 0),
        ("ＡＢＣ", "ABC", 0),
        ("…", "...", 0),
        ("™", "TM", 0),
        ("e\u0301", "é", 0),
        ("x\u200by", "x y", 0),
        ("\u0007", "", 1),
        ("\ufffd", "", 3),
        ("0.3ºC", "0.3oC", 0),
        ("", "", 0),
    ],
)
def test_what_the_published_tokenizer_changes(text, decoded, lost):
    """Spec pr2140.md 1.2: what comes back, and which raw bytes no token is charged for."""
    tokenizer = load_tokenizer(PUBLISHED)
    ids, counts = tokenizer.encode_counted(text.encode())
    assert tokenizer.decode(ids).decode() == decoded and counts.sum() == len(text.encode()) - lost
    assert tokenizer.decode(tokenizer.encode_exact(text.encode())) == text.encode()


@pytest.mark.skipif(not (PUBLISHED.is_file() and CORPUS.is_file()), reason="the corpus is not next to the checkout")
def test_the_sidecar_sums_to_the_raw_bytes_of_the_corpus():
    """Spec 1.2: raw bytes exactly, for the published model and for one that is trained here; 3 bytes a token."""
    texts = [json.loads(line)["text"] for line in CORPUS.read_text(encoding="utf-8").splitlines()[:150]]
    published = load_tokenizer(PUBLISHED)
    tokens = size = 0
    for text in texts:
        raw = text.replace(". ", ".\n\n").encode()
        ids, counts = published.encode_counted(raw)
        assert counts.sum() == len(raw) and counts[np.isin(ids, published.operator_ids)].sum() == 0
        assert counts.tolist() == count_bytes_plain(surfaces(published, encode(raw.decode())))
        exact, charged = LOSSLESS.encode_counted(raw)
        assert charged.sum() == len(raw) and LOSSLESS.decode(exact) == raw
        tokens, size = tokens + len(ids), size + len(raw)
    assert 2.8 < size / tokens < 3.3
