"""The weight coder gives back what it got, and is as small as it claims."""

from __future__ import annotations

import lzma

import brotli
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import ArtifactError
from paramgolf.squeeze.codebook import Codebook, expand, fit_codebook, log_codes
from paramgolf.squeeze.coder import decode_tensor, encode_tensor, fit_codebooks
from paramgolf.squeeze.quantize import Scheme, quantize
from paramgolf.squeeze.quantized import Quantized, snap_up


def bell_model(layers=4, width=128, vocab=512, seed=0):
    """Rows of several spreads and tails, as trained matrices have."""
    rng = np.random.default_rng(seed)
    shapes = [(width, width), (width // 2, width), (3 * width, width), (width, 3 * width)] * layers
    weights = [rng.normal(0, 0.3, (vocab, width)) * np.exp(rng.normal(0, 0.4, (vocab, 1)))]
    for shape in shapes:
        tails = rng.laplace(0, 0.05, shape) * rng.uniform(0, 1, (shape[0], 1))
        weights.append(tails + rng.normal(0, 0.05, shape))
    return [quantize(w.astype(np.float32), Scheme(8 if i == 0 else 6)) for i, w in enumerate(weights)]


def order0_bytes(tensors):
    """Order-0 entropy of the integers, each tensor with its own free histogram."""
    total = 0.0
    for tensor in tensors:
        share = np.unique(tensor.values, return_counts=True)[1] / tensor.values.size
        total -= tensor.values.size * float((share * np.log2(share)).sum()) / 8
    return total


@st.composite
def quantised_tensors(draw):
    bits = draw(st.integers(2, 8))
    largest = Scheme(bits).largest()
    rows, columns = draw(st.integers(1, 40)), draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0.0, 0.4, 3.0, 1000.0]))
    values = np.clip(np.rint(rng.normal(0, spread, (rows, columns))), -largest, largest).astype(np.int8)
    spread_of_steps = draw(st.sampled_from([0.0, 0.5, 20.0]))
    scales = snap_up(np.exp(rng.normal(0, spread_of_steps, rows)))
    if spread_of_steps < 20 and draw(st.booleans()):
        scales = np.exp(rng.normal(-6, spread_of_steps, rows)).astype(np.float16).astype(np.float32)
    silent = rng.random(rows) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    values[silent] = 0
    scales[silent] = 0
    return Quantized(values, scales, bits, (rows, columns))


@settings(deadline=None)
@given(st.lists(quantised_tensors(), min_size=1, max_size=5))
def test_any_integers_and_steps_come_back(tensors):
    """Whatever the values, spreads, silent rows and mixtures of widths: decode(encode(t)) == t."""
    books = fit_codebooks(tensors)
    for tensor in tensors:
        back = decode_tensor(encode_tensor(tensor, books), tensor.shape, tensor.bits, books)
        assert (back.values == tensor.values).all()
        assert (back.scales == tensor.scales).all()


def test_within_half_a_percent_of_order_0_entropy_and_smaller_than_general_packers():
    """Steps, classes and tables included, the code is within 0.5 % of the order-0 entropy, and beats brotli and xz."""
    tensors = bell_model()
    books = fit_codebooks(tensors)
    ours = books.byte_count() + sum(len(encode_tensor(tensor, books)) for tensor in tensors)
    assert ours <= 1.005 * order0_bytes(tensors)
    integers = b"".join(tensor.values.tobytes() for tensor in tensors)
    assert ours < len(brotli.compress(integers, quality=9))
    assert ours < len(lzma.compress(integers, preset=6))


def test_one_step_for_all_rows_costs_next_to_nothing():
    """The published floor gives all rows the step fp16(1/31): telling it takes under a hundredth of a byte a row."""
    rng = np.random.default_rng(5)
    values = np.rint(rng.normal(0, 4, (4096, 16))).clip(-31, 31).astype(np.int8)

    def size(scales):
        tensor = Quantized(values, scales, 6, values.shape)
        books = fit_codebooks([tensor])
        return books.byte_count() + len(encode_tensor(tensor, books))

    floor = np.full(4096, np.float16(1 / 31), np.float32)
    assert size(floor) - size(np.ones(4096, np.float32)) < 40


