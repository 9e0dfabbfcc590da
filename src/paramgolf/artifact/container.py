"""`model.pyz` as a file: a shebang, a zip of fixed form, and the SHA-256 of all that in the zip's comment.

A stranger's file is read as data: nothing of it is unpacked to the disk, imported or run. The form is checked to the
byte: names on a list, plain files, no gaps, no extra fields, sizes bounded before anything is inflated. So there is
one way to read it, and any changed byte is noticed.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from paramgolf.errors import ArtifactError

SHEBANG = b"#!/usr/bin/env python3\n"
MAX_FILE = 1 << 30
MAX_MEMBERS = 512
_SEAL = b"sha256:"
_SEAL_SIZE = len(_SEAL) + 64
_END_SIZE = 22  # zip's end record, which the comment follows
_LOCAL = struct.Struct("<4s5H3I2H")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_ATTRIBUTES = 0o100644 << 16  # a plain file, rw-r--r--
_SOURCE = re.compile(r"(__main__|paramgolf(/[a-z][a-z0-9_]*)*/[a-z_][a-z0-9_]*)\.py")
_MAX_SOURCE = 1 << 20
MAX_BYTES = {
    "manifest.json": 1 << 20,
    "recipe.json": 1 << 16,
    "tokenizer.model": 1 << 25,
    "weights.bin": MAX_FILE,
    "primer.bin": MAX_FILE,
}


@dataclass(frozen=True)
class Container:
    """Members of a file by name, their sizes as stored, its SHA-256 (hex) and size."""

    members: Mapping[str, bytes] = field(repr=False)
    stored: Mapping[str, int]
    digest: str
    size: int


def is_source(name: str) -> bool:
    """Whether a member is Python source of the runtime (`__main__.py` or a module of paramgolf)."""
    return _SOURCE.fullmatch(name) is not None


def build_container(members: Mapping[str, bytes]) -> bytes:
    """The whole file; the same members always give the same bytes. Sources are deflated, `.bin` members stored."""
    buffer = io.BytesIO()
    buffer.write(SHEBANG)
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3
            entry.external_attr = _ATTRIBUTES
            entry.compress_type = zipfile.ZIP_STORED if name.endswith(".bin") else zipfile.ZIP_DEFLATED
            archive.writestr(entry, members[name], compresslevel=9)
        archive.comment = b"0" * _SEAL_SIZE
    body = buffer.getvalue()[:-_SEAL_SIZE]
    return body + _seal(body)


def read_container(path: Path) -> Container:
    """Read and check a file; `ArtifactError` names the file and what is wrong with it."""
    try:
        size = path.stat().st_size
        if not path.is_file() or size > MAX_FILE:
            raise ArtifactError(f"not a file of at most {MAX_FILE} bytes")
        data = path.read_bytes()
        return _parse(data)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from None
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from None


def _parse(data: bytes) -> Container:
    _check_frame(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check_entries(data, entries, archive.start_dir)
            members = {entry.filename: _read(archive, entry) for entry in entries}
    except (zipfile.BadZipFile, zlib.error, struct.error, ValueError, EOFError, NotImplementedError) as error:
        raise ArtifactError(f"its zip is damaged: {error}") from None
    stored = {entry.filename: entry.compress_size for entry in entries}
    return Container(members, stored, hashlib.sha256(data).hexdigest(), len(data))


def _check_frame(data: bytes) -> None:
    """The shebang, and the seal over everything before it."""
    if not data.startswith(SHEBANG):
        raise ArtifactError(f"not a paramgolf artifact: it starts with {data[:16]!r}")
    body, seal = data[:-_SEAL_SIZE], data[-_SEAL_SIZE:]
    if not seal.startswith(_SEAL):
        raise ArtifactError("it does not end with its SHA-256; the file is cut short or no paramgolf artifact")
    if seal != _seal(body):
        raise ArtifactError("its SHA-256 does not fit; the file is damaged")
    if body[-_END_SIZE:-18] != b"PK\x05\x06" or body[-2:] != _SEAL_SIZE.to_bytes(2, "little"):
        raise ArtifactError("its zip does not end where the SHA-256 begins")


def _check_entries(data: bytes, entries: list[zipfile.ZipInfo], directory: int) -> None:
    """Names, kinds and places of all members, before any is read."""
    names = [entry.filename for entry in entries]
    if len(names) > MAX_MEMBERS or names != sorted(set(names)):
        raise ArtifactError(f"its {len(names)} members are unsorted, repeated or more than {MAX_MEMBERS}")
    place = len(SHEBANG)
    for entry in entries:
        limit = _MAX_SOURCE if is_source(entry.filename) else MAX_BYTES.get(entry.filename)
        if limit is None or entry.filename != entry.orig_filename:
            raise ArtifactError(f"member {entry.orig_filename[:80]!r} does not belong into an artifact")
        if entry.file_size > limit or entry.compress_size > len(data):
            raise ArtifactError(f"member {entry.filename} claims {entry.file_size} bytes, at most {limit} are read")
        if entry.flag_bits or entry.external_attr != _ATTRIBUTES or entry.extra or entry.comment:
            raise ArtifactError(f"member {entry.filename} is no plain file (a link, encrypted, or with extra fields)")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ArtifactError(f"member {entry.filename} is packed by unknown method {entry.compress_type}")
        if entry.filename.endswith(".bin") and entry.compress_type != zipfile.ZIP_STORED:
            # These may be large: stored, they cannot be larger than the file itself.
            raise ArtifactError(
                f"member {entry.filename} is compressed, claims {entry.file_size} bytes; never inflated"
            )
        place = _after(data, entry, place)
    if place != directory:
        raise ArtifactError(f"{directory - place} bytes lie between its last member and the zip's directory")


def _after(data: bytes, entry: zipfile.ZipInfo, place: int) -> int:
    """Where the next member starts, once this one's local header stands at `place` and has nothing extra."""
    if entry.header_offset != place or place + _LOCAL.size > len(data):
        raise ArtifactError(f"member {entry.filename} starts at {entry.header_offset}, expected {place}")
    name_length, extra_length = _LOCAL.unpack_from(data, place)[-2:]
    if extra_length or name_length != len(entry.filename):
        raise ArtifactError(f"member {entry.filename} has another header in front than in the directory")
    return place + _LOCAL.size + int(name_length) + entry.compress_size


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as stream:
        content = stream.read(entry.file_size + 1)
    if len(content) != entry.file_size:
        raise ArtifactError(f"member {entry.filename} has {len(content)} bytes or more, {entry.file_size} claimed")
    return content


def _seal(body: bytes) -> bytes:
    return _SEAL + hashlib.sha256(body).hexdigest().encode()
