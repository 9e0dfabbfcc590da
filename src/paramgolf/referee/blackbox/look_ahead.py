"""T1 to T3: does a cost know tokens that come after it?"""

from __future__ import annotations

import numpy as np

from paramgolf.predict.protocol import Float64, Int64
from paramgolf.referee.blackbox.exam import Exam, changes, difference, judged, unproven
from paramgolf.referee.finding import Finding, Numbers


def cut_points(exam: Exam, rng: np.random.Generator) -> list[int]:
    """Targets t after which the text is replaced or cut: both ends, every index of one block (and so every residue of
    the stride), both sides of the declared seams; a random part of them if they are too many."""
    last = exam.declared
    inside = exam.chosen([*exam.block], max(1, exam.effort.cuts - 2 - 2 * len(exam.box.layout.edges)), rng)
    seams = [side for edge in exam.box.layout.edges for side in (edge - 1, edge)]
    return sorted({point for point in (1, last - 1, *inside, *seams) if 1 <= point < last})


def t1_suffix(exam: Exam) -> Finding:
    """Everything after t is replaced by random tokens: costs up to t must stay."""
    test, why = "T1", exam.trouble()
    rng = exam.rng(1)
    points = cut_points(exam, rng)
    if why or not points:
        return unproven(test, why or "the text is too short to be cut.")
    moved = []
    for point in points:
        other = exam.tokens.copy()
        other[point + 1 :] = rng.integers(0, exam.box.vocab_size, len(other) - point - 1)
        moved.append(difference(exam.score(other)[:point], exam.base[:point]))
    return _verdict(exam, test, points, moved, "the tokens after it are replaced")


def t3_prefix(exam: Exam) -> Finding:
    """The text is cut after t: costs up to t must stay. `declared` stays too, so schedules know the public length."""
    test, why = "T3", exam.trouble()
    points = cut_points(exam, exam.rng(3))
    if why or not points:
        return unproven(test, why or "the text is too short to be cut.")
    moved = [difference(exam.score(exam.tokens[: point + 1]), exam.base[:point]) for point in points]
    return _verdict(exam, test, points, moved, "the text ends there")


def _verdict(exam: Exam, test: str, points: list[int], moved: list[float], how: str) -> Finding:
    worst = int(np.argmax(moved))
    beyond = sum(one > exam.tolerance for one in moved)
    numbers: Numbers = {"largest": moved[worst], "cuts": len(points), "moved": beyond, "tolerance": exam.tolerance}
    bad = f"costs up to token {points[worst]} change by {moved[worst]:.4g} nats when {how}: they know what follows."
    good = f"at {len(points)} cuts, costs before the cut stay where they are when {how}."
    return judged(test, beyond > 0, bad, good, numbers)


def flip_matrix(exam: Exam, flipped: list[int]) -> Float64:
    """|change| [checked, flipped] in nats of each cost of the block when one token of it is raised by one (mod V)."""
    first = exam.block.start
    columns = []
    for target in flipped:
        columns.append(changes(exam.whole(raised(exam, target)), exam.base)[first - 1 : exam.block.stop - 1])
    return np.array(columns).reshape(len(flipped), len(exam.block)).T


def raised(exam: Exam, target: int) -> Int64:
    """The text with one token raised by one, as target and as input."""
    other = exam.tokens.copy()
    other[target] = (other[target] + 1) % exam.box.vocab_size
    return other


def t2_flips(exam: Exam) -> Finding:
    """One token of a block is changed at a time: costs of earlier tokens must stay. Tells which see which."""
    test, why = "T2", exam.trouble()
    flipped = exam.chosen([*exam.block], exam.effort.flips, exam.rng(2))
    if why or len(exam.block) < 2:
        return unproven(test, why or "a block of one token has no later token.")
    moved = flip_matrix(exam, flipped)
    earlier = np.arange(exam.block.start, exam.block.stop)[:, None] < np.array(flipped)
    moved = np.where(earlier, moved, 0.0)
    beyond = np.argwhere(moved > exam.tolerance)
    numbers: Numbers = {
        "pairs": int(earlier.sum()),
        "moved": len(beyond),
        "largest": float(moved.max()),
        "tolerance": exam.tolerance,
    }
    good = f"no cost of targets {exam.block.start} to {exam.block.stop - 1} moves when a later one of them changes."
    if not len(beyond):
        return judged(test, False, "", good, numbers)
    checked, flip = np.unravel_index(int(moved.argmax()), moved.shape)
    bad = f"{len(beyond)} of {earlier.sum()} costs move when a later token of the block changes; most, by "
    bad += f"{moved.max():.4g} nats, token {exam.block.start + int(checked)} when token {flipped[flip]} does."
    return judged(test, True, bad, "", numbers)
