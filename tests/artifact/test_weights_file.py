"""The weights format: exact, and hard to fool."""

from __future__ import annotations

import json
import pickle
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.artifact.reader import section
from paramgolf.artifact.weights_file import MAGIC, read_weights, write_weights
from paramgolf.errors import ArtifactError
from paramgolf.squeeze.quantize import Quantized, Scheme, dequantize, quantize

SHAPES = {"embedding.weight": (12, 6), "gain": (4,), "blocks.0.up.weight": (9, 6)}


def tensors(shapes=SHAPES, seed=0):
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes.items():
        values = rng.normal(0, 1, shape).astype(np.float32)
        found[name] = values if len(shape) == 1 else quantize(values, Scheme(8 if "embedding" in name else 6))
    return found


def test_weights_come_back_bit_for_bit():
    """Raw tensors and dequantised ones are those that were written, in order, and their bytes are accounted for."""
    stored = write_weights(tensors())
    back = read_weights(stored.data, SHAPES)
    assert list(back) == list(SHAPES)
    for name, tensor in tensors().items():
        expected = dequantize(tensor) if isinstance(tensor, Quantized) else tensor
        assert back[name].dtype == np.float32
        assert back[name].tobytes() == expected.tobytes()
    assert 0 < sum(stored.bytes_by_tensor.values()) < len(stored.data)
    assert write_weights(tensors()).data == stored.data


def test_raw_only_files_have_no_tables():
    """A model without quantised tensors is a valid file."""
    raw = {"a": np.array([1.5, -2.0], np.float32)}
    assert read_weights(write_weights(raw).data, {"a": (2,)})["a"].tolist() == [1.5, -2.0]


def test_every_changed_byte_is_refused():
    """Each single byte, changed in one bit, raises."""
    stored = write_weights(tensors()).data
    for place in range(len(stored)):
        damaged = bytearray(stored)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(ArtifactError):
            read_weights(bytes(damaged), SHAPES)


def test_every_truncation_is_refused():
    """Each proper beginning raises, and so does anything appended."""
    stored = write_weights(tensors()).data
    for length in range(len(stored)):
        with pytest.raises(ArtifactError):
            read_weights(stored[:length], SHAPES)
    with pytest.raises(ArtifactError):
        read_weights(stored + b"x", SHAPES)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damage_under_fitting_checksums_gives_an_error_or_weights_of_the_right_shape(data):
    """Whatever a hostile author writes into any section, with all checksums mended, nothing else can happen."""
    stored = write_weights(tensors()).data
    sections, place = [], 12
    while place < len(stored) - 4:
        length = int.from_bytes(stored[place : place + 4], "little")
        sections.append(bytearray(stored[place + 8 : place + 8 + length]))
        place += 8 + length
    victim = sections[data.draw(st.integers(0, len(sections) - 1))]
    for _ in range(data.draw(st.integers(1, 3))):
        victim[data.draw(st.integers(0, len(victim) - 1))] = data.draw(st.integers(0, 255))
    body = stored[:12] + b"".join(section(bytes(payload)) for payload in sections)
    try:
        back = read_weights(body + zlib.crc32(body).to_bytes(4, "little"), SHAPES)
    except ArtifactError:
        return
    assert {name: values.shape for name, values in back.items()} == SHAPES
    assert all(np.isfinite(values).all() for values in back.values())


def hostile(header):
    body = MAGIC + (1).to_bytes(4, "little") + section(zlib.compress(header))
    return body + zlib.crc32(body).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"[" * 100_000, "JSON"),
        (b'{"tensors": ' + b"[" * 5000 + b"]" * 5000 + b', "books": []}', "JSON|tensors"),
        (b" " * (1 << 21), "inflates to more"),
        (b'{"tensors": [], "books": []}', "0 tensors"),
        (b'{"tensors": {}, "books": []}', "should list"),
        (b'{"tensors": NaN, "books": []}', "NaN"),
        (b'{"tensors": [], "tensors": [], "books": []}', "twice"),
        (b'{"tensors": [["a", [99999999, 99999999], 6]], "books": [6]}', "recipe's model has a"),
        (b'{"tensors": [["a", [2, 2], 7.0]], "books": [7]}', "bits are"),
        (b'{"tensors": [["a", [2, 2], true]], "books": [1]}', "bits are"),
        (b'{"tensors": [["a", [2, 2], 6]], "books": []}', "codebooks"),
        (b"\xff\xfe", "JSON"),
    ],
)
def test_hostile_headers_are_refused(header, says):
    """JSON bombs, lies about shapes, bits and books raise before anything is made of them."""
    with pytest.raises(ArtifactError, match=says):
        read_weights(hostile(header), {"a": (2, 2)})


def test_shapes_that_fill_the_memory_are_refused():
    """A model beyond the limit of parameters raises without being read."""
    with pytest.raises(ArtifactError, match="parameters"):
        read_weights(b"", {"a": (1 << 20, 1 << 20)})


def test_a_pickle_is_only_bytes(tmp_path):
    """A pickle that would make a file when loaded is refused, and the file is not made."""
    bait = tmp_path / "bait"

    class Bomb:
        def __reduce__(self):
            return (open, (str(bait), "w"))

    with pytest.raises(ArtifactError):
        read_weights(pickle.dumps(Bomb()), SHAPES)
    assert not bait.exists()


def test_raw_values_that_are_not_finite_are_refused():
    """NaN in a raw tensor raises with the tensor's name."""
    with pytest.raises(ArtifactError, match="gain holds NaN"):
        read_weights(write_weights({"gain": np.array([1, np.nan], np.float32)}).data, {"gain": (2,)})


def test_codes_beyond_the_width_are_refused():
    """A codebook whose integers reach beyond the width raises: no int9 hides in an int8 file."""
    wide = Quantized(np.array([[9, -9]], np.int8), np.ones(1, np.float32), 4, (1, 2))
    with pytest.raises(ArtifactError, match="beyond ±7"):
        read_weights(write_weights({"a": wide}).data, {"a": (1, 2)})


def test_the_header_names_every_tensor():
    """The header is plain JSON of names, shapes and bits: a reader in any language can list it."""
    stored = write_weights(tensors()).data
    length = int.from_bytes(stored[12:16], "little")
    record = json.loads(zlib.decompress(stored[20 : 20 + length]))
    assert record["tensors"] == [["embedding.weight", [12, 6], 8], ["gain", [4], 32], ["blocks.0.up.weight", [9, 6], 6]]
    assert record["books"] == [6, 8]
