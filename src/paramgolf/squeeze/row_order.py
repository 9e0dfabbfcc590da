"""Rows of a matrix in an order in which neighbours are alike, as the container of #2140 stores them.

Legend: R rows, C columns. Source: spec pr2140.md 4.6.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from paramgolf.squeeze.quantized import Int8

Uint16 = npt.NDArray[np.uint16]


def nearest_row_order(values_RC: Int8) -> Uint16:
    """A greedy walk from row 0: always to the nearest row by sums of absolute differences, the first of equal ones.

    The order [R] lists the rows as they are visited. Raises `ValueError` above 65,536 rows, which two bytes can count.
    """
    if len(values_RC) > 1 << 16:
        raise ValueError(f"{len(values_RC)} rows, more than two bytes can count")
    order_R: Uint16 = _walk(np.ascontiguousarray(values_RC)).astype(np.uint16)
    return order_R


@njit(cache=True)
def _walk(values_RC: Int8) -> npt.NDArray[np.int64]:
    rows, columns = values_RC.shape
    order_R = np.arange(rows)  # visited rows, then those that are left in any order
    for done in range(1, rows):
        here = order_R[done - 1]
        best, least = done, np.int64(1 << 62)
        for place in range(done, rows):
            row = order_R[place]
            distance = np.int32(0)
            for column in range(columns):
                distance += abs(np.int32(values_RC[here, column]) - np.int32(values_RC[row, column]))
            if distance < least or (distance == least and row < order_R[best]):
                best, least = place, np.int64(distance)
        order_R[done], order_R[best] = order_R[best], order_R[done]
    return order_R
