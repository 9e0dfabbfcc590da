"""The contest's loader order: one stream from shard to shard, the same for every number of ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import RecipeError, TextError
from paramgolf.text.stream import CONTEST_SPANS, StreamWindows

SHARDS = [np.arange(20, dtype=np.uint16), np.arange(100, 117, dtype=np.uint16)]


def rows(batch):
    """Inputs and targets as lists."""
    return batch[0].tolist(), batch[1].tolist()


class Walker:
    """The plain reference: one list, one cursor that only moves forward (spec pr549.md 1.4, word by word)."""

    def __init__(self, shards):
        self.tokens = [int(token) for shard in shards for token in shard]
        self.at = 0

    def take(self, count):
        taken = []
        for _ in range(count):
            taken.append(self.tokens[self.at])
            self.at = (self.at + 1) % len(self.tokens)
        return taken

    def draw(self, batch_tokens, sequence, world, accumulation):
        """One draw: of each rank its inputs and targets."""
        length = batch_tokens // (world * accumulation)
        taken = self.take((length + 1) * world)
        parts = [taken[rank * (length + 1) : (rank + 1) * (length + 1)] for rank in range(world)]
        return [
            (np.reshape(part[:-1], (-1, sequence)).tolist(), np.reshape(part[1:], (-1, sequence)).tolist())
            for part in parts
        ]


def test_the_batches_of_the_spec_with_two_ranks():
    """Spec pr549.md 8.1: shards 0..19 and 100..116, 16 tokens a step, sequence 4, two ranks."""
    first, second = (StreamWindows(SHARDS, 4, rank, 2, spans=2) for rank in range(2))
    assert rows(first.batch(0, 2)) == ([[0, 1, 2, 3], [4, 5, 6, 7]], [[1, 2, 3, 4], [5, 6, 7, 8]])
    assert rows(second.batch(0, 2))[0] == [[9, 10, 11, 12], [13, 14, 15, 16]]
    assert rows(first.batch(1, 2)) == (
        [[18, 19, 100, 101], [102, 103, 104, 105]],
        [[19, 100, 101, 102], [103, 104, 105, 106]],
    )
    assert rows(second.batch(1, 2))[0] == [[107, 108, 109, 110], [111, 112, 113, 114]]
    assert rows(first.batch(2, 2))[0] == [[116, 0, 1, 2], [3, 4, 5, 6]]
    assert rows(second.batch(2, 2))[0] == [[8, 9, 10, 11], [12, 13, 14, 15]]
    assert first.batch(0, 2)[0].dtype == first.batch(0, 2)[1].dtype == np.int64


def test_the_batches_of_the_spec_with_one_rank_and_two_passes():
    """Spec pr549.md 8.1: one rank that accumulates twice has the two ranks' batches as its two halves."""
    alone = StreamWindows(SHARDS, 4, spans=2)
    for step in range(7):
        inputs, targets = alone.batch(step, 4)
        for rank in range(2):
            part = StreamWindows(SHARDS, 4, rank, 2, spans=2).batch(step, 2)
            assert (inputs[2 * rank : 2 * rank + 2] == part[0]).all()
            assert (targets[2 * rank : 2 * rank + 2] == part[1]).all()


def test_the_contests_step_advances_786440_tokens():
    """Spec pr549.md 1.4: 786,432 tokens a step at sequence 2048 advance 8 x 98,305, and rank r is micro-step r."""
    tokens = np.arange(3_000_000, dtype=np.int64)
    alone, eighth = StreamWindows([tokens], 2048), [StreamWindows([tokens], 2048, rank, 8) for rank in range(8)]
    inputs, targets = alone.batch(1, 384)
    assert inputs[0, 0] == 786_440 and targets[-1, -1] == 2 * 786_440 - 1
    for rank in range(8):
        part = eighth[rank].batch(1, 48)
        assert part[0][0, 0] == 786_440 + rank * 98_305
        assert (part[0] == inputs[48 * rank : 48 * rank + 48]).all()
        assert (part[1] == targets[48 * rank : 48 * rank + 48]).all()
    assert CONTEST_SPANS == 8


