"""What can be said of a model.pyz without running anything in it: does it open, whose source code does it carry?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from paramgolf.artifact.open import open_artifact, runtime_sources_of
from paramgolf.artifact.sources import runtime_sources
from paramgolf.recipe import Recipe


@dataclass(frozen=True)
class ArtifactFacts:
    """`size` on the disk, `digest` SHA-256 (hex), `tokenizer_bytes` of the file that its tokenizer takes, its `recipe`.

    Of its `sources`, `changed_sources` are runtime modules that differ from the installed ones or are missing,
    `foreign_sources` modules that the installed runtime does not have.
    """

    size: int
    digest: str
    tokenizer_bytes: int
    recipe: Recipe
    sources: int
    changed_sources: tuple[str, ...]
    foreign_sources: tuple[str, ...]


def artifact_facts(path: Path) -> ArtifactFacts:
    """Open the file as data and read the facts; raise `ArtifactError` if it is not whole from seal to last weight."""
    artifact = open_artifact(path)
    carried, installed = runtime_sources_of(path), runtime_sources()
    return ArtifactFacts(
        size=artifact.sizes["file"],
        digest=artifact.digest,
        tokenizer_bytes=artifact.sizes["tokenizer"],
        recipe=artifact.recipe,
        sources=len(carried),
        changed_sources=tuple(name for name in installed if carried.get(name) != installed[name]),
        foreign_sources=tuple(name for name in carried if name not in installed),
    )
