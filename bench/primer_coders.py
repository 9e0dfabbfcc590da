"""Bytes and seconds of ways to carry the training text in an artifact.

    python bench/primer_coders.py [--vocab-size 1024]

The text is the training part of the Python standard library under a BPE trained on it here. Each way packs the whole
of it and gives it back; bits are per byte of the text. `primer.bin` is what artifacts hold. Ways that need more than
Python's own library to open (brotli, zstd, PPMd) are shown for comparison: an artifact may not depend on them.
"""

from __future__ import annotations

import argparse
import lzma
import sys
import time
from collections.abc import Callable

import brotli
import numpy as np
import pyppmd
import zstandard

from paramgolf.artifact.primer import read_primer, write_primer
from paramgolf.text.sentencepiece_tokenizer import train_sentencepiece
from paramgolf.text.stdlib import standard_library

PPMD_MEMORY = 256 << 20
Bytes = Callable[[bytes], bytes]


def raw_lzma(**settings: int) -> tuple[Bytes, Bytes]:
    """LZMA2 without a container, the strongest preset with some settings changed."""
    preset = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}
    filters = [preset | settings]
    return (
        lambda data: lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters),
        lambda code: lzma.decompress(code, format=lzma.FORMAT_RAW, filters=filters),
    )


def ppmd(order: int, size: int) -> tuple[Bytes, Bytes]:
    """PPMd variant H of one order."""

    def pack(data: bytes) -> bytes:
        encoder = pyppmd.Ppmd7Encoder(order, PPMD_MEMORY)
        return encoder.encode(data) + encoder.flush()

    return pack, lambda code: pyppmd.Ppmd7Decoder(order, PPMD_MEMORY).decode(code, size)


def show(name: str, size: int, pack_seconds: float, open_seconds: float, text_bytes: int, best: int) -> None:
    """One line of the table."""
    share = f"{size / best:>8.3f}" if best else f"{'':>8}"
    bits = 8 * size / text_bytes
    print(f"{name:<34}{size:>11,}{bits:>8.4f}{share}{pack_seconds:>8.1f}{open_seconds:>8.2f}", flush=True)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab-size", type=int, default=1024)
    vocab_size = parser.parse_args().vocab_size
    train_text, _ = standard_library()
    tokenizer = train_sentencepiece(train_text, vocab_size)
    documents = [tokenizer.encode(document) for document in train_text.documents]
    text = b"".join(train_text.documents)
    tokens = np.concatenate(documents).astype("<u2").tobytes()
    print(f"{train_text.name}: {len(documents)} documents, {len(text):,} bytes, {len(tokens) // 2:,} tokens")
    print(f"{'':<34}{'bytes':>11}{'bpb':>8}{'ratio':>8}{'pack s':>8}{'open s':>8}")

    begin = time.perf_counter()
    stored = write_primer(documents, vocab_size)
    middle = time.perf_counter()
    back = read_primer(stored, vocab_size)
    end = time.perf_counter()
    if not all(map(np.array_equal, back, documents)):
        raise SystemExit("primer.bin did not come back")
    ours = len(stored)
    show("primer.bin", ours, middle - begin, end - middle, len(text), ours)

    zstd = zstandard.ZstdCompressor(22).compress, zstandard.ZstdDecompressor().decompress
    ways: dict[str, tuple[bytes, tuple[Bytes, Bytes]]] = {
        "xz text": (text, raw_lzma()),
        "xz text, lc=4 pb=0": (text, raw_lzma(lc=4, pb=0)),
        "xz tokens u16, defaults": (tokens, raw_lzma()),
        "xz tokens u16, lc=0 lp=1 pb=1": (tokens, raw_lzma(lc=0, lp=1, pb=1)),
        "xz tokens u16, lc=3 lp=1 pb=1": (tokens, raw_lzma(lc=3, lp=1, pb=1)),
        "xz tokens u16, lc=3 lp=1 pb=0": (tokens, raw_lzma(lc=3, lp=1, pb=0)),
        "zstd 22 text": (text, zstd),
        "brotli 11 text": (text, (lambda d: brotli.compress(d, quality=11, lgwin=24), brotli.decompress)),
        "PPMd 8, 256 MB, text": (text, ppmd(8, len(text))),
        "PPMd 12, 256 MB, text": (text, ppmd(12, len(text))),
    }
    for name, (data, (pack, unpack)) in ways.items():
        begin = time.perf_counter()
        code = pack(data)
        middle = time.perf_counter()
        if unpack(code) != data:
            raise SystemExit(f"{name} did not come back")
        show(name, len(code), middle - begin, time.perf_counter() - middle, len(text), ours)
    return 0


if __name__ == "__main__":
    sys.exit(main())
