"""All parts of the model in any combination: equal to a plain NumPy model, differentiable, causal within documents."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from paramgolf.kernels.varlen import Documents
from paramgolf.model.adapters import LoraAdapters
from paramgolf.model.gpt import GPT
from paramgolf.recipe import ModelRecipe
from paramgolf.recipes.pr2140 import pr2140_tiny

VOCAB = 19
TINY = dataclasses.replace(
    pr2140_tiny().model,
    layers=4,
    width=16,
    heads=4,
    kv_heads=2,
    rope_channels=2,
    gate_channels=3,
    xsa_layers=(0, 1, 2, 3),
    looped_layers=(1, 2),
    loops=2,
    parallel_layers=1,
)


def randomised(recipe: ModelRecipe, seed: int = 4) -> GPT:
    """A float64 model whose every parameter is random and of a size that matters; the caps stay positive."""
    model = GPT(recipe, VOCAB, seed=3).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 1.0 / math.sqrt(parameter.shape[-1]) if parameter.dim() >= 2 else 0.5
            parameter.normal_(0.3 * (parameter.dim() < 2), spread, generator=generator)
            if name == "softcaps":
                parameter.copy_(torch.tensor([3.0, 1.7]))
    return model


def random_adapters(recipe: ModelRecipe, lanes: int, *, query_value: bool = True) -> LoraAdapters:
    """Adapters whose B is random too, in float64, and differs between lanes."""
    adapters = LoraAdapters(recipe, VOCAB, lanes, rank=3, alpha=6.0, query_value=query_value).double()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return adapters


def one_lane(adapters: LoraAdapters, lane: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The factors of one lane for the NumPy model."""
    return {
        kind: tuple(x.detach().select(x.dim() - 3, lane).numpy() for x in adapters.factors(kind))  # type: ignore[misc]  # two of them
        for kind in adapters.kinds
    }


@st.composite
def recipes(draw: st.DrawFn) -> ModelRecipe:
    """Any combination of parts that a recipe accepts."""
    layers = draw(st.integers(2, 5))
    some = st.sets(st.integers(0, layers - 1)).map(lambda chosen: tuple(sorted(chosen)))
    loop_start = draw(st.integers(0, layers - 1))
    looped = draw(st.sampled_from([(), tuple(range(loop_start, draw(st.integers(loop_start, layers - 1)) + 1))]))
    most_parallel = layers - (looped[-1] + 1 if looped else 0)
    heads = draw(st.sampled_from([(4, 2), (2, 2), (4, 1)]))
    unet = draw(st.booleans())
    gates: dict[str, Any] = draw(st.sampled_from([{}, {"sparse_gates": True}, {"gated_attention": True}]))
    flags = ("value_residual", "gated_mlp", "asymmetric_softcap", "residual_mix", "block_scales", "depth_scale")
    return ModelRecipe(
        layers=layers,
        width=16,
        heads=heads[0],
        kv_heads=heads[1],
        mlp_ratio=1.5,
        mlp_slope=draw(st.sampled_from([0.0, 0.3, 0.5])),
        rope_channels=draw(st.sampled_from([0, 4])),
        rope_length=draw(st.sampled_from([0, 3])),
        softcap=3.0,
        gate_channels=draw(st.integers(1, 16)),
        gate_scale=draw(st.sampled_from([0.5, 1.0])),
        routed_layers=draw(some),
        xsa_layers=draw(some),
        value_layers=draw(some),
        value_width=5,
        bigram_buckets=draw(st.sampled_from([0, 7])),
        bigram_width=3,
        smear=draw(st.sampled_from(["none", "everywhere", "within-document", "gated"])),
        unet=unet,
        skip_gates=unet and draw(st.booleans()),
        looped_layers=looped,
        loops=draw(st.integers(1, 3)),
        parallel_layers=draw(st.integers(0, most_parallel)),
        **{flag: draw(st.booleans()) for flag in flags},
        **gates,
    )


