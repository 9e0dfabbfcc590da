"""The rules that have a name: an estimate from counts and its share of the row.

Every one is a distribution that depends on the artifact and the tokens before alone. Whether it helps is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from paramgolf.errors import RecipeError
from paramgolf.predict.cache_estimates import AbsoluteDiscounting, Backoff, Estimate, Laplace, NormCache
from paramgolf.predict.cache_shares import EntropyShare, LearntShare, Share, Whole
from paramgolf.recipe import ScoreRecipe


@dataclass(frozen=True)
class Rule:
    """p = (1 - share) p_neural + share p_counts; p_neural, bit for bit, where no context is known that `estimate` uses.

    Holds state if a part of it learns: one rule belongs to one predictor.
    """

    estimate: Estimate
    share: Share


def laplace(recipe: ScoreRecipe, vocab_size: int) -> Rule:
    """#1185 as published: add one to the longest known context, weigh by the neural entropy. Honest, and harmful."""
    return Rule(Laplace(vocab_size), entropy_share(recipe))


def norm_cache(recipe: ScoreRecipe) -> Rule:
    """#1185 repaired: the neural row is the prior of the longest known context's counts."""
    return Rule(_cache(recipe), Whole())


def gated_norm_cache(recipe: ScoreRecipe) -> Rule:
    """The same behind a gate that is learnt for each kind of evidence."""
    return Rule(_cache(recipe), LearntShare(recipe.ngram_order + 1))


def backoff(recipe: ScoreRecipe, vocab_size: int) -> Rule:
    """#1430 made exact: all contexts from the empty one up, weighed by the neural entropy."""
    return Rule(Backoff(vocab_size, recipe.cache_strength), entropy_share(recipe))


def learnt_backoff(recipe: ScoreRecipe, vocab_size: int) -> Rule:
    """The same with shares that are learnt for each kind of evidence."""
    return Rule(Backoff(vocab_size, recipe.cache_strength), LearntShare(recipe.ngram_order + 1))


def discounting(recipe: ScoreRecipe, vocab_size: int) -> Rule:
    """Interpolated absolute discounting with shares that are learnt for each kind of evidence."""
    levels = recipe.ngram_order + 1
    return Rule(AbsoluteDiscounting(vocab_size, levels), LearntShare(levels))


def entropy_share(recipe: ScoreRecipe) -> EntropyShare:
    """The published share with the recipe's numbers."""
    return EntropyShare(recipe.alpha_base, recipe.alpha_range, recipe.alpha_centre)


def _cache(recipe: ScoreRecipe) -> NormCache:
    if recipe.cache_least_order > recipe.ngram_order:
        raise RecipeError(
            f"score.cache_least_order={recipe.cache_least_order} is longer than any context of "
            f"score.ngram_order={recipe.ngram_order}: the cache would never speak"
        )
    return NormCache(recipe.cache_least_order, recipe.cache_strength)
