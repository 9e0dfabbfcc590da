"""A held-out document that was trained on shows, though the tokenizer does not give it back as it was."""

import io
from pathlib import Path

import numpy as np
import sentencepiece

from paramgolf.artifact.artifact import Artifact
from paramgolf.cli.life import data_of_folder
from paramgolf.model.gpt import GPT
from paramgolf.predict.score_text import score_text
from paramgolf.recipe import ModelRecipe, Recipe, ScoreRecipe, TokenizerRecipe
from paramgolf.text.shard_folder import prepare
from paramgolf.text.text import HeldOutText, TrainText
from paramgolf.text.tokenizer import tokenizer_from_bytes

VOCAB = 300
DOCUMENTS = [f"Line {i} of a text\n\nwith  two spaces and ½ of  a cup, number {i * i}.".encode() * 3 for i in range(12)]


def test_an_overlap_shows_with_a_lossy_tokenizer(tmp_path: Path) -> None:
    """Scores and training folders hash what the tokens decode to, so one document on both sides has one hash."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([document.decode() for document in DOCUMENTS]),
        model_writer=model,
        vocab_size=VOCAB,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=False,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    tokenizer = tokenizer_from_bytes("sentencepiece", model.getvalue())
    assert not tokenizer.lossless
    folder = prepare(TrainText("t", DOCUMENTS[:8]), HeldOutText("h", DOCUMENTS[8:]), tokenizer, tmp_path / "data")
    trained_on = data_of_folder(folder, tmp_path / "data").hashes
    recipe = Recipe(
        "tiny",
        TokenizerRecipe("sentencepiece", tokenizer.vocab_size),
        ModelRecipe(layers=1, width=8, heads=2, kv_heads=1),
        score=ScoreRecipe(window=32, stride=32, chunk=64, ttt_chunk=64),
    )
    weights = GPT(recipe.model, tokenizer.vocab_size).exported_weights()
    artifact = Artifact(recipe, tokenizer, {name: value.detach().numpy() for name, value in weights.items()})
    found = score_text(artifact, HeldOutText("x", [DOCUMENTS[3], DOCUMENTS[9]]), audit_positions=2)
    assert found.document_hashes is not None
    assert np.isin(found.document_hashes, trained_on).tolist() == [True, False]
