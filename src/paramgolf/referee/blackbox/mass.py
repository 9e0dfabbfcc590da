"""T4 and T5: do the costs belong to a distribution?"""

from __future__ import annotations

import math

import numpy as np

from paramgolf.predict.protocol import Float64, Int64
from paramgolf.referee.blackbox.exam import Exam, judged, unproven
from paramgolf.referee.finding import Finding, Numbers

SUM_TOLERANCE = 1e-6
NOISY_SUM_TOLERANCE = 1e-3  # where the scorer works in half precision
IMPOSSIBLE = -math.log(1e-9)  # nats: an honest scorer gains so much on random tokens once in 10^9 texts


def swap_mass(exam: Exam, target: int, values: Int64) -> Float64:
    """exp(-cost) [len(values)] of each value as token `target`, everything else the same."""
    mass = []
    for value in values:
        other = exam.tokens.copy()
        other[target] = value
        mass.append(np.exp(-exam.whole(other)[target - 1]))
    return np.array(mass)


def t4_swap_and_sum(exam: Exam) -> Finding:
    """Every token of the vocabulary is put in one place in turn: what they are credited with sums to one."""
    test, why, vocab_size = "T4", exam.trouble(), exam.box.vocab_size
    if why:
        return unproven(test, why)
    rng = exam.rng(4)
    places = np.unique(np.linspace(exam.block.start, exam.block.stop - 1, exam.effort.swaps).round().astype(np.int64))
    sampled = vocab_size > exam.effort.candidates
    values = np.arange(vocab_size)
    sums, doubt = [], 0.0
    for place in places.tolist():
        if sampled:
            values = rng.choice(vocab_size, size=exam.effort.candidates, replace=False)
        mass = swap_mass(exam, place, values)
        sums.append(float(mass.mean() * vocab_size))
        if sampled:
            doubt = max(doubt, 8.0 * vocab_size * float(mass.std(ddof=1)) / math.sqrt(len(values)))
    limit = (SUM_TOLERANCE if exam.noise <= SUM_TOLERANCE else NOISY_SUM_TOLERANCE) + doubt
    # A sample that missed the few likely tokens sums to almost nothing: too little proves guilt only if all were tried.
    beyond = [one - 1.0 if sampled else abs(one - 1.0) for one in sums]
    worst = int(np.argmax([one if math.isfinite(one) else math.inf for one in beyond]))
    numbers: Numbers = {
        "least": min(sums),
        "mean": float(np.mean(sums)),
        "most": max(sums),
        "places": len(sums),
        "tried": len(values),
        "limit": limit,
    }
    bad = not beyond[worst] <= limit
    says = f"whichever token stands at {places[worst]} is credited, and the credits of all sum to {sums[worst]:.4f}."
    if sampled and not bad:
        says = f"estimated from {len(values)} of {vocab_size} tokens, the sum is {sums[worst]:.3f}, give or take"
        return unproven(test, f"{says} {doubt:.2g}: try all tokens at fewer places.", numbers)
    return judged(test, bad, says, f"the credits of all {vocab_size} tokens sum to one at {len(sums)} places.", numbers)


def t5_e_value(exam: Exam, reference_V: Float64 | None = None) -> Finding:
    """Random tokens cannot be predicted: a gain over the entropy they were drawn with is proof of guilt.

    `reference_V` are the probabilities to draw from (None: all alike). A PASS says only that nothing impossible was
    seen: sum ln q - ln p stays below ln(10^9) for an honest scorer but once in 10^9 texts (Markov's inequality).
    """
    test, vocab_size = "T5", exam.box.vocab_size
    if reference_V is None:
        tokens, cost = exam.uniform_tokens, exam.uniform_costs
        floor = len(cost) * math.log(vocab_size)
    else:
        tokens = exam.rng(5).choice(vocab_size, size=exam.effort.uniform + 1, p=reference_V)
        cost = exam.score(tokens, exam.effort.uniform)
        floor = -float(np.log(reference_V[tokens[1:]]).sum())
    if cost.shape != (len(tokens) - 1,) or np.isnan(cost).any():
        return unproven(test, f"not every one of {len(tokens) - 1} random tokens has a cost.")
    advantage = floor - float(cost.sum())
    numbers: Numbers = {"advantage": advantage, "limit": IMPOSSIBLE, "tokens": len(cost), "mean": float(cost.mean())}
    bad = f"{len(cost)} random tokens cost {advantage:.1f} nats less than chance allows (more than {IMPOSSIBLE:.1f} is "
    bad += "once in 10^9): these are not the probabilities of tokens."
    good = f"{len(cost)} random tokens cost {-advantage:.1f} nats more than their entropy: nothing impossible."
    if advantage > 0:
        good = f"{len(cost)} random tokens cost {advantage:.1f} nats less than their entropy, which luck can do."
    return judged(test, not advantage <= IMPOSSIBLE, bad, good, numbers)
