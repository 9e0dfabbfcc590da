"""Numbers of spec pr1185.md, sections 1.3, 2 and 7, and of pr1430.md 1.1, against the model and its switches."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from paramgolf.model.arithmetic import parameter_count, parameter_shapes
from paramgolf.model.banks import LayerMatrices
from paramgolf.model.block import Attention, exclude_own_value, mix_values, mlp
from paramgolf.model.embeddings import pair_hash
from paramgolf.model.gates import opening, share_error
from paramgolf.model.gpt import GPT
from paramgolf.model.rotary import Rotary
from paramgolf.recipe import ModelRecipe
from paramgolf.recipes import get_recipe

RECORD_1185 = dataclasses.replace(
    get_recipe("pr549").model,
    xsa_layers=(6, 7, 8, 9, 10),
    value_layers=(8, 9, 10),
    bigram_buckets=2048,
    value_residual=True,
    gated_attention=True,
)
RECORD_1430 = dataclasses.replace(
    get_recipe("pr549").model, xsa_layers=tuple(range(11)), bigram_buckets=3072, bigram_width=112, query_gain=4.0
)
PLAIN = ModelRecipe(layers=3, width=16, heads=2, kv_heads=1)
V = 30


def make_model(recipe: ModelRecipe, seed: int = 0) -> GPT:
    """A model in float64 whose every part has a voice."""
    model = GPT(recipe, V).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 1.0 / math.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 1.0
            parameter.normal_(0.0, spread, generator=generator)
    return model


def make_tokens(frames: int = 2, length: int = 20) -> torch.Tensor:
    return torch.randint(V, (frames, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("recipe", "count", "tensors"),
    [(RECORD_1185, 27_038_923, 93), (RECORD_1430, 27_067_484, 59)],
    ids=["#1185", "#1430"],
)
def test_the_record_configurations_have_the_published_sizes(recipe: ModelRecipe, count: int, tensors: int) -> None:
    """Parameters and tensors of section 1.3 (O20) and of pr1430.md 1.1, by module and by arithmetic."""
    model = GPT(recipe, 1024, seed=None)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    assert parameter_count(recipe, 1024) == sum(value.numel() for value in model.parameters()) == count
    assert len(shapes) == tensors
    assert list(shapes.items()) == list(parameter_shapes(recipe, 1024).items())
    if recipe.value_residual:
        blocks = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("blocks."))
        assert blocks == 67_782 + 3  # with the three layer scales of the value embedding


def test_the_gain_of_queries_begins_where_the_recipe_says() -> None:
    """All gains of #1430 begin at 4.0, the default at 1.5, and nothing else differs (pr1430.md 1.1)."""
    usual, high = GPT(PLAIN, V, seed=3), GPT(dataclasses.replace(PLAIN, query_gain=4.0), V, seed=3)
    for (name, one), other in zip(usual.named_parameters(), high.parameters(), strict=True):
        if name.endswith("query_gain"):
            assert one.tolist() == [1.5] * 2 and other.tolist() == [4.0] * 2
        else:
            assert torch.equal(one, other)


def test_values_are_mixed_with_the_first() -> None:
    """O9: halves of (1, 2) and (3, -1) are (2, 0.5); the first layer's mix with itself begins as no change at all."""
    first, own, halves = torch.tensor([1.0, 2]), torch.tensor([3.0, -1]), torch.tensor([0.5, 0.5])
    assert mix_values(own, first, halves).tolist() == [2, 0.5]
    values = torch.randn(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mix_values(values, values, halves), values)
    fresh = GPT(dataclasses.replace(PLAIN, value_residual=True), V)
    assert all(block.value_mix.tolist() == [0.5, 0.5] for block in fresh.blocks)


