"""The average of the weights: unbiased, float32, resumable; the plain mean for SWA."""

import numpy as np
import pytest
import torch

from paramgolf.optim.average import WeightAverage


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, 1.0])
def test_average_equals_the_weighted_mean(decay: float) -> None:
    """After n updates the average is the mean with weights decay^(n-i), which sum to one at any n."""
    values = np.random.default_rng(0).normal(size=(7, 3))
    average = WeightAverage({"w": torch.full((3,), 1e6)}, decay)
    for n in range(1, 8):
        average.update({"w": torch.tensor(values[n - 1])})
        shares = np.array([decay ** (n - i) for i in range(1, n + 1)]) if decay else np.eye(n)[-1]
        expected = (shares[:, None] * values[:n]).sum(axis=0) / shares.sum()
        np.testing.assert_allclose(average.weights()["w"].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_average_is_its_own_float32_copy() -> None:
    """Updating the average leaves the weights alone, and bfloat16 weights are averaged in float32."""
    weight = torch.ones(4, dtype=torch.bfloat16)
    average = WeightAverage({"w": weight}, 0.9)
    average.update({"w": weight})
    average.update({"w": torch.zeros(4, dtype=torch.bfloat16)})
    assert average.weights()["w"].dtype == torch.float32
    assert torch.equal(weight, torch.ones(4, dtype=torch.bfloat16))
    assert average.weights()["w"][0].item() == pytest.approx(0.9 / 1.9)


def test_average_goes_on_after_a_reload() -> None:
    """A loaded average continues bitwise as the saved one."""
    steps = [{"w": torch.randn(5, generator=torch.Generator().manual_seed(i))} for i in range(6)]
    whole, first = WeightAverage(steps[0], 0.9), WeightAverage(steps[0], 0.9)
    for step in steps:
        whole.update(step)
    for step in steps[:3]:
        first.update(step)
    second = WeightAverage(steps[0], 0.9)
    second.load({name: value.clone() for name, value in first.weights().items()}, first.updates)
    for step in steps[3:]:
        second.update(step)
    assert torch.equal(whole.weights()["w"], second.weights()["w"])


@pytest.mark.parametrize("steps,expected", [(1, 0.003), (10, 0.02959822), (231, 0.500447), (1000, 0.95043692)])
def test_published_average_is_this_one_with_its_bias(steps: int, expected: float) -> None:
    """Spec pr549.md 8.6: from 0 toward weights 0.997^(n-i), the published value is ours times 1 - 0.997^n."""
    average = WeightAverage({"w": torch.zeros(1)}, 0.997)
    for _ in range(steps):
        average.update({"w": torch.ones(1)})
    assert average.weights()["w"].item() * (1 - 0.997**steps) == pytest.approx(expected, abs=1e-6)


def test_published_average_of_moving_weights() -> None:
    """With weights that move, ours times 1 - d^n plus the initial weights times d^n is the published recursion."""
    decay, values = 0.9, np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
    published = start = np.full(4, 3.0)
    average = WeightAverage({"w": torch.tensor(start, dtype=torch.float32)}, decay)
    for value in values:
        published = decay * published + (1 - decay) * value
        average.update({"w": torch.from_numpy(value)})
    kept = decay ** len(values)
    np.testing.assert_allclose(average.weights()["w"].numpy() * (1 - kept) + start * kept, published, rtol=1e-5)


@pytest.mark.parametrize("steps,left", [(462, 0.49981), (7_185, 2.07e-5)])
def test_memory_of_the_published_average(steps: int, left: float) -> None:
    """Oracle O22 of spec pr1185.md: 0.9985 keeps half of its start after 462 steps; ours keeps none of it."""
    average = WeightAverage({"w": torch.ones(1)}, 0.9985)
    for _ in range(steps):
        average.update({"w": torch.zeros(1)})
    assert average.weights()["w"].item() == 0.0
    newest = WeightAverage({"w": torch.zeros(1)}, 0.9985)
    for step in range(steps):
        newest.update({"w": torch.full((1,), float(step == 0))})
    # What the first of n updates still counts for, from which the share of the start follows: d^(n-1) (1-d) / (1-d^n).
    first = newest.weights()["w"].item()
    kept = first * 0.9985 / (1 - 0.9985 + first * 0.9985)
    assert kept == pytest.approx(left, rel=2e-3)
