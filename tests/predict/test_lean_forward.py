"""The forward pass of few sweeps over memory: the model's states, for all positions or the last ones only."""

from __future__ import annotations

import dataclasses
import math
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from paramgolf.model.banks import LayerMatrices
from paramgolf.model.block import Block
from paramgolf.model.gpt import GPT
from paramgolf.predict import lean_forward, lean_mlp
from paramgolf.predict.lean_forward import lean_hidden, lean_logits
from paramgolf.recipe import ModelRecipe

pytestmark = pytest.mark.usefixtures("one_thread")

V, BOUNDARY = 40, 1
ODD = ModelRecipe(layers=2, width=36, heads=6, kv_heads=3, mlp_ratio=1.5, rope_base=100.0, softcap=9.0)


def make_model(recipe: ModelRecipe, seed: int = 0) -> GPT:
    """Every part has a voice: gains around one, matrices that keep the variance."""
    generator = torch.Generator().manual_seed(seed)
    model = GPT(recipe, V, boundary_id=BOUNDARY)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if name.endswith(("scale", "skip_weights", "query_gain", "residual_mix", "lanes.kept", "lanes.added")):
                drawn = 1.0 + 0.5 * drawn
            elif name == "softcaps":
                drawn = torch.exp(2.5 + 0.3 * drawn)
            elif "embedding.weight" not in name and drawn.dim() > 1:
                drawn = drawn / math.sqrt(drawn.shape[-1])
            parameter.copy_(drawn)
    return model


def make_tokens(frames: int, length: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, V, (frames, length), generator=generator)
    return tokens.masked_fill_(torch.rand((frames, length), generator=generator) < 0.2, BOUNDARY)


