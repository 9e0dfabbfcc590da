"""Bytes and seconds of our weight coder beside general packers, on the same integers of one model.

    python bench/weight_coders.py [model.pyz] [--bits 6] [--seconds 30]
    python bench/weight_coders.py --record

Without an artifact a quickstart model is trained here on the Python standard library for `--seconds` and its matrices
and embedding are quantised to `--bits`. "order-0" is the entropy of the integers of each tensor under a free histogram
of its own (no tables, the row steps given). Our size holds everything but the steps, which are given to all rivals too:
integers, tables, row classes; the last line adds the steps. Rivals pack the same integers, one a byte and, for xz and
brotli, also bit-packed and column by column, as published; lrzip is one where it is installed. "Gaussian" is the size
law's bound: each row a Gaussian of its own spread, and two bytes for its step. Exit status 1 if ours is above 1.005 of
order-0, above a rival, or with steps above the law. --record times our coder on Gaussian weights of #2140's shapes.
"""

from __future__ import annotations

import argparse
import dataclasses
import lzma
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import brotli
import numpy as np
import zstandard

from paramgolf.squeeze.coder import decode_tensor, encode_tensor, fit_codebooks
from paramgolf.squeeze.quantize import Scheme, quantize
from paramgolf.squeeze.quantized import Quantized, all_integers
from paramgolf.squeeze.size_law import rounded_gaussian_bits

LRZIP = "lrzip -z, by columns"


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
    return sum(map(len, codes)) + books.byte_count(), packed - begin, done - packed


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


@dataclass(frozen=True)
class CoderTable:
    """Bytes, seconds to pack and to unpack, of each coder on the same integers; `with_steps` alone holds the steps."""

    integers: int
    order_0: float
    gaussian: float
    ours: tuple[int, float, float]
    with_steps: int
    half_steps: int  # bytes of the steps as float16, published
    rivals: Mapping[str, tuple[int, float, float]]

    def good(self) -> bool:
        """Within 0.5 % of order-0 and below every rival; with the steps at or under the Gaussian bound with its own."""
        below = all(self.ours[0] < size for size, _, _ in self.rivals.values())
        return below and self.ours[0] <= 1.005 * self.order_0 and self.with_steps <= self.gaussian + self.half_steps

    def text(self) -> str:
        """The table, and whether the marks are met."""
        count = self.integers
        rows = [f"{'':<28}{'bytes':>12}{'bits/int':>10}{'/order-0':>10}{'pack s':>9}{'unpack s':>9}"]

        def row(name: str, size: float, *seconds: float) -> None:
            shown = "".join(f"{second:>9.2f}" for second in seconds)
            rows.append(f"{name:<28}{size:>12,.0f}{8 * size / count:>10.4f}{size / self.order_0:>10.4f}{shown}")

        row("order-0 entropy", self.order_0)
        row("ours", *self.ours)
        for name, figures in self.rivals.items():
            row(name, *figures)
        row("ours with the steps", self.with_steps)
        row("Gaussian with float16 steps", self.gaussian + self.half_steps)
        if LRZIP not in self.rivals:
            rows.append(f"{LRZIP:<28}not installed")
        rows.append("all marks are met" if self.good() else "ours MISSES a mark")
        return "\n".join(rows)

    def record(self) -> dict[str, object]:
        """For JSON."""
        return dataclasses.asdict(self) | {"good": self.good()}


def gaussian_bytes(tensors: list[Quantized]) -> float:
    """Entropy of the integers if each row were a Gaussian of its own spread, rounded (the size law's bound)."""
    bits = 0.0
    for tensor in tensors:
        for row_C in tensor.values.astype(np.float64):
            # Rounding adds a twelfth to the variance; a row of noughts costs nothing.
            variance = row_C.var() - 1 / 12
            if variance > 1e-3:
                bits += row_C.size * rounded_gaussian_bits(1 / math.sqrt(variance))
    return bits / 8


