"""A score on the disk: `score.json` to read, `bits.npz` to check it by and to compare two runs token by token.

`bits.npz` holds plain arrays: `bits` float64 [N] in plan order, `document` int32 [N], `lengths` int64 [D] in tokens,
`plan` int64 [3] (lanes, chunk, number of the order in `orders.ORDERS`; [2] in files from before there were several),
`digest` (of the text, as ASCII bytes), `sizes` int64 [D] raw bytes and `hashes` uint64 [D] of the documents (both empty
if unknown). Both files are read as if a stranger had written them: no pickle, nothing decompressed, no array larger
than the file.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import paramgolf
from paramgolf.clock import entries_of
from paramgolf.errors import OutputError, RunError, TextError
from paramgolf.predict.audit_record import Audit
from paramgolf.predict.learning import Learning
from paramgolf.predict.orders import ORDERS
from paramgolf.predict.plan import Plan, plan
from paramgolf.predict.score import Score
from paramgolf.run_folder import RunFolder, write_atomically

SCORE_FILE = "score.json"
HASHES_FILE = "train_documents.npy"
BITS_FILE = "bits.npz"
BPB_TOLERANCE = (
    1e-9  # bits per byte; the same sum of the same float64 values is exact, other machines may add otherwise
)
MAX_JSON_BYTES = 64 * 2**20
MAX_LANES = 65_536
MAX_CHUNK = 2**31

_ARRAYS = {
    "bits": "<f8",
    "document": "<i4",
    "lengths": "<i8",
    "plan": "<i8",
    "digest": "|u1",
    "sizes": "<i8",
    "hashes": "<u8",
}


def score_record(score: Score) -> dict[str, Any]:
    """What `score.json` holds; sizes in bytes, bits or seconds as in `Score`."""
    return {
        "bpb": score.bpb,
        "bits": score.total_bits,
        "side_bits": score.side_bits,
        "bytes": score.bytes,
        "tokens": score.tokens,
        "nats_per_token": score.nats_per_token,
        "seconds": score.seconds,
        "audit_seconds": score.audit_seconds,
        "learning": None if score.learning is None else score.learning.record(),
        "forgotten": score.forgotten,
        "ledger": [dataclasses.asdict(entry) for entry in score.ledger],
        "documents": len(score.plan.lengths),
        "plan": {"lanes": score.plan.lanes, "chunk": score.plan.chunk, "order": score.plan.order},
        "text": {"name": score.text_name, "digest": score.text_digest},
        "artifact_digest": score.artifact_digest,
        "adapt": score.adapt,
        "documents_not_lossless": score.documents_not_lossless,
        "audit": score.audit.record(),
        "paramgolf": paramgolf.__version__,
    }


def save(score: Score, folder: RunFolder | Path) -> None:
    """Write both files; raise `OutputError` if one is there already or does not fit on the disk."""
    path = folder.path if isinstance(folder, RunFolder) else folder
    for name in (BITS_FILE, SCORE_FILE):
        if (path / name).exists():
            raise OutputError(f"{path / name} exists already; choose another folder, or move it away")
    write_atomically(path / BITS_FILE, _npz(score))
    write_atomically(path / SCORE_FILE, (json.dumps(score_record(score), indent=1, allow_nan=False) + "\n").encode())


def load(folder: Path) -> Score:
    """Read a score back; raise `RunError` if a file is missing, damaged, or the BPB does not follow from the bits."""
    record, arrays = read_record(folder / SCORE_FILE), read_arrays(folder / BITS_FILE)
    score = score_of(record, arrays)
    claimed = float_of(record, "bpb")
    if not abs(score.bpb - claimed) <= BPB_TOLERANCE:
        raise RunError(f"{folder / SCORE_FILE} says {claimed!r} bits per byte, {BITS_FILE} adds up to {score.bpb!r}")
    return score


def score_of(record: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Score:
    """The score that record and arrays describe, its plan made anew from the lengths; `RunError` if they contradict."""
    order = plan_of(arrays)
    if not np.array_equal(arrays["document"], order.document_index()):
        raise RunError(f"{BITS_FILE} does not credit the documents in the order of its plan")
    text = record.get("text")
    if not isinstance(text, dict) or text.get("digest") != digest_of(arrays):
        raise RunError(f"{SCORE_FILE} is about text {str(text)[:99]}, {BITS_FILE} about {digest_of(arrays)!r}")
    changed = record.get("documents_not_lossless")
    try:
        return Score(
            bits=arrays["bits"],
            plan=order,
            bytes=int(float_of(record, "bytes")),
            text_digest=digest_of(arrays),
            seconds=float_of(record, "seconds"),
            audit_seconds=float_of(record, "audit_seconds"),
            audit=Audit.from_record(record.get("audit")),
            text_name=str(text.get("name")),
            artifact_digest=str(record.get("artifact_digest")),
            adapt=str(record.get("adapt")),
            documents_not_lossless=None if changed is None else int(float_of(record, "documents_not_lossless")),
            document_bytes=_per_document(arrays, "sizes"),
            document_hashes=_per_document(arrays, "hashes"),
            learning=_learning(record.get("learning")),
            forgotten=int(float_of(record, "forgotten")) if "forgotten" in record else 0,
            ledger=tuple(entries_of(record.get("ledger", []))),
        )
    except (ValueError, TextError) as error:
        raise RunError(f"{SCORE_FILE}: {error}") from None


def _learning(record: object) -> Learning | None:
    if record is None:
        return None
    if not isinstance(record, dict):
        raise RunError(f"learning should be an object, found {str(record)[:40]!r}")
    return Learning(int(float_of(record, "updates")), float_of(record, "seconds"), str(record.get("stopped")))


def _per_document(arrays: dict[str, npt.NDArray[Any]], name: str) -> npt.NDArray[Any] | None:
    if len(arrays[name]) == 0:
        return None
    if len(arrays[name]) != len(arrays["lengths"]):
        raise RunError(f"{BITS_FILE}: {len(arrays[name])} {name} for {len(arrays['lengths'])} documents")
    return arrays[name]


def plan_of(arrays: dict[str, npt.NDArray[Any]]) -> Plan:
    """Make the plan anew from the recorded lengths and shape; `RunError` if it does not credit that many tokens."""
    shape, lengths, found = arrays["plan"].tolist(), arrays["lengths"], len(arrays["bits"])
    if len(shape) == 2:
        shape = [*shape, ORDERS.index("stream")]
    most = (MAX_LANES, MAX_CHUNK, len(ORDERS) - 1)
    if len(shape) != 3 or not all(low <= one <= high for low, one, high in zip((1, 1, 0), shape, most, strict=True)):
        raise RunError(
            f"{BITS_FILE}: plan {shape} should be lanes (1..{MAX_LANES}), tokens a chunk (1..{MAX_CHUNK}) and an order "
            f"(0..{most[2]})"
        )
    # Floats: stranger's numbers may not overflow into a sum that fits.
    expected = lengths.sum(dtype=np.float64) + (len(lengths) if shape[0] == 1 else 0)
    if lengths.min(initial=0) < 0 or expected != found:
        raise RunError(
            f"{BITS_FILE}: {len(lengths)} documents make {expected:.0f} tokens to credit, found {found} bits"
        )
    return plan(lengths.tolist(), lanes=shape[0], chunk=shape[1], order=ORDERS[shape[2]])


def digest_of(arrays: dict[str, npt.NDArray[Any]]) -> str:
    """The digest of the text that the arrays belong to."""
    return arrays["digest"].tobytes().decode("ascii", "replace")


def read_record(path: Path) -> dict[str, Any]:
    """One JSON object from a file that may be hostile; `RunError` with the reason if it is anything else."""
    record = read_json(path)
    if not isinstance(record, dict):
        raise RunError(f"{path} should hold an object, found {type(record).__name__}")
    return record


def read_json(path: Path) -> object:
    """JSON from a file that may be hostile: at most 64 MiB, no NaN, no endless nesting; else `RunError`."""
    try:
        size = path.stat().st_size
        if not path.is_file() or size > MAX_JSON_BYTES:
            raise RunError(f"{path} is no file of at most {MAX_JSON_BYTES:,} bytes ({size:,})")
        return json.loads(path.read_bytes(), parse_constant=_no_constant)
    except FileNotFoundError:
        raise RunError(f"{path.parent} has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is not JSON that can be read: {error}") from None


def float_of(record: dict[str, Any], name: str) -> float:
    """A finite number of a record; `RunError` that names it otherwise."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        raise RunError(f"{name} should be a number, found {str(value)[:40]!r}")
    return float(value)


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of `bits.npz`, each one-dimensional and of its type; `RunError` for any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(archive.namelist())
            if names != sorted(f"{name}.npy" for name in _ARRAYS):
                raise RunError(f"{path} holds {names[:8]}, expected {', '.join(_ARRAYS)}")
            return {name: _array(archive, name, kind, path) for name, kind in _ARRAYS.items()}
    except FileNotFoundError:
        raise RunError(f"{path.parent} has no {path.name}") from None
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise RunError(f"{path} is damaged: {error}") from None


