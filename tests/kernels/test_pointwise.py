"""The CPU paths of norm, activation and loss equal their plain definitions, in values and in gradients."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from paramgolf.kernels import loss as loss_module
from paramgolf.kernels.loss import plain_softcapped_loss, softcapped_loss
from paramgolf.kernels.norm import plain_rms_norm, rms_norm
from paramgolf.kernels.own_value import exclude_own_value, plain_exclude_own_value
from paramgolf.kernels.relu_squared import plain_relu_squared, relu_squared
from paramgolf.kernels.turned_norm import plain_turned_norm, turned_norm

DTYPES = [(torch.float64, 1e-12), (torch.float32, 3e-6)]


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return x.requires_grad_()


def compare(call, fast, plain, leaves: tuple[torch.Tensor, ...], tolerance: float) -> None:
    """`call` of both gives the same values and gradients."""
    found, expected = call(fast), call(plain)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    weight = draw(*found.shape, dtype=found.dtype, seed=2).detach()
    gradients = [torch.autograd.grad((y * weight).sum(), leaves) for y in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("fast,plain", [(rms_norm, plain_rms_norm), (relu_squared, plain_relu_squared)])
@pytest.mark.parametrize("dtype,tolerance", DTYPES)
@pytest.mark.parametrize("shape", [(7,), (5, 8), (2, 3, 4, 6)])
def test_elementwise_equals_plain(fast, plain, dtype: torch.dtype, tolerance: float, shape: tuple[int, ...]) -> None:
    """Values and gradients of any shape equal the definition's."""
    x, weight = draw(*shape, dtype=dtype), draw(*shape, dtype=dtype, seed=1).detach()
    torch.testing.assert_close(fast(x), plain(x), rtol=0, atol=tolerance)
    gradients = [torch.autograd.grad((f(x) * weight).sum(), x)[0] for f in (fast, plain)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=10 * tolerance)
    assert gradcheck(fast, (draw(*shape, seed=2),))


@pytest.mark.parametrize("scale", [0.5, -3.0])
def test_norm_times_a_scale_equals_plain(scale: float) -> None:
    """A scale multiplies the norm, in values and in gradients, as it does in the definition."""
    x = draw(5, 8)
    torch.testing.assert_close(rms_norm(x, scale), plain_rms_norm(x) * scale, rtol=0, atol=1e-12)
    assert gradcheck(lambda x: rms_norm(x, scale), (x,))


@pytest.mark.parametrize("dtype,tolerance", DTYPES)
@pytest.mark.parametrize("heads,groups", [(4, 4), (6, 2), (2, 1)])
def test_excluded_values_equal_plain(dtype: torch.dtype, tolerance: float, heads: int, groups: int) -> None:
    """What is left without the own value equals the definition, and so do the gradients; heads may share a value."""
    read, value = draw(2, 3, heads, 8, dtype=dtype), draw(2, 3, groups, 8, dtype=dtype, seed=1)
    compare(lambda f: f(read, value), exclude_own_value, plain_exclude_own_value, (read, value), tolerance)
    assert gradcheck(exclude_own_value, (draw(1, 2, heads, 3), draw(1, 2, groups, 3, seed=1)))


def test_no_value_excludes_nothing() -> None:
    """Where the own value is nought all that was read stays, and no gradient reaches the value."""
    read, value = draw(1, 2, 2, 4), torch.zeros(1, 2, 1, 4, dtype=torch.float64, requires_grad=True)
    left = exclude_own_value(read, value)
    left.sum().backward()
    assert torch.equal(left, read) and torch.equal(value.grad, torch.zeros_like(value))
    assert torch.equal(read.grad, torch.ones_like(read))


