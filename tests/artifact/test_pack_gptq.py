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
from paramgolf.squeeze.landing import slack_of
from paramgolf.squeeze.matrices import matrix_names, rounded_names
from paramgolf.squeeze.quantized import Quantized
from paramgolf.squeeze.sensitivity import Sensitivity
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


EVERY_PART = ModelRecipe(
    layers=3,
    width=32,
    heads=2,
    kv_heads=1,
    mlp_ratio=2.0,
    unet=True,
    skip_gates=True,
    smear="gated",
    gate_channels=4,
    looped_layers=(1,),
    loops=2,
    parallel_layers=1,
    sparse_gates=True,
    asymmetric_softcap=True,
    residual_mix=True,
    block_scales=True,
)
PARTS = SqueezeRecipe(
    matrix_bits=5,
    embedding_bits=6,
    small_bits=16,
    gate_bits=8,
    clip="sigma",
    quantiser="gptq",
    wide_groups=2,
    wide_columns=8,
    corrected_tensors=3,
    correction_rank=2,
)


def with_every_part(**changes):
    """Recipe, weights and Hessians of a model of #2140, in which the first layer's queries read loud channels."""
    squeeze = dataclasses.replace(PARTS, **changes)
    recipe = dataclasses.replace(RECIPE, model=EVERY_PART, squeeze=squeeze)
    shapes = tensor_shapes(EVERY_PART, TOKENIZER.vocab_size)
    rng = np.random.default_rng(5)
    made = {name: np.asarray(rng.normal(0, 0.2, shape), np.float32) for name, shape in shapes.items()}
    made["blocks.1.sparse_gate.weight"][:] = 0
    made["blocks.2.mlp.up.weight"][3] = 0.25
    made["softcaps"] = np.array([20.0, 24.0], np.float32)  # only positive ones can be loaded
    moments = {}
    for name in rounded_names(shapes, squeeze):
        columns = shapes[name][1]
        mixed = rng.normal(0, 1, (3 * columns, columns)) @ rng.normal(0, 1, (columns, columns))
        moments[name] = (mixed.T @ mixed / columns).astype(np.float32)
    loud = np.where(np.arange(32) // 8 == 2, 9.0, 1.0)
    moments["blocks.0.attention.query.weight"] *= np.outer(loud, loud).astype(np.float32)
    return recipe, made, moments


@pytest.mark.slow
def test_a_model_of_2140_packs_with_all_its_parts(tmp_path):
    """Wide columns, corrections, int8 gates and the rounded embedding pass the proof in a new process, to the bit."""
    recipe, trained, moments = with_every_part()
    report = pack(recipe, TOKENIZER, trained, (), tmp_path / "model.pyz", hessians=moments)
    packer = Packer(recipe, TOKENIZER, trained, (), moments)
    tensors = packer.tensors(report.setting)
    opened = open_artifact(report.path).weights
    assert all((opened[name] == values).all() for name, values in packer.artifact(report.setting).weights.items())
    quantised = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Quantized)}
    wide = {name: tensor.wide for name, tensor in quantised.items() if tensor.wide}
    assert wide["blocks.0.attention.query.weight"].starts == (16,)
    assert sum(len(part.starts) for part in wide.values()) == 2
    assert 1 <= sum(tensor.correction is not None for tensor in quantised.values()) <= 3
    assert quantised["blocks.0.sparse_gate.weight"].bits == 8
    assert not opened["blocks.1.sparse_gate.weight"].any()
    assert np.isfinite(opened["blocks.2.mlp.up.weight"]).all()
    assert opened["blocks.2.mlp.up.weight"][3].any()
    assert sum(report.bytes_by_tensor.values()) < report.bytes_by_member["weights"] + 8 * len(tensors) + 4000


def test_each_part_of_the_squeeze_can_be_switched_off():
    """Without wide columns and corrections there are none; the error is then no smaller, the file no larger."""
    recipe, trained, moments = with_every_part()
    bare, _, _ = with_every_part(wide_groups=0, corrected_tensors=0, gate_bits=0)
    mine, plain = (Packer(r, TOKENIZER, trained, (), moments) for r in (recipe, bare))
    setting = Setting(0)
    assert all(
        t.wide is None and t.correction is None for t in plain.tensors(setting).values() if isinstance(t, Quantized)
    )
    assert plain.tensors(setting)["blocks.0.sparse_gate.weight"].dtype == np.float16
    assert mine.error(setting)[0] < plain.error(setting)[0]
    assert plain.weights_file(setting).data != mine.weights_file(setting).data


def test_the_embedding_is_rounded_as_the_head():
    """With clip sigma the tied embedding's error under its Hessian is below plain rounding's; it must have one."""
    recipe, trained, moments = with_every_part(wide_groups=0, corrected_tensors=0)
    near = dataclasses.replace(recipe, squeeze=dataclasses.replace(recipe.squeeze, quantiser="nearest"))
    losses = []
    for r in (recipe, near):
        stored = Packer(r, TOKENIZER, trained, (), moments).artifact(Setting(0)).weights["embedding.weight"]
        error = stored.astype(np.float64) - trained["embedding.weight"]
        losses.append(np.einsum("rc,cd,rd->", error, moments["embedding.weight"].astype(np.float64), error))
    assert losses[0] < 0.8 * losses[1]
    del moments["embedding.weight"]
    with pytest.raises(RecipeError, match=r"no Hessian for embedding\.weight"):
        Packer(recipe, TOKENIZER, trained, (), moments)


