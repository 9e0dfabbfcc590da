"""Learning a vocabulary over CaseOps streams: lossless, or with the contest's normalisation (spec pr2140.md 1.3)."""

from __future__ import annotations

from typing import Any

from paramgolf.errors import TokenizerError
from paramgolf.text.caseops import OPERATORS, encode
from paramgolf.text.caseops_tokenizer import CaseOpsTokenizer
from paramgolf.text.sentencepiece_tokenizer import RESERVED_IDS, learning_blocks, train_lossless_model, train_model
from paramgolf.text.text import TrainText

# The contest's: pieces within words, NFKC, one space for each run of white space. What it changes does not come back.
_CONTEST: dict[str, Any] = {
    "character_coverage": 0.999,
    "normalization_rule_name": "nmt_nfkc",
    "remove_extra_whitespaces": True,
    "user_defined_symbols": list(OPERATORS),
}


def train_caseops(text: TrainText, vocab_size: int) -> CaseOpsTokenizer:
    """A lossless tokenizer of exactly `vocab_size` ids: `train_sentencepiece` over the transform of `text`.

    Ids: pad 0, bos 1, eos 2, unk 3, the operators 4..7, bytes 8..263. The same text gives the same model. Raises
    `LeakError` for anything but `TrainText`, `TokenizerError` if the text cannot fill the vocabulary.
    """
    blocks = [encode(block) for block in learning_blocks(text)]
    return CaseOpsTokenizer(train_lossless_model(text, vocab_size, blocks, OPERATORS))


def train_contest_caseops(text: TrainText, vocab_size: int) -> CaseOpsTokenizer:
    """The contest's kind: `nmt_nfkc` and white space collapsed after the transform, so documents may not come back.

    Ids as `train_caseops`. Raises `LeakError`, and `TokenizerError` if the text cannot fill the vocabulary.
    """
    least = RESERVED_IDS + len(OPERATORS)
    if not least <= vocab_size <= 65536:
        raise TokenizerError(f"vocab_size={vocab_size} is outside {least}..65536 ({least} ids are reserved)")
    blocks = [encode(block) for block in learning_blocks(text)]
    tokenizer = CaseOpsTokenizer(train_model(blocks, vocab_size, text.name, _CONTEST))
    if tokenizer.vocab_size != vocab_size:
        raise TokenizerError(
            f"{text.name}: {text.size()} bytes are too few for vocab_size={vocab_size}; "
            f"they give {tokenizer.vocab_size} ids"
        )
    return tokenizer
