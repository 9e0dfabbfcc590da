"""Numbers of spec pr2140.md, sections 2, 5.2 and 9, against the model."""

from __future__ import annotations

import dataclasses
import math
from types import ModuleType

import numpy as np
import pytest
import torch

from paramgolf.kernels.loss import plain_softcapped_loss, softcapped_logits, softcapped_loss
from paramgolf.kernels.relu_squared import relu_squared
from paramgolf.kernels.varlen import Documents
from paramgolf.model.adapters import LoraAdapters, low_rank
from paramgolf.model.arithmetic import parameter_shapes, tensor_shapes
from paramgolf.model.block import exclude_own_value
from paramgolf.model.gpt import GPT
from paramgolf.model.rotary import Rotary
from paramgolf.recipe import ModelRecipe
from paramgolf.recipes.pr2140 import pr2140

RECORD = pr2140().model
ORACLE = dataclasses.replace(
    RECORD,
    layers=5,
    width=16,
    heads=4,
    kv_heads=2,
    mlp_ratio=2.0,
    rope_channels=2,
    gate_channels=4,
    looped_layers=(1, 2),
    parallel_layers=2,
    xsa_layers=tuple(range(5)),
)
IDS, TARGETS = [1, 5, 9, 2, 1, 7, 7, 3], [5, 9, 2, 1, 7, 7, 3, 1]
HINTS = [5, 3, 2, 2, 0, 7, 3, 1]
PUBLISHED = {  # names of section 9.6, of ours
    "attention.query_gain": "attn.q_gain",
    "attention_scale": "attn_scale",
    "residual_mix": "resid_mix",
    "sparse_gate.weight": "attn.attn_gate_w",
    "banks.query_output": "qo_bank",
    "banks.key_value": "kv_bank",
    "banks.up": "mlp_up_bank",
    "banks.down": "mlp_down_bank",
    "lanes.added": "parallel_post_lambdas",
    "lanes.kept": "parallel_resid_lambdas",
    "smear.gate": "smear_gate.weight",
    "smear.scale": "smear_lambda",
    "embedding.weight": "tok_emb.weight",
}
ROWS = {
    ("once", "one"): "2.702766 2.974461 7.833020 3.488857 5.638512 1.341373 2.300397 6.667436",
    ("once", "two"): "2.702766 2.974461 7.833020 3.488857 5.345587 1.360032 2.287504 6.690758",
    ("loop", "one"): "2.717691 2.958786 7.576945 3.328724 5.491605 1.391288 2.350471 6.495148",
    ("loop", "two"): "2.717691 2.958786 7.576945 3.328724 5.241253 1.404467 2.330720 6.461170",
    ("loop", "lora"): "2.810073 2.948173 7.714036 3.259456 5.353528 1.413793 2.472879 6.492295",
}
MEANS = {
    ("once", "one"): 4.1183528,
    ("once", "two"): 4.0853732,
    ("loop", "one"): 4.0388322,
    ("loop", "two"): 4.0024695,
    ("loop", "lora"): 4.0580297,
}
OF_HINTS = "-2.810073 -6.968182 -7.714036 -1.320829 -4.220490 -1.413793 -2.472879 -6.492295"
PRINTED = 1.5e-6  # an independent model matched to 1e-6, and figures have six digits (section 9.6)


def wave(count: int, frequency: float, phase: float) -> np.ndarray:
    return np.sin(frequency * np.arange(1, count + 1) + phase)


def filled(name: str, k: int, shape: tuple[int, ...]) -> np.ndarray:
    """The values of section 9.6 for the parameter with this published name, the k-th in alphabetical order."""
    f = wave(math.prod(shape), 0.7, 1.3 * k).reshape(shape)
    if name.startswith("softcap") or name == "smear_lambda":
        return np.full(shape, 30.0 if name.startswith("softcap") else 0.4)
    if name.endswith("resid_mix"):
        return np.stack([1 + 0.1 * f[0], 0.1 * f[1]])
    for ends, base, spread in (
        ("bank", 0.0, 0.25),
        ("q_gain", 1.5, 0.1),
        ("skip_gates", 0.0, 0.3),
        ("parallel_resid_lambdas", 1.1, 0.05),
        (("tok_emb.weight", "gate_w", "smear_gate.weight"), 0.0, 0.5),
        (("_scale", "skip_weights", "parallel_post_lambdas"), 1.0, 0.1),
    ):
        if name.endswith(ends):
            return base + spread * f
    raise AssertionError(name)


