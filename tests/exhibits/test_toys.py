"""The nine toy scorers give the figures of spec pr1430.md section 8.4, to every printed digit."""

import numpy as np
import pytest

from paramgolf.exhibits.toys import TOYS, toy_row, toy_score, toy_scores
from paramgolf.exhibits.toys.ngram import hashed_ratio
from paramgolf.exhibits.toys.slot import SLOT_1350, SLOT_1430, SLOT_SHARED, SLOT_STRICT, Slot
from paramgolf.exhibits.toys.world import World, batches, large_world, long_tokens, plain, small_tokens, small_world

# violations of 120, largest change, Z least / mean / most, mean nll, advantage in nats: the table of section 8.4
TABLE = {
    "plain": (0, 0.0, 1.0, 1.0, 1.0, 2.8344, -24.7),
    "slot-1430": (12, 0.6808, 1.0000, 4.0487, 6.3130, 2.9698, -78.9),
    "slot-shared": (120, 0.2347, 1.0269, 1.0642, 1.1385, 2.7996, -10.8),
    "slot-1350": (66, 0.5922, 1.0000, 1.6049, 1.8952, 2.7889, -6.5),
    "slot-strict": (0, 0.0, 1.0, 1.0, 1.0, 3.1116, -135.6),
    "ngram-ratio": (0, 0.0, 3.4618, 6.3385, 8.2716, 1.4286, 537.6),
    "ngram-renormalised": (0, 0.0, 1.0, 1.0, 1.0, 2.8402, -27.1),
    "ttt-score-first": (0, 0.0, 1.0, 1.0, 1.0, 2.8340, -24.6),
    "ttt-rescore": (120, 0.0293, 1.0245, 1.0254, 1.0260, 2.8159, -17.3),
}
# Z at token indices 29..44 (section 8.4)
Z_BY_INDEX = {
    "slot-1430": "5.731 4.316 4.911 1 6.313 4.502 4.418 1 4.964 5.237 4.663 1 5.126 4.779 5.820 1",
    "slot-1350": "1.791 1.804 1.895 1.895 1.783 1.754 1.855 1.709 1.713 1.802 1.864 1.812 1 1 1 1",
    "slot-shared": "1.106 1.113 1.072 1.139 1.064 1.069 1.064 1.050 1.059 1.060 1.052 1.043 1.034 1.030 1.048 1.027",
}
WORLD = small_world()


def text_of(name):
    """The tokens on which a toy is flipped, and the token indices that are: the second batch, or a filled table's."""
    if TOYS[name].needs_filling:
        return long_tokens()[:201], np.arange(165, 181)
    return small_tokens(), np.arange(29, 45)


def flips(name):
    """|change| [16, 16] of the cost at the row's index when the token at the column's index is raised by one."""
    tokens, indices = text_of(name)
    base = toy_score(WORLD, TOYS[name].run, tokens, len(tokens) - 1)
    moved = []
    for index in indices:
        other = tokens.copy()
        other[index] = (other[index] + 1) % 16
        moved.append(np.abs(toy_score(WORLD, TOYS[name].run, other, len(tokens) - 1) - base)[indices - 1])
    return np.array(moved).T


def masses(name):
    """Sum over all tokens of exp(-cost) at each index."""
    tokens, indices = text_of(name)
    sums = []
    for index in indices:
        total = 0.0
        for value in range(16):
            other = tokens.copy()
            other[index] = value
            total += np.exp(-toy_score(WORLD, TOYS[name].run, other, len(tokens) - 1)[index - 1])
        sums.append(total)
    return np.array(sums)


def test_the_table_lists_every_toy():
    """No toy escapes the table."""
    assert set(TABLE) == set(TOYS)


@pytest.mark.parametrize("name", TABLE)
def test_flips_of_later_tokens(name):
    """Which toys look ahead, in how many of the 120 pairs, and by how much (section 8.4; tolerance 1e-9)."""
    violations, largest = TABLE[name][:2]
    before = np.triu(flips(name), 1)
    assert (before > 1e-9).sum() == violations
    assert before.max() == pytest.approx(largest, abs=5.1e-5)


@pytest.mark.parametrize("name", TABLE)
def test_mean_cost_and_advantage_on_401_tokens(name):
    """What each toy claims for random tokens that no one can predict (section 8.4)."""
    nll, advantage = TABLE[name][5:]
    cost = toy_score(WORLD, TOYS[name].run, long_tokens(), 400)
    assert cost.mean() == pytest.approx(nll, abs=5.1e-5)
    assert 400 * np.log(16) - cost.sum() == pytest.approx(advantage, abs=0.051)


SLOWER = ("slot-1350", "slot-1430", "slot-shared", "slot-strict", "ngram-ratio", "ngram-renormalised")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOWER else ()) for name in TABLE]
)
def test_swap_and_sum_masses(name):
    """The mass over all tokens at 16 indices: least, mean and most, and one by one (section 8.4)."""
    found = masses(name)
    assert [found.min(), found.mean(), found.max()] == pytest.approx(TABLE[name][2:5], abs=5.1e-5)
    if name in Z_BY_INDEX:
        assert found == pytest.approx([float(word) for word in Z_BY_INDEX[name].split()], abs=5.1e-4)


