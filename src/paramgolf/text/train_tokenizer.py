"""The tokenizer that a recipe asks for, learnt from training text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paramgolf.text.byte_tokenizer import ByteTokenizer

if TYPE_CHECKING:
    from paramgolf.text.text import TrainText
    from paramgolf.text.tokenizer import Tokenizer


def train_tokenizer(text: TrainText, kind: str, vocab_size: int) -> Tokenizer:
    """A lossless tokenizer for `TokenizerRecipe(kind, vocab_size)`; bytes need no training.

    Raises `LeakError` for anything but `TrainText`, `TokenizerError` if the text cannot fill the vocabulary.
    """
    from paramgolf.text.caseops_training import train_caseops
    from paramgolf.text.sentencepiece_tokenizer import train_sentencepiece

    if kind == "bytes":
        return ByteTokenizer()
    return train_caseops(text, vocab_size) if kind == "caseops" else train_sentencepiece(text, vocab_size)
