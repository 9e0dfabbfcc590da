"""A GPT on a CPU without gradients: the mathematics of `model.gpt` with fewer passes over memory.

Legend: F frames, T positions, N = F x T, n wanted positions of a frame, R rows of a slab, D width, H query
heads, G key/value heads, K channels of a head, C = G K, V vocabulary.

Everything but attention runs over slabs of rows that stay in the cache of a core, in place, in buffers that are made
once. Off the CPU, or in another precision than float32, the model itself runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from paramgolf.kernels.attention import causal_attention
from paramgolf.kernels.loss import caps_of
from paramgolf.model.banks import LayerMatrices
from paramgolf.model.block import Block
from paramgolf.model.gpt import GPT
from paramgolf.model.route import Visit, route
from paramgolf.predict.lean_heads import Heads, normalise
from paramgolf.predict.lean_mlp import LeanMlp, add_product
from paramgolf.predict.lean_stream import Join, Lanes

SLAB_BYTES = 6 << 20  # of MLP channels at once: shorter slabs cost the products more than the cache gives back


def lean_hidden(model: GPT, tokens_FT: Tensor, last: int | None = None) -> Tensor:
    """States [F, n, D] after the last norm of each frame's last n = `last` positions (default: all); no gradients.

    To float noise those of `model.hidden`. What other positions alone would need of the last visit is left out where
    they are half of the frame or more: for fewer it does not pay.
    """
    length = tokens_FT.shape[1]
    wanted = length if last is None else last
    if not 0 < wanted <= length:
        raise ValueError(f"the last {wanted} positions of a frame of {length}")
    weight = model.embedding.weight
    if weight.device.type != "cpu" or not weight.dtype == (model.activation_dtype or weight.dtype) == torch.float32:
        return model.hidden(tokens_FT)[:, length - wanted :]
    with torch.no_grad():
        return _Pass(model, tokens_FT).states(wanted if 2 * wanted <= length else length)[:, -wanted:]


def lean_logits(model: GPT, h_ND: Tensor) -> Tensor:
    """Logits [N, V], to float noise those of `model.logits`; call it without gradients."""
    if h_ND.device.type != "cpu" or h_ND.dtype != torch.float32:
        return model.logits(h_ND)
    above, below = caps_of(model.softcap)
    over_cap_NV = torch.mm(h_ND, model.embedding.weight.T).div_(above)
    if above == below:
        return over_cap_NV.tanh_().mul_(above)
    # What is not above 0 is divided, and multiplied, by the other cap: a leaky ReLU with the ratio of the two.
    capped_NV = functional.leaky_relu_(over_cap_NV, above / below).tanh_().mul_(above)
    return functional.leaky_relu_(capped_NV, below / above)


class _Run(NamedTuple):
    """One visit of the route with its block and the matrices of that; whether it is the `first` visit."""

    visit: Visit
    block: Block
    w: LayerMatrices
    first: bool


class _Pass:
    """One forward pass over frames; `h_ND` is the residual stream, or the lane that attention reads, kept in place."""

    def __init__(self, model: GPT, tokens_FT: Tensor) -> None:
        recipe = model.recipe
        self.model, self.recipe, self.size = model, recipe, recipe.head_size()
        self.frames, self.length = tokens_FT.shape
        rows, width, kv_width = tokens_FT.numel(), recipe.width, recipe.kv_width()
        self.start_ND = model.embed(tokens_FT).view(rows, width)
        self.h_ND = self.start_ND.clone() if recipe.residual_mix else self.start_ND
        values = model.value_embedding
        self.value_NC = None if values is None else values(tokens_FT, torch.float32).view(rows, kv_width)
        self.kept: list[Tensor] = []
        self.heads = Heads(model, self.length)
        self.slab = min(rows, max(64, SLAB_BYTES // (4 * recipe.mlp_width())))
        self.mlp, self.x_RD = LeanMlp(recipe, self.slab), torch.empty(self.slab, width)
        self.q_ND = torch.empty(rows, width)
        self.k_NC, self.v_NC = torch.empty(rows, kv_width), torch.empty(rows, kv_width)
        self.first_value_NC = torch.empty(rows if recipe.value_residual else 0, kv_width)
        gates = recipe.gated_attention or recipe.sparse_gates
        self.gate_NH = torch.empty(rows if gates else 0, recipe.heads)
        self.lanes: Lanes | None = None  # once the stream is two

    def states(self, wanted: int) -> Tensor:
        """The states [F, n, D] of the last positions after the last norm."""
        visits, layers = route(self.recipe), self.model.banks.split(torch.float32)
        for at, visit in enumerate(visits):
            block = self.model.blocks[visit.layer]
            assert isinstance(block, Block)
            run = _Run(visit, block, layers[visit.layer], at == 0)
            narrow = at == len(visits) - 1 and wanted < self.length
            if visit.parallel and self.lanes is None:
                self.lanes = Lanes(self.model, self.h_ND, self.slab)
            self._before_attention(run, queries=not narrow)
            own_NC = self._narrow(run, wanted) if narrow else self.v_NC
            self._after_attention(run, self._read(), own_NC)
            if visit.keeps:
                self.kept.append(self.h_ND.clone())
        if self.lanes is not None:
            self.h_ND.add_(self.lanes.side_ND).mul_(0.5)
        normalise(self.h_ND, self.h_ND)
        return self.h_ND.view(self.frames, wanted, -1)

    def _before_attention(self, run: _Run, *, queries: bool) -> None:
        """What enters the block, its keys and values and, if wanted, queries."""
        key_CD, query_DD = self.heads.paired(run.w.key), self.heads.paired(run.w.query)
        join = Join(self.model, self.kept.pop(), run.visit.joins) if run.visit.joins >= 0 else None
        mix_2D = None if run.visit.parallel else run.block.residual_mix
        for rows, places in self._slabs(self.length):
            h_RD = self.h_ND[rows]
            if join is not None:
                join.into(h_RD, rows)
            if mix_2D is not None:
                h_RD.mul_(mix_2D[0]).addcmul_(self.start_ND[rows], mix_2D[1])
            x_RD = self._attention_input(run, rows)
            self._values(x_RD, run, rows)
            self.heads.project(x_RD, key_CD, None, places, self.k_NC[rows])
            if queries:
                self._queries(x_RD, run.block, query_DD, rows, places)

    def _attention_input(self, run: _Run, rows: slice) -> Tensor:
        """What attention reads: of the stream, which is mixed already, or of a lane, which itself stays unmixed."""
        h_RD, mix_2D = self.h_ND[rows], run.block.residual_mix
        if run.visit.parallel and mix_2D is not None:
            mixed_RD = torch.mul(h_RD, mix_2D[0], out=self.x_RD[: len(h_RD)])
            h_RD = mixed_RD.addcmul_(self.start_ND[rows], mix_2D[1])
        return self._input(h_RD, run.block)

    def _values(self, x_RD: Tensor, run: _Run, rows: slice) -> None:
        """The values of a visit, with the token's own and the first visit's share."""
        block = run.block
        v_RC = torch.mm(x_RD, run.w.value.T, out=self.v_NC[rows])
        if self.value_NC is not None and block.value_scale is not None:
            v_RC.add_(self.value_NC[rows], alpha=float(block.value_scale))
        if block.value_mix is not None:
            if run.first:
                self.first_value_NC[rows] = v_RC
            first, own = block.value_mix.tolist()
            v_RC.mul_(own).add_(self.first_value_NC[rows], alpha=first)

    def _queries(self, x_RD: Tensor, block: Block, query_DD: Tensor, rows: slice, places: slice) -> None:
        """The queries of a layer, and the gates of what they will read."""
        self.heads.project(x_RD, query_DD, block.attention.query_gain, places, self.q_ND[rows])
        gate = block.head_gate or block.sparse_gate
        if gate is not None:
            torch.sigmoid(gate(x_RD), out=self.gate_NH[rows])

    def _narrow(self, run: _Run, wanted: int) -> Tensor:
        """Go on with the last `wanted` positions of each frame alone: their queries, and their values as the result."""
        self.h_ND, own_NC = self._last(self.h_ND, wanted), self._last(self.v_NC, wanted)
        if self.lanes is not None:
            self.lanes.side_ND = self._last(self.lanes.side_ND, wanted)
            self.start_ND = self._last(self.start_ND, wanted)
        self.q_ND, query_DD = self.q_ND[: len(self.h_ND)], self.heads.paired(run.w.query)
        self.gate_NH = self.gate_NH[: len(self.h_ND)]
        for rows, places in self._slabs(wanted):
            self._queries(self._attention_input(run, rows), run.block, query_DD, rows, places)
        return own_NC

    def _last(self, x_NI: Tensor, wanted: int) -> Tensor:
        """The last `wanted` positions of each frame, a row each."""
        return x_NI.view(self.frames, self.length, -1)[:, -wanted:].reshape(self.frames * wanted, -1)

    def _after_attention(self, run: _Run, read_ND: Tensor, own_NC: Tensor) -> None:
        """Add what attention read, and what the MLP makes of it or of its own lane."""
        block = run.block
        for rows in _evenly(len(read_ND), self.slab):
            h_RD, read_RD = self.h_ND[rows], read_ND[rows]
            if block.attention.excludes_own_value:
                self.heads.exclude_own_value(read_RD, own_NC[rows])
            if len(self.gate_NH):
                read_RD.view(len(read_RD), -1, self.size).mul_(self.gate_NH[rows, :, None])
            if self.lanes is None:
                add_product(h_RD, read_RD, run.w.output, block.attention_scale, self.x_RD)
                self.mlp.add(h_RD, self._input(h_RD, block), block, run.w)
            else:
                attended_RD, thought_RD = self.lanes.empty(len(h_RD))
                add_product(attended_RD, read_RD, run.w.output, block.attention_scale, self.x_RD)
                self.mlp.add(thought_RD, self._input(self.lanes.side_ND[rows], block), block, run.w)
                self.lanes.add(run.visit.layer, h_RD, rows)

    def _read(self) -> Tensor:
        """What the heads of the queries at hand read of all keys and values, a row for each query."""
        parts = (self.q_ND, self.k_NC, self.v_NC)
        q_FHnK, k_FGTK, v_FGTK = (
            x.view(self.frames, -1, x.shape[1] // self.size, self.size).transpose(1, 2) for x in parts
        )
        count = q_FHnK.shape[2]
        if count == self.length:
            read_FHnK = causal_attention(q_FHnK, k_FGTK, v_FGTK)
        else:
            seen_nT = torch.ones(count, self.length, dtype=torch.bool).tril_(self.length - count)
            read_FHnK = functional.scaled_dot_product_attention(
                q_FHnK, k_FGTK, v_FGTK, seen_nT, enable_gqa=self.recipe.heads != self.recipe.kv_heads
            )
        return read_FHnK.transpose(1, 2).reshape(self.q_ND.shape)

    def _slabs(self, length: int) -> Iterator[tuple[slice, slice]]:
        """Rows and their places for the last `length` positions of each frame: whole frames, or parts of one."""
        before = self.length - length
        if length <= self.slab:
            for part in _evenly(self.frames, self.slab // length):
                yield slice(part.start * length, part.stop * length), slice(before, self.length)
            return
        for base in range(0, self.frames * length, length):
            for part in _evenly(length, self.slab):
                yield slice(base + part.start, base + part.stop), slice(before + part.start, before + part.stop)

    def _input(self, h_RD: Tensor, block: Block) -> Tensor:
        return normalise(h_RD, self.x_RD[: len(h_RD)], block.depth_scale)


def _evenly(count: int, most: int) -> list[slice]:
    """`count` rows in as few slices of at most `most` as there can be, all about as long."""
    parts = -(-count // most)
    return [slice(count * n // parts, count * (n + 1) // parts) for n in range(parts)]
