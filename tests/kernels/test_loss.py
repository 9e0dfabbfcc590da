"""The loss under two learnt caps: the path of a CPU equals the definition, and the caps get their gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from paramgolf.kernels import loss as loss_module
from paramgolf.kernels.loss import caps_of, plain_softcapped_loss, softcapped_logits, softcapped_loss


def draw(count: int, width: int = 6, vocabulary: int = 11) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    h = torch.randn(count, width, dtype=torch.float64, generator=generator).requires_grad_()
    head = (2.0 * torch.randn(vocabulary, width, dtype=torch.float64, generator=generator)).requires_grad_()
    return h, head, torch.randint(vocabulary, (count,), generator=generator)


@settings(max_examples=60, deadline=None)
@given(above=st.floats(0.3, 70.0), below=st.floats(0.3, 70.0), count=st.integers(1, 20))
def test_two_caps_equal_the_definition(above: float, below: float, count: int) -> None:
    """Loss and the gradients of states, head and caps equal the definition's, for caps beyond what exp can take too."""
    h, head, targets = draw(count)
    caps = torch.tensor([above, below], dtype=torch.float64, requires_grad=True)
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_module, "PIECE_BYTES", 4 * 11 * 7)  # pieces of 7 positions
        for loss_of in (softcapped_loss, plain_softcapped_loss):
            value = loss_of(h, head, targets, caps)
            results.append((value, *torch.autograd.grad(value * 3.0, (h, head, caps))))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-10)


def test_gradients_by_differences() -> None:
    """All three gradients equal finite differences, on both sides of a score of 0."""
    h, head, targets = draw(5)
    caps = torch.tensor([3.0, 1.5], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda *given: softcapped_loss(given[0], given[1], targets, given[2]), (h, head, caps))


def test_equal_caps_are_one_cap() -> None:
    """Two caps of 30 give the bits of one cap of 30: loss, gradients and logits."""
    h, head, targets = draw(9)
    caps = torch.tensor([30.0, 30.0], dtype=torch.float64, requires_grad=True)
    one, two = (softcapped_loss(h, head, targets, softcap) for softcap in (30.0, caps))
    assert torch.equal(one, two)
    for a, b in zip(torch.autograd.grad(one, (h, head)), torch.autograd.grad(two, (h, head)), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(softcapped_logits(h, head, 30.0), softcapped_logits(h, head, caps))


@pytest.mark.parametrize("caps", [[100.0, 30.0], [30.0, -30.0]])
def test_strange_caps_are_left_to_the_definition(caps: list[float]) -> None:
    """A cap that is too high for exp, or went below 0, still has a finite loss: that of its size."""
    h, head, targets = draw(6)
    learnt = torch.tensor(caps, dtype=torch.float64, requires_grad=True)
    value = softcapped_loss(h, head, targets, learnt)
    assert torch.equal(value, plain_softcapped_loss(h, head, targets, learnt))
    sizes = torch.tensor([abs(cap) for cap in caps], dtype=torch.float64)
    torch.testing.assert_close(value, plain_softcapped_loss(h, head, targets, sizes), rtol=0, atol=1e-12)


def test_only_the_caps_learn() -> None:
    """With states and head frozen the caps' gradient is what it was, and none is made under no_grad."""
    h, head, targets = draw(8)
    caps = torch.tensor([3.0, 2.0], dtype=torch.float64, requires_grad=True)
    (whole,) = torch.autograd.grad(softcapped_loss(h, head, targets, caps), caps)
    (alone,) = torch.autograd.grad(softcapped_loss(h.detach(), head.detach(), targets, caps), caps)
    assert torch.equal(whole, alone) and whole.ne(0).all()
    with torch.no_grad():
        assert not softcapped_loss(h, head, targets, caps).requires_grad


def test_extra_scores_come_before_the_cap() -> None:
    """What an adapter of the head adds is capped with the rest, in float32 though the states are bfloat16."""
    h, head, _ = draw(4)
    extra = torch.full((4, 11), 7.0, dtype=torch.float64)
    found = softcapped_logits(h, head, 2.0, extra)
    torch.testing.assert_close(found, 2.0 * torch.tanh((h @ head.T + 7.0) / 2.0))
    half = softcapped_logits(h.bfloat16(), head.bfloat16(), torch.tensor([2.0, 3.0]), extra.bfloat16())
    assert half.dtype == torch.float32


def test_caps_as_numbers() -> None:
    """A pair is read as it is, one cap counts twice."""
    assert caps_of(30.0) == (30.0, 30.0)
    assert caps_of(torch.tensor([1.5, 2.0])) == (1.5, 2.0)
