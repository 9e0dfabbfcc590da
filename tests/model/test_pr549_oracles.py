"""Numbers of spec pr549.md, sections 2 and 8, against the model."""

from __future__ import annotations

import dataclasses
import math
from types import ModuleType

import numpy as np
import pytest
import torch

from paramgolf.kernels.loss import softcapped_logits
from paramgolf.kernels.norm import rms_norm
from paramgolf.kernels.relu_squared import relu_squared
from paramgolf.model.arithmetic import parameter_shapes, tensor_shapes
from paramgolf.model.block import exclude_own_value
from paramgolf.model.embeddings import Smear, pair_hash
from paramgolf.model.fake_quantise import fake_quantise
from paramgolf.model.gpt import GPT
from paramgolf.model.rotary import Rotary
from paramgolf.recipe import ModelRecipe
from paramgolf.recipes import get_recipe

RECORD = dataclasses.replace(get_recipe("pr549").model, smear="everywhere")
TOKENS = [(7 * i * i + 3 * i) % 16 for i in range(21)]


def test_the_record_configuration_has_the_published_size() -> None:
    """26,928,220 parameters in 59 tensors, by module and by arithmetic (section 2.1)."""
    model = GPT(RECORD, 1024)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    assert sum(value.numel() for value in model.parameters()) == 26_928_220
    assert len(shapes) == 59
    assert shapes == parameter_shapes(RECORD, 1024)
    exported = {name: tuple(value.shape) for name, value in model.exported_weights().items()}
    assert exported == tensor_shapes(RECORD, 1024)
    matrices = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("banks."))
    tables = sum(math.prod(s) for n, s in shapes.items() if n.endswith("embedding.weight"))
    assert (matrices, tables, 26_928_220 - matrices - tables) == (25_952_256, 851_968, 123_996)


def test_a_fresh_record_model_is_six_times_its_embedding() -> None:
    """All blocks begin as the identity: the stream before the last norm is 6 x0, the loss near ln 1024 (2.3, 8.9)."""
    model = GPT(RECORD, 1024, seed=1)
    tokens = torch.randint(0, 1024, (2, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        last: list[torch.Tensor] = []
        model.blocks[-1].register_forward_hook(lambda _block, _args, out: last.append(out))
        loss = float(model.loss(tokens, tokens.roll(-1, 1)))
        torch.testing.assert_close(last[0], 6 * model.embed(tokens), rtol=1e-6, atol=0)
    assert abs(loss - math.log(1024)) < 0.05


def test_orthogonal_matrices_have_orthonormal_rows_or_columns() -> None:
    """Every drawn matrix is semi-orthogonal, outputs and down matrices are zero (section 2.1)."""
    weights = GPT(RECORD, 1024).exported_weights()
    for name in ("attention.query", "attention.key", "attention.value", "mlp.up"):
        w = weights[f"blocks.3.{name}.weight"].double()
        gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
        torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), rtol=0, atol=1e-5)
    assert not weights["blocks.0.attention.output.weight"].any()
    assert not weights["blocks.10.mlp.down.weight"].any()


@pytest.mark.parametrize(
    ("previous", "current", "buckets", "bucket"),
    [
        (1, 5, 1536, 892),
        (5, 1, 1536, 1337),
        (0, 0, 1536, 0),
        (42, 7, 1536, 257),
        (7, 42, 1536, 950),
        (1, 5, 2048, 1887),
        (5, 1, 2048, 1821),
        (42, 7, 2048, 59),
        (7, 42, 2048, 1231),
        (1023, 1023, 1536, 121),
        (1023, 1023, 2048, 977),
    ],
)
def test_pair_hash(previous: int, current: int, buckets: int, bucket: int) -> None:
    """The bucket of each pair that section 8.2 lists."""
    assert pair_hash(torch.tensor([[previous, current]]), buckets)[0].tolist() == [buckets - 1, bucket]


def test_pair_hash_of_a_row_and_its_spread() -> None:
    """The row of section 8.2, and the published spread of all pairs over the buckets (2.4)."""
    row = torch.tensor([[1, 5, 5, 1023, 0, 1, 2, 1023, 1023]])
    assert pair_hash(row, 1536)[0].tolist() == [1535, 892, 1105, 868, 658, 1008, 962, 686, 121]
    previous, current = np.meshgrid(np.arange(1024), np.arange(1024))
    pairs = torch.from_numpy(np.stack([previous.ravel(), current.ravel()], axis=1))
    counts = torch.bincount(pair_hash(pairs, 1536)[:, 1], minlength=1535)
    assert (len(counts), int(counts.min()), int(counts.max())) == (1535, 583, 785)


