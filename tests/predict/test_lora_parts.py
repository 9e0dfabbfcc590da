"""The parts of LoRA test-time training: the optimizer's step, windows, the published rules."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from paramgolf.model.adapters import low_rank
from paramgolf.predict.lora_layout import DocumentLane, Part, PieceGrid, lane_parts
from paramgolf.predict.lora_published import (
    published_batches,
    published_chunk,
    published_documents,
    published_window,
)
from paramgolf.predict.lora_state import LaneAdapters
from paramgolf.recipe import ScoreRecipe
from paramgolf.recipes import get_recipe

BOUNDARY = 1
RECORD = ScoreRecipe(lora_lr=7.5e-5, lora_beta2=0.99, lora_weight_decay=0.5)


class Factors(nn.Module):
    """One adapter in each of some lanes: what `LaneAdapters` needs of `LoraAdapters`."""

    def __init__(self, a_RI: Tensor, lanes: int) -> None:
        super().__init__()
        self.lanes = lanes
        self.a = nn.Parameter(a_RI.repeat(lanes, 1, 1))
        self.b = nn.Parameter(torch.zeros(lanes, 2, 2))

    def reset(self, lanes: Tensor, *, keep_inner: bool) -> None:
        with torch.no_grad():
            self.b[lanes] = 0.0


def outputs(state: LaneAdapters) -> Tensor:
    x_LTI = torch.tensor([[[1.0, 2.0, -1.0]]]).repeat(state.adapters.lanes, 1, 1)
    return low_rank(x_LTI, state.adapters.a, state.adapters.b, 72.0)[:, 0]


def learnt(state: LaneAdapters, lanes: np.ndarray) -> LaneAdapters:
    out_LO = outputs(state)
    loss = (out_LO[:, 0] - 2 * out_LO[:, 1])[torch.from_numpy(lanes)].sum()
    return state.stepped(torch.autograd.grad(loss, list(state.adapters.parameters())), lanes)


def flat(tensor: Tensor) -> list[float]:
    return tensor.detach().flatten().tolist()


def test_two_steps_of_the_published_optimizer() -> None:
    """Spec pr2140.md 5.2, the oracle: A, B and the outputs after one and two steps; a lane that rests has none."""
    a_RI = torch.tensor([[0.1, -0.2, 0.3], [0.05, 0.4, -0.1]])
    state = LaneAdapters(Factors(a_RI, 2), RECORD)
    lanes = np.array([True, False])
    one = learnt(state, lanes)
    assert flat(one.adapters.b[0]) == pytest.approx([7.5e-5, -7.5e-5, -7.5e-5, 7.5e-5], rel=1e-5)
    first = [0.099996254, -0.199992508, 0.299988776, 0.049998127, 0.399985015, -0.099996254]
    assert flat(one.adapters.a[0]) == pytest.approx(first, abs=1e-8)
    assert flat(outputs(one)[0]) == pytest.approx([-0.008369686, 0.008369686], abs=1e-7)
    two = learnt(one, lanes)
    second = [0.099886708, -0.200090811, 0.300083339, 0.050102055, 0.400075823, -0.100098304]
    assert flat(two.adapters.a[0]) == pytest.approx(second, abs=2e-8)
    assert [abs(b) for b in flat(two.adapters.b[0])] == pytest.approx([1.49996e-4] * 4, abs=1e-9)
    assert flat(outputs(two)[0]) == pytest.approx([-0.016747417, 0.016747417], abs=1e-7)
    assert flat(two.adapters.a[1]) == flat(a_RI) and not any(flat(two.adapters.b[1]))
    assert two.steps.tolist() == [2, 0]
    assert flat(state.adapters.a[0]) == flat(a_RI) and state.steps.tolist() == [0, 0]


def test_lanes_at_different_steps_are_those_alone() -> None:
    """A lane that begins later takes the very steps that it takes alone, moments and bias correction included."""
    a_RI = torch.tensor([[0.1, -0.2, 0.3], [0.05, 0.4, -0.1]])
    state = LaneAdapters(Factors(a_RI, 2), RECORD)
    both, alone = np.array([True, True]), LaneAdapters(Factors(a_RI, 1), RECORD)
    for lanes in ([True, False], both, both):
        state = learnt(state, np.array(lanes))
    for _ in range(2):
        alone = learnt(alone, np.array([True]))
    assert flat(state.adapters.a[1]) == flat(alone.adapters.a) and flat(state.adapters.b[1]) == flat(alone.adapters.b)
    fresh = state.fresh_in(np.array([True, False]))
    assert fresh.steps.tolist() == [0, 2] and state.steps.tolist() == [3, 2]
    assert not fresh.squares[0][0].any() and torch.equal(fresh.squares[0][1], state.squares[0][1])


def test_decay_alone_shrinks_a_matrix_without_gradient() -> None:
    """AdamW's decay is decoupled: with B at nought A has no gradient, and shrinks by lr x decay."""
    strong = dataclasses.replace(RECORD, lora_lr=0.1, lora_weight_decay=2.0)
    a_RI = torch.ones(2, 3)
    one = learnt(LaneAdapters(Factors(a_RI, 1), strong), np.array([True]))
    assert flat(one.adapters.a) == pytest.approx([0.8] * 6)


