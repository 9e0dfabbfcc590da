"""The experts of the tilt, with the numbers of #2140 (spec pr2140.md, 6.2 and 6.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramgolf.predict.tilt import Expert
from paramgolf.predict.tilt_counts import ContextHints
from paramgolf.predict.tilt_table import BEGINS, ENDS, GOES_ON, Int8
from paramgolf.predict.tilt_words import WordStartHints
from paramgolf.recipe import ScoreRecipe

WITHIN_SHARE, WORD_SHARE, WORD_BOOST, AGREEMENT = 0.45, 0.65, 0.75, 0.5
WORDS = 3  # before a word, that its first token is hinted from


@dataclass(frozen=True)
class Pieces:
    """What the words of a text are made of: the text of each token, and which begin a word or stand between words.

    `text` [V]; `kind_V` int8 [V]: `BEGINS` for a piece that starts with a space, `ENDS` for control pieces and bytes
    below 0x20 or the space itself, `GOES_ON` for all others.
    """

    text: tuple[str, ...]
    kind_V: Int8

    @staticmethod
    def of(pieces: Sequence[bytes]) -> Pieces:
        """From the bytes that each token stands for ("" for control pieces)."""
        kinds = [_kind(piece) for piece in pieces]
        return Pieces(tuple(piece.decode("utf-8", "replace") for piece in pieces), np.array(kinds, dtype=np.int8))


def token_expert(
    recipe: ScoreRecipe,
    vocab_size: int,
    boundary_id: int,
    lanes: int = 1,
    primer: Sequence[npt.NDArray[np.int32]] = (),
) -> Expert:
    """Hints from the last `tilt_context` tokens, with the recipe's share, boost and bound of memory.

    `primer`: training documents that are counted before the first row.
    """
    source = ContextHints(vocab_size, boundary_id, lanes, exact=recipe.tilt_context, most_bytes=recipe.ngram_bytes)
    source.prime(primer)
    return Expert(source, recipe.tilt_share, recipe.tilt_boost)


def within_word_expert(
    pieces: Pieces,
    boundary_id: int,
    lanes: int = 1,
    *,
    share: float = WITHIN_SHARE,
    boost: float = WORD_BOOST,
    every: bool = False,
) -> Expert:
    """Hints from the tokens of the word so far, at every position inside a word.

    As published it learns only the tokens that go on with a word, so its share says how often, *if* the word goes on;
    with `every` it learns whatever follows. Either way the gate is decided before the token is known (#2140's was not).
    """
    source = ContextHints(len(pieces.text), boundary_id, lanes, exact=0, kind_V=pieces.kind_V, every=every)
    return Expert(source, share, boost)


def word_start_expert(
    pieces: Pieces, lanes: int = 1, *, words: int = WORDS, share: float = WORD_SHARE, boost: float = WORD_BOOST
) -> Expert:
    """Hints of a word's first token from the `words` words before it, at every position: a word might begin there."""
    return Expert(WordStartHints(pieces.text, pieces.kind_V, lanes, words=words), share, boost)


def _kind(piece: bytes) -> int:
    if not piece or (len(piece) == 1 and piece[0] <= 0x20):
        return ENDS
    return BEGINS if piece[:1] == b" " else GOES_ON