def test_slot_1430_leaks_at_offsets_one_and_two_of_a_block():
    """Offset three is the column that its loss drops: it leaks nothing (section 8.4, detail)."""
    leaks = np.argwhere(np.triu(flips("slot-1430"), 1) > 1e-9)
    assert {(int(i) // 4 == int(j) // 4, int(j) % 4) for i, j in leaks} == {(True, 1), (True, 2)}


def test_slot_1350_leaks_at_batch_offsets_one_to_eleven():
    """All but the last block of a batch is in the loss that fits the batch's one bias (section 8.4, detail)."""
    leaks = np.argwhere(np.triu(flips("slot-1350"), 1) > 1e-9)
    assert sorted({int(j) for _, j in leaks}) == list(range(1, 12))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "batch", "nll", "advantage"),
    [
        (plain, 32, 6.9511, -44.0),
        (SLOT_1430.run, 8, 4.4245, 5615.5),
        (SLOT_SHARED.run, 32, 6.9441, -28.3),
        (SLOT_1350.run, 32, 6.7584, 387.6),
        (SLOT_STRICT.run, 32, 7.0282, -216.6),
    ],
    ids=["plain", "1430", "shared", "1350", "strict"],
)
def test_the_real_ratios(run, batch, nll, advantage):
    """V = 1024, windows of 256, stride 64: what each form claims on 2,240 random tokens (section 8.4, detail)."""
    tokens = np.random.default_rng(5).integers(0, 1024, 2241)
    cost = toy_score(large_world(batch), run, tokens, 2240)
    assert cost.mean() == pytest.approx(nll, abs=5.1e-5)
    assert 2240 * np.log(1024) - cost.sum() == pytest.approx(advantage, abs=0.051)
    if run == SLOT_1430.run:
        # The last row of each block, window 0 aside, whose last row belongs to a fit of 255 others.
        assert cost[319::64].mean() == pytest.approx(11.49, abs=5.1e-3)


def test_slot_fits_as_in_the_oracle():
    """Section 11, "SLOT fit": parameters and costs after each of three steps, fitted on position 1 alone."""
    world = World(np.eye(3), np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]]), window=3, stride=1, batch=1)
    hidden = np.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    targets = np.array([[0, 1, 2]])
    fitted = np.array([[False, True, False]])
    rates = Slot(lambda *_: fitted, 3, 0.1, 0.01).rates()
    expected = [
        ((0.099996, 0.099994), (-0.099994, 0.099998, -0.099998), (0.452417, 0.714057, 2.037337)),
        ((0.155201, 0.155094), (-0.155093, 0.155189, -0.155204), (0.481137, 0.640703, 2.140206)),
        ((0.165296, 0.165134), (-0.165132, 0.165263, -0.165288), (0.486686, 0.627945, 2.159468)),
    ]

    class Cut(Slot):
        """Stops after some of the three steps."""

        def rates(self):
            return rates[: self.steps]

    for steps, (offset, bias, nll) in enumerate(expected, start=1):
        found_offset, found_bias = Cut(lambda *_: fitted, steps, 0.1, 0.01).fit(world, hidden, targets, fitted)
        assert found_offset[0, 0] == pytest.approx(offset, abs=6e-7)
        assert found_bias[0, 0] == pytest.approx(bias, abs=6e-7)
        logits = world.logits(hidden + found_offset)[0] + found_bias[0]
        cost = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(3), targets[0]]
        assert cost == pytest.approx(nll, abs=6e-7)


def test_a_row_is_what_the_score_credits():
    """The row at a target holds the cost of its token, for every toy."""
    tokens = long_tokens()[:133]
    for toy in TOYS.values():
        cost = toy_score(WORLD, toy.run, tokens, 132)
        assert -toy_row(WORLD, toy.run, tokens, 100)[tokens[100]] == cost[99], toy.name
    with pytest.raises(ValueError, match="never credited"):
        toy_row(WORLD, plain, tokens, 200)


def test_honest_toys_score_a_cut_text_as_the_whole():
    """The declared length, not the text that is there, decides on the windows."""
    tokens = long_tokens()[:133]
    for toy in (toy for toy in TOYS.values() if toy.honest):
        whole = toy_score(WORLD, toy.run, tokens, 132)
        for cut in (2, 17, 18, 60, 131):
            part = toy_score(WORLD, toy.run, tokens[:cut], 132)
            assert part == pytest.approx(whole[: cut - 1], abs=1e-12), toy.name


def test_windows_of_several_sequences_share_batches():
    """Windows of neighbours are worked on side by side, and each target is credited once."""
    sequences = [small_tokens()[:29], small_tokens()[20:49]]
    found = list(batches(WORLD, sequences, [28, 28]))
    assert [batch.sequence_W.tolist() for batch in found] == [[0, 0, 0, 0], [1, 1, 1, 1]]
    mixed = [small_tokens()[:25], small_tokens()[20:45]]
    assert [batch.sequence_W.tolist() for batch in batches(WORLD, mixed, [24, 24])] == [[0, 0, 0, 1], [1, 1]]
    for toy in TOYS.values():
        assert all(np.isfinite(cost).all() for cost in toy_scores(WORLD, toy.run, mixed, [24, 24]))


def test_the_ratio_gives_more_than_one():
    """Where a bucket pair is filled by others, all tokens look likely at once."""
    row = toy_row(WORLD, hashed_ratio, long_tokens(), 300)
    assert np.exp(row).sum() > 2