def test_adapters_that_overflow_are_taken_back() -> None:
    """A step whose moments are finite but whose parameters are not leaves its lane as it was, and resting."""
    huge = dataclasses.replace(RECORD, lora_lr=3e38, lora_weight_decay=0.0)
    state = LaneAdapters(Factors(torch.full((2, 3), -2e38), 2), huge)
    gradients = tuple(torch.ones_like(parameter) for parameter in state.adapters.parameters())
    gradients[0][1] = 0.0
    gradients[1][1] = 0.0
    after = state.stepped(gradients, np.array([True, True]))
    assert all(square.isfinite().all() for square in state.stepped(gradients, np.array([True, True])).squares)
    assert after.resting.tolist() == [True, False] and after.steps.tolist() == [0, 1]
    assert torch.equal(after.adapters.a, state.adapters.a) and not after.squares[0][0].any()


def test_published_documents_and_order() -> None:
    """Spec pr2140.md 5.1: the oracles of documents and batches."""
    assert published_documents([1, 5, 6, 1, 7, 1, 8, 9, 9], 1) == [(0, 4), (3, 3), (5, 4)]
    assert published_batches([5, 3, 9, 4, 7], 2) == [[2], [0, 4], [1, 3]]
    assert published_documents([], 1) == [] and published_batches([], 2) == []


def test_published_windows() -> None:
    """Spec pr2140.md 5.3: the oracle of windows at chunk 64 and context 3072, and the chunk sizes."""
    expected = {
        (1, 100, 2): (0, 100, 64, 36),
        (47, 3100, 49): (0, 3072, 3008, 64),
        (48, 3100, 49): (28, 3072, 3044, 28),
        (48, 3150, 50): (64, 3072, 3008, 64),
        (49, 3150, 50): (78, 3072, 3058, 14),
    }
    for (index, targets, chunks), window in expected.items():
        assert published_window(index, targets, chunks, 64, 3072) == window
    assert [published_chunk(longest) for longest in (1, 256, 257, 2000, 2001)] == [16, 16, 32, 32, 64]