def coder_table(tensors: list[Quantized]) -> CoderTable:
    """Pack the integers by every coder that is here; lrzip only where it is installed."""
    plain = [Quantized(all_integers(t), t.scales, t.bits, t.shape) for t in tensors]
    integers = b"".join(tensor.values.tobytes() for tensor in plain)
    columns = b"".join(np.ascontiguousarray(tensor.values.T).tobytes() for tensor in plain)  # as published
    packed = b"".join(bit_packed(tensor) for tensor in plain)
    strong, best = 9 | lzma.PRESET_EXTREME, {"quality": 11, "lgwin": 24}
    rivals = {
        "brotli 11": timed(lambda d: brotli.compress(d, **best), brotli.decompress, integers),
        "brotli 11, by columns": timed(lambda d: brotli.compress(d, **best), brotli.decompress, columns),
        "brotli 11, bit-packed": timed(lambda d: brotli.compress(d, **best), brotli.decompress, packed),
        "lzma 9e": timed(lambda d: lzma.compress(d, preset=strong), lzma.decompress, integers),
        "lzma 9e, by columns": timed(lambda d: lzma.compress(d, preset=strong), lzma.decompress, columns),
        "lzma 9e, bit-packed": timed(lambda d: lzma.compress(d, preset=strong), lzma.decompress, packed),
        "zstd 22": timed(zstandard.ZstdCompressor(22).compress, zstandard.ZstdDecompressor().decompress, integers),
    }
    if shutil.which("lrzip"):
        rivals[LRZIP] = timed(lambda d: lrzip(d, "-z", "-L", "9"), lambda d: lrzip(d, "-d"), columns)
    with_steps, encode_seconds, decode_seconds = our_code(plain)
    ours, _, _ = our_code([dataclasses.replace(t, scales=np.ones_like(t.scales)) for t in plain])
    return CoderTable(
        integers=sum(tensor.values.size for tensor in plain),
        order_0=order_0_bytes(plain),
        gaussian=gaussian_bytes(plain),
        ours=(ours, encode_seconds, decode_seconds),
        with_steps=with_steps,
        half_steps=2 * sum(tensor.scales.size for tensor in plain),
        rivals=rivals,
    )


def lrzip(data: bytes, *flags: str) -> bytes:
    """What the program makes of a file with this content."""
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "in.lrz", Path(folder) / "out"
        source.write_bytes(data)
        subprocess.run(["lrzip", "-q", *flags, "-o", str(made), str(source)], check=True, capture_output=True)
        return made.read_bytes()


def record_tensors(seed: int = 0) -> list[Quantized]:
    """Gaussian weights of the shapes of `pr2140`, rounded at its clips: for seconds, not for bytes."""
    from paramgolf.model.arithmetic import tensor_shapes
    from paramgolf.recipes import get_recipe
    from paramgolf.squeeze.schemes import assign_schemes, default_schemes

    recipe, rng = get_recipe("pr2140"), np.random.default_rng(seed)
    shapes = tensor_shapes(recipe.model, recipe.tokenizer.vocab_size)
    schemes = assign_schemes(shapes, default_schemes(recipe.squeeze))
    matrices = [name for name, scheme in schemes.items() if not scheme.raw() and math.prod(shapes[name]) > 1 << 16]
    return [quantize(rng.standard_normal(shapes[name], np.float32) * 0.05, schemes[name]) for name in matrices]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", nargs="?", type=Path)
    parser.add_argument("--bits", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--record", action="store_true", help="time our coder alone on the record's shapes")
    options = parser.parse_args()
    if options.record:
        tensors, begin = record_tensors(), time.process_time()
        size, pack_seconds, unpack_seconds = our_code(tensors)
        count, law = sum(tensor.values.size for tensor in tensors), gaussian_bytes(tensors)
        print(f"{count:,} integers of pr2140's shapes, random Gaussian weights: {size:,} bytes with steps and tables,")
        print(f"Gaussian bound {law:,.0f}; packed in {pack_seconds:.1f} s, unpacked in {unpack_seconds:.1f} s")
        print(f"{time.process_time() - begin:.1f} s of processor time for both")
        return 0 if pack_seconds < 60 else 1
    if options.artifact:
        tensors, source = packed_tensors(options.artifact), str(options.artifact)
    else:
        tensors = trained_tensors(options.bits, options.seconds)
        source = f"quickstart trained {options.seconds:g} s, int{options.bits}"
    found = coder_table(tensors)
    print(f"{source}: {len(tensors)} tensors, {found.integers:,} integers\n{found.text()}")
    return 0 if found.good() else 1


if __name__ == "__main__":
    sys.exit(main())
