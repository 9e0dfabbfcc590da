"""The recipe of `paramgolf quickstart`: about a million parameters, for a minute or so on two CPU cores."""

from __future__ import annotations

from paramgolf.recipe import (
    BudgetRecipe,
    ModelRecipe,
    OptimRecipe,
    Recipe,
    ScoreRecipe,
    SqueezeRecipe,
    TokenizerRecipe,
    TrainRecipe,
)


def quickstart() -> Recipe:
    """Learning rates and batch come from short runs on the Python standard library: bench/tune_quickstart.py."""
    return Recipe(
        name="quickstart",
        tokenizer=TokenizerRecipe("sentencepiece", 1024),
        model=ModelRecipe(layers=6, width=128, heads=2, kv_heads=1, mlp_ratio=3.0),
        optim=OptimRecipe(matrix_lr=0.015, ema_decay=0.95),
        train=TrainRecipe(sequence=256, batch_tokens=2048),
        squeeze=SqueezeRecipe(matrix_bits=6, embedding_bits=8, carry_text=True),
        score=ScoreRecipe(window=256, stride=224, adapt="ngram"),
        budget=BudgetRecipe(artifact_bytes=16_000_000, train_seconds=30.0, eval_seconds=600.0),
    )
