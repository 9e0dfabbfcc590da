"""Packing with GPTQ and with pruned ±1: the budget is met, and what is stored is what was rounded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from paramgolf.artifact.open import open_artifact
from paramgolf.artifact.pack import pack
from paramgolf.artifact.packer import Packer
from paramgolf.errors import BudgetError, RecipeError
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.recipe import ModelRecipe, Recipe, ScoreRecipe, SqueezeRecipe, TokenizerRecipe
from paramgolf.squeeze.fit import Setting, fit_to_budget
from paramgolf.squeeze.matrices import matrix_names
from paramgolf.squeeze.quantized import Quantized
from paramgolf.text.byte_tokenizer import ByteTokenizer

GPTQ = SqueezeRecipe(matrix_bits=5, quantiser="gptq")
RECIPE = Recipe(
    "tiny",
    TokenizerRecipe("bytes", 260),
    ModelRecipe(layers=2, width=32, heads=2, kv_heads=1),
    squeeze=GPTQ,
    score=ScoreRecipe(window=64, stride=48),
)
TOKENIZER = ByteTokenizer()
SHAPES = tensor_shapes(RECIPE.model, TOKENIZER.vocab_size)
MATRICES = matrix_names(SHAPES)


def squeezed(**changes):
    return dataclasses.replace(RECIPE, squeeze=dataclasses.replace(GPTQ, **changes))


def weights():
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in SHAPES.items()}


def hessians():
    rng, found = np.random.default_rng(1), {}
    for name in MATRICES:
        columns = SHAPES[name][1]
        mixed = rng.normal(0, 1, (3 * columns, columns)) @ rng.normal(0, 1, (columns, columns))
        found[name] = (mixed.T @ mixed / columns).astype(np.float32)
    return found


def costs(packer, setting, moments):
    """H-weighted error of every matrix."""
    stored = packer.artifact(setting).weights
    errors = {name: stored[name].astype(np.float64) - weights()[name] for name in MATRICES}
    return {name: np.einsum("rc,cd,rd->", e, moments[name].astype(np.float64), e) for name, e in errors.items()}


def test_matrices_are_gptqs_and_the_rest_is_as_before():
    """Each matrix's H-weighted error is below plain rounding's; tables and small tensors are the same."""
    moments = hessians()
    mine = Packer(RECIPE, TOKENIZER, weights(), (), moments)
    plain = Packer(squeezed(quantiser="nearest"), TOKENIZER, weights(), ())
    for setting in (Setting(0), Setting(0, 2.0), Setting(0, 1.0, 2)):
        ours, theirs = costs(mine, setting, moments), costs(plain, setting, moments)
        assert all(ours[name] < theirs[name] for name in MATRICES)
        for name in set(SHAPES) - set(MATRICES):
            assert (mine.artifact(setting).weights[name] == plain.artifact(setting).weights[name]).all()
    assert mine.unmended() == ()
    assert mine.floored_share(Setting(0)) is None


def test_a_packed_file_under_a_tight_budget(tmp_path):
    """With GPTQ run anew for every probe the file lands under the budget, and a new process reads the same weights."""
    packer = Packer(RECIPE, TOKENIZER, weights(), (), hessians())
    budget = packer.size(Setting(0)) - 6_000
    report = pack(RECIPE, TOKENIZER, weights(), (), tmp_path / "model.pyz", budget, hessians())
    assert 0.99 * budget <= report.bytes <= budget
    assert report.setting.coarseness > 1
    assert report.setting.pruned == 0
    again = packer.artifact(report.setting).weights
    assert all((again[name] == value).all() for name, value in open_artifact(report.path).weights.items())


def test_hessians_are_needed_and_must_fit():
    """Without them, without one, and with those of another width, nothing is packed."""
    with pytest.raises(RecipeError, match="needs the Hessians"):
        Packer(RECIPE, TOKENIZER, weights(), ())
    some = hessians()
    del some[MATRICES[3]]
    with pytest.raises(RecipeError, match=MATRICES[3].replace(".", r"\.")):
        Packer(RECIPE, TOKENIZER, weights(), (), some)
    with pytest.raises(RecipeError, match="columns"):
        Packer(RECIPE, TOKENIZER, weights(), (), dict.fromkeys(MATRICES, np.eye(7, dtype=np.float32)))


def test_singular_hessians_still_pack():
    """One sequence of few tokens, and inputs that were always nought, give finite weights within half a row's range."""
    moments = hessians()
    rng = np.random.default_rng(2)
    for name in MATRICES[::2]:
        few = rng.normal(0, 1, (2, SHAPES[name][1])).astype(np.float32)
        moments[name] = few.T @ few
    moments[MATRICES[1]] = np.zeros_like(moments[MATRICES[1]])
    packer = Packer(squeezed(damping=0.0), TOKENIZER, weights(), (), moments)
    stored = packer.artifact(Setting(0)).weights
    for name in MATRICES:
        most = np.abs(weights()[name]).max()
        assert np.isfinite(stored[name]).all()
        assert np.abs(stored[name]).max() <= 1.3 * most


