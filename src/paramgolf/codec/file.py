"""The coded file: any bytes to a small file and back, with the model of an artifact. Its layout: `codec/header.py`.

Data that is mostly binary (over 30 % of its bytes are control characters or no UTF-8) or that xz makes 20 times smaller
(no text is like that) is not worth a model at a few thousand bytes a second: it is stored as xz, or raw if that is
smaller. Other data is coded with the model, or as xz or raw if one of them turns out smaller. So 10 MB of zeros take a
few seconds, and no file is larger than xz and a header.
"""

from __future__ import annotations

import lzma
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from paramgolf.artifact.artifact import Artifact
from paramgolf.codec.arithmetic import TokenDecoder, TokenEncoder, decode_chunks, encode_chunks, stream_chunks
from paramgolf.codec.header import METHOD_NAMES, MODEL, RAW, XZ, Header, artifact_prefix, data_prefix, open_file, seal
from paramgolf.errors import CodecError
from paramgolf.kernels.threads import torch_threads
from paramgolf.predict.protocol import Chunk, Int64, Predictor, single_token

Method = Literal["smallest", "model"]
Progress = Callable[[float], None]  # share of the work done, 0 to 1

BLOCK = 8192  # tokens
BINARY_SHARE = 0.3
XZ_RATIO = 20
REPORT_EVERY = 256  # tokens between two calls of `progress`
XZ_MEMORY = 1 << 28
CONTROL = bytes(byte for byte in range(32) if byte not in b"\t\n\f\r") + b"\x7f"


@dataclass(frozen=True)
class _Body:
    """One way to store the data: `content` is what stands between header and end."""

    method: int
    content: bytes
    code_bytes: int
    claimed_bits: float
    tokens: int


@dataclass(frozen=True)
class Coded:
    """A coded file and what it took: `code_bytes` of `data` are code, the rest is the header, checks and end.

    `claimed_bits` is the sum of -log2 p over the `tokens` (for raw and xz: 8 x `code_bytes`, 0 tokens).
    """

    data: bytes = field(repr=False)
    method: str
    code_bytes: int
    claimed_bits: float
    tokens: int
    seconds: float


def encode_bytes(artifact: Artifact, data: bytes, adapt: str | None = None, progress: Progress | None = None) -> bytes:
    """The coded file of any `data`; see `encode`."""
    return encode(artifact, data, adapt, progress=progress).data


def encode(
    artifact: Artifact,
    data: bytes,
    adapt: str | None = None,
    *,
    method: Method = "smallest",
    progress: Progress | None = None,
) -> Coded:
    """Code any `data` so that `decode_bytes` with the same artifact file gives it back.

    `adapt` names what adapts while it codes (None: the recipe's own). `method` "model" uses the model even where xz or
    raw would be smaller. Raises `CodecError` for an artifact that never was a file.
    """
    begin = time.perf_counter()
    adapt = artifact.recipe.score.adapt if adapt is None else adapt
    maker = artifact_prefix(artifact)
    chosen = _stored(data)
    if method == "model" or worth_a_model(data, len(chosen.content)):
        modelled = _modelled(artifact, data, adapt, progress)
        if method == "model" or len(modelled.content) < len(chosen.content):
            chosen = modelled
    if progress is not None:
        progress(1.0)
    packed = seal(Header(chosen.method, maker, adapt, len(data), chosen.tokens, data_prefix(data)), chosen.content)
    seconds = time.perf_counter() - begin
    return Coded(packed, METHOD_NAMES[chosen.method], chosen.code_bytes, chosen.claimed_bits, chosen.tokens, seconds)


def decode_bytes(artifact: Artifact, coded: bytes, progress: Progress | None = None) -> bytes:
    """The bytes that `encode` coded with this artifact file.

    Raises `CodecError` for a file that is damaged in any byte, is no coded file, or was made with another artifact,
    before decoding; and while decoding if this machine computes other rows than the one that coded. Never returns wrong
    bytes.
    """
    header, body = open_file(artifact, coded)
    if header.method == MODEL:
        predictor = _predictor(artifact, header.adapt, header.tokens)
        data = artifact.tokenizer.decode(_decode(predictor, header, body, progress))
    else:
        data = body if header.method == RAW else _unxz(body, header.length)
    if len(data) != header.length or data_prefix(data) != header.digest:
        raise CodecError(
            f"decoded {len(data)} bytes that are not the {header.length} coded ones (SHA-256 {header.digest.hex()}...)"
        )
    if progress is not None:
        progress(1.0)
    return data


