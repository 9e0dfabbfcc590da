"""T11 and T12: two looks inside, for scorers that say how they work."""

from __future__ import annotations

import math

import numpy as np

from paramgolf.referee.blackbox.exam import Exam, judged, unproven
from paramgolf.referee.blackbox.guarded import GuardedTokens
from paramgolf.referee.finding import Finding, Numbers

GAP, SIGMAS = 0.1, 6.0  # nats, and standard errors: both must be passed


def t11_held_out_row(exam: Exam) -> Finding:
    """Random tokens are equally hard everywhere in a block; rows that a fit left out stand apart from those it saw."""
    test, stride = "T11", exam.box.layout.stride
    if stride < 2:
        return unproven(test, "it does not say that it works in blocks of several rows.")
    cost = exam.uniform_costs
    row = (np.arange(len(cost)) + 1 - exam.box.layout.first - 1) % stride
    usable = np.isfinite(cost) & (np.arange(len(cost)) >= exam.box.layout.first)
    if min(np.bincount(row[usable], minlength=stride)) < 4:
        return unproven(test, f"{int(usable.sum())} random tokens are too few for blocks of {stride}.")
    gaps, sure = np.zeros(stride), np.zeros(stride)
    for which in range(stride):
        mine, others = cost[usable & (row == which)], cost[usable & (row != which)]
        gaps[which] = mine.mean() - others.mean()
        error = math.sqrt(mine.var(ddof=1) / len(mine) + others.var(ddof=1) / len(others))
        sure[which] = abs(gaps[which]) / error if error else (math.inf if gaps[which] else 0.0)
    apart = np.where((np.abs(gaps) > GAP) & (sure > SIGMAS), np.abs(gaps), 0.0)
    worst = int(apart.argmax() if apart.any() else sure.argmax())
    numbers: Numbers = {"row": worst, "gap": float(gaps[worst]), "sigmas": float(sure[worst]), "tokens": len(cost)}
    bad = f"row {worst + 1} of every {stride} costs {gaps[worst]:+.2f} nats against the others, though all tokens are"
    good = f"the {stride} rows of a block cost the same on random tokens (largest gap {gaps[worst]:+.2f} nats)."
    return judged(test, bool(apart.any()), f"{bad} random: the fit saw the others.", good, numbers)


def t12_access_order(exam: Exam) -> Finding:
    """Tokens lie behind a counter: when a cost is final, no token after it (or after its block) may have been read."""
    test, box = "T12", exam.box
    if box.stream is None:
        return unproven(test, "it does not read the text through a view that counts.")
    guarded = GuardedTokens(exam.tokens.copy())
    most, ahead, commits = 0, 0, 0
    for targets, _ in box.stream(guarded, exam.declared, exam.seed):
        commits += 1
        most = max(most, len(targets))
        ahead = max(ahead, guarded.highest - int(np.max(targets, initial=0)))
    numbers: Numbers = {"commits": commits, "read_ahead": ahead, "largest_commit": most}
    allowed = max(box.layout.block, box.layout.first)
    if most > allowed:
        return unproven(test, f"{most} costs become final at once, {allowed} make a block.", numbers)
    bad = f"up to {ahead} tokens beyond a cost had been read when it became final."
    good = f"nothing beyond the {commits} commits was read before them; T1, T2 and T4 look inside each."
    return judged(test, ahead > 0, bad, good, numbers)
