"""CROWN-Q: the published penalty has the published numbers and no effect; the distance draws weights to their steps."""

import pytest
import torch

from paramgolf.model.fake_quantise import fake_quantise
from paramgolf.optim.schedule import StepSettings
from paramgolf.ranks import Ranks
from paramgolf.train.compiled import TrainingLoss
from paramgolf.train.crown import crown_penalty, published_penalty, rounding_distance
from paramgolf.train.state import TrainState
from paramgolf.train.step import Work, backward


def test_published_oracle() -> None:
    """Oracle O12: value and full gradient, the part through the row's largest weight included."""
    bank = torch.tensor([[[1.0, -2.0], [0.5, 0.0]]], dtype=torch.float64, requires_grad=True)
    # The function works in float32: oracles to seven digits.
    penalty = published_penalty(bank, 6)
    assert penalty.item() == pytest.approx(4.349310614e-4, rel=1e-6)
    assert 0.02 * penalty.item() == pytest.approx(8.698621228e-6, rel=1e-6)
    penalty.backward()
    expected = [1.734304544e-4, -7.804370447e-4, 1.083940340e-5, 0.0]
    assert bank.grad.flatten().tolist() == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_published_gradient_by_differences() -> None:
    """The gradient of the published form is the slope of its value, for weights without ties."""
    draw = torch.Generator().manual_seed(0)
    bank = torch.randn(2, 3, 5, generator=draw)
    variable = bank.clone().requires_grad_()
    published_penalty(variable, 4).backward()
    for index in ((0, 0, 0), (1, 2, 4), (0, 1, 3)):
        moved = []
        for shift in (1e-3, -1e-3):
            other = bank.clone()
            other[index] += shift
            moved.append(published_penalty(other, 4).item())
        assert variable.grad[index].item() == pytest.approx((moved[0] - moved[1]) / 2e-3, rel=0.02, abs=1e-6)


def test_published_form_has_no_effect() -> None:
    """Spec pr1185.md 2.6: on orthogonal matrices of the record's width, 0.02 of it adds nothing that float32 shows."""
    bank = torch.nn.init.orthogonal_(torch.empty(512, 512), generator=torch.Generator().manual_seed(0))[None]
    bank.requires_grad_()
    (0.02 * published_penalty(bank, 6)).backward()
    clipped = torch.full((), 0.3 / 27_038_923**0.5)  # each element of a gradient that is clipped to 0.3
    assert 0 < bank.grad.abs().max() < 1e-5 * clipped
    assert (clipped + bank.grad.square().mean().sqrt()).item() == clipped.item()


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_distance_is_that_to_the_rounding(bits: int) -> None:
    """The penalty is the distance to `fake_quantise`, its gradient the direction away from there, of length one."""
    bank = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(1)).requires_grad_()
    distance = rounding_distance(bank, bits)
    error = bank.detach() - fake_quantise(bank.detach(), bits)
    assert distance.item() == pytest.approx(error.norm().item(), rel=1e-6)
    distance.backward()
    torch.testing.assert_close(bank.grad, error / error.norm())
    assert bank.grad.norm().item() == pytest.approx(1.0, rel=1e-5)


def test_distance_of_a_rounded_bank() -> None:
    """On its grid, zeros included, a bank has distance (almost) zero and a gradient that is a number."""
    for bank in (torch.zeros(1, 3, 4), fake_quantise(torch.randn(1, 3, 4), 4)):
        variable = bank.clone().requires_grad_()
        distance = rounding_distance(variable, 4)
        distance.backward()
        assert distance.item() < 1e-5
        assert variable.grad.isfinite().all()


def test_distance_draws_to_the_grid() -> None:
    """A few hundred steps down its gradient alone leave nearly no error of rounding."""
    bank = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(2)).requires_grad_()
    before = rounding_distance(bank, 4).item()
    for step in range(400):
        (gradient,) = torch.autograd.grad(rounding_distance(bank, 4), bank)
        with torch.no_grad():
            bank -= 0.01 * (1 - step / 400) * gradient
    assert rounding_distance(bank, 4).item() < 0.05 * before


@pytest.mark.parametrize("form", ["rounding", "published"])
def test_penalty_adds_up_over_banks(form: str) -> None:
    """The penalty of several banks is the sum of their own."""
    banks = [torch.randn(1, 3, 4), torch.randn(2, 2, 5)]
    each = [crown_penalty([bank], 6, form).item() for bank in banks]  # type: ignore[arg-type]  # a parameter's
    assert crown_penalty(banks, 6, form).item() == pytest.approx(sum(each))  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["rounding", "published"])
def test_gradient_comes_once_a_step(tiny, counting, with_train, form: str) -> None:
    """Whatever the pieces of a batch, the banks' gradients grow by the weight times the penalty's, nothing else's."""
    recipe = with_train(tiny, crown_weight=0.5, crown_form=form, micro_tokens=32)
    gradients = []
    for crown in (False, True):
        state = TrainState.fresh(recipe, counting.vocab)
        work = Work(recipe, counting, TrainingLoss(state.objective), Ranks())
        backward(state, work, StepSettings(1.0, 0.9, crown=crown))
        gradients.append({name: p.grad for name, p in state.model.named_parameters()})
    model = TrainState.fresh(recipe, counting.vocab).model
    (0.5 * crown_penalty(model.banks.parameters(), 6, form)).backward()  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        added = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradients[1][name], gradients[0][name] + added, rtol=1e-5, atol=1e-9)
        assert added.any() == (name.startswith("banks.") and bool(parameter.any()))