def worth_a_model(data: bytes, stored: int) -> bool:
    """Whether to try the model on `data` that is `stored` bytes as xz or raw: the rule of the module docstring."""
    if not data or stored * XZ_RATIO < len(data):
        return False
    text = data.decode("utf-8", errors="ignore").encode()
    strange = len(data) - len(text.translate(None, CONTROL))
    return strange <= BINARY_SHARE * len(data)


def _stored(data: bytes) -> _Body:
    # A dictionary no larger than the data: preset 9 would take 670 MB for it.
    size = min(1 << 26, max(1 << 12, 1 << (len(data) - 1).bit_length())) if data else 1 << 12
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": size}]
    squeezed = lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, filters=filters)
    method, content = (XZ, squeezed) if len(squeezed) < len(data) else (RAW, data)
    return _Body(method, content, len(content), 8.0 * len(content), 0)


def _unxz(body: bytes, length: int) -> bytes:
    try:
        return lzma.LZMADecompressor(memlimit=XZ_MEMORY).decompress(body, max_length=length + 1)
    except (lzma.LZMAError, EOFError, MemoryError) as error:
        raise CodecError(f"the xz data in the coded file cannot be read: {error}") from None


def _predictor(artifact: Artifact, adapt: str, tokens: int) -> Predictor:
    from paramgolf.predict.adapt import build_predictor

    predictor: Predictor = build_predictor(artifact, adapt, incremental=True, tokens=tokens)
    return predictor


def _modelled(artifact: Artifact, data: bytes, adapt: str, progress: Progress | None) -> _Body:
    tokens = artifact.tokenizer.encode_exact(data).astype(np.int64)
    predictor, encoder = _predictor(artifact, adapt, len(tokens)), TokenEncoder()
    with torch_threads(1):
        encode_chunks(predictor, _told(stream_chunks(tokens, 1), len(tokens), progress), encoder)
    checks = b"".join(_check(tokens[first : first + BLOCK]) for first in range(0, len(tokens), BLOCK))
    code = encoder.code()
    return _Body(MODEL, checks + code, len(code), encoder.claimed_bits, len(tokens))


def _decode(predictor: Predictor, header: Header, body: bytes, progress: Progress | None) -> Int64:
    blocks = -(-header.tokens // BLOCK)
    if len(body) < 4 * blocks or header.tokens > 2 * header.length + 16:
        raise CodecError(
            f"{header.tokens} tokens for {header.length} bytes of data in {len(body)} bytes of code: damaged"
        )
    checks, decoder = body[: 4 * blocks], TokenDecoder(body[4 * blocks :])
    shapes = _told((single_token(0, start=at == 0) for at in range(header.tokens)), header.tokens, progress)
    done: list[Int64] = []
    block: list[int] = []
    with torch_threads(1):
        for at, chunk in enumerate(decode_chunks(predictor, decoder, shapes), start=1):
            block.append(int(chunk.tokens[0, 0]))
            if len(block) == BLOCK or at == header.tokens:
                tokens = np.array(block, dtype=np.int64)
                if _check(tokens) != checks[4 * len(done) : 4 * len(done) + 4]:
                    raise CodecError(
                        f"tokens {at - len(block)} to {at - 1} come out differently from those coded: this machine "
                        "computes other rows than the one that coded; decode on a machine like it"
                    )
                done.append(tokens)
                block.clear()
    return np.concatenate([np.zeros(0, dtype=np.int64), *done])


def _check(tokens: Int64) -> bytes:
    return zlib.crc32(tokens.astype("<i4").tobytes()).to_bytes(4, "little")


def _told(chunks: Iterable[Chunk], total: int, progress: Progress | None) -> Iterator[Chunk]:
    for at, chunk in enumerate(chunks):
        if progress is not None and at % REPORT_EVERY == 0:
            progress(at / total)
        yield chunk
