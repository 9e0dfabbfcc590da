"""Training windows: every token once an epoch, any step on demand, the same order for any number of ranks."""

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import TextError
from paramgolf.text.permutation import permute
from paramgolf.text.windows import TrainingWindows


def shards_of(tokens: int, parts: int) -> list[np.ndarray]:
    """Distinct ids 0..tokens-1 cut into `parts` shards of uneven size."""
    cuts = sorted(np.random.default_rng(parts).integers(0, tokens + 1, parts - 1).tolist())
    return np.split(np.arange(tokens, dtype=np.uint16), cuts)


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**64), stream=st.integers(0, 50))
@settings(deadline=None)
def test_the_permutation_is_a_bijection(size, seed, stream):
    """Every index of 0..size-1 is hit exactly once, for any size and key."""
    assert sorted(permute(np.arange(size), size, seed, stream).tolist()) == list(range(size))


def test_the_permutation_looks_random():
    """Over 2000 keys the first element of ten is spread evenly (chi-square below its 99.99 % point, 9 degrees)."""
    counts = Counter(int(permute(np.array([0]), 10, seed, 0)[0]) for seed in range(2000))
    assert sum((counts[value] - 200) ** 2 / 200 for value in range(10)) < 33.7
    neighbours = np.diff(permute(np.arange(100_000), 100_000, 7, 3))
    assert np.count_nonzero(np.abs(neighbours) == 1) < 20  # 2 expected


@given(
    tokens=st.integers(12, 500),
    parts=st.integers(1, 5),
    sequence=st.integers(1, 11),
    sequences=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=25)
def test_each_epoch_makes_every_token_a_target_once(tokens, parts, sequence, sequences, seed):
    """In every epoch no token is a target twice and all but N % T are, and a target follows its input in the stream."""
    windows = TrainingWindows(shards_of(tokens, parts), sequence, seed)
    per_epoch = windows.windows_per_epoch
    assert per_epoch == tokens // sequence
    steps = -(-3 * per_epoch // sequences)
    batches = [windows.batch(step, sequences) for step in range(steps)]
    inputs = np.concatenate([batch[0] for batch in batches])
    targets = np.concatenate([batch[1] for batch in batches])
    assert inputs.dtype == targets.dtype == np.int64 and inputs.shape[1] == sequence
    assert (targets == (inputs + 1) % tokens).all()
    for epoch in range(3):
        seen = Counter(targets[epoch * per_epoch : (epoch + 1) * per_epoch].ravel().tolist())
        assert max(seen.values()) == 1 and len(seen) == per_epoch * sequence


@given(world=st.sampled_from([1, 2, 3, 4, 6]), step=st.integers(0, 40), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=40)
def test_the_order_does_not_depend_on_the_number_of_ranks(world, step, seed):
    """The ranks' batches, one after the other, are the batch of a single rank of the same global size."""
    shards = shards_of(500, 3)
    whole = TrainingWindows(shards, 7, seed).batch(step, 12)
    parts = [TrainingWindows(shards, 7, seed, rank, world).batch(step, 12 // world) for rank in range(world)]
    for side in (0, 1):
        assert (np.concatenate([part[side] for part in parts]) == whole[side]).all()


def test_any_step_can_be_asked_for_directly():
    """A fresh object gives step 37 as one that went through 0..36, so resuming needs no state."""
    shards = shards_of(1000, 4)
    used = TrainingWindows(shards, 16, 5)
    for step in range(37):
        used.batch(step, 8)
    assert (used.batch(37, 8)[0] == TrainingWindows(shards, 16, 5).batch(37, 8)[0]).all()


def test_seeds_and_epochs_differ():
    """Another seed gives another order; a new epoch gives another order and other window edges."""
    shards = shards_of(1000, 1)
    windows = TrainingWindows(shards, 10, 1)
    first, second = windows.batch(0, 100)[0], windows.batch(1, 100)[0]
    assert (first != second).any()
    assert len({int(windows.batch(epoch, 100)[0][0, 0]) % 10 for epoch in range(10)}) > 3
    assert (first != TrainingWindows(shards, 10, 2).batch(0, 100)[0]).any()
    assert windows.epoch(1, 100) == 1.0


@pytest.mark.parametrize("tokens", [0, 1, 16])
def test_too_few_tokens_says_how_many_are_needed(tokens):
    """Fewer tokens than one window is an error with both numbers."""
    with pytest.raises(TextError, match=f"hold {tokens} tokens, a window of sequence=16 needs 17"):
        TrainingWindows([np.zeros(tokens, dtype=np.uint16)], 16, 0)
    TrainingWindows([np.zeros(17, dtype=np.uint16)], 16, 0).batch(0, 4)


def test_impossible_ranks_and_steps_are_refused():
    """A rank outside the world, a negative step and no sequences are programming errors."""
    shards = [np.zeros(100, dtype=np.uint16)]
    for rank, world in ((1, 1), (-1, 2)):
        with pytest.raises(ValueError, match="rank"):
            TrainingWindows(shards, 4, 0, rank, world)
    with pytest.raises(ValueError, match="step=-1"):
        TrainingWindows(shards, 4, 0).batch(-1, 2)
    with pytest.raises(ValueError, match="sequences=0"):
        TrainingWindows(shards, 4, 0).batch(0, 0)


def test_a_stream_of_many_windows_costs_no_memory_and_no_time():
    """2.5 billion tokens (a stride trick, no memory), a billion windows: a batch of 64 comes in under 50 ms."""
    shard = np.broadcast_to(np.uint16(7), (2_500_000_000,))
    windows = TrainingWindows([shard], 2, 3)
    started = time.perf_counter()
    inputs, _ = windows.batch(123_456, 64)
    assert time.perf_counter() - started < 0.05
    assert inputs.shape == (64, 2) and (inputs == 7).all()
