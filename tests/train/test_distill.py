"""The average as teacher: the right divergence, no teacher too early, copies on time."""

import dataclasses

import pytest
import torch

from paramgolf.errors import RecipeError
from paramgolf.optim.schedule import StepSettings
from paramgolf.ranks import Ranks
from paramgolf.recipe import Recipe
from paramgolf.train.compiled import TrainingLoss
from paramgolf.train.distill import divergence
from paramgolf.train.state import TrainState
from paramgolf.train.step import Work, backward, one_step

TAUGHT = StepSettings(1.0, 0.95, distils=True)


def work_of(state: TrainState, recipe: Recipe, windows: object) -> Work:
    return Work(recipe, windows, TrainingLoss(state.objective), Ranks())  # type: ignore[arg-type]  # as train's


def two_outcomes(share: float, temperature: float) -> torch.Tensor:
    """Logits of two tokens that have `share` and the rest at a temperature."""
    return temperature * torch.tensor([share, 1 - share], dtype=torch.float64).log()


def test_published_oracle() -> None:
    """Oracle O15: a token's divergence of 0.1 at temperature 1.6 is 0.256, whatever the shape of the batch."""
    low, high = 0.5, 1 - 1e-9
    for _ in range(80):  # KL((.5, .5) ‖ (p, 1 - p)) = 0.1
        p = (low + high) / 2
        kl = 0.5 * (torch.tensor(0.5 / p).log() + torch.tensor(0.5 / (1 - p)).log()).item()
        low, high = (p, high) if kl < 0.1 else (low, p)
    teacher, student = two_outcomes(0.5, 1.6), two_outcomes(low, 1.6)
    for shape in ((1, 1), (2, 3), (4, 7)):
        found = divergence(student.expand(*shape, 2), teacher.expand(*shape, 2), 1.6)
        assert found.item() == pytest.approx(0.256, abs=1e-6)


def test_divergence_by_definition() -> None:
    """It is torch's own KL at temperature one, zero between equal rows, and blind to shifts of the logits."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    kl = torch.nn.functional.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="none").sum(-1).mean()
    assert divergence(student, teacher, 1.0).item() == pytest.approx(kl.item(), rel=1e-12)
    assert divergence(student, student + 3.0, 1.7).item() == pytest.approx(0.0, abs=1e-12)


def test_swa_cannot_teach(tiny, counting, with_train, with_optim) -> None:
    """A recipe that wants a teacher without a running average is refused with both settings."""
    recipe = with_optim(with_train(tiny, distill_weight=0.1), average="swa")
    with pytest.raises(RecipeError, match=r"distill_weight=0\.1 .* optim\.average=swa"):
        TrainState.fresh(recipe, counting.vocab)


def test_teacher_is_a_due_copy_of_the_average(tiny, counting, with_train, with_optim) -> None:
    """None until the average remembers 1 / (1 - decay) updates; then a copy at once and at every due step."""
    recipe = with_optim(with_train(tiny, distill_weight=0.1, distill_every=4), ema_decay=0.8)
    state = TrainState.fresh(recipe, counting.vocab)
    work, teacher, copied = work_of(state, recipe, counting), state.objective.teacher, {}
    assert teacher is not None and not teacher.weights()
    for step in range(12):
        expected = {n: v.clone() for n, v in state.average.weights().items()}
        one_step(state, work, TAUGHT)
        assert teacher.taught == (step >= 5)
        if step in (5, 8):
            copied = expected
        for name, value in teacher.weights().items():
            assert torch.equal(value, copied[name]), (step, name)


def test_gradient_is_that_of_the_divergence(tiny, counting, with_train) -> None:
    """The taught gradient is the plain one plus the weight times the divergence's; the teacher gets none."""
    recipe = with_train(tiny, distill_weight=0.7, distill_temperature=2.0)
    other = TrainState.fresh(dataclasses.replace(recipe, seed=5), counting.vocab)
    gradients = []
    for settings in (dataclasses.replace(TAUGHT, distils=False), TAUGHT):
        state = TrainState.fresh(recipe, counting.vocab)
        assert state.objective.teacher is not None
        state.objective.teacher.copy(other.weights())
        backward(state, work_of(state, recipe, counting), settings)
        gradients.append({name: p.grad for name, p in state.model.named_parameters()})
        assert all(p.grad is None for p in state.objective.teacher.model.parameters())
    model = TrainState.fresh(recipe, counting.vocab).model
    inputs = torch.from_numpy(counting.batch(0, 4)[0])
    apart = divergence(model(inputs), other.model(inputs).detach(), 2.0)
    assert apart.item() > 0
    (0.7 * apart).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            gradients[1][name], gradients[0][name] + parameter.grad, rtol=1e-4, atol=1e-7, msg=name
        )
