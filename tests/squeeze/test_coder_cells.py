"""What rows and columns share makes the code shorter, and comes back exactly."""

from __future__ import annotations

import brotli
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import ArtifactError
from paramgolf.squeeze import coder
from paramgolf.squeeze.cells import assign, fit_cells, tables_of
from paramgolf.squeeze.codebook import log_codes
from paramgolf.squeeze.coder import code_tensors, decode_tensor, encode_tensor, fit_codebooks
from paramgolf.squeeze.quantized import Quantized
from paramgolf.squeeze.references import EIGHTHS, References, find_references, predicted


def packed(values, bits=6):
    """Bytes of the code and its tables without steps; checks that the integers come back."""
    tensor = Quantized(values, np.ones(len(values), np.float32), bits, values.shape)
    books = fit_codebooks([tensor])
    code = encode_tensor(tensor, books)
    assert (decode_tensor(code, tensor.shape, bits, books).values == values).all()
    return len(code) + books.byte_count()


def bell(spread_RC, seed=0, largest=31):
    """Rounded Gaussians of these spreads."""
    return np.clip(np.rint(np.random.default_rng(seed).normal(0, spread_RC)), -largest, largest).astype(np.int8)


def order_0(values):
    """Entropy of one free histogram, in bytes."""
    share = np.unique(values, return_counts=True)[1] / values.size
    return -values.size * float((share * np.log2(share)).sum()) / 8


def test_columns_of_other_spreads_cost_less_than_a_common_histogram():
    """Spreads that are products of a row's and a column's: within 2 % of the entropy that knows them, under order-0."""
    rng = np.random.default_rng(1)
    spread_RC = 5 * np.exp(rng.normal(0, 0.4, (512, 1))) * np.exp(rng.normal(0, 0.4, (1, 256)))
    values = bell(spread_RC)
    # The ideal: each cell's own rounded Gaussian, ends folded into the clip.
    edges = np.arange(-31, 32)[:, None, None]
    from scipy.stats import norm

    upper = np.where(edges == 31, 1.0, norm.cdf((edges + 0.5) / spread_RC))
    lower = np.where(edges == -31, 0.0, norm.cdf((edges - 0.5) / spread_RC))
    share = np.take_along_axis(upper - lower, (values.astype(int) + 31)[None], axis=0)[0]
    ideal = -np.log2(share).sum() / 8
    assert ideal < packed(values) < 1.02 * ideal
    assert packed(values) < 0.96 * order_0(values)


def test_equal_spreads_cost_no_more_than_before():
    """Where columns are alike nothing is paid for shifts: within 0.5 % of order-0."""
    values = bell(np.full((256, 256), 4.0))
    assert packed(values) < 1.005 * order_0(values)


def test_tables_are_those_of_row_and_column():
    """A cell's table is the row's class plus the column's shift, within the tables that there are."""
    tables = tables_of(np.array([0, 2]), np.array([-1, 0, 5]), 4)
    assert tables.tolist() == [[0, 0, 3], [1, 2, 3]]
    values = bell(np.array([[1.0], [8.0]] * 64) * np.ones((1, 40)))
    book = fit_cells([values])
    class_R, _ = assign(values, book)
    assert class_R[1::2].min() > class_R[::2].max() or class_R[1::2].max() < class_R[::2].min()


def copies(rows=400, columns=64, seed=2):
    """A table of which a third are scaled copies of earlier rows with a little noise."""
    rng = np.random.default_rng(seed)
    exact = rng.normal(0, 6, (rows, columns))
    for row in range(1, rows):
        if rng.random() < 0.35:
            exact[row] = exact[rng.integers(row)] * rng.uniform(0.6, 1.0) + rng.normal(0, 0.7, columns)
    return np.clip(np.rint(exact), -63, 63).astype(np.int8)


def test_rows_that_are_nearly_copies_cost_little():
    """A third of rows resemble earlier ones: at least 12 % below order-0, and below brotli."""
    values = copies()
    assert find_references(values, 63).any()
    ours = packed(values, bits=7)
    assert ours < 0.88 * order_0(values)
    assert ours < len(brotli.compress(values.tobytes(), quality=11))


def test_rows_that_resemble_nothing_refer_to_nothing():
    """Independent rows, wide tensors and noughts have no references."""
    assert not find_references(bell(np.full((300, 64), 5.0)), 31).any()
    assert not find_references(np.tile(bell(np.full((1, 64), 5.0)), (64, 1)), 31).any()  # not tall
    assert not find_references(np.zeros((300, 64), np.int8), 31).any()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(1, 60), st.integers(1, 12))
