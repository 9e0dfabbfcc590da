"""CaseOps: published examples, injectivity, strict and tolerant decoding, and the fast functions beside the plain."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import TokenizerError
from paramgolf.text.caseops import (
    ALL_CAPS,
    CAP_NEXT,
    ESCAPE,
    OPERATORS,
    TITLE,
    CaseOpsError,
    decode,
    decode_bytes,
    encode,
    encode_bytes,
)
from paramgolf.text.caseops_plain import decode_plain, encode_plain

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus" / "fineweb_val_head.jsonl"
T, A, C, E = TITLE, ALL_CAPS, CAP_NEXT, ESCAPE
TROUBLE = st.text(
    alphabet=st.sampled_from([*"aAbBzZ @[`{1'\n", *OPERATORS, "\ue000", "\ue005", "é", "É", "ſ", "\ud800"])
)
ALL_CODE_POINTS = 0x110000


@pytest.mark.parametrize(
    ("text", "stream"),
    [
        ("The NASA Launch", f"{T}the {A}nasa {T}launch"),
        ("iPhone", f"i{C}phone"),
        ("OpenAI", f"{T}open{C}a{C}i"),
        ("ABc", f"{T}a{C}bc"),
        ("AbC", f"{T}ab{C}c"),
        ("aBC", f"a{C}b{C}c"),
        ("McDonald", f"{T}mc{C}donald"),
        ("USA's", f"{A}usa's"),
        ("DON'T", f"{A}don'{T}t"),
        ("X-ray", f"{T}x-ray"),
        ("A1B2", f"{T}a1{T}b2"),
        ("aA", f"a{C}a"),
        ("\ue001A", f"{E}\ue001{T}a"),
        ("ÉCOLE", f"É{A}cole"),
        ("aéB", f"aé{T}b"),
        ("I", f"{T}i"),
        ("X", f"{T}x"),
        ("", ""),
        ("\ue000 \ue005", "\ue000 \ue005"),
    ],
)
def test_the_published_examples(text, stream):
    """Spec pr2140.md 9.1 and 1.1, in both directions, for the fast and the plain functions."""
    assert encode(text) == encode_plain(text) == stream
    assert decode(stream) == decode_plain(stream) == text


def test_every_code_point_alone_and_between_letters():
    """Spec 1.2: all 1,114,112 code points alone, between "A" and "B" and between "Ab" and "cD" come back."""
    for first, last in (("", ""), ("A", "B"), ("Ab", "cD")):
        for begin in range(0, ALL_CODE_POINTS, 1 << 16):
            # A line end separates them: it ends a word and is no operator.
            text = "\n".join(first + chr(point) + last for point in range(begin, begin + (1 << 16)))
            stream = encode(text)
            assert decode(stream) == decode(stream, tolerant=True) == text


@pytest.mark.slow
def test_every_code_point_encodes_as_the_plain_function_does():
    """The same strings, each by itself, in the plain function and in the fast one."""
    for first, last in (("", ""), ("A", "B"), ("Ab", "cD")):
        for point in range(ALL_CODE_POINTS):
            text = first + chr(point) + last
            assert encode(text) == encode_plain(text) and decode_plain(encode_plain(text)) == text


def test_all_short_strings_have_different_streams_that_come_back():
    """Spec 1.2: all strings of length 0..4 over letters, space, operators and é; injective, fast as plain."""
    strings = [
        "".join(part) for size in range(5) for part in itertools.product([*"aAbB ", *OPERATORS, "é"], repeat=size)
    ]
    streams = [encode(text) for text in strings]
    assert streams == [encode_plain(text) for text in strings] and len(set(streams)) == len(strings) == 11_111
    assert [decode(stream) for stream in streams] == strings == [decode_plain(stream) for stream in streams]


@pytest.mark.slow
def test_all_strings_of_five_characters_come_back():
    """The last 100,000 of the 111,111 strings of spec 1.2."""
    for part in itertools.product([*"aAbB ", *OPERATORS, "é"], repeat=5):
        text = "".join(part)
        assert encode(text) == encode_plain(text) and decode(encode(text)) == text


@settings(deadline=None, max_examples=400)
@given(text=st.one_of(st.text(), TROUBLE))
def test_any_text_comes_back(text):
    """Encoding is injective on every `str`, surrogates included, and fast and plain agree."""
    stream = encode(text)
    assert stream == encode_plain(text)
    assert decode(stream) == decode(stream, tolerant=True) == decode_plain(stream) == text
    assert not any(letter in stream for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")


@settings(deadline=None, max_examples=400)
@given(document=st.one_of(st.binary(), TROUBLE.map(lambda text: text.encode("utf-8", "surrogatepass")[1:])))
def test_any_bytes_come_back(document):
    """The functions over bytes keep what is no UTF-8, cut characters and cut operators included."""
    stream = encode_bytes(document)
    assert decode_bytes(stream) == decode_bytes(stream, tolerant=True) == document
    text = document.decode("utf-8", "surrogateescape")
    assert stream == encode_plain(text).encode("utf-8", "surrogateescape")


@settings(deadline=None, max_examples=600)
@given(stream=TROUBLE)
def test_decoders_agree_on_strings_that_no_text_encodes_to(stream):
    """Fast and plain give the same text or the same fault at the same place; tolerant never fails."""
    assert decode(stream, tolerant=True) == decode_plain(stream, tolerant=True)
    try:
        expected = decode_plain(stream)
    except CaseOpsError as error:
        with pytest.raises(CaseOpsError) as found:
            decode(stream)
        assert (str(found.value), found.value.position) == (str(error), error.position)
    else:
        assert decode(stream) == expected == decode(stream, tolerant=True)


@pytest.mark.parametrize(
    ("stream", "position", "says"),
    [
        (f"ab {T}", 4, "ends after an operator"),
        (f"{A}", 1, "ends after an operator"),
        (f"a{C}", 2, "ends after an operator"),
        (f"x{E}", 2, "ends after an operator"),
        (f"é{T}1", 2, "no letter after it"),
        (f"{T}é", 1, "no letter after it"),
        (f"{C} ", 1, "no letter after it"),
        (f"{C}{C}a", 1, "follows another"),
        (f"a{T}b", 1, "inside a word"),
        (f"a{A}b", 1, "inside a word"),
        (f"{T}{T}a", 1, "inside a word"),
        (f"{T}{A}a", 1, "inside a word"),
        (f"{C}{T}a", 1, "inside a word"),
        (f"{T}{E}{T}", 1, "no letter after it"),
        (f"{E}a{T}b", 2, "inside a word"),
    ],
)
def test_strict_decoding_names_the_place(stream, position, says):
    """Spec 1.1 and 1.2: what no text encodes to is an error with the code point, of the tokenizers' family."""
    with pytest.raises(CaseOpsError, match=says) as error:
        decode(stream)
    assert error.value.position == position and f"character {position}" in str(error.value)
    assert isinstance(error.value, TokenizerError) and len(str(error.value).splitlines()) == 1
    with pytest.raises(CaseOpsError, match=f"byte {len(stream[:position].encode())}"):
        decode_bytes(stream.encode())