@settings(max_examples=60, deadline=None)
@given(recipe=recipes(), looping=st.booleans(), packed=st.booleans(), adapted=st.booleans(), seed=st.integers(0, 99))
def test_any_recipe_equals_the_numpy_model(
    plain_gpt: ModuleType, recipe: ModelRecipe, looping: bool, packed: bool, adapted: bool, seed: int
) -> None:
    """Logits of every combination of parts equal the plain model's to 1e-9, packed or not, with adapters or without."""
    model = randomised(recipe).eval()
    weights = {name: value.detach().numpy() for name, value in model.exported_weights().items()}
    tokens = np.random.default_rng(seed).integers(0, 4, size=9).tolist()  # many boundaries
    lengths = [4, 0, 1, 4] if packed else None
    documents = Documents(torch.tensor(lengths), 4) if packed else None
    adapters = random_adapters(recipe, 1) if adapted else None
    with torch.no_grad():
        h = model.hidden(torch.tensor([tokens]), looping=looping, documents=documents, adapters=adapters)
        found = model.logits(h, None if adapters is None else adapters.delta("head", 0, h))[0].numpy()
    plain = plain_gpt.NOTHING if adapters is None else plain_gpt.Adapters(one_lane(adapters, 0), 2.0)
    expected = plain_gpt.logits(weights, recipe, tokens, looping=looping, lengths=lengths, adapters=plain)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


NEW = (
    "skip_gates",
    "softcaps",
    "smear.gate",
    "smear.scale",
    "lanes.added",
    "lanes.kept",
    "sparse_gate",
    "skip_weights",
)


@pytest.mark.parametrize("looping", [False, True])
def test_gradients_of_the_new_parameters(looping: bool) -> None:
    """The gradients of gates, lanes and caps equal finite differences, of the training loss over packed documents."""
    model = randomised(TINY)
    inputs, targets = torch.tensor([[1, 5, 9, 2, 1, 7]]), torch.tensor([[5, 9, 2, 1, 7, 3]])
    documents = Documents(torch.tensor([4, 2]), 4)
    names = [name for name, _ in model.named_parameters() if any(new in name for new in NEW)]
    assert len(names) == 7 + TINY.layers
    own = dict(model.named_parameters())

    def loss(*values: torch.Tensor) -> torch.Tensor:
        given = dict(zip(names, values, strict=True))
        out: torch.Tensor = torch.func.functional_call(
            _Loss(model), {f"model.{n}": v for n, v in given.items()}, (inputs, targets, looping, documents)
        )
        return out

    assert gradcheck(loss, tuple(own[name].detach().clone().requires_grad_() for name in names), fast_mode=True)


class _Loss(torch.nn.Module):
    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor, looping: bool, documents: Documents) -> torch.Tensor:
        return self.model.loss(inputs, targets, looping=looping, documents=documents)


def test_every_parameter_of_the_record_learns() -> None:
    """A loss with loops and lanes reaches every parameter, but for rows of lanes in layers without them."""
    model = randomised(TINY)
    tokens = torch.randint(0, VOCAB, (2, 12), generator=torch.Generator().manual_seed(0))
    model.loss(tokens, tokens.roll(-1, 1)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    assert model.lanes is not None and model.lanes.kept.grad is not None
    assert [bool(row.any()) for row in model.lanes.kept.grad] == [False, False, False, True]


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), recipe=st.sampled_from(["tiny", "plain", "values"]))
def test_packed_documents_equal_each_alone(lengths: list[int], recipe: str) -> None:
    """States of a packed row are those of its documents one by one to 1e-5 in float32, with the gated smear too."""
    shape = {
        "tiny": TINY,
        "plain": ModelRecipe(layers=2, width=16, heads=4, kv_heads=2, smear="within-document"),
        "values": dataclasses.replace(
            TINY, value_residual=True, value_layers=(1, 3), value_width=4, rope_channels=4, rope_length=3
        ),
    }[recipe]
    model = randomised(shape).float()
    generator = torch.Generator().manual_seed(sum(lengths))
    texts = [torch.randint(2, VOCAB, (1, length), generator=generator) for length in lengths]
    for text in texts:
        text[0, 0] = 1
    longest = max(lengths)
    with torch.no_grad():
        packed = model.hidden(torch.cat(texts, dim=1), documents=Documents(torch.tensor(lengths), longest))
        padded = [torch.nn.functional.pad(text, (0, longest - text.shape[1]), value=2) for text in texts]
        alone = [model.hidden(row)[:, :length] for row, length in zip(padded, lengths, strict=True)]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=0, atol=1e-5)


