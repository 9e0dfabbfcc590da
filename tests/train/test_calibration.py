"""Hessians are the second moments of what really enters each matrix, from training windows or own text alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from paramgolf.clock import Clock
from paramgolf.errors import LeakError, RecipeError, RunError
from paramgolf.kernels.norm import rms_norm
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.ranks import Ranks
from paramgolf.recipe import ModelRecipe, Recipe, TokenizerRecipe
from paramgolf.recipes import get_recipe
from paramgolf.squeeze.matrices import matrix_names, rounded_names, visits_of
from paramgolf.text.text import HeldOutText, TrainText
from paramgolf.text.windows import TrainingWindows
from paramgolf.train.calibration import BATCH_TOKENS, InputMoments, calibration_model, collect_hessians
from paramgolf.train.own_text import OwnText

VOCAB = 48
PARTS = ("attention.query", "attention.output", "mlp.up", "mlp.down")
PLAIN = Recipe("tiny", TokenizerRecipe("bytes", 260), ModelRecipe(layers=2, width=16, heads=2, kv_heads=1))


def weights_of(recipe, seed=0):
    rng = np.random.default_rng(seed)
    shapes = tensor_shapes(recipe.model, VOCAB)
    return {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


def model_of(recipe):
    return calibration_model(recipe, VOCAB, weights_of(recipe), 1, torch.device("cpu"))


def names_of(recipe):
    return rounded_names(tensor_shapes(recipe.model, VOCAB), recipe.squeeze)


def windows(sequence=12, tokens=4000, rank=0, world=1):
    shard = np.random.default_rng(1).integers(0, VOCAB, tokens).astype(np.uint16)
    return TrainingWindows([shard], sequence, 7, rank, world)


@torch.no_grad()
def inputs_by_hand(model, weights, tokens):
    """What the first block's matrices are multiplied with: the first by the model's definition, all by a spy."""
    first = rms_norm(rms_norm(torch.from_numpy(weights["embedding.weight"])[tokens]))
    matrices = model.banks.split(torch.float32)[0]
    read = {}

    def spy(x_BTD, weight, *rest):
        read[weight.data_ptr()] = x_BTD.clone()
        return plain(x_BTD, weight, *rest)

    plain = functional.linear
    functional.linear = spy
    try:
        model.hidden(tokens)
    finally:
        functional.linear = plain
    return first, {kind: read[getattr(matrices, kind).data_ptr()] for kind in ("query", "output", "up", "down")}


def test_moments_are_those_of_the_inputs():
    """The first block's Hessians equal xᵀx by hand: a sum over tokens, a mean over sequences, no factor of 2."""
    model, source = model_of(PLAIN), windows()
    found = collect_hessians(model, names_of(PLAIN), source, 5)
    tokens = torch.from_numpy(source.batch(0, 5)[0])
    first, read = inputs_by_hand(model, weights_of(PLAIN), tokens)
    assert torch.equal(read["query"], first)
    kinds = {"query": "attention.query", "output": "attention.output", "up": "mlp.up", "down": "mlp.down"}
    for kind, name in kinds.items():
        rows = read[kind].flatten(0, 1).double().numpy()
        hessian = found.hessians[f"blocks.0.{name}.weight"]
        assert hessian.dtype == np.float32
        assert hessian == pytest.approx(rows.T @ rows / 5, rel=1e-4, abs=1e-4)
    # Rows of unit mean square: the trace of the first Hessian is channels times tokens.
    assert np.trace(found.hessians["blocks.0.attention.query.weight"]) == pytest.approx(16 * 12, rel=1e-4)
    assert (found.sequences, found.tokens) == (5, 60)


@pytest.mark.parametrize("name", ["pr549_tiny", "quickstart"])
def test_every_matrix_of_a_system_has_one(name):
    """Each matrix of a recipe has a Hessian of its columns, and query, key and value share theirs."""
    recipe = get_recipe(name)
    shapes = tensor_shapes(recipe.model, VOCAB)
    names = names_of(recipe)
    found = collect_hessians(model_of(recipe), names, windows(), 2).hessians
    assert set(found) == set(names)
    assert all(found[n].shape == (shapes[n][1], shapes[n][1]) for n in names)
    for layer in range(recipe.model.layers):
        query, key, value, output = (
            found[f"blocks.{layer}.attention.{part}.weight"] for part in ("query", "key", "value", "output")
        )
        assert query is key is value
        assert output is not query
        assert np.trace(query) > 0