def test_own_windows_are_the_published_ones_but_for_the_last_piece() -> None:
    """Where the published rule does not look at the document's end, windows are the same."""
    grid, targets, size = PieceGrid((64,), (), 3072), 3150, 64
    chunks = -(-targets // size)
    for index in range(chunks):
        start, length, offset, scored = published_window(index, targets, chunks, size, 3072)
        mine = grid.start(index * size), grid.width(index * size), grid.width(index * size) - size
        assert (mine == (start, length, offset)) == (index < chunks - 1)
        assert scored == (size if index < chunks - 1 else targets - index * size)


@st.composite
def any_grid(draw: st.DrawFn) -> PieceGrid:
    """One to four sizes, in any order, each but the last for one to four pieces."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    until, end = [], 0
    for size in sizes[:-1]:
        end += size * draw(st.integers(1, 4))
        until.append(end)
    recipe = ScoreRecipe(lora_chunks=tuple(sizes), lora_chunks_until=tuple(until))
    return PieceGrid(recipe.lora_chunks, recipe.lora_chunks_until, max(sizes) + draw(st.integers(0, 20)))


GRIDS = any_grid()


def plain_stops(grid: PieceGrid, most: int) -> list[int]:
    """Where pieces end, up to the first end behind position `most`, found by laying one after the other."""
    stops, stage = [0], 0
    while stops[-1] <= most:
        while stage < len(grid.until) and stops[-1] == grid.until[stage]:
            stage += 1
        stops.append(stops[-1] + grid.sizes[stage])
    return stops[1:]


@given(GRIDS, st.integers(0, 90))
def test_pieces_partition_the_positions(grid: PieceGrid, most: int) -> None:
    """Laid end to end, the pieces hold each position once; all of a piece agree on where it begins and ends."""
    position = 0
    for stop in plain_stops(grid, most):
        for inside in range(position, stop):
            assert (grid.begin(inside), grid.stop(inside), grid.size(inside)) == (position, stop, stop - position)
            assert grid.start(inside) == max(0, stop - grid.window)
            assert grid.size(inside) <= grid.width(inside) <= grid.window
        position = stop


def test_the_grid_of_the_record() -> None:
    """The sizes of spec pr2140.md 5.3 by position: 16 pieces of 16 tokens, 56 of 32, then 64."""
    score = get_recipe("pr2140").score
    grid = PieceGrid(score.lora_chunks, score.lora_chunks_until, score.window)
    assert sorted(set(score.lora_chunks)) == sorted({published_chunk(longest) for longest in (256, 2000, 2001)})
    stops = [16 * i for i in range(1, 17)] + [256 + 32 * i for i in range(1, 57)] + [2048 + 64 * i for i in range(1, 9)]
    assert sorted({grid.stop(position) for position in range(stops[-1])}) == stops
    known = {0: (0, 16), 255: (0, 256), 256: (0, 288), 2047: (0, 2048), 2048: (0, 2112), 3071: (0, 3072)}
    known |= {3072: (64, 3136)}
    assert {position: (grid.start(position), grid.stop(position)) for position in known} == known
    assert all(score.chunk % size == 0 for size in score.lora_chunks)


def parts_of(tokens: list[int], cuts: list[int], grid: PieceGrid, *, stream: bool) -> list[Part]:
    lane, found, first = DocumentLane.fresh(BOUNDARY), [], 0
    for stop in [*sorted(min(cut, len(tokens)) for cut in cuts), len(tokens)]:
        for part, after in lane_parts(
            lane, np.array(tokens[first:stop], dtype=np.int64), BOUNDARY, grid, stream=stream
        ):
            found.append(part)
            lane = after
        first = stop
    return found


@settings(deadline=None)
@given(GRIDS, st.lists(st.integers(2, 99), max_size=60), st.lists(st.integers(0, 60), max_size=5), st.integers(0, 60))
def test_a_window_does_not_know_the_length(grid: PieceGrid, tokens: list[int], cuts: list[int], length: int) -> None:
    """Each position is in one part, with the right inputs, a window that its piece alone gives, whatever follows."""
    shorter = {
        p: part for part in parts_of(tokens[:length], [], grid, stream=False) for p in range(part.first, part.stop)
    }
    line, seen = [BOUNDARY, *tokens], []
    for part in parts_of(tokens, cuts, grid, stream=False):
        start = grid.start(part.first)
        stop = next(stop for stop in plain_stops(grid, part.first) if stop > part.first)
        assert start == max(0, stop - grid.window)
        assert part.line.tolist() == line[start : part.stop + 1]
        assert part.stop <= stop
        assert len(part.line) - 1 <= grid.width(part.first) <= grid.window
        assert part.completes(grid) == (part.stop == stop)
        for p in range(part.first, part.stop):
            seen.append(p)
            if p in shorter:
                assert grid.start(shorter[p].first) == start and grid.width(shorter[p].first) == grid.width(part.first)
    assert seen == list(range(len(tokens)))


@settings(deadline=None)
@given(GRIDS, st.lists(st.lists(st.integers(2, 99), max_size=15), max_size=6), st.lists(st.integers(0, 60), max_size=5))
def test_documents_of_a_stream_are_those_alone(grid: PieceGrid, documents: list[list[int]], cuts: list[int]) -> None:
    """However a stream is cut, its positions have the windows that each document has alone with its boundary."""
    stream = [token for document in documents for token in [*document, BOUNDARY]]
    rows = [
        (p, part.line[: p + 1 - grid.start(part.first)].tolist())
        for part in parts_of(stream, cuts, grid, stream=True)
        for p in range(part.first, part.stop)
    ]
    expected = []
    for document in documents:
        line = [BOUNDARY, *document]
        expected += [(p, line[grid.start(p) : p + 1]) for p in range(len(line))]
    assert rows == expected
