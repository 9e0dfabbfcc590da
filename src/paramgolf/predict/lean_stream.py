"""Where streams of `lean_forward` meet: kept ones that join, and two lanes side by side.

Legend: N rows of all frames, R rows of a slab, D width. All of it is in place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paramgolf.model.gpt import GPT


class Join:
    """A kept stream on its way into the present one, with row `row` of the skip weights; `kept_ND` is used up."""

    def __init__(self, model: GPT, kept_ND: Tensor, row: int) -> None:
        assert model.skip_weights is not None
        self._kept_ND, self._weight_D = kept_ND, model.skip_weights[row]
        self._gate_D = None if model.skip_gates is None else torch.sigmoid(model.skip_gates[row])

    def into(self, h_RD: Tensor, rows: slice) -> None:
        """Add it to these rows; with a gate take for each channel a mean of the two."""
        if self._gate_D is None:
            h_RD.addcmul_(self._kept_ND[rows], self._weight_D)
        else:
            torch.lerp(self._kept_ND[rows].mul_(self._weight_D), h_RD, self._gate_D, out=h_RD)


class Lanes:
    """The second lane beside `h_ND`, and room for what attention and MLP add to both."""

    def __init__(self, model: GPT, h_ND: Tensor, slab: int) -> None:
        assert model.lanes is not None
        self.side_ND = h_ND.clone()
        self._kept, self._added = model.lanes.kept.tolist(), model.lanes.added.tolist()
        self._made_2RD = torch.empty(2, slab, h_ND.shape[1])

    def empty(self, count: int) -> Tensor:
        """Room [2, R, D] for what attention and MLP make of `count` rows, all 0."""
        return self._made_2RD[:, :count].zero_()

    def add(self, layer: int, h_RD: Tensor, rows: slice) -> None:
        """Both lanes with a layer's shares of themselves and of what stands in the room (spec pr2140.md 2.3)."""
        attended_RD, thought_RD = self._made_2RD[:, : len(h_RD)]
        for lane, lane_RD in enumerate((h_RD, self.side_ND[rows])):
            by_attention, by_mlp = self._added[layer][0][lane], self._added[layer][1][lane]
            lane_RD.mul_(self._kept[layer][lane])
            lane_RD.add_(attended_RD, alpha=by_attention).add_(thought_RD, alpha=by_mlp)
