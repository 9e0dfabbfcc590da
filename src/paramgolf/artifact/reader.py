"""Reading bytes that a stranger wrote: every length is checked against what is left before it is used."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

from paramgolf.errors import ArtifactError

_SECTION = struct.Struct("<II")


class ByteReader:
    """A cursor over `data`; `what` names it in errors."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self.offset = 0

    def take(self, length: int, part: str) -> bytes:
        """The next `length` bytes."""
        left = len(self._data) - self.offset
        if not 0 <= length <= left:
            raise ArtifactError(
                f"{self._what}: {part} at offset {self.offset} claims {length} bytes, {left} are left; it is cut short"
            )
        self.offset += length
        return self._data[self.offset - length : self.offset]

    def section(self, part: str) -> bytes:
        """The next section: its length, its CRC-32 and its bytes."""
        length, expected = _SECTION.unpack(self.take(_SECTION.size, f"the header of {part}"))
        payload = self.take(length, part)
        found = zlib.crc32(payload)
        if found != expected:
            raise ArtifactError(f"{self._what}: {part} is damaged (CRC {found:08x}, expected {expected:08x})")
        return payload

    def end(self) -> None:
        """Nothing may follow."""
        left = len(self._data) - self.offset
        if left:
            raise ArtifactError(f"{self._what}: {left} bytes follow the end at offset {self.offset}")


def section(payload: bytes) -> bytes:
    """What `ByteReader.section` reads."""
    return _SECTION.pack(len(payload), zlib.crc32(payload)) + payload


def inflate(data: bytes, limit: int, what: str) -> bytes:
    """Undo `zlib.compress`; never more than `limit` bytes are made."""
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise ArtifactError(f"{what} does not inflate: {error}") from None
    if len(raw) > limit:
        raise ArtifactError(f"{what} inflates to more than {limit} bytes")
    if not stream.eof or stream.unused_data:
        raise ArtifactError(f"{what} is cut short or has bytes after its end")
    return raw


def parse_json_object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object without NaN, infinities, repeated keys or deep nesting; `ArtifactError` otherwise."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON number")

    def finite(text: str) -> float:
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise ValueError(f"{text} is out of range")
        return value

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) != len(pairs):
            raise ValueError("a key stands twice")
        return record

    try:
        value = json.loads(data.decode("utf-8"), parse_constant=refuse, parse_float=finite, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{what} is not acceptable JSON: {error}") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{what} should be a JSON object, found {type(value).__name__}")
    return value
