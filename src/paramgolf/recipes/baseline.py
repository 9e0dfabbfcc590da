"""The plain contest-size model: what every technique is measured against."""

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


def baseline() -> Recipe:
    """About 17 M parameters at 6 bits, 10 minutes of training on GPUs, batches of 524,288 tokens in bfloat16."""
    return Recipe(
        name="baseline",
        tokenizer=TokenizerRecipe("sentencepiece", 1024),
        model=ModelRecipe(layers=9, width=512, heads=8, kv_heads=4, mlp_ratio=2.0),
        optim=OptimRecipe(
            matrix_lr=0.02, embedding_lr=0.02, scalar_lr=0.02, muon_momentum=0.95, warmdown=0.3, ema_decay=0.997
        ),
        train=TrainRecipe(
            sequence=1024,
            batch_tokens=524_288,
            warmup_steps=10,
            compile=True,
            dtype="bfloat16",
            checkpoint_seconds=60.0,
        ),
        squeeze=SqueezeRecipe(matrix_bits=6, embedding_bits=8),
        score=ScoreRecipe(window=1024, stride=768, chunk=12_288, ttt_chunk=36_864),
        budget=BudgetRecipe(artifact_bytes=16_000_000, train_seconds=600.0, eval_seconds=600.0),
    )
