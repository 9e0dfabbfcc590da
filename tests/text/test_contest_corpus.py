"""The contest's own documents and vocabularies, where they lie next to the checkout."""

import json
from pathlib import Path

import pytest
import sentencepiece

from paramgolf.text.byte_table import contest_byte_table, exact_byte_table
from paramgolf.text.caseops_plain import encode_plain
from paramgolf.text.losslessness import check_losslessness
from paramgolf.text.tokenizer import load_tokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared"
CORPUS = SHARED / "corpus" / "fineweb_val_head.jsonl"
MODELS = ["fineweb_1024_bpe", "fineweb_8192_bpe", "fineweb_8192_bpe_caseops_v1"]

pytestmark = pytest.mark.skipif(not CORPUS.is_file(), reason="the contest's documents are not next to the checkout")


@pytest.fixture(scope="module")
def records():
    """The first 450 validation documents with their published token and byte counts."""
    return [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()[:450]]


def test_token_and_byte_counts_are_the_contests(records):
    """Re-encoding gives each document's `tokens_sp1024`, and the look-up tables its `bytes`, for all 450."""
    tokenizer = load_tokenizer(SHARED / "tokenizers" / "fineweb_1024_bpe.model")
    table = contest_byte_table(tokenizer)
    ids = [tokenizer.encode(record["text"].encode()) for record in records]
    assert [len(document) for document in ids] == [record["tokens_sp1024"] for record in records]
    charged = [table.bytes_of_document(document, tokenizer.boundary_id) for document in ids]
    assert charged == [record["bytes"] for record in records]
    # These documents were decoded from the contest's tokens, so they are normalised already: nothing is lost on them,
    # raw bytes are the charged bytes, and both tables agree.
    assert charged == [len(record["text"].encode()) for record in records]
    exact = exact_byte_table(tokenizer)
    assert charged == [exact.bytes_of_document(document, tokenizer.boundary_id) for document in ids]


@pytest.mark.parametrize("name", MODELS)
def test_the_contests_models_encode_as_sentencepiece_does(records, name):
    """`encode` equals plain SentencePiece; the models are known to normalise, so they are never called lossless."""
    tokenizer = load_tokenizer(SHARED / "tokenizers" / f"{name}.model")
    plain = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.to_bytes())
    assert not tokenizer.lossless and tokenizer.kind == ("caseops" if "caseops" in name else "sentencepiece")
    for record in records[:60]:
        text = encode_plain(record["text"]) if "caseops" in name else record["text"]
        assert tokenizer.encode(record["text"].encode()).tolist() == plain.encode(text)


@pytest.mark.parametrize("name", MODELS)
def test_raw_text_is_lost_by_encode_and_kept_by_encode_exact(records, name):
    """Texts with line ends and compatibility characters differ after `encode` and come back after `encode_exact`."""
    tokenizer = load_tokenizer(SHARED / "tokenizers" / f"{name}.model")
    raw = [("  " + record["text"].replace(". ", ".\n\n") + " ½ …").encode() for record in records[:40]]
    assert check_losslessness(tokenizer, raw).differ == 40
    assert all(tokenizer.decode(tokenizer.encode_exact(document)) == document for document in raw)