def test_first_values_are_raw_and_hold_their_value_embedding() -> None:
    """With all weight on the first layer's values, every layer reads those of layer 0, embedding and all (2.2)."""
    recipe = dataclasses.replace(PLAIN, value_residual=True, value_layers=(0,), value_width=4)
    model, tokens = make_model(recipe), make_tokens()
    seen: list[torch.Tensor] = []
    for block in model.blocks:
        block.attention.register_forward_hook(lambda _module, args, _out: seen.append(args[2]))
        with torch.no_grad():
            block.value_mix.copy_(torch.tensor([1.0, 0.0]))
    with torch.no_grad():
        x = functional.rms_norm(model.embed(tokens), (16,), eps=1.1920929e-07)
        added = model.value_embedding(tokens, x.dtype) * model.blocks[0].value_scale
        expected = x @ model.exported_weights()["blocks.0.attention.value.weight"].T + added
        model(tokens)
        for values in seen:
            torch.testing.assert_close(values, expected, rtol=0, atol=1e-12)
        model.blocks[0].value_mix.copy_(torch.tensor([3.0, 4.0]))  # what layer 0 reads is no matter to the others
        seen.clear()
        model(tokens)
    torch.testing.assert_close(seen[0], 7 * expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(seen[1], expected, rtol=0, atol=1e-12)


def test_gates_multiply_what_each_head_read_after_xsa() -> None:
    """O9: a fresh gate is sigmoid(4) = 0.98201379, (3, 4) becomes (2.9460413701, 3.9280551602); XSA comes before."""
    gates = GPT(dataclasses.replace(PLAIN, gated_attention=True), V).double().blocks[1].head_gate
    gate = torch.sigmoid(gates(torch.randn(1, 1, 16, dtype=torch.float64)))
    assert gate.flatten().tolist() == pytest.approx([0.9820137900] * 2, abs=1e-10)
    recipe = ModelRecipe(layers=1, width=4, heads=2, kv_heads=2)
    own = torch.tensor([[[3.0, 4, 1, -1]]], dtype=torch.float64)
    both = torch.tensor([[[0.98201379003790845, 0.5]]], dtype=torch.float64)
    for excludes in (False, True):  # one position reads its own value; without it nothing is left
        attention = Attention(dataclasses.replace(recipe, xsa_layers=(0,) if excludes else ()), 0).double()
        attention.query_gain.data.fill_(1.0)
        read = attention(own, own, own, both, Rotary(recipe).double()).flatten().tolist()
        expected = [0.0] * 4 if excludes else [2.9460413701, 3.9280551602, 0.5, -0.5]
        assert read == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("value", "before", "after"),
    [([0.0, 2], [[3.0, 4], [1, -1]], [[3.0, 0], [1, 0]]), ([1.0, 1], [[3.0, 4], [1, -1]], [[-0.5, 0.5], [1, -1]])],
)
def test_xsa(value: list[float], before: list[list[float]], after: list[list[float]]) -> None:
    """O10, and what is left is orthogonal to the value."""
    read, own = torch.tensor(before).view(1, 1, 2, 2), torch.tensor(value).view(1, 1, 1, 2)
    found = exclude_own_value(read, own)[0, 0]
    torch.testing.assert_close(found, torch.tensor(after), rtol=0, atol=1e-6)
    assert (found @ own.flatten()).abs().max() < 1e-6


def test_pair_hash() -> None:
    """O11: the buckets of five pairs, and the last one for a row's first position."""
    pairs = torch.tensor([[1, 2], [2, 3], [1023, 1023], [0, 0], [500, 7]])
    assert pair_hash(pairs, 2048).tolist() == [[2047, 435], [2047, 1556], [2047, 977], [2047, 0], [2047, 1304]]


def test_square_glu() -> None:
    """O14: leaky(up)² sigmoid(gate) at three points; gradients are those of the formula."""
    one = torch.ones(1, 1, dtype=torch.float64)
    for up, gate, hidden in ((2.0, 0.0, 2.0), (-2.0, 0.0, 0.5), (1.0, 1.0, 0.7310585786)):
        matrices = LayerMatrices(one, one, one, one, up=one * up, gate=one * gate, down=one)
        assert mlp(one, matrices, 0.5).item() == pytest.approx(hidden, abs=1e-10)
    recipe = dataclasses.replace(PLAIN, gated_mlp=True, mlp_slope=0.5)
    model, x = make_model(recipe), torch.randn(5, 16, dtype=torch.float64)
    matrices = model.banks.split(torch.float64)[1]
    mlp(x, matrices, 0.5).square().sum().backward()
    found = {name: value.grad.clone() for name, value in model.banks.named_parameters() if value.grad is not None}
    assert set(found) == {"up", "gate", "down"}
    model.zero_grad()
    up, gate, down = model.banks.up[1], model.banks.gate[1], model.banks.down[1]
    (((functional.leaky_relu(x @ up.T, 0.5) ** 2) / (1 + torch.exp(-x @ gate.T))) @ down.T).square().sum().backward()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, dict(model.banks.named_parameters())[name].grad)


def test_openings_begin_at_nothing_and_grow_without_a_step() -> None:
    """max(0, 2 sigmoid(s) - 1): 0 for scores up to 0, as small as a score that is just above it, 1 far above."""
    scores = torch.tensor([-1e9, -1.0, -1e-7, 0.0, 1e-7, math.log(3.0), 1e9], dtype=torch.float64)
    expected = [0, 0, 0, 0, 0.5e-7, 0.5, 1]
    assert opening(scores).tolist() == pytest.approx(expected, abs=1e-12)


def test_the_share_that_a_router_serves_is_counted_and_has_a_gradient() -> None:
    """The error is the square of a counted share's, whose gradient moves scores the right way; ties all count (O13)."""
    score = torch.tensor([[[0.3], [-0.2], [1.5], [-3.0]]], requires_grad=True)
    error = share_error(score, 0.25)
    assert error.item() == pytest.approx(0.25**2)
    error.backward()
    assert score.grad is not None and (score.grad > 0).all()
    assert share_error(torch.full((1, 10, 1), 2.0), 1.0).item() == pytest.approx(0.0, abs=1e-12)