@pytest.fixture(scope="module")
def model() -> GPT:
    """The filled model of section 9.6, float64, its values rounded to float32 first."""
    built = GPT(ORACLE, 16).double()
    places: dict[str, torch.Tensor] = {}
    for name, parameter in built.named_parameters():
        if name == "softcaps":
            places["softcap_pos"], places["softcap_neg"] = parameter.detach()[0], parameter.detach()[1]
            continue
        ours = next((ours for ours in PUBLISHED if name.endswith(ours)), "")
        places[name.replace(ours, PUBLISHED[ours]) if ours else name] = parameter.detach()
    assert len(places) == 38
    for k, name in enumerate(sorted(places), 1):
        values = filled(name, k, tuple(places[name].shape))
        places[name].copy_(torch.from_numpy(np.asarray(values).astype(np.float32)))
    return built


@pytest.fixture(scope="module")
def adapters() -> LoraAdapters:
    """One lane of rank 4 and scale 36, filled as section 9.6 says, slot 99 being the head."""
    built = LoraAdapters(ORACLE, 16, lanes=1, rank=4, alpha=144.0).double()
    for kind in built.kinds:
        a, b = (x.detach() for x in built.factors(kind))
        slots = [(99, a, b)] if kind == "head" else [(s, a[s], b[s]) for s in range(9)]
        for s, inner, outer in slots:
            for place, size, frequency, phase in ((inner, 0.1, 0.5, 0.9 * s), (outer, 0.01, 0.3, 0.4 * s)):
                turned = phase if place is inner else phase + math.pi / 2  # A from sines, B from cosines
                values = size * wave(place.numel(), frequency, turned)
                place.copy_(torch.from_numpy(values.astype(np.float32)).view(place.shape))
    return built


def rows(model: GPT, looping: str, form: str, adapters: LoraAdapters) -> torch.Tensor:
    """Log-probabilities [8, 16] of one row of section 9.6."""
    tokens, used = torch.tensor([IDS]), adapters if form == "lora" else None
    documents = Documents(torch.tensor([4, 4]), 4) if form == "two" else None
    with torch.no_grad():
        h = model.hidden(tokens, looping=looping == "loop", documents=documents, adapters=used)
        extra = None if used is None else used.delta("head", 0, h)
        return torch.log_softmax(model.logits(h, extra), dim=-1)[0]


@pytest.mark.parametrize(("looping", "form"), ROWS)
def test_whole_model(model: GPT, adapters: LoraAdapters, looping: str, form: str) -> None:
    """Losses of every position and their mean are those of section 9.6, in all five rows."""
    found = -rows(model, looping, form, adapters)[range(8), TARGETS]
    expected = [float(word) for word in ROWS[looping, form].split()]
    assert found.tolist() == pytest.approx(expected, abs=PRINTED)
    assert float(found.mean()) == pytest.approx(MEANS[looping, form], abs=1e-6)


def test_whole_model_of_hints(model: GPT, adapters: LoraAdapters) -> None:
    """Log-probabilities of other tokens than the targets, with adapters, are those of section 9.6."""
    found = rows(model, "loop", "lora", adapters)[range(8), HINTS]
    assert found.tolist() == pytest.approx([float(word) for word in OF_HINTS.split()], abs=PRINTED)


