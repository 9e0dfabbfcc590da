"""Heads that predict further ahead: really trained, harmless at the start, and gone from what is delivered."""

import math

import pytest
import torch
from torch.nn import functional

from paramgolf.errors import RecipeError
from paramgolf.model.arithmetic import parameter_count
from paramgolf.optim.schedule import StepSettings
from paramgolf.ranks import Ranks
from paramgolf.recipe import Recipe, TrainRecipe
from paramgolf.recipes import get_recipe
from paramgolf.train.compiled import TrainingLoss
from paramgolf.train.future import FutureHeads
from paramgolf.train.state import TrainState, delivered
from paramgolf.train.step import Work, backward, one_step

FULL_RATE = StepSettings(1.0, 0.95)


def work_of(state: TrainState, recipe: Recipe, windows: object) -> Work:
    return Work(recipe, windows, TrainingLoss(state.objective), Ranks())  # type: ignore[arg-type]  # as train's


def test_zero_heads_cost_the_logarithm_of_the_vocabulary() -> None:
    """Oracle O6: heads of zeros give ln 1024 = 6.9314718056, 0.15 of it is 1.0397207708."""
    heads = FutureHeads(2, 1024, 8)
    loss = heads.loss(torch.randn(3, 10, 8), torch.randint(0, 1024, (3, 10)), 30.0)
    assert loss.item() == pytest.approx(6.9314718056, abs=1e-6)
    assert 0.15 * loss.item() == pytest.approx(1.0397207708, abs=1e-6)


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_each_head_predicts_its_own_distance(heads: int) -> None:
    """The loss is the plain mean of cross-entropies against targets k further on, without the last k positions."""
    draw = torch.Generator().manual_seed(0)
    h = torch.randn(2, 7, 5, generator=draw, dtype=torch.float64)
    targets = torch.randint(0, 11, (2, 7), generator=draw)
    future = FutureHeads(heads, 11, 5).double()
    with torch.no_grad():
        future.weight.normal_(generator=draw)
    expected = []
    for k in range(1, heads + 1):
        each = []
        for sequence in range(2):
            for t in range(7 - k):
                logits = 3.0 * torch.tanh(future.weight[k - 1] @ h[sequence, t] / 3.0)
                each.append(functional.cross_entropy(logits, targets[sequence, t + k]))
        assert len(each) == 2 * (7 - k)
        expected.append(torch.stack(each).mean())
    assert future.loss(h, targets, 3.0).item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-12)


def test_positions_without_a_target_do_not_count() -> None:
    """Head k ignores the last k states and the first k targets, whatever they hold."""
    draw = torch.Generator().manual_seed(1)
    h, targets = torch.randn(2, 6, 4, generator=draw), torch.randint(0, 9, (2, 6), generator=draw)
    future = FutureHeads(1, 9, 4)
    with torch.no_grad():
        future.weight.normal_(generator=draw)
    before = future.loss(h, targets, 30.0).item()
    h[:, -1] = 77.0
    targets[:, 0] = (targets[:, 0] + 1) % 9
    assert future.loss(h, targets, 30.0).item() == before
    targets[:, 1] = (targets[:, 1] + 1) % 9
    assert future.loss(h, targets, 30.0).item() != before


def test_the_trunk_feels_nothing_at_first(tiny, counting, with_train) -> None:
    """Oracle O6: with heads of zeros every gradient of the model is bitwise that of a run without heads."""
    gradients, reported = [], []
    for recipe in (tiny, with_train(tiny, future_heads=2)):
        state = TrainState.fresh(recipe, counting.vocab)
        reported.append(backward(state, work_of(state, recipe, counting), FULL_RATE).item())
        gradients.append({name: p.grad for name, p in state.model.named_parameters()})
    assert reported[0] == reported[1]
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_heads_are_trained(tiny, counting, with_train) -> None:
    """After a step the heads are not zero, moved at future_lr; their loss falls, and then the trunk feels them."""
    recipe = with_train(tiny, future_heads=2)
    state = TrainState.fresh(recipe, counting.vocab)
    future = state.objective.future
    assert future is not None and not future.weight.any()
    work = work_of(state, recipe, counting)
    one_step(state, work, FULL_RATE)
    # AdamW's first step is the rate itself, whatever the gradient, where that is not nought.
    assert future.weight.abs().max().item() == pytest.approx(recipe.optim.future_lr, rel=1e-3)
    assert all(head.any() for head in future.weight)
    assert future.weight.grad is None
    for _ in range(60):
        one_step(state, work, FULL_RATE)
    inputs, targets = (torch.from_numpy(x) for x in counting.batch(9_999, 4))
    h = state.model.hidden(inputs)
    assert future.loss(h, targets, 30.0).item() < 0.7 * math.log(counting.vocab)
    future.loss(h, targets, 30.0).backward()
    assert all(p.grad.abs().max() > 0 for p in state.model.banks.parameters())


