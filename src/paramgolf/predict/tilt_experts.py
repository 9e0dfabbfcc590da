"""The experts of the tilt, with the numbers of #2140 (spec pr2140.md, 6.2 and 6.3)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramgolf.predict.tilt import Expert
from paramgolf.predict.tilt_counts import ContextHints
from paramgolf.predict.tilt_table import BEGINS, ENDS, GOES_ON, Int8
from paramgolf.predict.tilt_words import WordStartHints
from paramgolf.recipe import ScoreRecipe
from paramgolf.text.caseops import OPERATORS
from paramgolf.text.caseops_tokenizer import CaseOpsTokenizer
from paramgolf.text.model_proto import Piece, PieceKind
from paramgolf.text.sentencepiece_tokenizer import SentencePieceTokenizer
from paramgolf.text.tokenizer import Tokenizer

WITHIN_SHARE, WORD_SHARE, WORD_BOOST, AGREEMENT = 0.45, 0.65, 0.75, 0.5
WORDS = 3  # before a word, that its first token is hinted from


@dataclass(frozen=True)
class Pieces:
    """What the words of a text are made of: the text of each token, and which begin a word or stand between words.

    `text` [V]; `kind_V` int8 [V]: `BEGINS` for a piece that starts with a space, and the space alone; `ENDS` for
    control pieces and byte tokens up to 0x20; `GOES_ON` for all others, the operators of CaseOps among them, which have
    no text (spec pr2140.md 6.3; what the published ids of byte tokens were meant to be, not what they hit there).
    """

    text: tuple[str, ...]
    kind_V: Int8

    @staticmethod
    def of(pieces: Sequence[bytes], ends: Collection[int]) -> Pieces:
        """From the bytes that each token stands for, and the ids of those that stand between words."""
        kinds = [ENDS if v in ends else BEGINS if piece[:1] == b" " else GOES_ON for v, piece in enumerate(pieces)]
        return Pieces(tuple(piece.decode("utf-8", "replace") for piece in pieces), np.array(kinds, dtype=np.int8))

    @staticmethod
    def of_tokenizer(tokenizer: Tokenizer) -> Pieces:
        """From the vocabulary of a tokenizer of any kind."""
        if not isinstance(tokenizer, SentencePieceTokenizer | CaseOpsTokenizer):
            spelled = [tokenizer.decode([v]) for v in range(tokenizer.vocab_size)]
            return Pieces.of(spelled, {v for v, one in enumerate(spelled) if _between_words(one)})
        pieces = tokenizer.proto.pieces
        ends = {v for v, piece in enumerate(pieces) if piece.kind is PieceKind.CONTROL or _byte_between_words(piece)}
        operators = OPERATORS if isinstance(tokenizer, CaseOpsTokenizer) else ()
        return Pieces.of([b"" if piece.text in operators else piece.to_bytes() for piece in pieces], ends)


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


def _byte_between_words(piece: Piece) -> bool:
    return piece.kind is PieceKind.BYTE and _between_words(piece.to_bytes())


def _between_words(spelled: bytes) -> bool:
    return not spelled or (len(spelled) == 1 and spelled[0] <= 0x20)