@pytest.mark.parametrize(("looping", "form"), ROWS)
def test_the_plain_reference_has_the_published_losses(
    model: GPT, adapters: LoraAdapters, plain_gpt: ModuleType, looping: str, form: str
) -> None:
    """The NumPy model that other tests compare with gives section 9.6 too, and the torch model's rows to 1e-12."""
    weights = {name: value.detach().numpy() for name, value in model.exported_weights().items()}
    used = plain_gpt.NOTHING
    if form == "lora":
        factors = {kind: [x.detach().numpy() for x in adapters.factors(kind)] for kind in adapters.kinds}
        of_lane = {k: (a[0], b[0]) if k == "head" else (a[:, 0], b[:, 0]) for k, (a, b) in factors.items()}
        used = plain_gpt.Adapters(of_lane, 36.0)
    lengths = [4, 4] if form == "two" else None
    found = plain_gpt.logits(weights, ORACLE, IDS, looping=looping == "loop", lengths=lengths, adapters=used)
    expected = [float(word) for word in ROWS[looping, form].split()]
    assert plain_gpt.losses(found, TARGETS) == pytest.approx(expected, abs=PRINTED)
    exact = rows(model, looping, form, adapters).numpy()
    shift = np.log(np.exp(found).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found - shift, exact, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def fresh() -> GPT:
    """The record model as training begins."""
    return GPT(RECORD, 8192, seed=1)


def test_the_record_configuration_has_the_published_size(fresh: GPT) -> None:
    """35,945,673 parameters, by module and by arithmetic, and the counts of section 2.1."""
    shapes = {name: tuple(value.shape) for name, value in fresh.named_parameters()}
    assert sum(value.numel() for value in fresh.parameters()) == 35_945_673
    assert shapes == parameter_shapes(RECORD, 8192)
    exported = {name: tuple(value.shape) for name, value in fresh.exported_weights().items()}
    assert exported == tensor_shapes(RECORD, 8192)
    counts = {name: math.prod(shape) for name, shape in shapes.items()}
    assert counts["embedding.weight"] == 4_194_304
    assert (counts["banks.query_output"], counts["banks.key_value"]) == (5_767_168, 2_883_584)
    assert counts["banks.up"] == counts["banks.down"] == 11_534_336
    assert sum(count for name, count in counts.items() if name.startswith("blocks.")) == 11 * 2152
    assert counts["skip_weights"] + counts["skip_gates"] == 8192
    assert (counts["lanes.added"] + counts["lanes.kept"], counts["smear.gate"] + counts["smear.scale"]) == (66, 13)


def test_a_fresh_record_model(fresh: GPT) -> None:
    """First values of section 2.1; the first loss is near ln 8192 = 9.0109."""
    first = dict(fresh.named_parameters())
    for name, value in {
        "skip_weights": 1.0,
        "skip_gates": 0.0,
        "softcaps": 30.0,
        "lanes.added": 1.0,
        "lanes.kept": 1.1,
        "smear.gate": 0.0,
        "smear.scale": 0.0,
        "blocks.10.sparse_gate.weight": 0.0,
        "blocks.0.attention.query_gain": 5.25,
        "blocks.5.attention_scale": 1.0,
        "blocks.5.mlp_scale": 1.0,
        "banks.down": 0.0,
    }.items():
        assert bool((first[name] == value).all()), name
    mix = first["blocks.3.residual_mix"]
    assert bool((mix[0] == 1).all()) and bool((mix[1] == 0).all())
    assert float(first["embedding.weight"].detach().std()) == pytest.approx(0.005, rel=0.01)
    assert not first["banks.query_output"][11:].any()
    query = first["banks.query_output"][7].double()
    torch.testing.assert_close(query @ query.T, torch.eye(512, dtype=torch.float64), rtol=0, atol=1e-5)
    tokens = torch.randint(0, 8192, (1, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert float(fresh.loss(tokens, tokens.roll(-1, 1))) == pytest.approx(9.0109, abs=0.05)


def test_xsa_of_the_published_heads() -> None:
    """Heads (1,2) and (3,0) with value (3,4) become (-.32,.24) and (1.92,-1.44) (section 9.5)."""
    read = torch.tensor([[1.0, 2], [3, 0]], dtype=torch.float64).view(1, 1, 2, 2)
    value = torch.tensor([3.0, 4], dtype=torch.float64).view(1, 1, 1, 2)
    found = exclude_own_value(read, value).flatten().tolist()
    assert found == pytest.approx([-0.32, 0.24, 1.92, -1.44], abs=1e-12)


def test_rotary_of_two_channels() -> None:
    """RoPE of 2 of 4 channels at position 1 turns (1,2,3,4) into (2.223244,.239134,3,4) (section 9.5)."""
    rotary = Rotary(ModelRecipe(layers=1, width=4, heads=1, kv_heads=1, rope_channels=2)).double()
    x = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64).expand(1, 2, 1, 4)
    assert rotary(x)[0, 1, 0].tolist() == pytest.approx([2.223244, 0.239134, 3, 4], abs=1e-6)


def test_rotary_speeds() -> None:
    """The eight speeds of section 2.3."""
    rotary = Rotary(RECORD).double()
    rotary.prepare(2)
    speeds = torch.atan2(rotary.sin_TR[1, :8], rotary.cos_TR[1, :8]).tolist()
    assert speeds == pytest.approx([1, 0.316228, 0.1, 0.0316228, 0.01, 0.00316228, 0.001, 0.000316228], rel=1e-5)


def test_activation() -> None:
    """Values and slopes of LeakyReLU² at slope 0.3 (section 2.3)."""
    x = torch.tensor([1.5, -1.5, -2.0], dtype=torch.float64, requires_grad=True)
    y = relu_squared(x, 0.3)
    y.sum().backward()
    assert y.tolist() == pytest.approx([2.25, 0.2025, 0.36], abs=1e-12)
    assert x.grad is not None and x.grad.tolist() == pytest.approx([3, -0.27, -0.36], abs=1e-12)


@pytest.mark.parametrize("loss_of", [softcapped_loss, plain_softcapped_loss])
@pytest.mark.parametrize("learnt", [False, True])
def test_softcapped_loss(loss_of, learnt: bool) -> None:  # type: ignore[no-untyped-def]  # two functions of one form
    """Scores (1, 2, -5, 40) with target 1 give the loss and gradients of section 2.3, with one cap or two of 30."""
    # With a state of 1 the head's gradient is that of the scores.
    head = torch.tensor([[1.0], [2], [-5], [40]], dtype=torch.float64, requires_grad=True)
    softcap = torch.tensor([30.0, 30.0], dtype=torch.float64) if learnt else 30.0
    loss = loss_of(torch.ones(1, 1, dtype=torch.float64), head, torch.tensor([1]), softcap)
    loss.backward()
    assert loss.item() == pytest.approx(24.1048075573, abs=1e-9)
    assert head.grad is not None
    expected = [1.2524543e-11, -0.9955686912, 3.1660e-14, 0.2429927048]
    for found, wanted in zip(head.grad[:, 0].tolist(), expected, strict=True):
        assert found == pytest.approx(wanted, rel=2e-5, abs=1e-16)


def test_two_caps_that_differ() -> None:
    """Scores above 0 are capped by the first, the others by the second (section 2.3)."""
    scores = torch.tensor([[3.0], [-3.0], [0.0]], dtype=torch.float64)
    caps = torch.tensor([2.0, 5.0], dtype=torch.float64)
    found = softcapped_logits(scores, torch.ones(1, 1, dtype=torch.float64), caps).flatten().tolist()
    assert found == pytest.approx([2 * math.tanh(1.5), -5 * math.tanh(0.6), 0.0], abs=1e-15)


@pytest.mark.parametrize(
    ("a", "b", "out"),
    [
        ([0.099996254, -0.199992508, 0.299988776, 0.049998127, 0.399985015, -0.099996254], 7.5e-5, 0.008369686),
        ([0.099886708, -0.200090811, 0.300083339, 0.050102055, 0.400075823, -0.100098304], 1.49996e-4, 0.016747417),
    ],
)
def test_adapter_delta(a: list[float], b: float, out: float) -> None:
    """The factors of section 5.2 after one and two steps give the outputs that it lists."""
    inner = torch.tensor(a, dtype=torch.float64).view(1, 2, 3)
    outer = b * torch.tensor([[[1.0, -1], [-1, 1]]], dtype=torch.float64)
    found = low_rank(torch.tensor([[[1.0, 2, -1]]], dtype=torch.float64), inner, outer, 72.0)
    assert found.flatten().tolist() == pytest.approx([-out, out], abs=5e-8)


def test_adapters_have_the_published_size() -> None:
    """4,526,080 parameters for each document at rank 80, without queries and values (section 5.2)."""
    with torch.device("meta"):
        adapters = LoraAdapters(RECORD, 8192, lanes=1, rank=80, alpha=144.0)
    assert sum(parameter.numel() for parameter in adapters.parameters()) == 4_526_080
    assert set(adapters.kinds) == {"key", "output", "mlp", "head"}
