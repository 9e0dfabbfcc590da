"""The container of #2140: its header, its order of rows, its losslessness."""

from __future__ import annotations

import lzma
from dataclasses import replace

import brotli
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from paramgolf.errors import ArtifactError, RecipeError
from paramgolf.squeeze.correction import best_factors, pack_factors
from paramgolf.squeeze.gptq import factorise
from paramgolf.squeeze.gptq_steps import find_gptq_steps, gptq_at
from paramgolf.squeeze.published_groups import (
    GROUPS,
    group_streams,
    join_streams,
    published_groups,
    read_published_groups,
    split_streams,
)
from paramgolf.squeeze.quantize import Scheme, quantize
from paramgolf.squeeze.quantized import Quantized, all_integers, dequantize
from paramgolf.squeeze.row_order import nearest_row_order
from paramgolf.squeeze.wide_groups import Groups

SIX, SEVEN = Scheme(6, clip="sigma", sigmas=12.0), Scheme(7, clip="sigma", sigmas=14.0)


def model():
    """Two layers with an embedding that has wide columns and a correction, a gate, a gain and a scalar."""
    rng = np.random.default_rng(0)
    table = rng.normal(0, 0.1, (40, 32)).astype(np.float32)
    factor = factorise(np.eye(32))
    embedding = gptq_at(table, find_gptq_steps(table, factor, SEVEN), factor, SEVEN, Groups((8,), 8))
    error = table.astype(np.float64) - dequantize(embedding)
    tensors = {
        "skip_weights": rng.normal(1, 0.1, (2, 16)).astype(np.float16),
        "embedding.weight": replace(embedding, correction=pack_factors(*best_factors(error, 2), "asymmetric")),
        "smear.scale": np.float16(0.25).reshape(()),
    }
    for layer in range(2):
        for kind, shape in zip(GROUPS[1:], [(8, 32), (32, 32), (8, 32), (32, 32), (64, 32), (32, 64)]):
            weight = rng.normal(0, 0.1, shape).astype(np.float32)
            tensors[f"blocks.{layer}.{kind}.weight"] = quantize(weight, SIX)
        gate = rng.normal(0, 1, (4, 12)).astype(np.float32)
        tensors[f"blocks.{layer}.sparse_gate.weight"] = quantize(gate, Scheme(8, clip="largest"))
    return tensors


def test_the_header_of_the_spec():
    """Spec pr2140.md 4.6: streams "ab", "" and "xyz"."""
    joined = join_streams([b"ab", b"", b"xyz"])
    assert joined.hex() == "5047525003000000020000000000000003000000616278797a"
    assert split_streams(joined) == [b"ab", b"", b"xyz"]


@pytest.mark.parametrize(
    "data", [b"", b"PGRP", b"PGRQ" + bytes(4), join_streams([b"ab"])[:-1], join_streams([b"a"]) + b"x"]
)
def test_what_is_no_container_is_refused(data):
    """Another magic, a cut and a tail raise."""
    with pytest.raises(ArtifactError):
        split_streams(data)


def test_the_order_of_the_spec():
    """Spec pr2140.md 4.6: rows [0,0] [9,9] [1,0] [8,9] [1,2] are walked as 0, 2, 4, 3, 1."""
    rows = np.array([[0, 0], [9, 9], [1, 0], [8, 9], [1, 2]], np.int8)
    assert nearest_row_order(rows).tolist() == [0, 2, 4, 3, 1]


@given(arrays(np.int8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(-4, 4)))
def test_the_walk_equals_the_plain_one(values):
    """Each next row is the first of the nearest rows that are left, ties and extreme integers included."""
    for rows in (values, (values * 31).astype(np.int8)):
        left, order = list(range(1, len(rows))), [0]
        while left:
            distances = [np.abs(rows[order[-1]].astype(int) - rows[row]).sum() for row in left]
            order.append(left.pop(int(np.argmin(distances))))
        assert nearest_row_order(rows).tolist() == order


def test_more_rows_than_two_bytes_count_are_refused():
    """65,537 rows raise rather than being numbered twice."""
    with pytest.raises(ValueError, match="65537 rows"):
        nearest_row_order(np.zeros((65_537, 1), np.int8))


def test_groups_are_those_of_the_spec():
    """Spec pr2140.md 4.6: seven groups by layer, columns contiguous, rows of three kinds in their own order."""
    tensors = model()
    groups, orders = group_streams(tensors)
    assert [len(group) for group in groups] == [40 * 32, 512, 2048, 512, 2048, 4096, 4096]
    assert len(orders) == 2 * (40 + 2 * 32 + 2 * 64)
    key = tensors["blocks.1.attention.key.weight"].values
    assert groups[1][256:] == key.T.tobytes()
    query = tensors["blocks.0.attention.query.weight"].values
    order = np.frombuffer(orders[80:144], "<u2")
    assert (order == nearest_row_order(query)).all()
    assert groups[2][:1024] == query[order].T.tobytes()
    wide = all_integers(tensors["embedding.weight"])
    assert sorted(groups[0]) == sorted(wide.tobytes())
    blob = published_groups(tensors)
    assert len(split_streams(blob)) == 9
    assert brotli.decompress(split_streams(blob)[0]) == groups[0]


@pytest.mark.parametrize("codec", [(None, None), (lzma.compress, lzma.decompress)])
def test_the_container_holds_everything(codec):
    """Integers, steps, parts and small tensors come back, so its size is that of the whole model, with any codec."""
    tensors = model()
    compress, decompress = codec
    if compress is None:
        back = read_published_groups(published_groups(tensors))
    else:
        back = read_published_groups(published_groups(tensors, compress), decompress)
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        assert back[name].shape == tensor.shape
        if isinstance(tensor, Quantized):
            assert dequantize(back[name]).tobytes() == dequantize(tensor).tobytes()
            assert (back[name].values == tensor.values).all()
            assert back[name].bits == tensor.bits
        else:
            assert back[name].tobytes() == tensor.tobytes()


def test_a_model_without_some_group_has_an_empty_stream():
    """Spec pr2140.md 4.6: a missing group is an empty stream."""
    gain = {"gain": np.ones(3, np.float16)}
    assert [len(stream) for stream in split_streams(published_groups(gain))[:7]] == [0] * 7
    assert read_published_groups(published_groups(gain))["gain"].tolist() == [1, 1, 1]


def test_our_steps_are_refused():
    """A step that float16 cannot hold raises: the comparison never rounds what it compares."""
    tensor = Quantized(np.ones((1, 2), np.int8), np.array([2.0**-40], np.float32), 6, (1, 2))
    with pytest.raises(RecipeError, match=r"mlp\.up\.weight has steps"):
        published_groups({"blocks.0.mlp.up.weight": tensor})