def test_float16_steps_cost_no_more_than_float16():
    """Steps all over the float16 numbers of four octaves take less than the two bytes of each."""
    rng = np.random.default_rng(6)
    values = np.rint(rng.normal(0, 4, (4096, 16))).clip(-31, 31).astype(np.int8)
    scales = (2.0 ** rng.uniform(-8, -4, 4096)).astype(np.float16).astype(np.float32)
    fine = Quantized(values, scales, 6, values.shape)
    flat = Quantized(values, np.ones(4096, np.float32), 6, values.shape)
    sizes = [len(encode_tensor(t, books)) + books.byte_count() for t in (fine, flat) for books in [fit_codebooks([t])]]
    assert 12 * 4096 / 8 < sizes[0] - sizes[1] < 12.5 * 4096 / 8 + 150


def test_rows_of_two_spreads_cost_less_than_their_common_histogram():
    """Where rows differ in spread, classes make the code clearly smaller than the order-0 entropy."""
    rng = np.random.default_rng(3)
    values = np.rint(rng.normal(0, np.where(np.arange(512) % 2, 2.0, 9.0)[:, None], (512, 256))).clip(-31, 31)
    tensor = Quantized(values.astype(np.int8), np.ones(512, np.float32), 6, (512, 256))
    books = fit_codebooks([tensor])
    assert len(encode_tensor(tensor, books)) < 0.96 * order0_bytes([tensor])


def test_tables_are_close_to_their_counts():
    """A logarithmic table costs under 0.05 % more than the histogram it stands for."""
    counts = np.random.default_rng(4).geometric(0.1, 500_000)
    histogram = np.bincount(counts, minlength=200)[None, :]
    share = histogram[0] / histogram.sum()
    table = expand(log_codes(histogram))[0]
    used = share > 0
    excess = (share[used] * np.log2(share[used] / table[used])).sum()
    assert 0 <= excess < 0.0005 * -(share[used] * np.log2(share[used])).sum()


def test_codebooks_come_back():
    """A codebook survives its bytes."""
    book = fit_codebook([tensor.values for tensor in bell_model(layers=1)[1:]])
    back = Codebook.from_bytes(book.to_bytes())
    assert (back.alphabet == book.alphabet).all()
    assert (back.codes == book.codes).all()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damaged_codes_never_crash(data):
    """Any change of a tensor's code gives ArtifactError or some tensor of the right shape, nothing else."""
    (tensor,) = bell_model(layers=0, width=16, vocab=24)
    books = fit_codebooks([tensor])
    code = bytearray(encode_tensor(tensor, books))
    for _ in range(data.draw(st.integers(1, 4))):
        code[data.draw(st.integers(0, len(code) - 1))] = data.draw(st.integers(0, 255))
    code = code[: data.draw(st.integers(0, len(code)))]
    try:
        back = decode_tensor(bytes(code), tensor.shape, tensor.bits, books)
    except ArtifactError:
        return
    assert back.values.shape == tensor.values.shape
    assert np.isfinite(back.scales).all()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damaged_codebooks_never_crash(data):
    """Any change of a codebook gives ArtifactError or a codebook whose symbols ascend."""
    stored = bytearray(fit_codebook([bell_model(layers=0, width=16, vocab=24)[0].values]).to_bytes())
    stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
    stored = stored[: data.draw(st.integers(0, len(stored)))]
    try:
        book = Codebook.from_bytes(bytes(stored))
    except ArtifactError:
        return
    assert (np.diff(book.alphabet) > 0).all()


def test_a_code_that_goes_on_is_refused():
    """Words after the last value are noticed."""
    (tensor,) = bell_model(layers=0, width=16, vocab=24)
    books = fit_codebooks([tensor])
    code = encode_tensor(tensor, books)
    with pytest.raises(ArtifactError, match="goes on"):
        decode_tensor(code[:-4] + b"abcd" + code[-4:], tensor.shape, tensor.bits, books)