def test_differences_come_back(seed, bits, rows, columns):
    """Whatever the table: integers(differences(v)) is v, differences stay within the width, rows refer backwards."""
    rng, largest = np.random.default_rng(seed), (1 << (bits - 1)) - 1
    base = rng.integers(-largest, largest + 1, (rows, columns))
    values = base[rng.integers(0, max(1, rows // 3), rows)].astype(np.int8)
    values[rng.random(rows) < 0.2] = 0
    references = find_references(values, largest)
    differences = references.differences(values)
    assert (references.integers(differences, largest) == values).all()
    assert np.abs(differences.astype(int)).max() <= largest
    refers = references.gain_R > 0
    assert (references.row_R[refers] < np.flatnonzero(refers)).all()
    packed(values, bits)


def test_prediction_is_in_whole_numbers():
    """gain / 8 of an integer, halves upwards."""
    values = np.array([-31, -4, -1, 0, 1, 4, 31], np.int32)
    assert predicted(values, np.int32(EIGHTHS)).tolist() == values.tolist()
    assert predicted(values, np.int32(4)).tolist() == [-15, -2, 0, 0, 1, 2, 16]
    assert predicted(values, np.int32(0)).tolist() == [0] * 7


def test_bad_references_are_refused():
    """A row that refers to itself or a later one, or that leaves the width of the integers, is `ArtifactError`."""
    flat = np.full((3, 4), 100, np.int8)
    for row in (1, 2):
        with pytest.raises(ArtifactError, match="not before it"):
            References(np.array([0, 8, 0], np.int32), np.array([0, row, 0], np.int32)).integers(flat, 127)
    second = References(np.array([0, 8], np.int32), np.zeros(2, np.int32))
    for values, largest in (([[100], [28]], 127), ([[30], [2]], 31), ([[-30], [-3]], 31)):
        with pytest.raises(ArtifactError, match=rf"row 1 of a tensor is outside -{largest + 1}\.\.{largest}"):
            second.integers(np.array(values, np.int8), largest)
    assert second.integers(np.array([[-30], [-2]], np.int8), 31).tolist() == [[-30], [-32]]


def test_the_only_row_of_a_tensor_refers_to_none():
    """A code that gives one row a gain is refused: there is no other row to name."""
    tensor = Quantized(bell(np.full((1, 64), 5.0)), np.ones(1, np.float32), 6, (1, 64))
    books = fit_codebooks([tensor])
    code = bytearray(encode_tensor(tensor, books))
    at = 6 + books.values[6].codes.shape[0] + code[4]  # behind the header, the classes' table and the shifts'
    code[5] = EIGHTHS + 1
    code[at:at] = log_codes(np.array([0] * EIGHTHS + [1])).tobytes()
    with pytest.raises(ArtifactError, match="only row"):
        decode_tensor(bytes(code), tensor.shape, 6, books)


def test_references_are_looked_for_once_a_tensor(monkeypatch):
    """Coding all tensors of a file gives the same bytes as one by one, and searches each once."""
    tensors = [Quantized(v, np.ones(len(v), np.float32), 7, v.shape) for v in (copies(60, 12), copies(80, 12, 5))]
    books = fit_codebooks(tensors)
    apart = [encode_tensor(tensor, books) for tensor in tensors]
    searched = []
    monkeypatch.setattr(coder, "find_references", lambda *given: searched.append(1) or find_references(*given))
    together, codes = code_tensors(tensors)
    assert codes == apart
    assert together.byte_count() == books.byte_count()
    assert len(searched) == len(tensors)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_damaged_codes_with_references_never_crash(data):
    """Any change gives `ArtifactError` or some tensor of the right shape."""
    values = copies(rows=60, columns=12)
    tensor = Quantized(values, np.ones(60, np.float32), 7, values.shape)
    books = fit_codebooks([tensor])
    code = bytearray(encode_tensor(tensor, books))
    for _ in range(data.draw(st.integers(1, 4))):
        code[data.draw(st.integers(0, len(code) - 1))] = data.draw(st.integers(0, 255))
    try:
        back = decode_tensor(bytes(code), tensor.shape, 7, books)
    except ArtifactError:
        return
    assert back.values.shape == values.shape
