"""What SLOT keeps of a lane: its last scored tokens with their features, and the offsets in force.

Legend: N scored tokens, F features of each (state or row, see `slot_readout`), P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from paramgolf.errors import CheckFailed
from paramgolf.predict.protocol import Float64, Int64
from paramgolf.predict.slot_fit import fit
from paramgolf.predict.slot_readout import Readout
from paramgolf.recipe import ScoreRecipe


@dataclass(frozen=True)
class Offsets:
    """Fitted parameters [P] and the last position of the lane whose token they were fitted on (-1: none, no
    parameters)."""

    parameters_P: Float64
    last_target: int

    def for_position(self, position: int) -> Offsets:
        """These, if all they were fitted on lies before `position`; `CheckFailed` otherwise."""
        if self.last_target >= position:
            raise CheckFailed(
                f"score-before-update: offsets fitted on position {self.last_target} for position {position}"
            )
        return self


NEUTRAL = Offsets(np.zeros(0), -1)


@dataclass(frozen=True)
class SlotLane:
    """A lane after `position` tokens; `features_NF` and `tokens_N` are those of its last ones, oldest first."""

    position: int
    features_NF: Float64
    tokens_N: Int64
    offsets: Offsets

    @staticmethod
    def fresh() -> SlotLane:
        """A lane at the start of a document."""
        return SlotLane(0, np.zeros((0, 0)), np.zeros(0, dtype=np.int64), NEUTRAL)

    def fitted(self, readout: Readout, recipe: ScoreRecipe) -> SlotLane:
        """The lane with the offsets for its next position: fitted now if an interval begins there."""
        if self.position == self.offsets.last_target + 1 or self.position % recipe.slot_interval:
            return self
        first = self.position - len(self.tokens_N)
        offsets = fitted_on(readout, recipe, self.features_NF, self.tokens_N, first, self.offsets)
        return replace(self, offsets=offsets)


def fitted_on(
    readout: Readout, recipe: ScoreRecipe, features_NF: Float64, tokens_N: Int64, first: int, before: Offsets
) -> Offsets:
    """Offsets fitted on tokens of the positions `first ..` of a lane, from `slot_warm` times those `before`.

    Neutral ones, which leave the rows as they are, if there is no token or a parameter comes out as no number.
    """
    start_P = np.zeros(readout.parameters)
    if recipe.slot_warm > 0 and len(before.parameters_P):
        start_P = recipe.slot_warm * before.parameters_P
    if not len(tokens_N):
        return NEUTRAL
    with np.errstate(all="ignore"):
        found_P = fit(readout.objective(features_NF, tokens_N), start_P, recipe)
    last = first + len(tokens_N) - 1
    return Offsets(found_P if np.isfinite(found_P).all() else np.zeros(0), last)
