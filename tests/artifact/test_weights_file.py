"""The weights format: exact, and hard to fool."""

from __future__ import annotations

import json
import pickle
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.artifact.reader import ByteReader, section
from paramgolf.artifact.weights_file import MAGIC, VERSION, read_weights, write_weights
from paramgolf.errors import ArtifactError
from paramgolf.squeeze.codebook import Codebook
from paramgolf.squeeze.quantize import Scheme, quantize
from paramgolf.squeeze.quantized import Quantized, dequantize

SHAPES = {
    "embedding.weight": (12, 6),
    "gain": (4,),
    "blocks.0.up.weight": (9, 6),
    "blocks.1.up.weight": (9, 6),
    "scale": (),
    "mix": (2, 3),
}


def tensors():
    """One of each kind: int8 and int6 of coarse steps, int6 of float16 steps, float32, float16 and a scalar."""
    rng = np.random.default_rng(0)
    values = {name: np.asarray(rng.normal(0, 1, shape), np.float32) for name, shape in SHAPES.items()}
    return {
        "embedding.weight": quantize(values["embedding.weight"], Scheme(8)),
        "gain": values["gain"],
        "blocks.0.up.weight": quantize(values["blocks.0.up.weight"], Scheme(6)),
        "blocks.1.up.weight": quantize(values["blocks.1.up.weight"], Scheme(6, clip="percentile-floor")),
        "scale": values["scale"].astype(np.float16),
        "mix": values["mix"].astype(np.float16),
    }


def test_weights_come_back_bit_for_bit():
    """Raw tensors and dequantised ones are those that were written, in order, and their bytes are accounted for."""
    stored = write_weights(tensors())
    back = read_weights(stored.data, SHAPES)
    assert list(back) == list(SHAPES)
    for name, tensor in tensors().items():
        expected = dequantize(tensor) if isinstance(tensor, Quantized) else tensor.astype(np.float32)
        assert back[name].dtype == np.float32
        assert back[name].shape == SHAPES[name]
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
    body = MAGIC + VERSION.to_bytes(4, "little") + section(zlib.compress(header))
    return body + zlib.crc32(body).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"[" * 100_000, "JSON"),
        (b'{"tensors": ' + b"[" * 5000 + b"]" * 5000 + b', "books": [], "fine_steps": false}', "JSON|tensors"),
        (b" " * (1 << 21), "inflates to more"),
        (b'{"tensors": [], "books": [], "fine_steps": false}', "0 tensors"),
        (b'{"tensors": {}, "books": [], "fine_steps": false}', "should list"),
        (b'{"tensors": NaN, "books": [], "fine_steps": false}', "NaN"),
        (b'{"tensors": [], "tensors": [], "books": [], "fine_steps": false}', "twice"),
        (b'{"tensors": [["a", [99999999, 99999999], 6]], "books": [6], "fine_steps": false}', "recipe's model has a"),
        (b'{"tensors": [["a", [2, 2], 7.0]], "books": [7], "fine_steps": false}', "bits are"),
        (b'{"tensors": [["a", [2, 2], true]], "books": [1], "fine_steps": false}', "bits are"),
        (b'{"tensors": [["a", [2, 2], 6]], "books": [], "fine_steps": false}', "codebooks"),
        (b'{"tensors": [], "books": []}', "whether steps are fine"),
        (b'{"tensors": [], "books": [], "fine_steps": 1}', "whether steps are fine"),
        (b'{"tensors": [["a", [2, 2], 17]], "books": [], "fine_steps": false}', "bits are"),
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
    assert record["tensors"] == [
        ["embedding.weight", [12, 6], 8],
        ["gain", [4], 32],
        ["blocks.0.up.weight", [9, 6], 6],
        ["blocks.1.up.weight", [9, 6], 6],
        ["scale", [], 16],
        ["mix", [2, 3], 16],
    ]
    assert record["books"] == [6, 8]
    assert record["fine_steps"] is True


def test_raw_tensors_shrink():
    """Float16 numbers of one bell lose a third of their sign-and-exponent bytes, constants nearly all."""
    rng = np.random.default_rng(0)
    raw = {"a": rng.normal(0, 0.05, 65_536).astype(np.float16), "b": np.ones(65_536, np.float32)}
    stored = write_weights(raw)
    assert stored.bytes_by_tensor["a"] < 0.87 * 2 * 65_536
    assert stored.bytes_by_tensor["b"] < 1000
    assert read_weights(stored.data, {"a": (65_536,), "b": (65_536,)})["a"].tolist() == raw["a"].tolist()


def test_raw_tensors_that_inflate_to_another_size_are_refused():
    """A raw tensor of more or fewer bytes than its shape has raises, before more than that is made."""
    for other in (3, 5, 1 << 24):
        stored = write_weights({"a": np.zeros(other, np.float32)}).data
        header = zlib.compress(b'{"tensors": [["a", [4], 32]], "books": [], "fine_steps": false}')
        length = int.from_bytes(stored[12:16], "little")
        body = stored[:12] + section(header) + stored[20 + length : -4]
        with pytest.raises(ArtifactError, match=r"inflates to more|16 expected"):
            read_weights(body + zlib.crc32(body).to_bytes(4, "little"), {"a": (4,)})


def test_places_beyond_the_fine_grid_are_refused():
    """A codebook of fine steps with a place outside 0..63 raises: a step's place never runs into its number."""
    stored = write_weights({"a": quantize(np.ones((2, 2), np.float32), Scheme(6, clip="percentile-floor"))}).data
    reader, sections = ByteReader(stored[12:-4], "file"), []
    while reader.offset < len(stored) - 16:
        sections.append(reader.section("part"))
    sections[2] = Codebook(np.array([64], np.int32), np.zeros((1, 1), np.uint8)).to_bytes()
    body = stored[:12] + b"".join(section(part) for part in sections)
    with pytest.raises(ArtifactError, match=r"outside 0\.\.63"):
        read_weights(body + zlib.crc32(body).to_bytes(4, "little"), {"a": (2, 2)})
