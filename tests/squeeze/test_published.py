"""The published container: its census, its losslessness, its limits."""

from __future__ import annotations

import lzma

import numpy as np
import pytest

from paramgolf.errors import RecipeError
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.recipe import SqueezeRecipe
from paramgolf.recipes import get_recipe
from paramgolf.squeeze.published import PRESETS, published_file, published_payload, read_published
from paramgolf.squeeze.quantize import Scheme, quantize, to_raw
from paramgolf.squeeze.quantized import Quantized
from paramgolf.squeeze.schemes import assign_schemes, default_schemes

PUBLISHED = SqueezeRecipe(matrix_bits=6, embedding_bits=8, small_bits=16, clip="percentile-floor")


def small_model():
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.1, (64, 32)).astype(np.float32)
    return {
        "table": quantize(weight, Scheme(8, clip="percentile-floor")),
        "matrix": quantize(weight.T, Scheme(6, clip="percentile")),
        "gain": to_raw(weight[0], 16),
        "scale": to_raw(np.float32(0.05), 16),
    }


def test_the_payload_of_the_record_model():
    """27,138,232 bytes, made up of integers, steps and float16 as spec pr549.md 4.5 says."""
    shapes = tensor_shapes(get_recipe("pr549").model, 1024)
    tensors = {}
    for name, scheme in assign_schemes(shapes, default_schemes(PUBLISHED)).items():
        if scheme.raw():
            tensors[name] = to_raw(np.zeros(shapes[name], np.float32), scheme.bits)
        else:
            values = np.zeros(shapes[name], np.int8)
            tensors[name] = Quantized(values, np.ones(len(values), np.float32), scheme.bits, shapes[name])
    parts = {}
    for name, tensor in tensors.items():
        bits = tensor.bits if isinstance(tensor, Quantized) else 16
        parts[bits] = parts.get(bits, 0) + len(published_payload({name: tensor}))
    assert parts == {6: 25_952_256 + 78_848, 8: 851_968 + 7_168, 16: 247_992}
    assert len(published_payload(tensors)) == 27_138_232


@pytest.mark.parametrize("preset", PRESETS.values())
def test_the_file_holds_everything(preset):
    """Integers, steps, shapes and small tensors come back, so the size of the file is that of the whole model."""
    tensors = small_model()
    back = read_published(published_file(tensors, preset))
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        assert back[name].shape == tensor.shape
        if isinstance(tensor, Quantized):
            assert (back[name].values == tensor.values).all()
            assert (back[name].scales == tensor.scales).all()
            assert back[name].bits == tensor.bits
        else:
            assert back[name].tobytes() == tensor.tobytes()


def test_the_container_is_xz_with_crc64():
    """The stream flags are those of Python's default: spec pr549.md 4.5."""
    assert published_file(small_model())[:8] == b"\xfd7zXZ\x00\x00\x04"
    assert lzma.CHECK_CRC64 == 4


def test_our_steps_are_refused():
    """A step beyond float16's range raises: the comparison never rounds what it compares."""
    tensor = Quantized(np.ones((1, 2), np.int8), np.array([2.0**-40], np.float32), 6, (1, 2))
    with pytest.raises(RecipeError, match="matrix has steps"):
        published_payload({"matrix": tensor})