def test_xsa_takes_out_the_own_value_by_group() -> None:
    """The heads of section 8.9, and a zero value leaves them as they are."""
    read = torch.tensor([[1.0, 2], [3, 4], [5, 6], [7, 8]]).view(1, 1, 4, 2)
    value = torch.tensor([[3.0, 4], [0, 2]]).view(1, 1, 2, 2)
    expected = torch.tensor([[-0.32, 0.24], [0, 0], [5, 0], [7, 0]])
    torch.testing.assert_close(exclude_own_value(read, value)[0, 0], expected, rtol=0, atol=1e-6)
    assert torch.equal(exclude_own_value(read, torch.zeros_like(value)), read)


def test_partial_rotary_turns_the_first_channels_only() -> None:
    """The turned vector of section 8.9: angles pi/2 and pi/6 on the first four of eight channels."""
    rotary = Rotary(ModelRecipe(layers=1, width=8, heads=1, kv_heads=1, rope_channels=4))
    cos, sin = [math.cos(a) for a in (math.pi / 2, math.pi / 6)], [math.sin(a) for a in (math.pi / 2, math.pi / 6)]
    tables = (
        torch.tensor([cos + cos], dtype=torch.float64),
        torch.tensor([sin + [-s for s in sin]], dtype=torch.float64),
    )
    rotary._tables[rotary.recipe.rope_base] = tables
    turned = rotary(torch.arange(1.0, 9, dtype=torch.float64).view(1, 1, 1, 8)).flatten()
    expected = torch.tensor([3, 3.73205081, -1, 2.46410155, 5, 6, 7, 8], dtype=torch.float64)
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-7)


def test_the_rotary_base_follows_the_length() -> None:
    """At 2,048 tokens the base is 22,081.79 and the table that of section 8.9; at 1,024 it is the plain one (2.6)."""
    assert RECORD.rope_base_at(2048) == pytest.approx(22081.790273476247, rel=1e-12)
    rotary = Rotary(RECORD)
    rotary.prepare(2048)
    at_one = [0.54030234, 0.95926285, 0.99663711, 0.99972397, 0.99997735, 0.99999815, 0.99999988, 1.0]
    torch.testing.assert_close(rotary.cos_TR[1, :8], torch.tensor(at_one), rtol=0, atol=1e-7)
    rotary.prepare(1024)
    plain = Rotary(ModelRecipe(layers=1, width=64, heads=1, kv_heads=1, rope_channels=16))
    plain.prepare(1024)
    assert torch.equal(rotary.cos_TR, plain.cos_TR)


def test_leaky_relu_squared_mlp() -> None:
    """x = (2, -4) through the matrices of section 8.9 gives (9, 0); the slope below zero is 0.5 z."""
    up, down = torch.tensor([[1.0, 0], [0, 1], [1, 1]]), torch.tensor([[1.0, 1, 1], [1, -1, 0]])
    hidden = relu_squared(up @ torch.tensor([2.0, -4.0]), 0.5)
    assert hidden.tolist() == [4, 4, 1]
    assert (down @ hidden).tolist() == [9, 0]
    z = torch.tensor([3.0, -3.0], requires_grad=True)
    relu_squared(z, 0.5).sum().backward()
    assert z.grad is not None and z.grad.tolist() == [6.0, -1.5]


def test_smear_mixes_the_position_before() -> None:
    """Gate 0 halves: (2,4)(6,8)(1,1) becomes (1,2)(4,6)(3.5,4.5) (section 8.9); a boundary starts like a row."""
    x = torch.tensor([[[2.0, 4], [6, 8], [1, 1]]])
    everywhere, within = Smear(2, None), Smear(2, 1)
    for smear in (everywhere, within):
        smear.gate.data.zero_()
    assert everywhere(x, torch.tensor([[5, 1, 5]])).tolist() == [[[1, 2], [4, 6], [3.5, 4.5]]]
    assert within(x, torch.tensor([[5, 1, 5]])).tolist() == [[[1, 2], [3, 4], [3.5, 4.5]]]


def test_softcap_values() -> None:
    """30 tanh(z / 30) at the points of section 8.9."""
    z = torch.tensor([[1.0], [15], [30], [60], [-45]], dtype=torch.float64)
    capped = softcapped_logits(z, torch.ones(1, 1, dtype=torch.float64), 30.0).flatten()
    expected = torch.tensor([0.99962979, 13.86351472, 22.84782468, 28.92082740, -27.15444761], dtype=torch.float64)
    torch.testing.assert_close(capped, expected, rtol=0, atol=1e-8)


def test_depth_scales() -> None:
    """Block i reads its input times 1 / sqrt(i + 1) (section 8.9)."""
    found = [block.depth_scale for block in GPT(RECORD, 64).blocks]
    expected = [1, 0.707107, 0.577350, 0.5, 0.447214, 0.408248, 0.377964, 0.353553, 0.333333, 0.316228, 0.301511]
    assert found == pytest.approx(expected, abs=1e-6)


