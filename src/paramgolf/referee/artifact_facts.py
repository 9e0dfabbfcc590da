"""What can be said of a model.pyz without running anything in it: size, digest, and whose source code it carries."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from paramgolf.artifact.sources import MAIN
from paramgolf.errors import ArtifactError

MAX_MEMBERS = 4096
MAX_SOURCE_BYTES = 2**20
PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class ArtifactFacts:
    """`size` on the disk, `digest` SHA-256 (hex), `tokenizer_bytes` of the file that its tokenizer takes.

    `changed_sources` are modules of paramgolf that differ from the installed ones, `foreign_sources` code that is no
    part of paramgolf.
    """

    size: int
    digest: str
    tokenizer_bytes: int
    sources: int
    changed_sources: tuple[str, ...]
    foreign_sources: tuple[str, ...]


def artifact_facts(path: Path) -> ArtifactFacts:
    """Read the facts; raise `ArtifactError` if the file is no zip archive of sane members."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS or len({member.filename for member in members}) < len(members):
                raise ArtifactError(f"{path.name} holds {len(members)} members, some twice or more than {MAX_MEMBERS}")
            sources = [member for member in members if Path(member.filename).suffix in (".py", ".pyc", ".so", ".pyd")]
            known = {member.filename: _installed(member.filename) for member in sources}
            changed = [m.filename for m in sources if _differs(archive, m, known[m.filename])]
    except (OSError, zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ArtifactError(f"{path.name} is no archive that can be read: {error}") from None
    tokenizer = sum(member.compress_size for member in members if Path(member.filename).name.startswith("tokenizer."))
    foreign = [name for name, source in known.items() if source is None]
    return ArtifactFacts(
        path.stat().st_size, digest, tokenizer, len(sources), tuple(sorted(changed)), tuple(sorted(foreign))
    )


def _installed(name: str) -> bytes | None:
    """The installed source that a member should equal; None if it is no part of paramgolf."""
    if name == "__main__.py":
        return MAIN
    parts = Path(name).parts
    if len(parts) < 2 or parts[0] != "paramgolf" or ".." in parts:
        return None
    path = PACKAGE.joinpath(*parts[1:])
    return path.read_bytes() if path.is_file() else None


def _differs(archive: zipfile.ZipFile, member: zipfile.ZipInfo, installed: bytes | None) -> bool:
    if installed is None:
        return False
    with archive.open(member) as stream:
        return stream.read(MAX_SOURCE_BYTES + 1) != installed
