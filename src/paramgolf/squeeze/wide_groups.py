"""Which groups of neighbouring columns keep more bits: those where inputs and weights are large (AWQ-lite).

Legend: R rows, C columns, G groups of a tensor. A column's score is the root mean square of its input times the mean
magnitude of its weights; a group's is the sum over its columns. Scores of different tensors are compared as they are,
as published (spec pr2140.md 4.3; AWQ: Lin et al. 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from paramgolf.squeeze.quantized import Float32, Float64


@dataclass(frozen=True)
class Groups:
    """Groups of `size` columns of one tensor, from `starts` on, ascending."""

    starts: tuple[int, ...]
    size: int


def group_scores(weight_RC: Float32, rms_C: Float64, size: int) -> Float64:
    """The score [G] of each whole group of `size` columns; columns that are left over at the end belong to none."""
    mean_C = np.abs(weight_RC).mean(axis=0, dtype=np.float64)
    groups = len(rms_C) // size
    scores_G: Float64 = (rms_C * mean_C)[: groups * size].reshape(groups, size).sum(axis=1)
    return scores_G


def choose_groups(scores: Mapping[str, Float64], count: int, size: int) -> dict[str, Groups]:
    """The `count` groups of highest score among all tensors, the first of equal ones; fewer where there are no more.

    One group of each tensor stays narrow, however high its score.
    """
    flat = [(score, name, group * size) for name, found in scores.items() for group, score in enumerate(found.tolist())]
    starts: dict[str, list[int]] = {name: [] for name in scores}
    left = count
    for _, name, start in sorted(flat, key=lambda entry: -entry[0]):
        if left and len(starts[name]) < len(scores[name]) - 1:
            starts[name].append(start)
            left -= 1
    return {name: Groups(tuple(sorted(found)), size) for name, found in starts.items() if found}


def input_rms(hessian_CC: Float32, visits: int) -> Float64:
    """Root mean square [C] of the inputs, up to a factor that all tensors share.

    A Hessian is a sum over the tokens of a sequence and over all `visits` of its block.
    """
    rms_C: Float64 = np.sqrt(np.diagonal(hessian_CC).astype(np.float64) / visits)
    return rms_C
