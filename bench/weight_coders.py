"""Bytes and seconds of our weight coder beside general packers, on the same integers of one model.

    python bench/weight_coders.py [model.pyz] [--bits 6] [--seconds 30]

Without an artifact a quickstart model is trained here on the Python standard library for `--seconds` and its matrices
and embedding are quantised to `--bits`. "order-0" is the entropy of the integers of each tensor under a free histogram
of its own (no tables, the row steps given). Our size holds everything but the steps, which are given to all rivals too:
integers, tables, row classes; the last line adds the steps. Rivals pack the same integers, one a byte and, for xz and
brotli, also bit-packed. Exit status 1 if ours is above 1.005 of order-0 or above a rival.
"""

from __future__ import annotations

import argparse
import dataclasses
import lzma
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import brotli
import numpy as np
import zstandard

from paramgolf.squeeze.coder import decode_tensor, encode_tensor, fit_codebooks
from paramgolf.squeeze.quantize import Quantized, Scheme, quantize


def trained_tensors(bits: int, seconds: float) -> list[Quantized]:
    """Train a quickstart model for `seconds` and quantise all that is not a vector."""
    from paramgolf.clock import Clock
    from paramgolf.recipes import get_recipe
    from paramgolf.run_folder import RunFolder
    from paramgolf.text.sentencepiece_tokenizer import train_sentencepiece
    from paramgolf.text.stdlib import standard_library
    from paramgolf.text.windows import TrainingWindows
    from paramgolf.train.loop import train
    from paramgolf.train.progress import SilentDisplay

    recipe = get_recipe("quickstart")
    recipe = dataclasses.replace(recipe, budget=dataclasses.replace(recipe.budget, train_seconds=seconds))
    text, _ = standard_library()
    tokenizer = train_sentencepiece(text, recipe.tokenizer.vocab_size)
    shards = [np.append(tokenizer.encode(document), tokenizer.boundary_id) for document in text.documents]
    windows = TrainingWindows(shards, recipe.train.sequence, recipe.seed)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run")
        weights = train(recipe, windows, tokenizer.vocab_size, run, Clock(), SilentDisplay())
    return [quantize(values, Scheme(bits)) for values in weights.values() if values.ndim > 1]


def packed_tensors(path: Path) -> list[Quantized]:
    """The integers inside an artifact."""
    from paramgolf.artifact.container import read_container
    from paramgolf.artifact.open import open_artifact
    from paramgolf.artifact.weights_file import read_tensors

    shapes = {name: values.shape for name, values in open_artifact(path).weights.items()}
    tensors = read_tensors(read_container(path).members["weights.bin"], shapes)
    return [tensor for tensor in tensors.values() if isinstance(tensor, Quantized)]


def order_0_bytes(tensors: list[Quantized]) -> float:
    """Entropy of the integers, each tensor by its own histogram."""
    total = 0.0
    for tensor in tensors:
        share = np.unique(tensor.values, return_counts=True)[1] / tensor.values.size
        total -= tensor.values.size * float((share * np.log2(share)).sum()) / 8
    return total


def our_code(tensors: list[Quantized]) -> tuple[int, float, float]:
    """Bytes with tables, seconds to fit and encode, seconds to decode; checks that all came back."""
    begin = time.perf_counter()
    books = fit_codebooks(tensors)
    codes = [encode_tensor(tensor, books) for tensor in tensors]
    packed = time.perf_counter()
    back = [decode_tensor(c, t.shape, t.bits, books) for c, t in zip(codes, tensors, strict=True)]
    done = time.perf_counter()
    for found, tensor in zip(back, tensors, strict=True):
        if (found.values != tensor.values).any() or (found.scales != tensor.scales).any():
            raise SystemExit("our coder did not give the integers back")
    tables = sum(len(book.to_bytes()) for book in (books.steps, *books.values.values()))
    return sum(map(len, codes)) + tables, packed - begin, done - packed


def bit_packed(tensor: Quantized) -> bytes:
    """Offset integers, `bits` bits each, end to end."""
    offset = (tensor.values.astype(np.int16) + (1 << (tensor.bits - 1))).astype(np.uint8).ravel()
    return np.packbits(np.unpackbits(offset[:, None], axis=1)[:, 8 - tensor.bits :]).tobytes()


def timed(pack: Callable[[bytes], bytes], unpack: Callable[[bytes], bytes], data: bytes) -> tuple[int, float, float]:
    """Bytes, seconds to pack, seconds to unpack."""
    begin = time.perf_counter()
    packed = pack(data)
    middle = time.perf_counter()
    if unpack(packed) != data:
        raise SystemExit("a rival did not give the integers back")
    return len(packed), middle - begin, time.perf_counter() - middle


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", nargs="?", type=Path)
    parser.add_argument("--bits", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    if options.artifact:
        tensors, source = packed_tensors(options.artifact), str(options.artifact)
    else:
        tensors = trained_tensors(options.bits, options.seconds)
        source = f"quickstart trained {options.seconds:g} s, int{options.bits}"
    count = sum(tensor.values.size for tensor in tensors)
    integers = b"".join(tensor.values.tobytes() for tensor in tensors)
    packed = b"".join(bit_packed(tensor) for tensor in tensors)
    limit = order_0_bytes(tensors)
    with_steps, encode_seconds, decode_seconds = our_code(tensors)
    ours, _, _ = our_code([dataclasses.replace(t, scales=np.ones_like(t.scales)) for t in tensors])
    strong, best = 9 | lzma.PRESET_EXTREME, {"quality": 11, "lgwin": 24}
    rivals = {
        "brotli 11": timed(lambda d: brotli.compress(d, **best), brotli.decompress, integers),
        "brotli 11, bit-packed": timed(lambda d: brotli.compress(d, **best), brotli.decompress, packed),
        "lzma 9e": timed(lambda d: lzma.compress(d, preset=strong), lzma.decompress, integers),
        "lzma 9e, bit-packed": timed(lambda d: lzma.compress(d, preset=strong), lzma.decompress, packed),
        "zstd 22": timed(zstandard.ZstdCompressor(22).compress, zstandard.ZstdDecompressor().decompress, integers),
    }
    print(f"{source}: {len(tensors)} tensors, {count:,} integers")
    print(f"{'':<24}{'bytes':>12}{'bits/int':>10}{'/order-0':>10}{'pack s':>9}{'unpack s':>9}")
    print(f"{'order-0 entropy':<24}{limit:>12,.0f}{8 * limit / count:>10.4f}{1:>10.4f}")
    lines = {"ours": (ours, encode_seconds, decode_seconds), **rivals}
    for name, (size, pack_seconds, unpack_seconds) in lines.items():
        seconds = f"{pack_seconds:>9.2f}{unpack_seconds:>9.2f}"
        print(f"{name:<24}{size:>12,}{8 * size / count:>10.4f}{size / limit:>10.4f}{seconds}")
    print(f"{'ours with the steps':<24}{with_steps:>12,}{8 * with_steps / count:>10.4f}{with_steps / limit:>10.4f}")
    good = ours <= 1.005 * limit and all(ours < size for size, _, _ in rivals.values())
    print("ours is within 0.5 % of order-0 and below every rival" if good else "ours MISSES its mark")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
