"""What SentencePiece's trainer is shown of a text: blocks of a few lines, evenly sampled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from paramgolf.text.model_proto import SPACE_MARK

SAMPLE_BYTES = 16_000_000
BLOCK_CHARACTERS = 4096
_BLOCK_LINES = 8  # a piece may hold line ends, so SentencePiece sees several lines at once
_COVERAGE = 0.9995
_SKIPPED = dict.fromkeys((0, ord(SPACE_MARK), 0x2585))  # characters that SentencePiece's trainer gives a meaning


def sample_blocks(documents: Sequence[bytes], stride: int) -> Iterator[str]:
    """Every `stride`-th block of a few lines over all documents."""
    index = 0
    for document in documents:
        lines = document.decode("utf-8", "ignore").translate(_SKIPPED).split("\n")
        for start in range(0, len(lines), _BLOCK_LINES):
            block = "\n".join(lines[start : start + _BLOCK_LINES])
            for at in range(0, len(block), BLOCK_CHARACTERS):
                if index % stride == 0:
                    yield block[at : at + BLOCK_CHARACTERS]
                index += 1


def character_coverage(blocks: Sequence[str], most_characters: int) -> float:
    """Share of the text whose characters get a piece of their own, so that at most `most_characters` do."""
    counts = Counter[str]()
    for block in blocks:
        counts.update(block)
    if len(counts) <= most_characters:
        return _COVERAGE
    kept = sum(count for _, count in counts.most_common(most_characters))
    return min(_COVERAGE, kept / max(1, counts.total()))
