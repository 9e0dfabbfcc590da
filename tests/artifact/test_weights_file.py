"""The weights format: exact, and hard to fool."""

from __future__ import annotations

import json
import pickle
import zlib
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.artifact.reader import ByteReader, section
from paramgolf.artifact.weights_file import MAGIC, VERSION, read_tensors, read_weights, write_weights
from paramgolf.errors import ArtifactError
from paramgolf.squeeze.codebook import Codebook
from paramgolf.squeeze.correction import best_factors, pack_factors
from paramgolf.squeeze.gptq import factorise
from paramgolf.squeeze.gptq_steps import find_gptq_steps, gptq_at
from paramgolf.squeeze.quantize import Scheme, quantize
from paramgolf.squeeze.quantized import LowRank, Quantized, all_integers, dequantize
from paramgolf.squeeze.wide_groups import Groups

SHAPES = {
    "embedding.weight": (12, 6),
    "gain": (4,),
    "blocks.0.up.weight": (9, 6),
    "blocks.1.up.weight": (9, 6),
    "scale": (),
    "mix": (2, 3),
    "blocks.2.up.weight": (6, 64),
    "blocks.3.up.weight": (5, 7),
}


def tensors():
    """One of each kind: int8 and int6 of coarse steps, int6 of float16 steps, float32, float16, a scalar, an int4 with
    wide columns and an asymmetric correction, an int3 with a symmetric one.
    """
    rng = np.random.default_rng(0)
    values = {name: np.asarray(rng.normal(0, 1, shape), np.float32) for name, shape in SHAPES.items()}
    return {
        "embedding.weight": quantize(values["embedding.weight"], Scheme(8)),
        "gain": values["gain"],
        "blocks.0.up.weight": quantize(values["blocks.0.up.weight"], Scheme(6)),
        "blocks.1.up.weight": quantize(values["blocks.1.up.weight"], Scheme(6, clip="percentile-floor")),
        "scale": values["scale"].astype(np.float16),
        "mix": values["mix"].astype(np.float16),
        "blocks.2.up.weight": corrected(wide(values["blocks.2.up.weight"]), values["blocks.2.up.weight"], 2),
        "blocks.3.up.weight": corrected(
            quantize(values["blocks.3.up.weight"], Scheme(3)), values["blocks.3.up.weight"], 2
        ),
    }


@cache
def written():
    return write_weights(tensors()).data


def wide(weight, starts=(8, 40), size=8):
    """Four bits, and 7 for two groups of columns."""
    factor = factorise(np.eye(weight.shape[1]))
    scheme = Scheme(4, clip="sigma", sigmas=3.0, wide_bits=7)
    return gptq_at(weight, find_gptq_steps(weight, factor, scheme), factor, scheme, Groups(starts, size))


def corrected(tensor, weight, rank):
    """With a correction of the recipe's form."""
    factors = best_factors(weight.astype(np.float64) - dequantize(tensor), rank)
    return replace(tensor, correction=pack_factors(*factors, "asymmetric"))


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
    for name, tensor in read_tensors(stored.data, SHAPES).items():
        if isinstance(tensor, Quantized):
            assert dequantize(tensor).tobytes() == dequantize(tensors()[name]).tobytes()
            assert (all_integers(tensor) == all_integers(tensors()[name])).all()
            assert tensor.bits == tensors()[name].bits
    both = read_tensors(stored.data, SHAPES)["blocks.2.up.weight"]
    assert (both.wide.starts, both.wide.size, both.wide.part.bits) == ((8, 40), 8, 7)
    assert (both.correction.left.bits, both.correction.right.bits) == (2, 4)
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
    stored = written()
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


def header_of(entries, main="[]", factors="[]", fine="false"):
    """A header with these pieces of JSON."""
    books = (f'{{"widths": {widths}, "fine_steps": {fine}}}' for widths in (main, factors))
    return '{{"tensors": {}, "main": {}, "factors": {}}}'.format(entries, *books).encode()