@given(
    tokens=st.integers(6, 90),
    cuts=st.lists(st.integers(0, 90), max_size=4),
    sequence=st.integers(1, 5),
    per_span=st.integers(1, 3),
    spans=st.sampled_from([1, 2, 4, 6, 8]),
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_every_batch_is_what_a_walk_along_the_stream_takes(tokens, cuts, sequence, per_span, spans, data):
    """For any shards (empty ones too) and split of the spans into ranks and passes: the published draws, and again
    after wrapping, however often."""
    world = data.draw(st.sampled_from([n for n in (1, 2, 3, 4, 6, 8) if spans % n == 0]))
    accumulation = spans // world
    shards = np.split(np.arange(tokens, dtype=np.uint16), sorted(min(cut, tokens) for cut in cuts))
    walker = Walker(shards)
    batch_tokens, sequences = per_span * spans * sequence, per_span * accumulation
    for step in range(6):
        draws = [walker.draw(batch_tokens, sequence, world, accumulation) for _ in range(accumulation)]
        alone = StreamWindows(shards, sequence, spans=spans).batch(step, sequences * world)
        walked = [part for draw in draws for part in draw]
        assert alone[0].tolist() == [row for part in walked for row in part[0]]
        assert alone[1].tolist() == [row for part in walked for row in part[1]]
        found = [
            StreamWindows(shards, sequence, rank, world, spans=spans).batch(step, sequences) for rank in range(world)
        ]
        for side in (0, 1):
            assert (np.concatenate([part[side] for part in found]) == alone[side]).all()


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 8, 12, 24])
def test_every_number_of_ranks_sees_the_same_stream(world):
    """24 sequences in 8 spans: 3 or 12 ranks, which do not divide the spans or are more than they, see them too."""
    shards = [np.arange(1000, dtype=np.uint16)]
    alone = StreamWindows(shards, 7).batch(5, 24)
    parts = [StreamWindows(shards, 7, rank, world).batch(5, 24 // world) for rank in range(world)]
    for side in (0, 1):
        assert (np.concatenate([part[side] for part in parts]) == alone[side]).all()


def test_a_batch_that_cannot_be_cut_is_refused_with_the_next_step():
    """Nine sequences make no eight pieces: the message has the numbers and both ways out."""
    with pytest.raises(RecipeError, match=r"train\.batch_tokens=36 is 9 sequences .* 8 pieces; .* multiple of 32, or"):
        StreamWindows(SHARDS, 4).batch(0, 9)


def test_too_few_tokens_and_impossible_settings_are_refused():
    """Fewer tokens than one window, a rank outside the world, no spans, a negative step."""
    with pytest.raises(TextError, match="hold 37 tokens, a window of sequence=37 needs 38"):
        StreamWindows(SHARDS, 37)
    for rank, world, spans in ((1, 1, 1), (-1, 2, 1), (0, 1, 0)):
        with pytest.raises(ValueError, match=r"rank|spans"):
            StreamWindows(SHARDS, 4, rank, world, spans=spans)
    with pytest.raises(ValueError, match="step=-1"):
        StreamWindows(SHARDS, 4).batch(-1, 8)


def test_a_late_step_of_a_long_stream_needs_no_walk():
    """Step 7,179 over 8e9 tokens (a stride trick) is read at once; 56.46 shards of it are used by then (spec 1.4)."""
    shard = np.broadcast_to(np.uint16(7), (100_000_000,))
    windows = StreamWindows([shard] * 80, 2048, 3, 8)
    assert windows.batch(7179, 48)[0].shape == (48, 2048)
    assert round(windows.epoch(7179, 48) * 80, 2) == 56.46