def test_no_document_of_a_row_sees_another() -> None:
    """Changing one document's tokens after its boundary leaves all states of the others bitwise as they were."""
    model = randomised(TINY).float()
    tokens = torch.randint(2, VOCAB, (1, 15), generator=torch.Generator().manual_seed(0))
    tokens[0, [0, 4, 10]] = 1
    documents = Documents(torch.tensor([4, 6, 5]), 6)
    changed = tokens.clone()
    changed[0, 5:10] = (changed[0, 5:10] - 1) % (VOCAB - 2) + 2
    with torch.no_grad():
        before, after = (model.hidden(row, documents=documents)[0] for row in (tokens, changed))
    others = [*range(5), *range(10, 15)]
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[5:10], after[5:10])


@settings(max_examples=40, deadline=None)
@given(recipe=recipes(), adapted=st.booleans(), data=st.data())
def test_states_of_some_positions_are_those_of_all(recipe: ModelRecipe, adapted: bool, data: st.DataObject) -> None:
    """Asking for some positions of each row gives their states, and the gradients, of every combination of parts."""
    model = randomised(recipe).eval()
    tokens = torch.randint(0, 4, (2, 7), generator=torch.Generator().manual_seed(0))
    adapters = random_adapters(recipe, 2) if adapted else None
    row = st.lists(st.integers(0, 6), min_size=3, max_size=3)
    positions = torch.tensor(data.draw(st.tuples(row, row)))
    found = model.hidden(tokens, adapters=adapters, positions_Bn=positions)
    expected = model.hidden(tokens, adapters=adapters)[torch.arange(2)[:, None], positions]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    weight = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(1))
    leaves = [model.banks.key_value, model.banks.up] + ([] if adapters is None else [adapters.factors("key")[1]])
    gradients = [torch.autograd.grad((states * weight).sum(), leaves) for states in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_states_of_some_positions_see_no_later_token() -> None:
    """Changing the tokens after the positions that are asked for leaves their states bitwise as they were."""
    model = randomised(TINY).float().eval()
    tokens = torch.randint(0, VOCAB, (2, 24), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, 15:] = (changed[:, 15:] + 7) % VOCAB
    positions = torch.tensor([[14, 3], [8, 9]])
    before, after = (model.hidden(each, positions_Bn=positions) for each in (tokens, changed))
    assert torch.equal(before, after)


def test_positions_of_packed_documents_are_refused() -> None:
    """Some positions of packed documents are a message."""
    with pytest.raises(ValueError, match="all of it wanted"):
        randomised(TINY).hidden(
            torch.tensor([[1, 2, 3]]), documents=Documents(torch.tensor([1, 2]), 2), positions_Bn=torch.tensor([[1]])
        )


def test_documents_lie_in_one_row() -> None:
    """Several rows with documents are refused, with the number of rows."""
    model = randomised(TINY)
    with pytest.raises(ValueError, match="found 2 rows"):
        model.hidden(torch.ones(2, 4, dtype=torch.int64), documents=Documents(torch.tensor([4]), 4))


def test_a_row_of_the_longest_batch_is_turned() -> None:
    """Positions of a packed row of 98,304 tokens are turned by float64's angles to 2e-3, whatever precedes them."""
    model = GPT(dataclasses.replace(TINY, rope_channels=4), VOCAB)
    model.rotary.prepare(98_304, 3072)
    last = 98_303
    for pair, speed in enumerate((1.0, 0.01)):
        assert float(model.rotary.cos_TR[last, pair]) == pytest.approx(math.cos(last * speed), abs=1e-6)
        assert float(model.rotary.sin_TR[last, pair]) == pytest.approx(math.sin(last * speed), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fresh_adapters_change_no_bit(dtype: torch.dtype) -> None:
    """With B = 0 the states and logits are bitwise those without adapters (section 9.6)."""
    model = randomised(TINY).to(dtype)
    adapters = LoraAdapters(TINY, VOCAB, lanes=3, rank=2, alpha=4.0, query_value=True).to(dtype)
    tokens = torch.randint(0, VOCAB, (3, 11), generator=torch.Generator().manual_seed(0))
    plain, adapted = model.hidden(tokens), model.hidden(tokens, adapters=adapters)
    assert torch.equal(plain, adapted)
    assert torch.equal(model.logits(plain), model.logits(adapted, adapters.delta("head", 0, adapted)))


@pytest.mark.parametrize("lanes", [None, [2, 0, 2]])
def test_rows_use_their_own_lane(lanes: list[int] | None) -> None:
    """Row b of a batch equals a batch of one with that lane's factors alone."""
    model, adapters = randomised(TINY), random_adapters(TINY, 3)
    tokens = torch.randint(0, VOCAB, (3, 8), generator=torch.Generator().manual_seed(1))
    chosen = adapters.chosen(None if lanes is None else torch.tensor(lanes))
    h = model.hidden(tokens, adapters=chosen)
    logits = model.logits(h, chosen.delta("head", 0, h))
    for row, lane in enumerate(lanes or [0, 1, 2]):
        single = LoraAdapters(TINY, VOCAB, 1, rank=3, alpha=6.0, query_value=True).double()
        with torch.no_grad():
            for kind in single.kinds:
                for place, source in zip(single.factors(kind), adapters.factors(kind), strict=True):
                    place.copy_(source.select(source.dim() - 3, lane).unsqueeze(source.dim() - 3))
        alone = model.hidden(tokens[row : row + 1], adapters=single)
        expected = model.logits(alone, single.delta("head", 0, alone))
        torch.testing.assert_close(logits[row : row + 1], expected, rtol=0, atol=1e-12)


def test_rows_and_lanes_are_as_many() -> None:
    """A batch of two rows with adapters of three lanes is refused with both numbers, and with two chosen it runs."""
    model, adapters, tokens = randomised(TINY), random_adapters(TINY, 3), torch.ones(2, 4, dtype=torch.int64)
    for lanes in (adapters, adapters.chosen()):
        with pytest.raises(ValueError, match="2 rows need as many lanes of adapters, found 3"):
            model.hidden(tokens, adapters=lanes)
    assert len(model.hidden(tokens, adapters=adapters.chosen(torch.tensor([0, 2])))) == 2


def test_chosen_adapters_are_the_adapters() -> None:
    """`chosen` and `delta` with lanes give the same values, and the same gradients for every factor."""
    adapters, lanes = random_adapters(TINY, 4), torch.tensor([3, 1])
    x = torch.randn(2, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gradients = []
    for delta in (adapters.chosen(lanes).delta, lambda kind, visit, x: adapters.delta(kind, visit, x, lanes)):
        total = sum(
            (delta(kind, visit, x) * (visit + 1)).cos().sum()
            for kind in adapters.kinds
            for visit in range(TINY.visits())
        )
        gradients.append((total, *torch.autograd.grad(total, list(adapters.parameters()))))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert adapters.chosen(lanes).delta("gate", 0, x) is None and adapters.delta("gate", 0, x) is None


def test_visits_of_a_looped_block_have_their_own_adapters() -> None:
    """Changing the factors of one visit of a looped block changes the states; each visit by itself counts."""
    model, adapters = randomised(TINY), random_adapters(TINY, 1)
    tokens = torch.arange(8)[None] % VOCAB
    seen = [model.hidden(tokens, adapters=adapters).detach()]
    assert len(adapters.get_parameter("mlp_b")) == 6  # of 4 layers
    for visit in range(6):
        with torch.no_grad():
            adapters.get_parameter("mlp_b")[visit] += 0.5
        seen.append(model.hidden(tokens, adapters=adapters).detach())
    assert all(not torch.allclose(a, b) for a, b in pairwise(seen))


@pytest.mark.parametrize("keep_inner", [False, True])
def test_a_lane_is_reset_exactly(keep_inner: bool) -> None:
    """Reset lanes are bitwise fresh ones, or keep A; the other lanes keep every bit."""
    fresh = LoraAdapters(TINY, VOCAB, 4, rank=3, alpha=6.0, seed=5)
    used = LoraAdapters(TINY, VOCAB, 4, rank=3, alpha=6.0, seed=5)
    with torch.no_grad():
        for parameter in used.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    before = {name: value.detach().clone() for name, value in used.named_parameters()}
    used.reset(torch.tensor([2, 0]), keep_inner=keep_inner)
    for name, value in used.named_parameters():
        lane = value.dim() - 3
        for place in range(4):
            reset = place in (0, 2) and (name.endswith("_b") or not keep_inner)
            expected = dict(fresh.named_parameters())[name] if reset else before[name]
            assert torch.equal(value.select(lane, place), expected.select(lane, place)), (name, place)


def test_fresh_adapters_are_those_of_their_seed() -> None:
    """A is uniform within 1 / sqrt(in), the same in every lane, another for another seed; B is nought (section 5.2)."""
    one, other = (LoraAdapters(TINY, VOCAB, 3, rank=4, alpha=8.0, seed=seed) for seed in (1, 2))
    a, b = one.factors("output")
    assert torch.equal(a[:, 0], a[:, 2]) and not torch.equal(a[0], a[1])
    assert not torch.equal(a, other.factors("output")[0])
    assert float(a.detach().abs().max()) <= 0.25 and float(a.detach().std()) == pytest.approx(
        0.25 / math.sqrt(3), rel=0.1
    )
    assert not b.any()
    assert torch.equal(
        LoraAdapters(TINY, VOCAB, 5, 4, 8.0, seed=1).factors("key")[0][:, 4], one.factors("key")[0][:, 0]
    )


def test_looping_matters_and_is_the_default() -> None:
    """By default looped layers run again; without looping the states are those of a recipe without loops."""
    model = randomised(dataclasses.replace(TINY, unet=False, skip_gates=False))
    tokens = torch.arange(9)[None] % VOCAB
    once = GPT(dataclasses.replace(model.recipe, looped_layers=()), VOCAB).double()
    once.load_state_dict(model.state_dict())
    assert torch.equal(model.hidden(tokens, looping=False), once.hidden(tokens))
    assert not torch.allclose(model.hidden(tokens), once.hidden(tokens))
    assert torch.equal(model.hidden(tokens), model.hidden(tokens, looping=True))


def test_parts_follow_the_precision_of_the_stream() -> None:
    """With bfloat16 activations states are bfloat16, logits float32, and gradients keep their parameters' dtype."""
    model = randomised(TINY).float()
    model.activation_dtype = torch.bfloat16
    tokens = torch.randint(0, VOCAB, (2, 12), generator=torch.Generator().manual_seed(0))
    adapters = random_adapters(TINY, 2).float()
    h = model.hidden(tokens, adapters=adapters)
    logits = model.logits(h, adapters.delta("head", 0, h))
    assert h.dtype == torch.bfloat16 and logits.dtype == torch.float32
    (model.loss(tokens, tokens.roll(-1, 1)) + logits.sum()).backward()
    for parameter in (*model.parameters(), *adapters.parameters()):
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32


@pytest.mark.slow
# The tracer makes an instance of the CPU kernels' functions, which a GPU never calls.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_the_recipe_trains_as_one_graph() -> None:
    """Packed loss with all parts of #2140 compiles without a break, with loops and without, to the eager gradients."""
    torch.compiler.reset()
    model = randomised(TINY)
    documents = Documents(torch.tensor([5, 0, 7]), 8)
    tokens = torch.randint(0, VOCAB, (1, 12), generator=torch.Generator().manual_seed(0))
    model.rotary.prepare(12, 8)
    compiled = torch.compile(model.loss, backend="aot_eager", fullgraph=True, dynamic=False)
    for looping in (False, True):
        found = []
        for loss_of in (compiled, model.loss):
            model.zero_grad()
            loss = loss_of(tokens, tokens.roll(-1, 1), looping=looping, documents=documents)
            loss.backward()
            found.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)