def test_the_reported_loss_is_the_next_token_alone(tiny, counting, with_train) -> None:
    """A step reports the model's own loss, not the sum that it minimises."""
    recipe = with_train(tiny, future_heads=2, future_weight=5.0)
    state = TrainState.fresh(recipe, counting.vocab)
    inputs, targets = (torch.from_numpy(x) for x in counting.batch(0, 4))
    expected = state.model.loss(inputs, targets).item()
    assert one_step(state, work_of(state, recipe, counting), FULL_RATE).loss == pytest.approx(expected, rel=1e-6)


def test_states_are_computed_once(tiny, counting, with_train, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next token and all heads share one pass through the blocks."""
    recipe = with_train(tiny, future_heads=3)
    state, calls = TrainState.fresh(recipe, counting.vocab), []
    block = state.model.blocks[0]
    block.register_forward_hook(lambda *_: calls.append(1))
    backward(state, work_of(state, recipe, counting), FULL_RATE)
    assert calls == [1]


def test_nothing_of_the_heads_is_delivered(tiny, counting, with_train) -> None:
    """Neither the average nor the live weights that a run may deliver hold a head; a checkpoint does."""
    recipe = with_train(tiny, future_heads=2)
    state = TrainState.fresh(recipe, counting.vocab)
    exported = set(state.model.exported_weights())
    assert set(delivered(state.capture())) == exported
    one_step(state, work_of(state, recipe, counting), FULL_RATE)
    assert set(delivered(state.capture())) == exported
    assert "future.weight" in state.capture() and "average/future.weight" not in state.capture()


def test_parameters_of_the_record() -> None:
    """Oracle O20: 27,038,923 exported numbers, 28,087,499 in training with two heads."""
    recipe = get_recipe("pr1185")
    with torch.device("meta"):
        heads = FutureHeads(recipe.train.future_heads, 1024, recipe.model.width)
    exported = parameter_count(recipe.model, 1024)
    assert exported == 27_038_923
    assert exported + sum(p.numel() for p in heads.parameters()) == 28_087_499


def test_every_trained_number_has_one_optimizer(tiny, counting, with_train) -> None:
    """Spec pr1185.md 7.1 h: all that learns is in exactly one group, and a step leaves no gradient behind."""
    recipe = with_train(tiny, future_heads=2)
    state = TrainState.fresh(recipe, counting.vocab)
    groups = [*state.optimizers.muon.param_groups, *state.optimizers.adam.param_groups]
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in state.learnt().values())
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates[id(state.learnt()["future.weight"])] == recipe.optim.future_lr
    one_step(state, work_of(state, recipe, counting), FULL_RATE)
    assert all(p.grad is None for p in state.learnt().values())


def test_heads_do_not_look_into_the_next_document() -> None:
    """In a packed row only targets of the same document count, its end included: values and gradients of a walk."""
    draw = torch.Generator().manual_seed(2)
    tokens = [1, 5, 6, 1, 1, 7, 8, 9, 2, 1, 3]
    targets = torch.tensor([tokens[1:]])
    caps = torch.tensor([3.0, 2.0], dtype=torch.float64, requires_grad=True)
    future = FutureHeads(2, 11, 5).double()
    with torch.no_grad():
        future.weight.normal_(generator=draw)
    h = torch.randn(1, 10, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    expected = []
    for k in (1, 2):
        each = []
        for t in range(10 - k):
            between = tokens[t + 1 : t + 1 + k]
            if 1 not in between:
                scores = future.weight[k - 1] @ h[0, t]
                cap = torch.where(scores > 0, *caps.detach())
                each.append(functional.cross_entropy(cap * torch.tanh(scores / cap), targets[0, t + k]))
        assert 0 < len(each) < 10 - k
        expected.append(torch.stack(each).mean())
    wanted = torch.stack(expected).mean()
    found = future.loss(h, targets, caps, boundary_id=1)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-12)
    for one, other in zip(*(torch.autograd.grad(x, [h, future.weight]) for x in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(future.loss(h, targets, caps, boundary_id=1), [caps])


def test_documents_of_one_token_leave_the_heads_nothing() -> None:
    """A row of boundaries alone has no target further ahead: a loss of 0, and no gradient."""
    future = FutureHeads(1, 9, 4)
    h = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = future.loss(h, torch.ones(1, 6, dtype=torch.int64), 30.0, boundary_id=1)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert not h.grad.any() and not future.weight.grad.any()


def test_heads_beyond_the_shortest_context_are_refused() -> None:
    """Without packing a head needs a target in the shortest sequences, too; packed rows are longer than a context."""
    grown = {"sequence": 16, "batch_tokens": 64, "contexts": (4, 16), "contexts_until": (0.5,)}
    with pytest.raises(RecipeError, match=r"future_heads=3 look beyond the 4 of train\.contexts=4,16"):
        TrainRecipe(future_heads=3, **grown)
    TrainRecipe(future_heads=2, **grown)
    TrainRecipe(future_heads=3, packed=True, order="stream", **grown)
