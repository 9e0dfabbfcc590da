"""Muon is what its source says: oracles of spec pr549.md 8.3 and 8.4, an SVD reference, and a plain per-matrix loop."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.optim.muon import Muon, by_shape, orthogonalise

FLOAT64 = torch.float64


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = FLOAT64) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def plain_orthogonalise(matrix: np.ndarray, steps: int) -> np.ndarray:
    """The iteration of spec pr549.md 3.2 for one matrix, in NumPy."""
    a, b, c = 3.4445, -4.7750, 2.0315
    rows, columns = matrix.shape
    x = matrix.T if rows > columns else matrix
    x = x / (np.sqrt((x**2).sum()) + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if rows > columns else x


ORACLES = [
    ([[2, 0], [0, 1]], [[0.68876282, 0], [0, 1.11416403]]),
    ([[1, 0], [0, 1]], [[1.10811121, 0], [0, 1.10811121]]),
    ([[3, 0], [4, 5]], [[0.92889666, -0.59212986], [0.25164578, 0.75865462]]),
    ([[1, 2, 3], [4, 5, 6]], [[-0.56829011, 0.05774194, 0.68377400], [0.56335470, 0.40561283, 0.24787096]]),
    ([[1, 1], [1, 1]], [[0.34821823, 0.34821823], [0.34821823, 0.34821823]]),
    ([[0, 0], [0, 0]], [[0, 0], [0, 0]]),
]


@pytest.mark.parametrize("given_rows,expected", ORACLES)
def test_oracles(given_rows: list[list[float]], expected: list[list[float]]) -> None:
    """Spec pr549.md 8.3: five steps in float64; the transpose gives the transpose."""
    matrix, result = torch.tensor(given_rows, dtype=FLOAT64), torch.tensor(expected, dtype=FLOAT64)
    # The oracles leave out the 1e-7 beside the norm, whose effect is below 1e-6 here.
    torch.testing.assert_close(orthogonalise(matrix), result, rtol=0, atol=1e-6)
    torch.testing.assert_close(orthogonalise(matrix.T), result.T, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 64), (48, 128), (128, 48), (1, 7), (7, 1)])
def test_close_to_the_polar_factor(shape: tuple[int, int]) -> None:
    """With U S Vᵀ of the input, the result is U S' Vᵀ: same directions, and well-started values in 0.68..1.21."""
    matrix = draw(*shape)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    inner = left.T @ orthogonalise(matrix) @ right.T
    off_diagonal = inner - torch.diag(inner.diagonal())
    assert off_diagonal.abs().max() < 1e-9
    started = values / values.norm() > 0.002
    reached = inner.diagonal()[started]
    assert (reached > 0.68).all()
    assert (reached < 1.21).all()
    assert inner.diagonal().min() > -1e-9
    if started.all():
        polar = left @ right
        assert (orthogonalise(matrix) - polar).norm() / polar.norm() < 0.33


def test_more_steps_do_not_drift() -> None:
    """The values stay in their band with ten steps as with five."""
    values = torch.linalg.svdvals(orthogonalise(draw(32, 64), steps=10))
    assert values.min() > 0.65
    assert values.max() < 1.21


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 12), st.integers(1, 6))
def test_batched_equals_plain(number: int, rows: int, columns: int, steps: int) -> None:
    """A batch of any shape gives, per matrix, what the plain NumPy loop gives."""
    batch = draw(number, rows, columns, seed=rows * 100 + columns)
    plain = np.stack([plain_orthogonalise(matrix.numpy(), steps) for matrix in batch])
    np.testing.assert_allclose(orthogonalise(batch, steps).numpy(), plain, rtol=0, atol=1e-9)


def test_two_steps_of_muon() -> None:
    """Spec pr549.md 8.4: lr 0.1, decay 0.04, momentum 0.9, from zero, two steps."""
    weight = torch.nn.Parameter(torch.zeros(2, 2, dtype=FLOAT64))
    muon = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.04)
    weight.grad = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=FLOAT64)
    muon.step()
    torch.testing.assert_close(
        weight.data, torch.tensor([[-0.06887628, 0], [0, -0.11141640]], dtype=FLOAT64), rtol=0, atol=1e-7
    )
    weight.grad = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=FLOAT64)
    muon.step()
    expected = torch.tensor([[-0.08399570, -0.07134104], [-0.07134104, -0.09595185]], dtype=FLOAT64)
    torch.testing.assert_close(weight.data, expected, rtol=0, atol=1e-7)


def test_batched_optimizer_equals_a_plain_loop() -> None:
    """Over five steps of mixed shapes, the optimizer equals momentum, decay and scale written out per matrix."""
    lr, momentum, decay = 0.03, 0.8, 0.1
    shapes = [(4, 6), (6, 4), (4, 6), (5, 5), (6, 4), (9, 3)]
    weights = [torch.nn.Parameter(draw(*shape, seed=i)) for i, shape in enumerate(shapes)]
    muon = Muon(weights, lr, momentum, decay)
    plain = [weight.detach().numpy().copy() for weight in weights]
    buffers = [np.zeros(shape) for shape in shapes]
    for step in range(5):
        for i, weight in enumerate(weights):
            weight.grad = draw(*shapes[i], seed=100 * step + i)
            g = weight.grad.numpy()
            buffers[i] = momentum * buffers[i] + g
            update = plain_orthogonalise(g + momentum * buffers[i], 5)
            scale = math.sqrt(max(1.0, shapes[i][0] / shapes[i][1]))
            plain[i] = plain[i] * (1 - lr * decay) - lr * scale * update
        muon.step()
    for weight, expected in zip(weights, plain, strict=True):
        np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=0, atol=1e-9)


def test_parameters_without_gradient_stay() -> None:
    """A parameter that got no gradient is neither moved nor decayed."""
    moved, still = torch.nn.Parameter(draw(3, 3)), torch.nn.Parameter(draw(3, 3, seed=1))
    before = still.detach().clone()
    muon = Muon([moved, still], lr=0.1, weight_decay=0.5)
    moved.grad = draw(3, 3, seed=2)
    muon.step()
    assert torch.equal(still.detach(), before)
    assert not torch.equal(moved.detach(), draw(3, 3))


def test_state_survives_a_reload() -> None:
    """An optimizer loaded from `state_dict` goes on bitwise as the first."""
    weights = [torch.nn.Parameter(draw(4, 6, dtype=torch.float32)) for _ in range(2)]
    optimizers = [Muon([weight], lr=0.1) for weight in weights]
    weights[0].grad = draw(4, 6, seed=1, dtype=torch.float32)
    optimizers[0].step()
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))  # torch shares the tensors otherwise
    weights[1].data.copy_(weights[0].data)
    for weight, optimizer in zip(weights, optimizers, strict=True):
        weight.grad = draw(4, 6, seed=2, dtype=torch.float32)
        optimizer.step()
    assert torch.equal(weights[0].data, weights[1].data)


def test_only_matrices_are_taken() -> None:
    """A vector is refused with its shape, and shapes are batched in order of appearance."""
    with pytest.raises(ValueError, match=r"matrices; found a parameter of shape \(3,\)"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
    a, b, c = torch.zeros(2, 3), torch.zeros(3, 2), torch.ones(2, 3)
    assert [[id(t) for t in same] for same in by_shape([a, b, c])] == [[id(a), id(c)], [id(b)]]
