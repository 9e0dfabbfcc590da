"""Carried tokens come back, and damage is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.artifact.primer import MAX_DOCUMENTS, MAX_TOKENS, read_primer, write_primer
from paramgolf.errors import ArtifactError

VOCABULARIES = st.sampled_from([1, 2, 260, 1024, 65_536, 65_537, 200_000])


@settings(deadline=None)
@given(st.data(), VOCABULARIES)
def test_any_documents_come_back(data, vocab_size):
    """Whatever the lengths (empty ones too) and ids up to the last of the vocabulary."""
    lists = data.draw(st.lists(st.lists(st.integers(0, vocab_size - 1), max_size=30), max_size=6))
    documents = [np.array(ids, dtype=np.int32) for ids in lists]
    back = read_primer(write_primer(documents, vocab_size), vocab_size)
    assert [document.tolist() for document in back] == lists
    assert all(document.dtype == np.int32 for document in back)


def test_repeated_text_shrinks():
    """A document that comes again costs next to nothing."""
    document = np.random.default_rng(0).integers(0, 1024, 20_000).astype(np.int32)
    once, twice = (len(write_primer([document] * times, 1024)) for times in (1, 2))
    assert twice < 1.02 * once


def test_every_changed_byte_is_refused():
    """Each single byte of the file, changed in any one bit, raises."""
    stored = write_primer([np.arange(40, dtype=np.int32), np.arange(3, dtype=np.int32)], 64)
    for place in range(len(stored)):
        damaged = bytearray(stored)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(ArtifactError, match="primer"):
            read_primer(bytes(damaged), 64)


def test_every_truncation_is_refused():
    """Each proper beginning of the file raises (none at all is no primer)."""
    stored = write_primer([np.arange(40, dtype=np.int32)], 64)
    assert read_primer(b"", 64) == ()
    for length in range(1, len(stored)):
        with pytest.raises(ArtifactError):
            read_primer(stored[:length], 64)


def resealed(stored, place, value):
    """`stored` with other bytes at `place` and a checksum that fits: what an attacker writes."""
    import zlib

    body = stored[:place] + value + stored[place + len(value) : -4]
    return body + zlib.crc32(body).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (8, (9).to_bytes(4, "little"), "version 9"),
        (12, (2**32 - 1).to_bytes(4, "little"), "documents"),
        (12, (MAX_DOCUMENTS + 1).to_bytes(4, "little"), "documents of"),
        (16, (2**63).to_bytes(8, "little"), "tokens"),
        (16, (MAX_TOKENS).to_bytes(8, "little"), "unpack"),
        (24, (9).to_bytes(4, "little"), "vocabulary of 9"),
        (28, b"\x3f", "documents"),
        (29, (2**32 - 1).to_bytes(4, "little"), "cut short"),
    ],
)
def test_lies_in_the_front_are_refused(place, value, says):
    """Counts, sizes and versions that a hostile author may claim raise before anything large is made."""
    stored = write_primer([np.arange(40, dtype=np.int32)], 64)
    with pytest.raises(ArtifactError, match=says):
        read_primer(resealed(stored, place, value), 64)


def test_ids_outside_the_vocabulary_are_refused():
    """Neither written nor read."""
    with pytest.raises(ArtifactError, match="vocabulary of 8"):
        write_primer([np.array([8], dtype=np.int32)], 8)
    stored = write_primer([np.array([7], dtype=np.int32)], 8)
    with pytest.raises(ArtifactError, match="id 7"):
        read_primer(resealed(stored, 24, (7).to_bytes(4, "little")), 7)
