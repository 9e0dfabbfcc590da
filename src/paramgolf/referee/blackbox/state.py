"""T6 and T7: does a cost depend on what else is scored, before it or beside it?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paramgolf.predict.protocol import Float64, Int64
from paramgolf.referee.blackbox.exam import NOISY, Exam, changes, difference, judged, unproven
from paramgolf.referee.blackbox.scorer import Batched
from paramgolf.referee.finding import Finding, Numbers

SEQUENCES = 5


def t6_idempotence(exam: Exam) -> Finding:
    """One object scores a text twice, then another: each time as a fresh one does. Nothing stays from a pass."""
    rng, size = exam.rng(6), exam.box.vocab_size
    one, other = (rng.integers(0, size, exam.declared + 1) for _ in range(2))
    score = exam.box.fresh()
    first, again, after = (
        np.asarray(score(text.copy(), exam.declared, exam.seed), dtype=np.float64) for text in (one, one, other)
    )
    twice = difference(first, again)
    leaked = difference(after, exam.score(other))
    limit = 1e-6
    numbers: Numbers = {"twice": twice, "after_another": leaked, "noise": exam.noise, "limit": limit}
    if max(twice, leaked) <= limit:
        return judged("T6", False, "", "a second visit costs what the first did, whatever came between.", numbers)
    if limit < exam.noise <= NOISY and max(twice, leaked) <= exam.tolerance:
        return unproven("T6", f"fresh objects differ by {exam.noise:.3g} nats too: make the scorer deterministic.")
    says = f"a text costs up to {twice:.4g} nats more or less on the second visit, and up to {leaked:.4g} after another"
    return judged("T6", True, f"{says}: something is kept from an earlier pass.", "", numbers)


def t7_isolation(exam: Exam) -> Finding:
    """Texts that are scored side by side do not know each other, unless the one comes earlier in the declared order."""
    test, batched, why = "T7", exam.box.batched, exam.trouble()
    if batched is None or why:
        return unproven(test, why or "it scores one text at a time, or does not say how several are scored together.")
    rng, size = exam.rng(7), exam.box.vocab_size
    texts = [rng.integers(0, size, batched.targets + 1) for _ in range(SEQUENCES)]
    base = batched.score([text.copy() for text in texts], batched.batch, exam.seed)
    changed, reordered = 0.0, 0.0
    for which in range(SEQUENCES):
        for begin in (1, batched.targets // 2):
            others = [text.copy() for text in texts]
            others[which][begin:] = rng.integers(0, size, len(others[which]) - begin)
            moved = batched.score(others, batched.batch, exam.seed)
            changed = max(changed, _moved(base, moved, _untouched(batched, texts, which, begin)))
        if batched.steps is None:
            later = [*texts[: which + 1], *texts[:which:-1]]
            moved = batched.score([text.copy() for text in later], batched.batch, exam.seed)
            reordered = max(reordered, *(difference(base[k], moved[k]) for k in range(which + 1)))
    sizes = 0.0
    if batched.free:
        for batch in (1, 2 * batched.batch):
            moved = batched.score([text.copy() for text in texts], batch, exam.seed)
            sizes = max(sizes, *(difference(one, two) for one, two in zip(base, moved)))
    numbers: Numbers = {"changed": changed, "reordered": reordered, "batch_size": sizes, "sequences": SEQUENCES}
    says = f"a text costs up to {max(changed, reordered):.4g} nats more or less when a text that does not precede it is"
    says += " replaced or moved"
    if max(changed, reordered) <= exam.tolerance:
        says = f"a text costs up to {sizes:.4g} nats more or less when more or fewer texts are scored beside it"
    good = f"{SEQUENCES} texts side by side cost what they cost, whatever the later ones are."
    bad = max(changed, reordered, sizes) > exam.tolerance
    return judged(test, bad, f"{says}: they are not kept apart.", good, numbers)


def _untouched(batched: Batched, texts: Sequence[Int64], which: int, begin: int) -> list[Int64]:
    """For each text the places [K] of costs that must not move when text `which` is replaced from target `begin` on."""
    if batched.steps is None:
        return [
            np.arange(len(text) - 1 if k < which else (begin - 1 if k == which else 0)) for k, text in enumerate(texts)
        ]
    steps = batched.steps([len(text) - 1 for text in texts], batched.batch)
    from_step = int(steps[which][begin - 1 :].min())
    places = [np.flatnonzero(one <= from_step) for one in steps]
    places[which] = places[which][places[which] < begin - 1]
    return places


def _moved(base: Sequence[Float64], other: Sequence[Float64], places: Sequence[Int64]) -> float:
    if any(one.shape != two.shape for one, two in zip(base, other)):
        return float("inf")
    return max(float(changes(one, two)[place].max(initial=0.0)) for one, two, place in zip(base, other, places))