def test_batches_add_up(monkeypatch):
    """Reading in small batches gives the moments of all of them together."""
    model, source = model_of(PLAIN), windows()
    monkeypatch.setattr("paramgolf.train.calibration.BATCH_TOKENS", 24)
    small = collect_hessians(model, names_of(PLAIN), source, 6)
    assert small.sequences == 6
    tokens = torch.from_numpy(np.concatenate([source.batch(step, 2)[0] for step in range(3)]))
    _, read = inputs_by_hand(model, weights_of(PLAIN), tokens)
    rows = read["down"].flatten(0, 1).double().numpy()
    assert small.hessians["blocks.0.mlp.down.weight"] == pytest.approx(rows.T @ rows / 6, rel=1e-4, abs=1e-5)
    assert BATCH_TOKENS > 24


def test_the_limit_of_a_phase_ends_the_reading(monkeypatch):
    """With a second for each batch and ten allowed, reading ends with room to spare; without a limit it reads all."""
    monkeypatch.setattr("paramgolf.train.calibration.BATCH_TOKENS", 12)
    now = [0.0]

    class Slow(TrainingWindows):
        def batch(self, step, sequences):
            now[0] += 1.0
            return super().batch(step, sequences)

    shard = np.random.default_rng(1).integers(0, VOCAB, 4000).astype(np.uint16)
    clock = Clock(now=lambda: now[0])
    with clock.phase("calibrate", on_clock=True, limit=10.0) as phase:
        found = collect_hessians(model_of(PLAIN), names_of(PLAIN), Slow([shard], 12, 7), 64, phase=phase)
    assert found.sequences == 9
    assert clock.ledger[0].overrun() == 0
    with clock.phase("calibrate", on_clock=True) as phase:
        assert collect_hessians(model_of(PLAIN), names_of(PLAIN), Slow([shard], 12, 7), 20, phase=phase).sequences == 20


class Timed(TrainingWindows):
    """Windows that take a second each on a clock moved by hand, and note what was asked for."""

    def __init__(self, *given):
        super().__init__(*given)
        self.now, self.sizes, self.seen = 0.0, [], []

    def batch(self, step, sequences):
        self.now += sequences
        self.sizes.append(sequences)
        read = super().batch(step, sequences)
        self.seen += [tuple(row) for row in read[0]]
        return read


@pytest.mark.parametrize(("limit", "sizes"), [(14.0, 10), (1.5, 1), (400.0, 64), (1000.0, 64)])
def test_a_slow_machine_keeps_to_the_limit(limit, sizes):
    """The first batch is one sequence however many fit into a batch; no limit above that is exceeded."""
    shard = np.random.default_rng(1).integers(0, VOCAB, 4000).astype(np.uint16)
    source = Timed([shard], 12, 7)
    clock = Clock(now=lambda: source.now)
    with clock.phase("calibrate", on_clock=True, limit=limit) as phase:
        found = collect_hessians(model_of(PLAIN), names_of(PLAIN), source, 64, phase=phase)
    assert source.sizes[0] == 1 and sum(source.sizes) == found.sequences >= sizes
    assert clock.ledger[0].overrun() == 0
    if limit == 1000.0:
        assert max(source.sizes) == 32 and len(source.sizes) == 7
    # The same windows as in one batch, in the same order.
    assert source.seen == [tuple(row) for row in windows().batch(0, 64)[0][: found.sequences]]


@pytest.mark.parametrize("sequences", [5, 64])
def test_time_changes_no_sums(sequences):
    """Read under a clock or without one, the same sequences give the same moments to rounding."""
    model, names = model_of(PLAIN), names_of(PLAIN)
    with Clock(now=lambda: 0.0).phase("calibrate", on_clock=True, limit=5.0) as phase:
        timed = collect_hessians(model, names, windows(), sequences, phase=phase)
    plain = collect_hessians(model, names, windows(), sequences)
    assert timed.sequences == plain.sequences == sequences
    for name in names:
        assert timed.hessians[name] == pytest.approx(plain.hessians[name], rel=1e-4, abs=1e-4)


def test_a_phase_that_is_over_still_reads_one_batch():
    """Moments of nothing would be of no use: the first sequence is always read."""
    clock = Clock(now=iter(np.arange(0, 1e4, 100.0)).__next__)
    with clock.phase("calibrate", on_clock=True, limit=1.0) as phase:
        assert collect_hessians(model_of(PLAIN), names_of(PLAIN), windows(), 3, phase=phase).sequences == 1


