"""The twelve tests: what each does, and which lie it finds, in one sentence each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paramgolf.referee.blackbox.books import t8_provenance, t9_coverage
from paramgolf.referee.blackbox.decode import t10_decode
from paramgolf.referee.blackbox.exam import Exam
from paramgolf.referee.blackbox.inside import t11_held_out_row, t12_access_order
from paramgolf.referee.blackbox.look_ahead import t1_suffix, t2_flips, t3_prefix
from paramgolf.referee.blackbox.mass import t4_swap_and_sum, t5_e_value
from paramgolf.referee.blackbox.state import t6_idempotence, t7_isolation
from paramgolf.referee.finding import Finding


@dataclass(frozen=True)
class BlackBoxTest:
    """`name` is the finding's rule."""

    name: str
    title: str
    does: str
    finds: str
    run: Callable[[Exam], Finding]


TESTS = (
    BlackBoxTest(
        "T1",
        "suffix randomisation",
        "Replaces everything after a cut by random tokens; the costs before the cut must stay.",
        "Costs that know any of the future: training on the text, fits on the scored targets, second passes.",
        t1_suffix,
    ),
    BlackBoxTest(
        "T2",
        "single flips",
        "Raises one token of a block by one and looks which earlier costs of the block move.",
        "The same, and it shows which token is seen from where.",
        t2_flips,
    ),
    BlackBoxTest(
        "T3",
        "prefix truncation",
        "Cuts the text off; the costs of what is left must stay.",
        "Costs that need the future to be there: a fit on it, its statistics, its length.",
        t3_prefix,
    ),
    BlackBoxTest(
        "T4",
        "swap and sum",
        "Puts every token of the vocabulary in one place and adds up what each is credited with: one.",
        "Ratios that are no probabilities, gates that look at the target, the best of several models, self-fits.",
        t4_swap_and_sum,
    ),
    BlackBoxTest(
        "T5",
        "e-value",
        "Scores random tokens, which nobody can predict, and compares the cost with their entropy.",
        "Any gain that no distribution can have, however it is made, once it is large.",
        t5_e_value,
    ),
    BlackBoxTest(
        "T6",
        "idempotence",
        "Scores one text twice on one object, then another, and compares with fresh objects.",
        "State that is kept from an earlier pass, so that the reported visit is not the first.",
        t6_idempotence,
    ),
    BlackBoxTest(
        "T7",
        "isolation",
        "Changes, moves and adds texts that are scored beside a text and do not precede it.",
        "Parameters that a batch shares, and documents that look at their neighbours.",
        t7_isolation,
    ),
    BlackBoxTest(
        "T8",
        "artifact provenance",
        "Builds the artifact beside the validation text and beside noise, and compares the bytes.",
        "Calibration, pruning or training on the text that is to be scored, before the clock of the evaluation runs.",
        t8_provenance,
    ),
    BlackBoxTest(
        "T9",
        "coverage",
        "Counts how often each target is credited, and the bytes by which the score is divided.",
        "Targets left out or counted again, and bytes that the text does not have.",
        t9_coverage,
    ),
    BlackBoxTest(
        "T10",
        "decode round trip",
        "Codes a stretch with the scorer's rows, and decodes it with nothing but the tokens before each.",
        "Everything that is no code length; the one test that needs no idea of the cheat.",
        t10_decode,
    ),
    BlackBoxTest(
        "T11",
        "held-out row",
        "Compares the rows of a block on random tokens, which are equally hard for all of them.",
        "A fit on scored rows that left one of them out.",
        t11_held_out_row,
    ),
    BlackBoxTest(
        "T12",
        "access order",
        "Hands the tokens out through a view that counts, and asks how far it was read when a cost was final.",
        "Readers that run ahead of their own score.",
        t12_access_order,
    ),
)
