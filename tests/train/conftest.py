"""A recipe of milliseconds and windows that are easy to learn, for the tests of the room."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from paramgolf.recipe import BudgetRecipe, ModelRecipe, Recipe, TrainRecipe


class Counting:
    """Windows that count upwards modulo the vocabulary, drawn by the step alone."""

    vocab = 24

    def batch(self, step: int, sequences: int) -> tuple[np.ndarray, np.ndarray]:
        starts = np.random.default_rng(step).integers(0, self.vocab, size=(sequences, 1))
        rows = (starts + np.arange(17)) % self.vocab
        return rows[:, :-1].copy(), rows[:, 1:].copy()


@pytest.fixture
def counting() -> Counting:
    """Windows of 16 tokens."""
    return Counting()


@pytest.fixture
def tiny() -> Recipe:
    """Four sequences of 16 tokens a step, 12 steps of a clock that ticks once a step, no warm-up."""
    return Recipe(
        name="tiny",
        model=ModelRecipe(layers=2, width=16, heads=2, kv_heads=1, mlp_ratio=2.0),
        train=TrainRecipe(sequence=16, batch_tokens=64, checkpoint_seconds=1000.0, warmup_steps=0),
        budget=BudgetRecipe(train_seconds=12.0),
    )


@pytest.fixture
def with_train() -> Callable[..., Recipe]:
    """A recipe with other settings of its training."""

    def change(recipe: Recipe, **changes: object) -> Recipe:
        return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **changes))

    return change


@pytest.fixture
def with_optim() -> Callable[..., Recipe]:
    """A recipe with other settings of its optimizers."""

    def change(recipe: Recipe, **changes: object) -> Recipe:
        return dataclasses.replace(recipe, optim=dataclasses.replace(recipe.optim, **changes))

    return change
