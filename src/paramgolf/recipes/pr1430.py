"""The system of PR #1430: #549 with XSA on all layers and Full GPTQ; at evaluation AdamW test-time training of the last
blocks, SLOT, and an n-gram mixer of orders 2..22, each in its strict form.

The published evaluation is no compression score; its parts are exhibits (docs/pr1430.md).
"""

from __future__ import annotations

from dataclasses import replace

from paramgolf.recipe import Recipe, ScoreRecipe
from paramgolf.recipes.pr549 import on_one_gpu, pr549, pr549_tiny


def pr1430() -> Recipe:
    """Contest settings (spec pr1430.md 1.1, the actual runs): 8 GPUs, 600 s, GPTQ calibrated on training text."""
    recipe = pr549()
    return replace(
        recipe,
        name="pr1430",
        model=replace(
            recipe.model,
            query_gain=4.0,
            xsa_layers=tuple(range(recipe.model.layers)),
            bigram_buckets=3072,
            bigram_width=112,
        ),
        optim=replace(recipe.optim, warmdown_steps=4000),
        train=replace(recipe.train, future_heads=2, future_weight=0.1),
        squeeze=replace(recipe.squeeze, quantiser="gptq", calibration_sequences=64, prune_ones=True),
        score=_strict(recipe.score, frozen_blocks=9),
    )


def pr1430_1gpu() -> Recipe:
    """The same on one GPU: an eighth of the batch, schedules in shares of the clock."""
    return on_one_gpu(pr1430(), "pr1430_1gpu")


def pr1430_tiny() -> Recipe:
    """The same parts in the model of `pr549_tiny`, for minutes on two CPU cores."""
    tiny, full = pr549_tiny(), pr1430_1gpu()
    return replace(
        tiny,
        name="pr1430_tiny",
        model=replace(tiny.model, query_gain=4.0, xsa_layers=tuple(range(tiny.model.layers))),
        optim=replace(tiny.optim, warmdown=full.optim.warmdown),
        train=replace(tiny.train, future_heads=2, future_weight=0.1),
        squeeze=replace(full.squeeze, calibration_seconds=5.0),
        score=_strict(tiny.score, frozen_blocks=4),
    )


def _strict(score: ScoreRecipe, frozen_blocks: int) -> ScoreRecipe:
    """The published evaluation without what breaks the rules; contexts of up to 21 tokens are its orders 2..22."""
    return replace(
        score,
        adapt="ttt-slot-backoff",
        ttt_optimizer="adamw",
        ttt_lr=1e-3,
        ttt_least_lr=1e-4,
        ttt_epochs=1,
        ttt_frozen_blocks=frozen_blocks,
        ngram_order=21,
        alpha_base=0.20,
        alpha_range=0.55,
        alpha_centre=2.5,
    )