def test_norm_of_a_small_vector_shows_its_epsilon() -> None:
    """A constant 1e-3, as bfloat16 holds it, gives the values of section 8.9 in both precisions."""
    small = torch.full((512,), 1e-3, dtype=torch.bfloat16)
    assert float(rms_norm(small.float())[0]) == pytest.approx(0.94518954, abs=1e-6)
    assert float(rms_norm(small)[0]) == 0.9453125


def test_fake_quantised_rows() -> None:
    """Without the published floor a row's largest weight is exact; the gradient passes as one (sections 3.11, 8.8)."""
    weight = torch.tensor([[3.1, -3.2, 0.05], [0.62, 0.023, -0.012]], requires_grad=True)
    rounded = fake_quantise(weight, 6)
    expected = torch.tensor([[3.0967741, -3.2, 0], [0.62, 0.02, -0.02]])
    torch.testing.assert_close(rounded, expected, rtol=0, atol=1e-5)
    rounded.sum().backward()
    assert weight.grad is not None and weight.grad.eq(1).all()


def test_tiny_model_end_to_end(small_models: ModuleType) -> None:
    """Streams after each block, logits and losses of section 8.10, in float64."""
    model = small_models.spec_model()
    weights = dict(model.named_parameters())
    assert sum(value.numel() for value in weights.values()) == 2113
    first = weights["embedding.weight"].flatten()[:3].tolist()
    assert first == pytest.approx([0.420735, 0.495832, 0.337732], abs=1e-6)
    tokens, targets = torch.tensor([TOKENS[:6]]), torch.tensor(TOKENS[1:7])
    assert pair_hash(tokens, 11)[0].tolist() == [10, 0, 4, 6, 0, 6]
    streams: list[torch.Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _block, _args, out: streams.append(out.detach()[0]))
    with torch.no_grad():
        smeared = model.embed(tokens)[0]
        logits = model(tokens)[0]
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    for found, expected in (
        (smeared[0], "0.53094597 0.59121094 0.18799782 0.19721861 -0.57194847 -0.35025962 -0.94230710 -0.04871357"),
        (streams[0][0], "-2.61314021 2.15263379 0.57952073 -1.72884039 0.98304788 0.44549947 -2.17453311 1.17142072"),
        (
            streams[1][5],
            "-2.37948397 0.41862414 0.65760845 -0.68107849 -0.13652462 -0.11032292 -0.66280310 -0.02475708",
        ),
        (streams[2][5], "-0.93868574 1.11415652 -0.66064995 -0.11567744 1.57216452 -0.98889847 -0.54073102 0.59011744"),
        (logits[0, :4], "0.13274846 0.52034261 0.67433797 0.52571464"),
        (logits[5, :4], "0.06890009 0.32634147 0.43728740 0.35196792"),
        (losses, "2.49045368 3.44363172 2.49279508 2.25673446 2.88935244 2.99441572"),
    ):
        assert found.tolist() == pytest.approx([float(word) for word in expected.split()], abs=1e-6)
    assert float(losses.mean()) == pytest.approx(2.76123052, abs=1e-7)


def test_tiny_model_gradient_norms(small_models: ModuleType) -> None:
    """Loss and gradient norms of tokens 0..8 as one sequence (section 8.10)."""
    model = small_models.spec_model()
    loss = model.loss(torch.tensor([TOKENS[:8]]), torch.tensor([TOKENS[1:9]]))
    loss.backward()
    norms = {name: float(value.grad.norm()) for name, value in model.named_parameters() if value.grad is not None}
    assert float(loss.detach()) == pytest.approx(2.81861258, abs=1e-6)
    assert math.hypot(*norms.values()) == pytest.approx(21.85379157, abs=1e-5)
    for name, expected in {
        "embedding.weight": 10.522033,
        "banks.query_output": 5.837627,
        "banks.key_value": 9.682429,
        "banks.up": 3.439217,
        "banks.down": 1.051625,
        "bigram.embedding.weight": 1.028388,
        "smear.gate": 0.857100,
        "skip_weights": 0.138094,
        "value_embedding.embedding.weight": 0.055106,
    }.items():
        assert norms[name] == pytest.approx(expected, abs=1e-5), name


def test_bfloat16_activations_keep_the_parameters_and_stay_near(small_models: ModuleType) -> None:
    """With bfloat16 activations the stream is bfloat16, gradients keep their parameters' dtype."""
    model = GPT(small_models.SPEC, 16, seed=2)
    inputs, targets = torch.tensor([TOKENS[:8]]), torch.tensor([TOKENS[1:9]])
    exact = float(model.loss(inputs, targets).detach())
    model.activation_dtype = torch.bfloat16
    assert model.hidden(inputs).dtype == torch.bfloat16
    loss = model.loss(inputs, targets)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(exact, rel=0.01)
    assert all(value.grad is not None and value.grad.dtype == value.dtype for value in model.parameters())