def test_a_share_of_a_phase_leaves_the_rest_of_it():
    """With half of ten seconds at a second a sequence, reading ends by five."""
    shard = np.random.default_rng(1).integers(0, VOCAB, 4000).astype(np.uint16)
    source = Timed([shard], 12, 7)
    with Clock(now=lambda: source.now).phase("calibrate", on_clock=True, limit=10.0) as phase:
        found = collect_hessians(model_of(PLAIN), names_of(PLAIN), source, 64, phase=phase, share=0.5)
    assert 2 <= found.sequences <= 5 and source.now <= 5


def test_held_out_text_is_refused():
    """Held-out text, training text that is no windows, bare ids and any other object raise before anything is read."""
    model, names = model_of(PLAIN), names_of(PLAIN)
    for source in (HeldOutText("held", [b"abc" * 30]), TrainText("train", [b"abc" * 30]), np.zeros((2, 12), int), None):
        with pytest.raises(LeakError, match=type(source).__name__):
            collect_hessians(model, names, source, 2)


def test_weights_that_diverged_are_refused():
    """Inputs that are no numbers raise with the name of the first matrix."""
    spoilt = weights_of(PLAIN)
    spoilt["embedding.weight"][:] = np.nan
    model = calibration_model(PLAIN, VOCAB, spoilt, 1, torch.device("cpu"))
    with pytest.raises(RunError, match=r"blocks\.0\.attention\.query.*not finite"):
        collect_hessians(model, names_of(PLAIN), windows(), 2)
    with pytest.raises(RunError, match="rows are not finite"):
        collect_hessians(model, names_of(PLAIN), OwnText(model, 12, seed=0), 2)


def test_a_matrix_that_is_not_used_is_named():
    """A name that the forward pass never multiplies with raises, rather than staying without a Hessian."""
    with pytest.raises(RunError, match=r"never multiplied with blocks\.0\.attention\.query_gain"):
        collect_hessians(model_of(PLAIN), [*names_of(PLAIN), "blocks.0.attention.query_gain"], windows(), 2)


def sigma_of(name):
    """A system's recipe in which the head is rounded as well."""
    recipe = get_recipe(name)
    return replace(recipe, squeeze=replace(recipe.squeeze, clip="sigma", quantiser="gptq"))


@torch.no_grad()
def test_the_heads_inputs_are_the_last_norms_states():
    """Spec pr2140.md 4.1: the embedding's Hessian is that of the final norm's output; only clip sigma asks for it."""
    recipe = sigma_of("pr549_tiny")
    model, source = model_of(recipe), windows()
    assert "embedding.weight" in names_of(recipe) and "embedding.weight" not in names_of(get_recipe("pr549_tiny"))
    found = collect_hessians(model, names_of(recipe), source, 4).hessians
    assert set(found) == set(names_of(recipe))
    rows = model.hidden(torch.from_numpy(source.batch(0, 4)[0])).flatten(0, 1).double().numpy()
    assert found["embedding.weight"] == pytest.approx(rows.T @ rows / 4, rel=1e-4, abs=1e-4)
    assert np.trace(found["embedding.weight"]) == pytest.approx(recipe.model.width * 12, rel=1e-3)


def test_looped_blocks_are_summed_over_their_visits_and_lanes_seen_apart():
    """Spec pr2140.md 4.1: with normalised inputs a trace counts visits, and a parallel MLP reads another lane."""
    recipe = sigma_of("pr2140_tiny")
    width = recipe.model.width
    found = collect_hessians(model_of(recipe), names_of(recipe), windows(), 2).hessians
    runs = visits_of(names_of(recipe), recipe.model)
    for layer in range(recipe.model.layers):
        name = f"blocks.{layer}.attention.query.weight"
        assert runs[name] == (2 if layer in (2, 3) else 1)
        scaled = width * 12 * runs[name] / (layer + 1)  # inputs are normalised, times 1 / sqrt(layer + 1)
        assert np.trace(found[name]) == pytest.approx(scaled, rel=1e-3)
        assert np.trace(found[f"blocks.{layer}.mlp.up.weight"]) == pytest.approx(scaled, rel=1e-3)
        assert found[name] is found[f"blocks.{layer}.attention.value.weight"]
        assert found[name] is not found[f"blocks.{layer}.mlp.up.weight"]


