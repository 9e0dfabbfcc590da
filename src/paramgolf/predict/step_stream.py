"""What the visits of the stepwise model do to the residual stream: mix, join, and keep two lanes apart.

Legend: T inputs of a block, D width. Everything is in place, one number at a time: there is no sum whose order could
change. Plain reference: `paramgolf.model.gpt`.
"""

from __future__ import annotations

from typing import Any

from numba import njit


@njit(cache=True, error_model="numpy")
def mix(h_TD: Any, start_TD: Any, mix_2D: Any, out_TD: Any) -> None:
    """The stream and the first embedding, each with a gain for every channel, into `out_TD`."""
    for t in range(len(h_TD)):
        for d in range(h_TD.shape[1]):
            out_TD[t, d] = mix_2D[0, d] * h_TD[t, d] + mix_2D[1, d] * start_TD[t, d]


@njit(cache=True, error_model="numpy")
def join(h_TD: Any, kept_TD: Any, weight_D: Any, gate_D: Any) -> None:
    """Add a kept stream, weighted; with a gate for each channel take it in the place of the rest of the stream."""
    for t in range(len(h_TD)):
        if len(gate_D):
            for d in range(h_TD.shape[1]):
                joined = weight_D[d] * kept_TD[t, d]
                h_TD[t, d] = joined + gate_D[d] * (h_TD[t, d] - joined)
        else:
            for d in range(h_TD.shape[1]):
                h_TD[t, d] += weight_D[d] * kept_TD[t, d]


@njit(cache=True, error_model="numpy")
def add_to_lanes(h_TD: Any, side_TD: Any, y_TD: Any, scale_D: Any, kept_2: Any, added_2: Any) -> None:
    """Each lane times its own gain, and y times another; `scale_D` is a gain for each channel of y, unless empty."""
    for t in range(len(h_TD)):
        for d in range(h_TD.shape[1]):
            y = scale_D[d] * y_TD[t, d] if len(scale_D) else y_TD[t, d]
            h_TD[t, d] = kept_2[0] * h_TD[t, d] + added_2[0] * y
            side_TD[t, d] = kept_2[1] * side_TD[t, d] + added_2[1] * y


@njit(cache=True, error_model="numpy")
def average(h_TD: Any, side_TD: Any) -> None:
    """The mean of both lanes into the first."""
    for t in range(len(h_TD)):
        for d in range(h_TD.shape[1]):
            h_TD[t, d] = 0.5 * (h_TD[t, d] + side_TD[t, d])
