"""Files and folders into documents of raw bytes.

A text file is one document. `.jsonl`, `.jsonl.zst` and `.parquet` hold many: their field `text`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paramgolf.errors import TextError

_BINARY_PROBE = 8192
_ZSTD_CHUNK = 1 << 20
_log = logging.getLogger(__name__)


@dataclass
class Survey:
    """Documents that were read and, for folders, how many files were left out and why."""

    documents: list[bytes] = field(default_factory=list, repr=False)
    hidden: int = 0
    binary: int = 0
    not_utf8: int = 0
    empty: int = 0

    def says(self) -> str:
        """One line for a log."""
        size = sum(len(document) for document in self.documents)
        return (
            f"{len(self.documents)} documents, {size} bytes; "
            f"files left out: {self.hidden} hidden, {self.binary} binary, {self.not_utf8} not UTF-8, {self.empty} empty"
        )


def read_documents(paths: Sequence[Path]) -> list[bytes]:
    """All documents of the paths, in the order given; the files of a folder in the order of their paths.

    A file that is named is one document whatever it holds, unless it is a container. Within folders hidden, binary
    (a NUL in the first 8 kB), non-UTF-8 and empty files are left out and counted in the log. Raises `TextError` for a
    path that is missing or unreadable, a damaged container (with file and line), and if there is no text at all.
    """
    survey = survey_documents(paths)
    _log.info(survey.says())
    return survey.documents


def survey_documents(paths: Sequence[Path]) -> Survey:
    """As `read_documents`, with the counts of what was left out."""
    survey = Survey()
    for path in map(Path, paths):
        if path.is_dir():
            _read_folder(path, survey)
        elif path.exists():
            survey.documents.extend(_read_named(path))
        else:
            raise TextError(f"no such file or folder: {path}")
    if not any(survey.documents):
        raise TextError(
            f"no text in {', '.join(map(str, paths)) or 'an empty list of paths'}: {survey.says()}; give UTF-8 text"
        )
    return survey


def _read_folder(folder: Path, survey: Survey) -> None:
    files: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        survey.hidden += sum(name.startswith(".") for name in (*folders, *names))
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    for path in sorted(files, key=lambda path: path.relative_to(folder).parts):
        if not path.is_file():
            survey.binary += 1
        elif _is_container(path):
            survey.documents.extend(_read_named(path))
        else:
            _add_file(path, survey)


def _add_file(path: Path, survey: Survey) -> None:
    document = _read_bytes(path)
    if not document:
        survey.empty += 1
    elif b"\0" in document[:_BINARY_PROBE]:
        survey.binary += 1
    elif not _is_utf8(document):
        survey.not_utf8 += 1
    else:
        survey.documents.append(document)


def _is_container(path: Path) -> bool:
    return path.name.endswith((".jsonl", ".jsonl.zst", ".parquet"))


def _read_named(path: Path) -> list[bytes]:
    if path.name.endswith(".jsonl"):
        return _read_jsonl(path, _read_bytes(path).split(b"\n"))
    if path.name.endswith(".jsonl.zst"):
        return _read_jsonl(path, _zstd_lines(path))
    if path.name.endswith(".parquet"):
        return _read_parquet(path)
    return [_read_bytes(path)]


def _read_jsonl(path: Path, lines: Sequence[bytes] | Iterator[bytes]) -> list[bytes]:
    documents: list[bytes] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise TextError(f"{path}:{number}: not JSON: {error}") from None
        text = record.get("text") if isinstance(record, dict) else None
        if not isinstance(text, str):
            found = f"keys {sorted(record)}" if isinstance(record, dict) else type(record).__name__
            raise TextError(f"{path}:{number}: expected an object with a string in field 'text', found {found}")
        documents.append(text.encode("utf-8", "surrogatepass"))
    return documents


def _zstd_lines(path: Path) -> Iterator[bytes]:
    """Lines of a zstd file of one or more frames; a truncated last frame is an error too."""
    import zstandard

    rest = b""
    try:
        with path.open("rb") as file:
            frame = zstandard.ZstdDecompressor().decompressobj()
            fed = False
            while chunk := file.read(_ZSTD_CHUNK):
                while chunk:
                    *lines, rest = (rest + frame.decompress(chunk)).split(b"\n")
                    yield from lines
                    fed, chunk = not frame.eof, frame.unused_data if frame.eof else b""
                    if frame.eof:
                        frame = zstandard.ZstdDecompressor().decompressobj()
    except OSError as error:
        raise TextError(f"cannot read {path}: {error.strerror}") from None
    except zstandard.ZstdError as error:
        raise TextError(f"{path}: damaged zstd data: {error}") from None
    if fed:
        raise TextError(f"{path}: damaged zstd data: it ends in the middle of a frame ({path.stat().st_size} bytes)")
    yield rest


def _read_parquet(path: Path) -> list[bytes]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise TextError(f"{path}: reading parquet needs pyarrow; pip install 'paramgolf[parquet]'") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if "text" not in file.schema_arrow.names:
                raise TextError(f"{path}: expected a column 'text', found {', '.join(file.schema_arrow.names)}")
            batches = file.iter_batches(columns=["text"])
            values = [value for batch in batches for value in batch.column(0).to_pylist()]
    except (OSError, pyarrow.ArrowException) as error:
        raise TextError(f"cannot read {path}: {str(error).splitlines()[0]}") from None
    return [_parquet_value(path, row, value) for row, value in enumerate(values)]


def _parquet_value(path: Path, row: int, value: object) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return value
    raise TextError(f"{path}: row {row}: expected a string in column 'text', found {type(value).__name__}")


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TextError(f"cannot read {path}: {error.strerror}") from None


def _refuse(error: OSError) -> None:
    raise TextError(f"cannot read {error.filename}: {error.strerror}")


def _is_utf8(document: bytes) -> bool:
    try:
        document.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