def test_hopeless_hessians_are_told():
    """A matrix whose Hessian no damping mends is rounded to nearest, and named."""
    moments = hessians()
    bad = np.full((32, 32), 3.0, np.float32)
    np.fill_diagonal(bad, 1.0)
    moments[MATRICES[0]] = bad
    packer = Packer(RECIPE, TOKENIZER, weights(), (), moments)
    assert packer.unmended() == (MATRICES[0],)
    plain = Packer(squeezed(quantiser="nearest"), TOKENIZER, weights(), ()).tensors(Setting(0))
    assert (packer.tensors(Setting(0))[MATRICES[0]].values == plain[MATRICES[0]].values).all()


def ones_in(packer, setting):
    tensors = packer.tensors(setting)
    assert all(isinstance(tensors[name], Quantized) for name in MATRICES)
    return sum(int((np.abs(tensors[name].values) == 1).sum()) for name in MATRICES)


@pytest.mark.parametrize("quantiser", ["nearest", "gptq"])
def test_ones_go_first_and_only_as_many_as_needed(quantiser):
    """A budget just below the finest size is met by ±1 of the matrices alone; tables keep theirs."""
    recipe = squeezed(quantiser=quantiser, prune_ones=True)
    packer = Packer(recipe, TOKENIZER, weights(), (), hessians())
    before = packer.tensors(Setting(0))
    count = packer.ones()
    assert count == ones_in(packer, Setting(0)) > 100
    budget = packer.size(Setting(0)) - 60
    setting = fit_to_budget(packer.size, budget, documents=[], bits=8, ones=packer.ones)
    assert setting == Setting(0, pruned=setting.pruned)
    assert 0 < setting.pruned < count
    assert packer.size(setting) <= budget
    assert ones_in(packer, setting) == count - setting.pruned
    after = packer.tensors(setting)
    for name in set(SHAPES) - set(MATRICES):
        if isinstance(before[name], Quantized):
            assert (after[name].values == before[name].values).all()


def test_a_budget_that_pruning_cannot_meet_takes_coarser_steps_or_raises():
    """Published, the file then overflows in silence; here steps grow, and a hopeless budget is an error."""
    packer = Packer(squeezed(prune_ones=True), TOKENIZER, weights(), (), hessians())
    budget = packer.size(Setting(0, pruned=packer.ones())) - 3_000
    setting = fit_to_budget(packer.size, budget, documents=[], bits=8, ones=packer.ones)
    assert setting.pruned == 0
    assert setting.coarseness > 1
    assert packer.size(setting) <= budget
    with pytest.raises(BudgetError):
        fit_to_budget(packer.size, 10_000, documents=[], bits=8, ones=packer.ones)


def test_nothing_is_pruned_where_the_recipe_does_not_say_so():
    """Without `prune_ones` there are none to go."""
    assert Packer(RECIPE, TOKENIZER, weights(), (), hessians()).ones() == 0


def test_rows_on_the_floor_are_counted():
    """Small weights under the published floor are all on it, at any coarseness; weights above 1 are not."""
    small = {name: values * 0.1 for name, values in weights().items()}
    large = {name: values * 100 for name, values in weights().items()}
    for quantiser in ("nearest", "gptq"):
        recipe = squeezed(quantiser=quantiser, clip="percentile-floor")
        for setting in (Setting(0), Setting(0, 1.7)):
            assert Packer(recipe, TOKENIZER, small, (), hessians()).floored_share(setting) == 1.0
            assert Packer(recipe, TOKENIZER, large, (), hessians()).floored_share(setting) == 0.0
