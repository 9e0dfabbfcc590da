"""Spans of packed documents: oracles of spec pr2140.md 3.1, and a plain walk for everything else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramgolf.text.packing import document_ends

ORACLES = [
    ([3, 7], 0, [0, 3, 7, 10, 10, 10, 10, 10]),
    ([0], 4, [0, 4, 8, 10, 10, 10, 10, 10]),
    ([0, 5], 3, [0, 3, 5, 8, 10, 10, 10, 10]),
]


def row(starts: list[int], length: int) -> np.ndarray:
    tokens = np.full(length, 9)
    tokens[starts] = 1
    return tokens


@pytest.mark.parametrize("starts,context,expected", ORACLES)
def test_oracles(starts: list[int], context: int, expected: list[int]) -> None:
    """Spec pr2140.md 3.1: ten tokens, padded to eight entries."""
    ends = document_ends(row(starts, 10), 1, context, bucket=8)
    assert ends.tolist() == expected
    assert ends.dtype == np.int32


@pytest.mark.parametrize("starts,longest", [([3, 7], 4), ([0], 10)])
def test_longest_without_a_cap(starts: list[int], longest: int) -> None:
    """Spec pr2140.md 3.1: with no cap the longest span is the longest document."""
    assert np.diff(document_ends(row(starts, 10), 1)).max() == longest


def plain(tokens: list[int], boundary: int, context: int) -> list[int]:
    """Starts of spans, by a walk along the tokens."""
    starts, used = [], 0
    for at, token in enumerate(tokens):
        if at == 0 or token == boundary or (context and used == context):
            starts.append(at)
            used = 0
        used += 1
    return starts


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.integers(0, 9), st.integers(1, 70))
def test_equals_a_walk(tokens: list[int], context: int, bucket: int) -> None:
    """Whatever lies in the row (empty documents, one document, none that begins): the spans of a plain walk."""
    ends = document_ends(np.array(tokens, dtype=np.uint16), 1, context, bucket)
    starts = plain(tokens, 1, context)
    assert ends[: len(starts)].tolist() == starts
    assert set(ends[len(starts) :].tolist()) == {len(tokens)}
    assert len(ends) % bucket == 0 and len(ends) - bucket <= len(starts)
    lengths = np.diff(ends)
    assert lengths.min() >= 0 and lengths.sum() == len(tokens)
    assert not context or lengths.max() <= context


def test_documents_without_tokens() -> None:
    """Boundaries side by side are documents of one token each."""
    assert document_ends(np.array([1, 1, 1, 5]), 1, 2, bucket=1).tolist() == [0, 1, 2, 4]


def test_impossible_settings_are_refused() -> None:
    """A negative context or an empty bucket is named."""
    for context, bucket in ((-1, 1), (1, 0)):
        with pytest.raises(ValueError, match=f"context={context} .* bucket={bucket}"):
            document_ends(np.array([1]), 1, context, bucket)