def test_documents_see_themselves_alone():
    """Windows cut at boundary tokens give the moments of their documents read one by one, each sequence a start too."""
    recipe = sigma_of("pr2140_tiny")
    model, names = model_of(recipe), names_of(recipe)
    shard = np.random.default_rng(2).integers(2, VOCAB, 4000).astype(np.uint16)
    shard[::7] = 1
    source = TrainingWindows([shard], 16, 7)
    found = collect_hessians(model, names, source, 3, separate_at=1).hessians
    moments = InputMoments(model, names)
    with torch.no_grad():
        for tokens in source.batch(0, 3)[0]:
            cuts = np.flatnonzero(tokens == 1)
            for document in np.split(tokens, cuts[cuts > 0]):
                with moments:
                    h = model.hidden(torch.from_numpy(document)[None])
                moments.add("embedding.weight", h)
    for of in names:
        expected = moments.sums[moments.first[of]].numpy() / 3
        assert np.allclose(found[of], expected, rtol=2e-3, atol=1e-3 * np.abs(expected).max())
    together = collect_hessians(model, names, source, 3).hessians
    last = f"blocks.{recipe.model.layers - 1}.mlp.down.weight"
    assert not np.allclose(together[last], found[last], rtol=1e-2, atol=1e-2 * np.abs(found[last]).max())


def partnered(sums):
    """Rank 0 of two, to whose tensors the partner's are added in the order in which it asks."""

    class Two(Ranks):
        def add(self, tensor):
            return tensor + next(sums)

    return Two(0, 2, torch.device("cpu"))


def test_ranks_share_the_sequences_and_get_the_same_sums():
    """Each of two ranks reads half; what both return is the sum of both over all sequences."""
    model, names = model_of(PLAIN), names_of(PLAIN)
    mine = collect_hessians(model, names, windows(rank=0, world=2), 3).hessians
    theirs = collect_hessians(model, names, windows(rank=1, world=2), 3).hessians
    order = [f"blocks.{layer}.{part}.weight" for layer in (0, 1) for part in PARTS]
    ranks = partnered(iter([torch.from_numpy(3.0 * theirs[name]) for name in order]))
    found = collect_hessians(model, names, windows(rank=0, world=2), 6, ranks)
    assert found.sequences == 6
    assert found.hessians["blocks.0.attention.query.weight"] is found.hessians["blocks.0.attention.key.weight"]
    for name in names:
        assert found.hessians[name] == pytest.approx((mine[name] + theirs[name]) / 2, rel=1e-4, abs=1e-4)
        assert found.hessians[name] != pytest.approx(mine[name], rel=1e-2)


def test_own_text_is_seeded_and_of_the_models_making():
    """The same seed gives the same ids, another seed or step others, all within the vocabulary and of full length."""
    model = model_of(PLAIN)
    first, again = (OwnText(model, 20, seed=3).draw(0, 4) for _ in range(2))
    assert (first == again).all()
    assert first.shape == (4, 20)
    assert first.min() >= 0
    assert first.max() < VOCAB
    for other in (OwnText(model, 20, seed=4).draw(0, 4), OwnText(model, 20, seed=3).draw(1, 4)):
        assert (first != other).any()
    assert (OwnText(model, 20, seed=3, rank=1).draw(0, 4) != first).any()


def test_own_text_follows_the_models_rows():
    """With a model whose rows are nearly certain, each token after the first is the likeliest one."""
    weights = weights_of(PLAIN)
    model = calibration_model(PLAIN, VOCAB, weights, 1, torch.device("cpu"))
    drawn = torch.from_numpy(OwnText(model, 16, seed=0, temperature=1e-3).draw(0, 3))
    with torch.no_grad():
        likeliest = model(drawn)[:, :-1].argmax(dim=-1)
    assert torch.equal(drawn[:, 1:], likeliest)


def test_own_text_can_be_calibrated_on():
    """Generated sequences give moments of the same shapes, of as many sequences as asked."""
    model = model_of(PLAIN)
    found = collect_hessians(model, names_of(PLAIN), OwnText(model, 12, seed=0), 3)
    assert found.sequences == 3
    assert set(found.hessians) == set(names_of(PLAIN))
    assert np.trace(found.hessians["blocks.0.attention.query.weight"]) == pytest.approx(16 * 12, rel=1e-4)


def test_own_text_refuses_what_cannot_be_drawn():
    """No tokens and a temperature of 0 raise."""
    with pytest.raises(RecipeError, match="temperature=0"):
        OwnText(model_of(PLAIN), 5, 0, 0.0)
    with pytest.raises(RecipeError, match="sequence=0"):
        OwnText(model_of(PLAIN), 0, 0)


def test_names_of_matrices_leave_tables_and_small_tensors_out():
    """Tables, gains and projections that stay floating point are no matrices, whatever the bits."""
    recipe = get_recipe("pr549_tiny")
    names = matrix_names(tensor_shapes(recipe.model, VOCAB))
    assert len(names) == 6 * recipe.model.layers
    assert all(name.startswith("blocks.") and name.endswith(".weight") for name in names)