def hostile(header):
    body = MAGIC + VERSION.to_bytes(4, "little") + section(zlib.compress(header))
    return body + zlib.crc32(body).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"[" * 100_000, "JSON"),
        (header_of("[" * 5000 + "]" * 5000), "JSON|tensors"),
        (b" " * (1 << 21), "inflates to more"),
        (header_of("[]"), "0 tensors"),
        (header_of("{}"), "should list"),
        (header_of("NaN"), "NaN"),
        (header_of('[], "tensors": []'), "twice"),
        (header_of('[["a", [99999999, 99999999], 6]]', "[6]"), "recipe's model has a"),
        (header_of('[["a", [2, 64], 7.0]]', "[7]"), "bits are"),
        (header_of('[["a", [2, 64], true]]', "[1]"), "bits are"),
        (header_of('[["a", [2, 64], [6]]]', "[6]"), "bits are"),
        (header_of('[["a", [2, 64], 6]]'), "codebooks"),
        (header_of('[["a", [2, 64], 6]]', "[[6]]"), "codebooks"),
        (header_of('[["a", [2, 64], 6]]', "[6]", "[2]"), "codebooks"),
        (header_of('[["a", [2, 64], 17]]'), "bits are"),
        (b'{"tensors": [], "books": []}', "describe the books"),
        (b'{"tensors": [], "main": {"widths": []}, "factors": {}}', "whether steps are fine"),
        (header_of("[]", fine="1"), "whether steps are fine"),
        (b"\xff\xfe", "JSON"),
        *(
            (header_of(f'[["a", [2, 64], {bits}, {parts}]]', "[6]", factors), says)
            for bits, parts, factors, says in (
                (6, "[]", "[]", "alone"),
                (6, '{"deep": 1}', "[]", "alone"),
                (16, '{"wide": [8, 2, [0]]}', "[]", "no quantised"),
                (6, '{"wide": [9, 2, [0]]}', "[]", "wide columns"),
                (6, '{"wide": [8, 2, []]}', "[]", "wide columns"),
                (6, '{"wide": [8, 2, [-2]]}', "[]", "wide columns"),
                (6, '{"wide": [8, 2, [0, 1]]}', "[]", "wide columns"),
                (6, '{"wide": [8, 2, [4, 0]]}', "[]", "wide columns"),
                (6, '{"wide": [8, 2, [63]]}', "[]", "wide columns"),
                (6, '{"wide": [8, 64, [0]]}', "[]", "wide columns"),
                (6, '{"wide": [8, 2, [0.0]]}', "[]", "wide columns"),
                (6, '{"wide": [8, true, [0]]}', "[]", "wide columns"),
                (6, '{"wide": [8, 1e9, [0]]}', "[]", "wide columns"),
                (6, '{"wide": 3}', "[]", "wide columns"),
                (6, '{"wide": [8, 2, [0]]}', "[]", "codebooks"),
                (6, '{"low_rank": ["symmetric", 3]}', "[4]", "correction"),
                (6, '{"low_rank": ["symmetric", 0]}', "[4]", "correction"),
                (6, '{"low_rank": ["symmetric", true]}', "[4]", "correction"),
                (6, '{"low_rank": ["lopsided", 1]}', "[4]", "correction"),
                (6, '{"low_rank": [[], 1]}', "[4]", "correction"),
                (6, '{"low_rank": ["symmetric", 1]}', "[]", "codebooks"),
            )
        ),
    ],
)
def test_hostile_headers_are_refused(header, says):
    """JSON bombs, lies about shapes, bits, parts and books raise before anything is made of them."""
    with pytest.raises(ArtifactError, match=says):
        read_weights(hostile(header), {"a": (2, 64)})


def test_parts_of_what_is_no_matrix_are_refused():
    """A vector has no columns to widen, and an asymmetric correction needs whole groups."""
    with pytest.raises(ArtifactError, match="no quantised matrix"):
        read_weights(hostile(header_of('[["a", [64], 6, {"wide": [8, 2, [0]]}]]', "[6, 8]")), {"a": (64,)})
    with pytest.raises(ArtifactError, match="correction"):
        entry = '[["a", [2, 63], 6, {"low_rank": ["asymmetric", 1]}]]'
        read_weights(hostile(header_of(entry, "[6]", "[2, 4]")), {"a": (2, 63)})


def test_files_of_an_earlier_version_are_told_so():
    """Version 2 raises with what to do; a later version and another magic say what was expected."""
    for magic, version, says in (
        (MAGIC, 2, "version 2.*pack the run again"),
        (MAGIC, 4, "expected"),
        (b"x" * 8, 2, "magic"),
    ):
        body = magic + version.to_bytes(4, "little") + section(b"")
        with pytest.raises(ArtifactError, match=says):
            read_weights(body + zlib.crc32(body).to_bytes(4, "little"), SHAPES)


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


def test_factors_beyond_the_width_are_refused():
    """Factors reach one further below 0 than above, and no further: -2 is a two-bit integer, 2 and -3 are none."""
    for value, fits in ((-2, True), (2, False), (-3, False)):
        left = Quantized(np.array([[value, 0]], np.int8), np.ones(1, np.float32), 2, (2, 1))
        right = Quantized(np.ones((1, 64), np.int8), np.ones(1, np.float32), 4, (1, 64))
        base = Quantized(np.zeros((2, 64), np.int8), np.ones(2, np.float32), 6, (2, 64), None, LowRank(left, right))
        stored = write_weights({"a": base}).data
        if fits:
            assert read_weights(stored, {"a": (2, 64)})["a"][0, 0] == value
        else:
            with pytest.raises(ArtifactError, match="factors of int2 reaches beyond"):
                read_weights(stored, {"a": (2, 64)})


def test_steps_that_overflow_are_refused():
    """Finite steps whose products are none, alone or in a correction, raise with the tensor's name."""
    huge = np.full(2, 2.0**127, np.float32)
    alone = Quantized(np.full((2, 64), 7, np.int8), huge, 6, (2, 64))
    left = Quantized(np.ones((2, 1), np.int8), huge, 4, (2, 1))
    right = Quantized(np.ones((1, 64), np.int8), huge[:1], 4, (1, 64))
    product = Quantized(np.ones((2, 64), np.int8), np.ones(2, np.float32), 6, (2, 64), None, LowRank(left, right))
    for tensor in (alone, product):
        with pytest.raises(ArtifactError, match="a has steps so large"):
            read_weights(write_weights({"a": tensor}).data, {"a": (2, 64)})


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
        ["blocks.2.up.weight", [6, 64], 4, {"wide": [7, 8, [8, 40]], "low_rank": ["asymmetric", 2]}],
        ["blocks.3.up.weight", [5, 7], 3, {"low_rank": ["symmetric", 2]}],
    ]
    assert record["main"] == {"widths": [3, 4, 6, 7, 8], "fine_steps": True}
    assert record["factors"] == {"widths": [2, 4], "fine_steps": True}


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
        header = zlib.compress(header_of('[["a", [4], 32]]'))
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
