"""What general compressors make of the same bytes: the rivals that a score has to be seen beside.

Each runs in a process of its own (`python -m paramgolf.report.peers NAME`), two at a time, with a time limit. The
held-out documents are joined without separators, which favours the peers: they pay for no document boundaries.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

PPMD_ORDER = 8
PPMD_MEMORY = 256 << 20

SETTINGS = {
    "xz": "xz -9e",
    "brotli": "brotli 11, lgwin 24",
    "zstd": "zstd 22, long 27",
    "ppmd": "PPMd I, order 8, 256 MB",
    "ppmd_primed": "PPMd I, order 8, 256 MB, after reading the training text",
}


@dataclass(frozen=True)
class Peer:
    """One compressor on the held-out bytes; `bytes_coded` and `bpb` are None if it did not end within its time."""

    name: str
    setting: str
    bytes_coded: int | None
    bpb: float | None
    seconds: float


def measure_peers(
    held_out: Sequence[bytes], train: Sequence[bytes] | None = None, *, timeout: float = 120.0, workers: int = 2
) -> dict[str, Peer]:
    """Every peer on the joined held-out documents, by name; `ppmd_primed` only if training documents are given."""
    held_out_bytes = b"".join(held_out)
    train_bytes = b"".join(train or ())
    # The slowest first, so that two workers end together.
    names = (["ppmd_primed"] if train is not None else []) + ["brotli", "xz", "zstd", "ppmd"]
    with ThreadPoolExecutor(workers) as pool:
        peers = pool.map(lambda name: _in_own_process(name, train_bytes, held_out_bytes, timeout), names)
        found = {peer.name: peer for peer in peers}
    return {name: found[name] for name in SETTINGS if name in found}


def peers_record(held_out: Sequence[bytes], peers: Mapping[str, Peer]) -> dict[str, Any]:
    """What peers.json holds; the sizes are bytes."""
    return {"bytes_in": sum(map(len, held_out)), "peers": {name: asdict(peer) for name, peer in peers.items()}}


def coded_size(name: str, train: bytes, held_out: bytes) -> int:
    """Bytes that compressor `name` needs for `held_out`; `train` is read first by `ppmd_primed` alone."""
    if name == "ppmd_primed":
        return ppmd_primed(train, held_out)
    return {"xz": _xz, "brotli": _brotli, "zstd": _zstd, "ppmd": _ppmd}[name](held_out)


def ppmd_primed(train: bytes, held_out: bytes) -> int:
    """size(train + held_out) - size(train): what PPMd needs for text after it has seen the training text, in bytes."""
    return _ppmd(train + held_out) - _ppmd(train)


def _xz(data: bytes) -> int:
    import lzma

    return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def _brotli(data: bytes) -> int:
    import brotli

    return len(brotli.compress(data, quality=11, lgwin=24))


def _zstd(data: bytes) -> int:
    import zstandard

    settings = zstandard.ZstdCompressionParameters.from_level(22, enable_ldm=True, window_log=27)
    return len(zstandard.ZstdCompressor(compression_params=settings).compress(data))


def _ppmd(data: bytes) -> int:
    import pyppmd

    encoder = pyppmd.Ppmd8Encoder(PPMD_ORDER, PPMD_MEMORY, 0)
    return len(encoder.encode(data)) + len(encoder.flush())


def _in_own_process(name: str, train: bytes, held_out: bytes, timeout: float) -> Peer:
    before = train if name == "ppmd_primed" else b""
    command = [sys.executable, "-m", "paramgolf.report.peers", name, str(len(before))]
    start = time.perf_counter()
    size: int | None = None
    try:
        done = subprocess.run(command, input=before + held_out, capture_output=True, timeout=timeout)
        size = int(done.stdout) if done.returncode == 0 else None
    except subprocess.TimeoutExpired:
        pass
    seconds = time.perf_counter() - start
    bpb = None if size is None else 8 * size / max(1, len(held_out))
    return Peer(name, SETTINGS[name], size, bpb, round(seconds, 2))


def _main() -> None:
    name, split = sys.argv[1], int(sys.argv[2])
    data = sys.stdin.buffer.read()
    print(coded_size(name, data[:split], data[split:]))


if __name__ == "__main__":
    _main()