@pytest.mark.parametrize("dtype,tolerance", DTYPES)
@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize("own_positions", [False, True])
def test_turned_norms_equal_plain(dtype: torch.dtype, tolerance: float, count: int, own_positions: bool) -> None:
    """Norm and rotary as one step equal the two, in values and gradients, with angles of each row or of all."""
    x = draw(2, 3, 4, 8, dtype=dtype)
    angles = draw(*((2, 3) if own_positions else (3,)), 1, count // 2, dtype=dtype, seed=1).detach()
    cos, sin = torch.cat([angles.cos()] * 2, dim=-1), torch.cat([angles.sin(), -angles.sin()], dim=-1)
    compare(lambda f: f(x, cos, sin), turned_norm, plain_turned_norm, (x,), tolerance)


def test_norm_of_zero_is_zero() -> None:
    """A zero vector stays zero and its gradient is finite: 1 / sqrt(1.1920929e-07) times what comes in."""
    x = torch.zeros(2, 4, requires_grad=True)
    rms_norm(x).sum().backward()
    assert torch.equal(rms_norm(x), torch.zeros(2, 4))
    torch.testing.assert_close(x.grad, torch.full((2, 4), 2896.3093))


def test_gradient_with_strides() -> None:
    """Gradients that arrive transposed, as from attention, are handled."""
    x = draw(2, 3, 4, 6)
    weight = draw(2, 4, 3, 6, seed=1).detach()
    fast, plain = (torch.autograd.grad((f(x).transpose(1, 2) * weight).sum(), x)[0] for f in (rms_norm, plain_rms_norm))
    torch.testing.assert_close(fast, plain)


@pytest.mark.parametrize("dtype,tolerance", DTYPES)
@pytest.mark.parametrize("count", [1, 5, 64])
@pytest.mark.parametrize("softcap", [2.0, 30.0, 60.0, 500.0])
def test_piecewise_loss_equals_plain(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float, count: int, softcap: float
) -> None:
    """Loss and both gradients equal the definition's, also where the last piece is short and logits are saturated."""
    monkeypatch.setattr(loss_module, "PIECE_BYTES", 4 * 50 * 7)  # pieces of 7 positions
    h, head = draw(count, 12, dtype=dtype), draw(50, 12, dtype=dtype, seed=1)
    targets = torch.randint(50, (count,), generator=torch.Generator().manual_seed(2))
    results = []
    for f in (softcapped_loss, plain_softcapped_loss):
        value = f(h, head, targets, softcap)
        results.append((value, *torch.autograd.grad(value * 3.0, (h, head))))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=0, atol=10 * tolerance)


def test_loss_gradient_by_differences() -> None:
    """The gradients of the piecewise loss equal finite differences."""
    targets = torch.tensor([0, 3, 3, 1, 2])
    assert gradcheck(lambda h, head: softcapped_loss(h, head, targets, 5.0), (draw(5, 3), draw(4, 3, seed=1)))


def test_loss_without_gradients() -> None:
    """Under no_grad, or with one of the two frozen, value and remaining gradient stay right."""
    h, head, targets = draw(9, 4), draw(6, 4, seed=1), torch.arange(9) % 6
    with torch.no_grad():
        bare = softcapped_loss(h, head, targets, 30.0)
    torch.testing.assert_close(bare, plain_softcapped_loss(h, head, targets, 30.0).detach())
    (whole,) = torch.autograd.grad(plain_softcapped_loss(h, head, targets, 30.0), head)
    (alone,) = torch.autograd.grad(softcapped_loss(h.detach(), head, targets, 30.0), head)
    torch.testing.assert_close(alone, whole)


def test_extreme_logits_stay_finite() -> None:
    """With states so large that every logit is at its cap, loss and gradients are finite and the loss is known."""
    h = torch.full((3, 4), 1e4, requires_grad=True)
    head = torch.cat([torch.ones(1, 4), -torch.ones(7, 4)]).requires_grad_()
    value = softcapped_loss(h, head, torch.tensor([0, 1, 1]), 60.0)
    value.backward()
    assert value.item() == pytest.approx(2 / 3 * 120.0 + math.log1p(7 * math.exp(-120.0)))
    assert torch.isfinite(h.grad).all()
    assert torch.isfinite(head.grad).all()
