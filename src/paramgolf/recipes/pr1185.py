"""The system of PR #1185: #549 with XSA on five layers, value residual, gated attention, two heads that predict further
ahead, and an exact n-gram cache beside legal test-time training.

What the published code does otherwise, and the names of its forms here: docs/pr1185.md.
"""

from __future__ import annotations

from dataclasses import replace

from paramgolf.recipe import Recipe, ScoreRecipe
from paramgolf.recipes.pr549 import on_one_gpu, pr549, pr549_tiny


def pr1185() -> Recipe:
    """Contest settings: 8 GPUs, 786,432 tokens a step, 600 s (spec pr1185.md 1.1); the cache is the repaired one."""
    recipe = pr549()
    return replace(
        recipe,
        name="pr1185",
        model=replace(
            recipe.model,
            xsa_layers=(6, 7, 8, 9, 10),
            value_layers=(8, 9, 10),
            bigram_buckets=2048,
            value_residual=True,
            gated_attention=True,
        ),
        optim=replace(recipe.optim, muon_weight_decay=0.06, ema_decay=0.9985, warmdown_steps=4000),
        train=replace(recipe.train, future_heads=2, future_weight=0.15),
        # Contexts of up to 8 tokens are the published orders 2..9.
        score=replace(recipe.score, adapt="ttt-normcache", ngram_order=8, cache_least_order=7, cache_strength=16.0),
    )


def pr1185_1gpu() -> Recipe:
    """The same on one GPU: an eighth of the batch, schedules in shares of the clock."""
    return on_one_gpu(pr1185(), "pr1185_1gpu")


def pr1185_tiny() -> Recipe:
    """The same parts in the model of `pr549_tiny`, for minutes on two CPU cores."""
    tiny, full = pr549_tiny(), pr1185_1gpu()
    return replace(
        tiny,
        name="pr1185_tiny",
        model=replace(
            tiny.model, xsa_layers=(3, 4, 5), value_layers=(3, 4, 5), value_residual=True, gated_attention=True
        ),
        optim=replace(tiny.optim, warmdown=full.optim.warmdown, muon_weight_decay=full.optim.muon_weight_decay),
        train=replace(tiny.train, future_heads=2, future_weight=0.15),
        score=replace(tiny.score, adapt="ttt-normcache", ngram_order=8, cache_least_order=7, cache_strength=16.0),
    )


def _cache(score: ScoreRecipe) -> ScoreRecipe:
    """The repaired cache; contexts of up to 8 tokens are the published orders 2..9. Alpha serves `laplace` alone."""
    return replace(
        score,
        adapt="ttt-normcache",
        ngram_order=8,
        cache_least_order=7,
        cache_strength=16.0,
        alpha_base=0.08,
        alpha_range=0.65,
        alpha_centre=3.5,
    )
