"""Low-rank corrections: the spec's packing, the best factors, and an error that only shrinks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramgolf.errors import RecipeError
from paramgolf.squeeze.correction import Corrections, best_factors, correct, pack_factors, squared_error
from paramgolf.squeeze.quantize import Scheme, quantize
from paramgolf.squeeze.quantized import dequantize, low_rank_product

A = np.array([[0.9, -0.3], [0.15, -1.2]])
B = np.array([[0.6, -0.8] * 32, [0.1, 0.2] * 32])
SIGMA = Scheme(4, clip="sigma", sigmas=4.0)


def test_the_asymmetric_factors_of_the_spec():
    """Spec pr2140.md 9.4: sA, qA, sB, qB; a positive maximum becomes 2/3 of itself, a negative one 4/3 (4.4)."""
    packed = pack_factors(A, B, "asymmetric")
    assert packed.left.scales.tolist() == [0.7998046875]
    assert packed.left.values.reshape(2, 2).tolist() == [[1, 0], [0, -2]]
    assert packed.right.scales.tolist() == [0.106689453125, 0.02667236328125]
    assert packed.right.values.tolist() == [[6, -7] * 32, [4, 7] * 32]
    assert (packed.left.bits, packed.right.bits) == (2, 4)
    ends = dequantize(pack_factors(np.array([[1.5], [-1.5]]), np.ones((1, 64)), "asymmetric").left)
    assert ends.tolist() == [[1.0], [-2.0]]


def test_the_symmetric_factors_of_the_spec():
    """Spec pr2140.md 9.4: four bits, a step for each row of A and B."""
    packed = pack_factors(A, B, "symmetric")
    assert packed.left.scales.tolist() == [0.1285400390625, 0.17138671875]
    assert packed.left.values.tolist() == [[7, -2], [1, -7]]
    assert packed.right.scales.tolist() == [0.1142578125, 0.028564453125]
    assert packed.right.values.tolist() == [[5, -7] * 32, [4, 7] * 32]


def test_groups_that_are_not_whole_fall_back_to_the_symmetric_form():
    """Spec pr2140.md 4.4: 2 x 63 numbers fill no groups of 64, 2 x 32 do."""
    assert pack_factors(A, B[:, :63], "asymmetric").left.bits == 4
    assert pack_factors(A, B[:, :32], "asymmetric").left.bits == 2


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 1000))
def test_factors_are_those_of_the_singular_values(rows, columns, rank, seed):
    """What the product leaves of an error has the squares of the other singular values, whichever side is longer."""
    error = np.random.default_rng(seed).normal(0, 1, (rows, columns))
    left, right = best_factors(error, rank)
    assert left.shape[1] == right.shape[0] == min(rank, rows, columns)
    singular = np.linalg.svd(error, compute_uv=False)
    assert np.square(error - left @ right).sum() == pytest.approx(np.square(singular[rank:]).sum(), abs=1e-9)
    assert right @ right.T == pytest.approx(np.eye(len(right)), abs=1e-9)


def low_rank_error(seed, strength, rows=96, columns=64):
    """A weight with its quantised form, whose error has one strong direction: a column far off."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 0.1, (rows, columns)).astype(np.float32)
    found = quantize(weight, SIGMA)
    spoilt = weight + strength * rng.normal(0, 1, (rows, 1)) * rng.normal(0, 1, (1, columns))
    return spoilt.astype(np.float32), found


def test_the_worst_tensors_are_corrected_and_their_error_shrinks():
    """Of three tensors the two of largest error get a correction, which takes most of a low-rank error away."""
    made = {
        name: low_rank_error(seed, strength) for seed, (name, strength) in enumerate([("a", 0.2), ("b", 0), ("c", 1)])
    }
    weights = {name: weight for name, (weight, _) in made.items()}
    tensors = {name: found for name, (_, found) in made.items()}
    found = correct(weights, tensors, Corrections(2, 4))
    assert sorted(found) == ["a", "c"]
    for name, tensor in found.items():
        assert squared_error(weights[name], tensor) < 0.5 * squared_error(weights[name], tensors[name])
        both = dequantize(tensors[name]) + low_rank_product(tensor.correction)
        assert dequantize(tensor).tobytes() == both.tobytes()
        exact = dequantize(tensor.correction.left).astype(float) @ dequantize(tensor.correction.right)
        assert low_rank_product(tensor.correction) == pytest.approx(exact, abs=1e-5)
    exact = correct(weights, tensors, Corrections(2, 4, "symmetric"))
    assert squared_error(weights["c"], exact["c"]) < squared_error(weights["c"], found["c"])


def test_a_correction_that_would_harm_is_not_kept():
    """Factors whose numbers nearly all lie just above half a step round up and overshoot: the tensor stays as it is."""
    left, right = np.full(64, -0.505), np.full(64, 0.55)
    left[0], right[0] = 1.5, 7.5
    weight = np.outer(left, right).astype(np.float32)
    nothing = quantize(np.zeros_like(weight), SIGMA)
    packed = pack_factors(*best_factors(weight.astype(np.float64), 1), "asymmetric")
    assert np.square(weight - low_rank_product(packed)).sum() > np.square(weight).sum()
    assert correct({"a": weight}, {"a": nothing}, Corrections(1, 1)) == {}
    assert list(correct({"a": weight}, {"a": nothing}, Corrections(1, 1, "symmetric"))) == ["a"]


def test_what_has_no_error_vectors_and_a_rank_beyond_the_matrix():
    """An exact tensor and a vector are left alone; a rank above both sides is cut to the smaller one."""
    exact = np.zeros((4, 64), np.float32)
    gain, rng = np.ones(64, np.float32), np.random.default_rng(0)
    rough = rng.normal(0, 1, (3, 64)).astype(np.float32)
    weights = {"a": exact, "gain": gain, "b": rough}
    tensors = {name: quantize(weight, Scheme(2, clip="largest")) for name, weight in weights.items()}
    found = correct(weights, tensors, Corrections(3, 50))
    assert list(found) == ["b"]
    assert found["b"].correction.left.shape == (3, 3)


def test_an_error_beyond_float16_is_refused():
    """A step that float16 cannot hold raises, and names the way out."""
    with pytest.raises(RecipeError, match="corrected_tensors 0"):
        pack_factors(np.full((2, 2), 1e6), B, "asymmetric")
