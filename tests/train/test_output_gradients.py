"""Sensitivities foretell what an error in a weight does to the model's distributions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from paramgolf.errors import LeakError
from paramgolf.model.gpt import GPT
from paramgolf.recipes import get_recipe
from paramgolf.squeeze.matrices import matrix_names
from paramgolf.text.windows import TrainingWindows
from paramgolf.train.calibration import collect_hessians
from paramgolf.train.output_gradients import collect_sensitivities

VOCAB, SEQUENCE, SEQUENCES = 96, 32, 32


@pytest.fixture(scope="module")
def made():
    """A small model with noisy weights, windows of skewed random tokens, and both kinds of moments."""
    recipe = dataclasses.replace(get_recipe("quickstart").model, layers=2, width=32, heads=2, kv_heads=1)
    model = GPT(recipe, VOCAB, None, 1).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.3 if parameter.ndim > 1 else 1.2 + 0.1 * noise)
    tokens = (np.random.default_rng(1).beta(0.6, 3.0, 40_000) * VOCAB).astype(np.uint16)
    windows = TrainingWindows([tokens], SEQUENCE, 0)
    names = [*matrix_names(model.exported_weights()), "embedding.weight"]
    sensitivities = collect_sensitivities(model, names, windows, SEQUENCES, 0)
    hessians = collect_hessians(model, names[:-1], windows, SEQUENCES).hessians
    return model, windows, names, sensitivities, hessians


def divergence(model, windows, name, error):
    """Mean KL in nats a token of the model with `error` added to one tensor, from the model as it is."""
    tokens = torch.from_numpy(windows.batch(0, SEQUENCES)[0])
    tensor = model.exported_weights()[name]
    with torch.no_grad():
        before = model(tokens).double().log_softmax(-1)
        kept = tensor.clone()
        tensor += error
        after = model(tokens).double().log_softmax(-1)
        tensor.copy_(kept)
    return float((before.exp() * (before - after)).sum(-1).mean())


def test_independent_errors_cost_what_is_foretold(made):
    """Small random errors in a matrix: the measured divergence is the foretold one within 2.5, typically within 1.4.

    Values' errors reach many positions alike, which a factored curvature does not see; hence the wide bound.
    """
    model, windows, names, sensitivities, hessians = made
    foretold, found = [], []
    for name in names[:-1]:
        error = 0.01 * torch.randn(model.exported_weights()[name].shape, generator=torch.Generator().manual_seed(3))
        power_R = sensitivities[name].power(hessians[name], SEQUENCE)
        foretold.append(float((power_R[:, None] * np.square(error.numpy())).sum()))
        found.append(divergence(model, windows, name, error))
    ratios = np.array(found) / np.array(foretold)
    assert ((ratios > 0.4) & (ratios < 2.5)).all(), ratios
    assert 1 / 1.4 < np.median(ratios) < 1.4
    assert max(foretold) > 8 * min(foretold)  # or the test could not tell one number for all


def test_a_tied_table_counts_both_uses(made):
    """Errors in the embedding, as look-up and as head, cost what is foretold, frequent tokens' rows more."""
    model, windows, _, sensitivities, _ = made
    tokens = torch.from_numpy(windows.batch(0, SEQUENCES)[0])
    with torch.no_grad():
        h = model.hidden(tokens).flatten(0, 1)
    hessian = (h.T @ h / SEQUENCES).double().numpy()
    power_R = sensitivities["embedding.weight"].power(hessian, SEQUENCE)
    assert (sensitivities["embedding.weight"].lookups_R > 0).any()
    for rows in (slice(0, 8), slice(8, VOCAB)):
        error = torch.zeros(VOCAB, 32)
        error[rows] = 0.01 * torch.randn(error[rows].shape, generator=torch.Generator().manual_seed(4))
        foretold = float((power_R[:, None] * np.square(error.numpy())).sum())
        assert divergence(model, windows, "embedding.weight", error) == pytest.approx(foretold, rel=0.5)


def test_the_model_is_left_as_it_was(made):
    """No gradients stay behind, and the same seed gives the same numbers."""
    model, windows, names, sensitivities, _ = made
    assert all(parameter.grad is None for parameter in model.parameters())
    again = collect_sensitivities(model, names, windows, SEQUENCES, 0)
    assert all((again[name].outputs_R == sensitivities[name].outputs_R).all() for name in names)


def test_held_out_text_is_refused(made):
    """Only windows of training text and the model's own text are read."""
    model, _, names, _, _ = made
    with pytest.raises(LeakError, match="training text"):
        collect_sensitivities(model, names, object(), 1, 0)


def test_documents_of_a_row_are_kept_apart(made):
    """Kept apart, another first document leaves the later one's gradients alone; not kept apart, it does not."""
    model, own, half = made[0], np.arange(60, 60 + SEQUENCE // 2 - 1), SEQUENCE // 2

    def lookups(first, separate_at):
        row = np.concatenate(([1], np.arange(first, first + half - 1), [1], own))
        windows = TrainingWindows([np.tile(row, 2).astype(np.uint16)], SEQUENCE, 0)
        windows.batch = lambda step, sequences: (row[None], row[None])  # as it is, not from a place of the seed's
        found = collect_sensitivities(model, ["embedding.weight"], windows, 1, 0, separate_at=separate_at)
        return found["embedding.weight"].lookups_R[own]

    assert lookups(10, 1) == pytest.approx(lookups(30, 1), rel=1e-4)
    assert lookups(10, None) != pytest.approx(lookups(30, None), rel=1e-2)
