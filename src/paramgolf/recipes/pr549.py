"""The system of PR #549: banked model of 26.9 M parameters, Parallel Muon, int6, legal score-first test-time training.

What the published code does otherwise than these recipes, and where the fields for its forms are: docs/pr549.md.
"""

from __future__ import annotations

from dataclasses import replace

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

# The record's run made about 7,185 steps of 83.5 ms: what it counts in steps is here a share of the clock.
RECORD_STEPS = 7185
TINY_WINDOW = 256


def pr549() -> Recipe:
    """Contest settings: 8 GPUs, 786,432 tokens a step, 600 s (spec pr549.md 3.1)."""
    return Recipe(
        name="pr549",
        tokenizer=TokenizerRecipe("sentencepiece", 1024),
        model=ModelRecipe(
            layers=11,
            width=512,
            heads=8,
            kv_heads=4,
            mlp_ratio=3.0,
            mlp_slope=0.5,
            rope_channels=16,
            rope_length=1024,
            xsa_layers=(7, 8, 9, 10),
            value_layers=(9, 10),
            bigram_buckets=1536,
            smear="within-document",
            unet=True,
            residual_mix=True,
            block_scales=True,
            depth_scale=True,
            init="orthogonal",
            embedding_std=0.005,
        ),
        optim=OptimRecipe(
            matrix_lr=0.025,
            embedding_lr=0.035,
            scalar_lr=0.025,
            muon_momentum=0.99,
            muon_momentum_start=0.92,
            momentum_warmup_steps=1500,
            muon_weight_decay=0.04,
            embedding_weight_decay=0.04,
            scalar_weight_decay=0.04,
            clip_norm=0.3,
            warmdown=0.0,
            warmdown_steps=3500,
            ema_decay=0.997,
        ),
        train=TrainRecipe(
            sequence=2048,
            batch_tokens=786_432,
            micro_tokens=98_304,
            order="stream",
            warmup_steps=20,
            compile=True,
            dtype="bfloat16",
            checkpoint_seconds=300.0,
        ),
        squeeze=SqueezeRecipe(matrix_bits=6, embedding_bits=8, small_bits=16),
        score=ScoreRecipe(
            window=2048,
            stride=64,
            adapt="ttt",
            chunk=2048,
            ttt_chunk=32_768,
            ttt_optimizer="sgd",
            ttt_lr=0.002,
            ttt_schedule="cosine",
            ttt_epochs=3,
            ttt_sequences=32,
        ),
        # What `submit` writes beside the model: the script, with room to grow.
        budget=BudgetRecipe(artifact_bytes=16_000_000, reserved_bytes=300_000, train_seconds=600.0, eval_seconds=600.0),
    )


def pr549_1gpu() -> Recipe:
    """The same model and schedule on one GPU: an eighth of the batch, so as many steps, in shares of the clock."""
    return on_one_gpu(pr549(), "pr549_1gpu")


def on_one_gpu(recipe: Recipe, name: str, record_steps: int = RECORD_STEPS) -> Recipe:
    """A recipe for 8 GPUs with an eighth of its batch; what it counts in steps becomes shares of `record_steps`."""
    optim = recipe.optim
    momentum_warmup, warmdown = (
        round(steps / record_steps, 3) if steps else share
        for steps, share in (
            (optim.momentum_warmup_steps, optim.momentum_warmup),
            (optim.warmdown_steps, optim.warmdown),
        )
    )
    return replace(
        recipe,
        name=name,
        optim=replace(
            optim, momentum_warmup_steps=0, momentum_warmup=momentum_warmup, warmdown_steps=0, warmdown=warmdown
        ),
        train=replace(recipe.train, batch_tokens=recipe.train.batch_tokens // 8),
    )


def for_minutes(optim: OptimRecipe) -> OptimRecipe:
    """Rates for fewer and noisier steps than a record's: bench/tune_quickstart.py's, less momentum, a looser clip."""
    return replace(
        optim,
        matrix_lr=0.015,
        embedding_lr=0.02,
        scalar_lr=0.01,
        muon_momentum=0.95,
        muon_momentum_start=0.85,
        clip_norm=1.0,
        ema_decay=0.98,
    )


def pr549_tiny() -> Recipe:
    """The same code paths in a model of about a million parameters, for minutes on two CPU cores."""
    recipe = pr549_1gpu()
    return replace(
        recipe,
        name="pr549_tiny",
        model=replace(
            recipe.model,
            layers=6,
            width=128,
            heads=2,
            kv_heads=1,
            rope_length=TINY_WINDOW // 2,
            xsa_layers=(4, 5),
            value_layers=(4, 5),
            value_width=32,
            bigram_buckets=1536,
            bigram_width=32,
        ),
        optim=for_minutes(recipe.optim),
        train=TrainRecipe(sequence=TINY_WINDOW, batch_tokens=2048, order="stream", warmup_steps=2),
        score=replace(
            recipe.score, window=TINY_WINDOW, stride=64, chunk=512, ttt_chunk=32 * TINY_WINDOW, ttt_sequences=32
        ),
        budget=replace(recipe.budget, train_seconds=300.0),
    )