@pytest.mark.parametrize(
    ("streams", "text"),
    [
        ([f"{C}a", f"{A}a", f"{T}A", f"{E}A", "A", f"{T}a"], "A"),
        ([f"{T}a{C}b", f"{A}a{C}b", f"{A}AB", "AB", f"{A}ab"], "AB"),
        ([f"{A}a{E}bc"], "AbC"),
        ([f"{A}a b"], "A b"),
    ],
)
def test_the_decoder_is_many_to_one(streams, text):
    """Spec 1.2: other spellings of the same text decode to it too, so that they only cost probability."""
    assert {decode(stream) for stream in streams} == {text}


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (f"0.3o{T}c", "0.3oC"),
        (f"x{A}yz w", "xYZ w"),
        (f"{T} a", " a"),
        (f"{A}1ab", "1ab"),
        (f"{C}{C}ab", "Ab"),
        (f"{T}{A}ab", "AB"),
        (f"ab{E}", "ab"),
        (f"{T}", ""),
        (f"{T}{E}{T}a", f"{T}a"),
    ],
)
def test_tolerant_decoding_does_what_was_meant(stream, text):
    """An operator within a word acts on its rest ("0.3ºC" after NFKC, spec 1.2); one without a letter does nothing."""
    assert decode(stream, tolerant=True) == text


@pytest.mark.skipif(not CORPUS.is_file(), reason="the contest's documents are not next to the checkout")
def test_the_contests_documents_come_back():
    """Every document of the corpus round trips, and its stream is the plain function's."""
    for line in CORPUS.read_text(encoding="utf-8").splitlines():
        text = json.loads(line)["text"]
        stream = encode(text)
        assert stream == encode_plain(text) and decode(stream) == text