def test_the_pull_is_part_of_the_training_loss_alone() -> None:
    """In training mode the loss has it, in evaluation mode not, and a model without routers never."""
    recipe = dataclasses.replace(PLAIN, routed_layers=(0, 2), routed_share=0.9)
    model, tokens = make_model(recipe), make_tokens()
    targets = tokens.roll(-1, 1)
    scores: list[torch.Tensor] = []
    for layer in (0, 2):
        model.blocks[layer].router.register_forward_hook(lambda _module, _args, out: scores.append(out))
    _, pull = model.hidden_and_pull(tokens)
    expected = sum((float((score > 0).double().mean()) - 0.9) ** 2 for score in scores)
    assert pull is not None and pull.item() == pytest.approx(expected) and expected > 0.01
    trained = model.loss(tokens, targets).item()
    model.eval()
    assert model.hidden_and_pull(tokens)[1] is None
    plain = functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten()).item()
    assert model.loss(tokens, targets).item() == pytest.approx(plain, abs=1e-9)
    assert trained == pytest.approx(plain + expected, abs=1e-9)
    assert make_model(PLAIN).hidden_and_pull(tokens)[1] is None


def test_a_routed_mlp_counts_where_the_score_is_above_nought() -> None:
    """Where the router is off the block adds attention alone, elsewhere the plain MLP times the opening."""
    recipe = ModelRecipe(layers=1, width=16, heads=2, kv_heads=1)
    routed = make_model(dataclasses.replace(recipe, routed_layers=(0,)))
    plain, silent = make_model(recipe), make_model(recipe)
    tokens, scores, streams = make_tokens(), [], {}
    for name, model in (("routed", routed), ("plain", plain), ("silent", silent)):
        weights = dict(routed.named_parameters())
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                parameter.copy_(weights[key])
        model.blocks[0].register_forward_hook(lambda _m, _a, out, name=name: streams.__setitem__(name, out))
    routed.blocks[0].router.register_forward_hook(lambda _m, _a, out: scores.append(out))
    with torch.no_grad():
        silent.banks.down.zero_()
        for model in (routed, plain, silent):
            model(tokens)
    off = scores[0][..., 0] <= 0
    assert off.any() and not off.all()
    assert torch.equal(streams["routed"][off], streams["silent"][off])
    wanted = streams["silent"] + (2 * torch.sigmoid(scores[0]) - 1) * (streams["plain"] - streams["silent"])
    torch.testing.assert_close(streams["routed"][~off], wanted[~off])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_rows_see_no_later_token_whatever_is_on(data: st.DataObject) -> None:
    """With any switches, changing tokens from t on leaves the rows before t bit for bit."""
    draw = data.draw
    some = st.sets(st.integers(0, 2)).map(lambda chosen: tuple(sorted(chosen)))
    recipe = dataclasses.replace(
        PLAIN,
        value_residual=draw(st.booleans()),
        gated_attention=draw(st.booleans()),
        gated_mlp=draw(st.booleans()),
        routed_layers=draw(some),
        xsa_layers=draw(some),
        value_layers=draw(some),
        bigram_buckets=draw(st.sampled_from([0, 5])),
        smear=draw(st.sampled_from(["none", "within-document"])),
        unet=draw(st.booleans()),
        residual_mix=draw(st.booleans()),
    )
    model, tokens, t = make_model(recipe, draw(st.integers(0, 9))), make_tokens(), draw(st.integers(0, 19))
    other = tokens.clone()
    other[1, t:] = torch.tensor(draw(st.lists(st.integers(0, V - 1), min_size=20 - t, max_size=20 - t)))
    with torch.no_grad():
        before, after = model(tokens), model(other)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1, :t], after[1, :t])


def test_every_parameter_of_all_switches_gets_a_gradient() -> None:
    """Nothing is a dead weight, not even the first layer's pair of the value residual."""
    recipe = dataclasses.replace(
        PLAIN, value_residual=True, gated_attention=True, gated_mlp=True, routed_layers=(0, 1, 2), value_layers=(0,)
    )
    model, tokens = make_model(recipe), make_tokens()
    model.loss(tokens, tokens.roll(-1, 1)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.slow
# The tracer makes an instance of the CPU kernels' functions, which a GPU never calls.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_training_compiles_as_one_graph_with_all_switches() -> None:
    """The loss with routers is one graph of fixed shapes: the same value and gradients as without a compiler."""
    recipe = dataclasses.replace(
        PLAIN, value_residual=True, gated_attention=True, gated_mlp=True, routed_layers=(1, 2), xsa_layers=(2,)
    )
    model, tokens = make_model(recipe), make_tokens()
    model.rotary.prepare(tokens.shape[1])
    compiled = torch.compile(model.loss, fullgraph=True, dynamic=False, backend="aot_eager")
    results = []
    for loss_of in (model.loss, compiled):
        model.zero_grad()
        loss = loss_of(tokens, tokens.roll(-1, 1), quantise_bits=6)
        loss.backward()
        gradients = {name: value.grad.clone() for name, value in model.named_parameters()}
        results.append((loss.item(), gradients))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-10)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(gradient, results[1][1][name], rtol=1e-8, atol=1e-10)