def write_hashes(hashes: npt.NDArray[np.uint64], folder: RunFolder | Path) -> Path:
    """Put the hashes of the training documents [D] (`score_text.document_hashes`) beside a run, for the referee."""
    path = (folder.path if isinstance(folder, RunFolder) else folder) / HASHES_FILE
    if path.exists():
        raise OutputError(f"{path} exists already; choose another folder, or move it away")
    return write_atomically(path, _npy(hashes, "<u8"))


def read_hashes(path: Path) -> npt.NDArray[np.uint64]:
    """The hashes of the training documents; `RunError` for any other file."""
    try:
        return _vector(path.read_bytes(), "<u8", str(path))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error}") from None


def _array(archive: zipfile.ZipFile, name: str, kind: str, path: Path) -> npt.NDArray[Any]:
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED or member.file_size > path.stat().st_size:
        raise RunError(
            f"{path}: {name} is compressed or larger than the file; the members of bits.npz are stored plain"
        )
    return _vector(archive.read(member), kind, f"{path}: {name}")


def _vector(data: bytes, kind: str, where: str) -> npt.NDArray[Any]:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise RunError(f"{where} has array format {version}, expected (1, 0)")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.str != kind or len(shape) != 1 or shape[0] * dtype.itemsize != len(data) - stream.tell():
        raise RunError(f"{where} is {dtype.str} {shape}, expected {kind} in one dimension and nothing after it")
    return np.frombuffer(data, dtype=dtype, offset=stream.tell())


def _npz(score: Score) -> bytes:
    if score.plan.world != 1:
        raise ValueError(f"rank {score.plan.rank} of {score.plan.world} holds only its part; combine the parts first")
    none = np.zeros(0)
    arrays: dict[str, npt.NDArray[Any]] = {
        "bits": score.bits,
        "document": score.plan.document_index(),
        "lengths": score.plan.lengths,
        "plan": np.array([score.plan.lanes, score.plan.chunk, ORDERS.index(score.plan.order)]),
        "digest": np.frombuffer(score.text_digest.encode("ascii"), dtype=np.uint8),
        "sizes": none if score.document_bytes is None else score.document_bytes,
        "hashes": none if score.document_hashes is None else score.document_hashes,
    }
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, kind in _ARRAYS.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), _npy(arrays[name], kind))
    return stream.getvalue()


def _npy(array: npt.NDArray[Any], kind: str) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array, dtype=kind), (1, 0), allow_pickle=False)
    return stream.getvalue()


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")