def test_all_parts_survive_a_budget_that_takes_bits(tmp_path):
    """Fewer bits narrow wide columns too; the file at the smallest size still reads back."""
    recipe, trained, moments = with_every_part()
    packer = Packer(recipe, TOKENIZER, trained, (), moments)
    for setting in (Setting(0, 3.0), Setting(0, 1.0, 2), Setting(0, 4.0, 4)):
        path = tmp_path / f"{setting.coarseness}-{setting.fewer_bits}.pyz"
        path.write_bytes(packer.file(setting))
        expected = packer.artifact(setting).weights
        assert all((expected[name] == values).all() for name, values in open_artifact(path).weights.items())
        wide = [t.wide.part.bits for t in packer.tensors(setting).values() if isinstance(t, Quantized) and t.wide]
        assert set(wide) == {8 - setting.fewer_bits}


def priced(recipe, trained, moments):
    """Sensitivities in which the second layer hears its outputs ten times as loud as the others."""
    rng = np.random.default_rng(6)
    found = {}
    for name, values in trained.items():
        if name in moments:
            loud = 100.0 if name.startswith("blocks.1.") else 1.0
            looked_up = np.full(len(values), 1e-3 if name == "embedding.weight" else 0.0)
            found[name] = Sensitivity(loud * rng.uniform(0.5, 2, len(values)), looked_up)
    return found


def expected_loss(packer, setting, recipe, trained, moments, prices):
    """Half of the sum over rows of the gradients' mean square times d H dᵀ, a token."""
    stored, total = packer.artifact(setting).weights, 0.0
    for name, hessian in moments.items():
        error = stored[name].astype(np.float64) - trained[name]
        row_R = np.einsum("rc,cd,rd->r", error, hessian.astype(np.float64), error) / recipe.train.sequence
        total += float((prices[name].outputs_R * row_R).sum() / 2)
    return total


@pytest.mark.slow
def test_free_steps_fill_the_budget_and_cost_less(tmp_path):
    """At equal bytes allocated steps lose less than common ones, the loud layer's are finer, the file reads back."""
    recipe, trained, moments = with_every_part(corrected_tensors=0)
    prices = priced(recipe, trained, moments)
    free = dataclasses.replace(recipe, squeeze=dataclasses.replace(recipe.squeeze, allocation="free"))
    common = Packer(recipe, TOKENIZER, trained, (), moments)
    budget = common.size(Setting(0, 1.5))
    report = pack(free, TOKENIZER, trained, (), tmp_path / "model.pyz", budget, moments, prices)
    assert budget - slack_of(budget) <= report.bytes <= budget
    packer = Packer(free, TOKENIZER, trained, (), moments, prices)
    losses = [
        expected_loss(p, setting, recipe, trained, moments, prices)
        for p, setting in ((packer, report.setting), (common, Setting(0, 1.5)))
    ]
    assert losses[0] < 0.8 * losses[1]
    kinds = ("attention.query", "mlp.down")
    assert all(report.step_factors[f"blocks.1.{k}.weight"] < report.step_factors[f"blocks.0.{k}.weight"] for k in kinds)
    opened = open_artifact(report.path).weights
    assert all((opened[name] == values).all() for name, values in packer.artifact(report.setting).weights.items())
    tensors = packer.tensors(report.setting)
    assert all(name in report.widened for name, t in tensors.items() if isinstance(t, Quantized) and t.wide)
    assert tensors["blocks.0.sparse_gate.weight"].values.tobytes() == (
        common.tensors(Setting(0))["blocks.0.sparse_gate.weight"].values.tobytes()
    )


def test_free_steps_need_sensitivities_of_this_model():
    """Without them, without one, or with one of another number of rows nothing is packed."""
    recipe, trained, moments = with_every_part(allocation="free")
    prices = priced(recipe, trained, moments)
    with pytest.raises(RecipeError, match="needs the sensitivities"):
        Packer(recipe, TOKENIZER, trained, (), moments)
    short = {**prices, "embedding.weight": Sensitivity(np.ones(3), np.ones(3))}
    del prices["blocks.0.mlp.up.weight"]
    for some, says in ((prices, r"blocks\.0\.mlp\.up"), (short, r"embedding\.weight")):
        with pytest.raises(RecipeError, match=f"no sensitivity .*{says}"):
            Packer(recipe, TOKENIZER, trained, (), moments, some)


def test_a_hopeless_budget_names_what_costs_most(tmp_path):
    """Free or not, a budget that nothing meets raises with what is missing and three tensors, and writes nothing."""
    recipe, trained, moments = with_every_part(allocation="free")
    for allocation in ("free", "together"):
        given = dataclasses.replace(recipe, squeeze=dataclasses.replace(recipe.squeeze, allocation=allocation))
        with pytest.raises(BudgetError, match=r"too small.*\n.*embedding\.weight \("):
            pack(
                given, TOKENIZER, trained, (), tmp_path / "model.pyz", 9_000, moments, priced(recipe, trained, moments)
            )
    assert not list(tmp_path.iterdir())
