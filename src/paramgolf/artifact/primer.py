"""`primer.bin`: the training text that an artifact carries, as tokens.

    magic "PGOLFPRM", version u32, documents u32, tokens u64, vocabulary u32, log2 of the dictionary u8
    section  LZMA2 (raw) of: length of each document u32, then all ids u16 (u32 above 65,536 entries)
    CRC-32 of all bytes before it

Ids two bytes wide under LZMA with two-byte alignment are smaller than the decoded text under xz or brotli and open in a
few tenths of a second; PPMd is smaller still but opens twenty times slower (bench/primer_coders.py prints them all).
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from paramgolf.artifact.reader import ByteReader, section
from paramgolf.errors import ArtifactError
from paramgolf.text.tokenizer import TokenIds

MAGIC = b"PGOLFPRM"
VERSION = 1
MAX_TOKENS = 1 << 26
MAX_DOCUMENTS = 1 << 22  # an array each: a few kilobytes that claim more would fill the memory
_FRONT = struct.Struct("<8sIIQIB")
_DICTIONARIES = range(12, 27)  # log2 of bytes: 4 KiB to 64 MiB


def write_primer(documents: Sequence[TokenIds], vocab_size: int) -> bytes:
    """The file for these documents; nothing to carry is no bytes at all."""
    if not documents:
        return b""
    width = _width(vocab_size)
    ids = np.concatenate([np.asarray(document, dtype=np.int64) for document in documents])
    if ids.size and not (ids.min() >= 0 and ids.max() < vocab_size):
        raise ArtifactError(f"primer: ids {ids.min()}..{ids.max()} do not fit a vocabulary of {vocab_size}")
    if ids.size > MAX_TOKENS or len(documents) > MAX_DOCUMENTS:
        raise ArtifactError(
            f"primer: {len(documents)} documents of {ids.size} tokens, at most {MAX_DOCUMENTS} of {MAX_TOKENS} fit"
        )
    lengths = np.array([len(document) for document in documents], dtype="<u4")
    raw = lengths.tobytes() + ids.astype(f"<u{width}").tobytes()
    dictionary = min(max(len(raw).bit_length(), _DICTIONARIES[0]), _DICTIONARIES[-1])
    packed = lzma.compress(raw, format=lzma.FORMAT_RAW, filters=_filters(dictionary, width))
    front = _FRONT.pack(MAGIC, VERSION, len(documents), ids.size, vocab_size, dictionary)
    body = front + section(packed)
    return body + zlib.crc32(body).to_bytes(4, "little")


def read_primer(data: bytes, vocab_size: int) -> tuple[TokenIds, ...]:
    """Read back `write_primer`: one int32 array a document. Raises `ArtifactError` on any damage or foreign id."""
    if not data:
        return ()
    body, checksum = data[:-4], data[-4:]
    if zlib.crc32(body).to_bytes(4, "little") != checksum:
        raise ArtifactError("primer: the checksum of the whole does not fit; the file is damaged or cut short")
    reader = ByteReader(body, "primer")
    magic, version, documents, tokens, vocabulary, dictionary = _FRONT.unpack(reader.take(_FRONT.size, "the front"))
    if magic != MAGIC or version != VERSION:
        raise ArtifactError(f"primer: magic {magic!r} version {version}; expected {MAGIC!r} version {VERSION}")
    if vocabulary != vocab_size:
        raise ArtifactError(f"primer: made for a vocabulary of {vocabulary}, the tokenizer has {vocab_size}")
    if not (1 <= documents <= MAX_DOCUMENTS and tokens <= MAX_TOKENS and dictionary in _DICTIONARIES):
        raise ArtifactError(
            f"primer: {documents} documents of {tokens} tokens, at most {MAX_DOCUMENTS} of {MAX_TOKENS} are read"
        )
    packed = reader.section("the tokens")
    reader.end()
    width = _width(vocab_size)
    raw = _unpack(packed, _filters(dictionary, width), 4 * documents + width * tokens)
    lengths = np.frombuffer(raw, "<u4", documents).astype(np.int64)
    if int(lengths.sum()) != tokens:
        raise ArtifactError(f"primer: its documents have {int(lengths.sum())} tokens, the front says {tokens}")
    ids = np.frombuffer(raw, f"<u{width}", tokens, 4 * documents)
    if tokens and int(ids.max()) >= vocab_size:
        raise ArtifactError(f"primer: id {int(ids.max())} is outside the vocabulary of {vocab_size}")
    return tuple(np.split(ids.astype(np.int32), np.cumsum(lengths)[:-1]))


def _unpack(packed: bytes, filters: list[dict[str, int]], expected: int) -> bytes:
    stream = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=filters)
    try:
        raw = stream.decompress(packed, max_length=expected + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise ArtifactError(f"primer: the tokens do not unpack: {error}") from None
    if len(raw) != expected:
        raise ArtifactError(f"primer: the tokens unpack to {len(raw)} bytes or more, expected {expected}")
    return raw


def _filters(dictionary: int, width: int) -> list[dict[str, int]]:
    preset = {"preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << dictionary}
    aligned = {"lc": 3, "lp": 1, "pb": 1} if width == 2 else {"lc": 2, "lp": 2, "pb": 2}
    return [{"id": lzma.FILTER_LZMA2} | preset | aligned]


def _width(vocab_size: int) -> int:
    return 2 if vocab_size <= 1 << 16 else 4
