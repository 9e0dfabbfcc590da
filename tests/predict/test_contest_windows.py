"""The published window rule of #549, against the spans, chunks and counts of spec pr549.md, section 8.7."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramgolf.predict.contest_windows import chunk_of, exact_windows, published_windows, share
from paramgolf.predict.frames import FrameGrid
from paramgolf.text.byte_table import ByteTable
from paramgolf.text.validation import published_sliding_denominator


def spans(targets: int, length: int, stride: int, *, training: bool = False) -> list[tuple[int, int, int]]:
    windows = published_windows(targets, length, stride, training=training)
    return [tuple(row) for row in np.stack([windows.start, windows.first, windows.end], axis=1).tolist()]


def starts_by_chunk(targets: int, length: int, stride: int, chunk: int) -> list[list[int]]:
    windows = published_windows(targets, length, stride, training=True)
    belongs = chunk_of(windows, targets, chunk)
    return [windows.start[belongs == number].tolist() for number in range(-(-targets // chunk))]


def test_twenty_targets() -> None:
    """T=20, S=8, s=2, C=8: the spans, the chunks, and a tail that is counted four times (8.7)."""
    regular = [(0, 0, 8), (2, 8, 10), (4, 10, 12), (6, 12, 14), (8, 14, 16), (10, 16, 18)]
    assert spans(20, 8, 2) == [*regular, (12, 18, 20), (14, 18, 20), (16, 18, 20), (18, 18, 20)]
    assert starts_by_chunk(20, 8, 2, 8) == [[0], [2, 4, 6, 8], [10, 12, 14, 16, 18]]
    assert published_windows(20, 8, 2).scored() == 26


def test_twenty_one_targets() -> None:
    """T=21: sliding keeps the window of one target, test-time training drops it (8.7)."""
    plain, training = published_windows(21, 8, 2), published_windows(21, 8, 2, training=True)
    assert (plain.start[-1], training.start[-1]) == (20, 18)
    assert (plain.scored(), training.scored()) == (27, 26)
    counts = np.zeros(21, dtype=int)
    for first, end in zip(training.first, training.end, strict=True):
        counts[first:end] += 1
    assert counts[19:].tolist() == [4, 3]
    assert starts_by_chunk(21, 8, 2, 8) == [[0], [2, 4, 6, 8], [10, 12, 14, 16, 18]]


def test_nineteen_targets_leave_a_chunk_empty() -> None:
    """T=19, S=8, s=4, C=8: starts 0, 4, 8, 12, and nothing for the last chunk (8.7)."""
    assert spans(19, 8, 4, training=True) == [(0, 0, 8), (4, 8, 12), (8, 12, 16), (12, 15, 19)]
    assert starts_by_chunk(19, 8, 4, 8) == [[0], [4, 8, 12], []]


def test_the_contest_text() -> None:
    """T=62,021,632: windows, chunks, windows a chunk, positions, and how eight ranks share them (8.7, 5.4)."""
    targets = 62_021_632
    windows = published_windows(targets, 2048, 64, training=True)
    assert len(windows) == len(published_windows(targets, 2048, 64)) == 969_088
    assert windows.scored() == 62_023_616
    per_chunk = np.bincount(chunk_of(windows, targets, 32_768))
    assert len(per_chunk) == 1893
    assert (per_chunk[0], set(per_chunk[1:-1].tolist()), per_chunk[-1]) == (481, {512}, 415)
    edges = windows.start[np.cumsum(per_chunk) - 1]
    assert (edges[0], edges[1], edges[-1]) == (30_720, 63_488, 62_021_568)

    def sizes(count: int) -> list[int]:
        return [len(range(count)[share(count, rank, 8)]) for rank in range(8)]

    assert sizes(481) == [60] * 7 + [61]
    assert sizes(415) == [51] + [52] * 7
    exact = exact_windows(targets, 2048, 64)
    assert exact.scored() == targets
    assert len(exact) == 969_088 - 31


@given(st.integers(1, 200), st.integers(1, 12), st.integers(1, 12))
def test_the_exact_rule_counts_every_target_once(targets: int, length: int, stride: int) -> None:
    """The corrected windows cover 0..T-1 without gap or overlap, whatever the sizes."""
    windows = exact_windows(targets, max(length, stride), stride)
    covered = [p for first, end in zip(windows.first, windows.end, strict=True) for p in range(first, end)]
    assert covered == list(range(targets))


@given(st.integers(1, 200), st.integers(1, 12), st.integers(1, 12), st.booleans())
def test_windows_score_what_the_denominator_counts(targets: int, length: int, stride: int, training: bool) -> None:
    """Positions are as many as `text.validation`, which never lists the windows, divides by."""
    length = max(length, stride)
    tokens, table = (
        np.zeros(targets + 1, dtype=np.int64),
        ByteTable(np.ones(1, int), np.zeros(1, bool), np.ones(1, bool)),
    )
    expected = published_sliding_denominator(tokens, table, length, stride, drop_short=training).targets
    assert published_windows(targets, length, stride, training=training).scored() == expected


@given(st.integers(1, 300), st.integers(1, 6), st.integers(1, 12))
def test_our_frames_are_the_exact_windows(targets: int, times: int, stride: int) -> None:
    """Where the stride divides the window our grid reads, for every target but the last few, the very same inputs."""
    length = times * stride
    grid = FrameGrid(length, stride)
    windows = exact_windows(targets, length, stride)
    ours = {p: piece.start for piece in grid.pieces(0, targets) for p in range(piece.first, piece.stop)}
    for start, first, end in zip(windows.start.tolist(), windows.first.tolist(), windows.end.tolist(), strict=True):
        assert {ours[p] for p in range(first, end)} == {start}


@pytest.mark.parametrize(("window", "stride", "pieces"), [(2048, 64, 1), (256, 224, 1), (300, 100, 1), (256, 256, 1)])
def test_the_first_positions_are_one_piece(window: int, stride: int, pieces: int) -> None:
    """All positions whose inputs begin at 0 come from one pass."""
    grid = FrameGrid(window, stride)
    found = list(grid.pieces(0, 10 * window))
    assert sum(piece.start == 0 for piece in found) == pieces
    assert found[0].stop == grid.shared() == window // stride * stride
    assert {piece.stop - piece.first for piece in found[1:-1]} <= {stride}
