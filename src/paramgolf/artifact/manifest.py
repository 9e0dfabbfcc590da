"""`manifest.json`: what the members of an artifact are, with the SHA-256 of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from paramgolf.artifact.reader import parse_json_object
from paramgolf.errors import ArtifactError

FORMAT = 1
NAME = "manifest.json"


def write_manifest(members: Mapping[str, bytes], tokenizer_kind: str) -> bytes:
    """The manifest of all other members."""
    record = {
        "format": FORMAT,
        "tokenizer": tokenizer_kind,
        "members": {name: hashlib.sha256(members[name]).hexdigest() for name in sorted(members)},
    }
    return json.dumps(record, indent=1).encode()


def read_manifest(members: Mapping[str, bytes]) -> str:
    """Check every member against its digest; return the kind of tokenizer. Raises `ArtifactError`."""
    if NAME not in members:
        raise ArtifactError(f"it has no {NAME}; it is no paramgolf artifact")
    record = parse_json_object(members[NAME], NAME)
    if record.get("format") != FORMAT:
        raise ArtifactError(f"it is of format {str(record.get('format'))[:20]}; this version reads format {FORMAT}")
    kind, digests = record.get("tokenizer"), record.get("members")
    if sorted(record) != ["format", "members", "tokenizer"] or not isinstance(kind, str):
        raise ArtifactError(f"{NAME} should have format, members and tokenizer")
    others = sorted(set(members) - {NAME})
    if not isinstance(digests, dict) or sorted(digests) != others:
        raise ArtifactError(f"{NAME} lists other members than the {len(others)} of the file")
    wrong = [name for name in others if hashlib.sha256(members[name]).hexdigest() != digests[name]]
    if wrong:
        raise ArtifactError(f"the SHA-256 of {', '.join(wrong)} is not that of {NAME}")
    return kind
