"""What SentencePiece's trainer is shown of a text: blocks of a few lines, evenly sampled."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from paramgolf.text.model_proto import SPACE_MARK

SAMPLE_BYTES = 6_000_000
BLOCK_CHARACTERS = 4096
_BLOCK_LINES = 8  # a piece may hold line ends, so SentencePiece sees several lines at once
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


def keep_frequent(blocks: Sequence[str], most_characters: int, coverage: float) -> list[str]:
    """The blocks cut at every rare character, so that at most `most_characters` different ones are left.

    Kept are the most frequent ones, up to `coverage` of the text. SentencePiece's own option for this goes down to
    0.98 only, where a text in many scripts would leave no room for anything but characters.
    """
    counts = Counter[str]()
    for block in blocks:
        counts.update(block)
    kept, covered = [], 0
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most_characters]:
        if covered < coverage * counts.total():
            kept.append(character)
            covered += count
    if len(kept) == len(counts):
        return list(blocks)
    rare = re.compile(f"[^{re.escape(''.join(kept))}]+")
    return [part for block in blocks for part in rare.split(block) if part]