def model_states(model: GPT, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model.hidden(tokens)


@pytest.mark.parametrize("slab_bytes", [1, 10_000, 1 << 20])
@pytest.mark.parametrize("parts", ["ALL", "GATED", "COMPOSED", "ODD"])
@pytest.mark.parametrize(("frames", "length"), [(1, 150), (3, 70), (5, 21)])
def test_states_are_the_models_however_rows_are_cut_into_slabs(
    monkeypatch: pytest.MonkeyPatch, small_models: ModuleType, parts: str, frames: int, length: int, slab_bytes: int
) -> None:
    """Slabs shorter and longer than a frame give the model's states to float noise, and its last ones alone."""
    monkeypatch.setattr(lean_forward, "SLAB_BYTES", slab_bytes)
    recipe = ODD if parts == "ODD" else getattr(small_models, parts)
    model, tokens = make_model(recipe), make_tokens(frames, length)
    expected = model_states(model, tokens)
    torch.testing.assert_close(lean_hidden(model, tokens), expected, atol=2e-5, rtol=1e-5)
    for last in (1, length // 3, length - 1, length):
        found = lean_hidden(model, tokens, last)
        assert found.shape == (frames, last, recipe.width)
        torch.testing.assert_close(found, expected[:, -last:], atol=2e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_mixture_of_parts_is_that_of_the_model(small_models: ModuleType, data: st.DataObject) -> None:
    """Random switches, sizes and shapes: states of the last positions agree to float noise."""
    draw = data.draw
    recipe = draw(small_models.mixtures())
    frames, length = draw(st.integers(1, 3)), draw(st.integers(1, 30))
    last = draw(st.integers(1, length))
    model, tokens = make_model(recipe, draw(st.integers(0, 99))), make_tokens(frames, length)
    expected = model_states(model, tokens)[:, -last:]
    torch.testing.assert_close(lean_hidden(model, tokens, last), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("parts", ["ALL", "GATED", "COMPOSED"])
@pytest.mark.parametrize("last", [None, 13])
@pytest.mark.parametrize("slab_bytes", [1, 1 << 20])
def test_what_follows_a_position_does_not_move_its_state_by_one_bit(
    monkeypatch: pytest.MonkeyPatch, small_models: ModuleType, parts: str, last: int | None, slab_bytes: int
) -> None:
    """In one fixed shape states before t are the same bits whatever stands at t and after it; the one at t moves."""
    monkeypatch.setattr(lean_forward, "SLAB_BYTES", slab_bytes)
    model, tokens = make_model(getattr(small_models, parts)), make_tokens(2, 140)
    before = lean_hidden(model, tokens, last)
    skipped = 140 - before.shape[1]
    for t in (128, 131, 139):
        other = tokens.clone()
        other[1, t:] = (other[1, t:] + 1 + torch.arange(140 - t)) % V
        after = lean_hidden(model, other, last)
        assert torch.equal(before[0], after[0])
        assert torch.equal(before[1, : t - skipped], after[1, : t - skipped])
        assert not torch.equal(before[1, t - skipped], after[1, t - skipped])


def test_the_same_call_gives_the_same_bits_and_leaves_the_model_alone(small_models: ModuleType) -> None:
    """Two passes agree to the bit; weights and gradients stay, and the result asks for none."""
    model, tokens = make_model(small_models.ALL), make_tokens(2, 40)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = lean_hidden(model, tokens), lean_hidden(model, tokens)
    assert torch.equal(first, second) and not first.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_other_precisions_are_the_models_own(small_models: ModuleType) -> None:
    """In float64, and with bfloat16 activations, the model itself runs: the very same bits and dtype."""
    tokens = make_tokens(2, 20)
    for model in (make_model(small_models.ALL).double(), make_model(small_models.ALL)):
        if model.embedding.weight.dtype == torch.float32:
            model.activation_dtype = torch.bfloat16
        expected = model_states(model, tokens)
        with torch.no_grad():
            found = lean_hidden(model, tokens, 7)
            assert found.dtype == expected.dtype and torch.equal(found, expected[:, -7:])
            assert torch.equal(lean_logits(model, found), model.logits(found))


@pytest.mark.parametrize("softcaps", [None, (9.0, 3.0), (2.0, 25.0)])
def test_logits_are_the_models(softcaps: tuple[float, float] | None) -> None:
    """The head in place gives the model's logits to float noise, with one cap and with two."""
    model, tokens = make_model(dataclasses.replace(ODD, asymmetric_softcap=softcaps is not None)), make_tokens(1, 30)
    with torch.no_grad():
        if model.softcaps is not None:
            model.softcaps.copy_(torch.tensor(softcaps))
        h_ND = lean_hidden(model, tokens)[0]
        torch.testing.assert_close(lean_logits(model, h_ND), model.logits(h_ND), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("last", [0, -3, 21])
def test_more_positions_than_a_frame_has_are_refused(last: int) -> None:
    """None, or more than all, of a frame's positions is a ValueError with both numbers."""
    with pytest.raises(ValueError, match=f"the last {last} positions of a frame of 20"):
        lean_hidden(make_model(ODD), make_tokens(1, 20), last)


@pytest.mark.parametrize("slab_bytes", [1, 1 << 20])
def test_a_router_spares_the_rows_that_it_does_not_serve(monkeypatch: pytest.MonkeyPatch, slab_bytes: int) -> None:
    """Rows that a router leaves out cost no product: as many parts as the served ones fill, none if there are none."""
    monkeypatch.setattr(lean_forward, "SLAB_BYTES", slab_bytes)
    recipe = dataclasses.replace(ODD, layers=1, routed_layers=(0,))
    model, tokens, shapes = make_model(recipe), make_tokens(2, 192), []
    scores: list[Tensor] = []
    assert model.blocks[0].router is not None
    model.blocks[0].router.register_forward_hook(lambda _module, _args, out: scores.append(out.flatten()))
    hidden = lean_mlp.LeanMlp._hidden

    def counted(self: lean_mlp.LeanMlp, x_RD: Tensor, block: Block, w: LayerMatrices) -> Tensor:
        shapes.append(len(x_RD))
        return hidden(self, x_RD, block, w)

    monkeypatch.setattr(lean_mlp.LeanMlp, "_hidden", counted)
    model_states(model, tokens)
    served = int((scores[0] > 0).sum())
    lean_hidden(model, tokens)
    assert 0 < served < 300
    part = shapes[0]
    slabs = 6 if slab_bytes == 1 else 1
    assert set(shapes) == {part} and -(-served // part) <= len(shapes) < -(-served // part) + slabs
    with torch.no_grad():
        model.blocks[0].router.bias.fill_(-1000.0)
    shapes.clear()
    torch.testing.assert_close(lean_hidden(model, tokens), model_states(model, tokens), atol=2e-5, rtol=1e-5)
    assert not shapes
