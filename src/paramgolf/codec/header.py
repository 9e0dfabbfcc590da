"""What stands around the code in a coded file, and the checks that come before any decoding.

Layout (little endian): magic `PGCF`, version u8, method u8 (0 raw, 1 xz, 2 model), first 16 bytes of the artifact's
SHA-256, length u8 and name of the adaptation, data length u64, number of tokens u32, first 8 bytes of the data's
SHA-256; then the body (method model: a CRC-32 for every block of 8192 tokens, and the code); at the end the first 16
bytes of the SHA-256 of all that. The end is checked before anything is decoded, so a file that was damaged in any byte
is refused. The checks of the blocks find a machine on which the rows come out differently, at the first block rather
than at the end.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from paramgolf.artifact.artifact import Artifact
from paramgolf.errors import CodecError

MAGIC = b"PGCF"
VERSION = 1
RAW, XZ, MODEL = 0, 1, 2
METHOD_NAMES = {RAW: "raw", XZ: "xz", MODEL: "model"}
END = 16  # bytes of SHA-256 at the end
FIXED = struct.Struct("<4sBB16sB")
REST = struct.Struct("<QI8s")


@dataclass(frozen=True)
class Header:
    """What stands before the code."""

    method: int
    artifact: bytes
    adapt: str
    length: int
    tokens: int
    digest: bytes

    def pack(self) -> bytes:
        """The bytes of the header; raise `CodecError` for a name that does not fit."""
        if not self.adapt.isascii() or len(self.adapt) > 255:
            raise CodecError(f"adapt={self.adapt!r} is no name of an adaptation")
        name = self.adapt.encode("ascii")
        fixed = FIXED.pack(MAGIC, VERSION, self.method, self.artifact, len(name))
        return fixed + name + REST.pack(self.length, self.tokens, self.digest)


def seal(header: Header, body: bytes) -> bytes:
    """The whole file."""
    content = header.pack() + body
    return content + hashlib.sha256(content).digest()[:END]


def data_prefix(data: bytes) -> bytes:
    """The 8 bytes of SHA-256 by which decoded data is known."""
    return hashlib.sha256(data).digest()[:8]


def artifact_prefix(artifact: Artifact) -> bytes:
    """The 16 bytes that name the artifact; raise `CodecError` if it never was a file."""
    if len(artifact.digest) != 64:
        raise CodecError(f"the artifact has digest {artifact.digest!r}: only an artifact file can code; pack it first")
    return bytes.fromhex(artifact.digest)[:16]


def open_file(artifact: Artifact, coded: bytes) -> tuple[Header, bytes]:
    """Header and body of a coded file; raise `CodecError` if it is damaged, no coded file, or of another artifact."""
    if coded[:4] != MAGIC or len(coded) < FIXED.size + REST.size + END:
        raise CodecError(f"not a coded file: {len(coded)} bytes that begin with {coded[:4]!r}, expected {MAGIC!r}")
    content, end = coded[:-END], coded[-END:]
    found = hashlib.sha256(content).digest()[:END]
    if found != end:
        raise CodecError(
            f"the coded file is damaged or cut off: its SHA-256 is {found.hex()}, its end says {end.hex()}; "
            "copy it again"
        )
    _, version, method, made_with, name_size = FIXED.unpack_from(content)
    if version != VERSION or method not in METHOD_NAMES:
        raise CodecError(f"coded file of version {version}, method {method}; this program reads version {VERSION}")
    own = artifact_prefix(artifact)
    if made_with != own:
        raise CodecError(
            f"the coded file was made with the artifact of SHA-256 {made_with.hex()}..., this one is {own.hex()}..."
        )
    rest = FIXED.size + name_size
    if len(content) < rest + REST.size:
        raise CodecError(f"the header of the coded file needs {rest + REST.size} bytes, found {len(content)}")
    try:
        adapt = content[FIXED.size : rest].decode("ascii")
    except UnicodeDecodeError:
        raise CodecError("the name of the adaptation in the coded file is not ASCII") from None
    length, tokens, digest = REST.unpack_from(content, rest)
    return Header(method, made_with, adapt, length, tokens, digest), content[rest + REST.size :]
