"""A GPT on a CPU without gradients: the mathematics of `model.gpt` with fewer passes over memory.

Legend: F frames, T positions, N = F x T, n wanted positions of a frame, R rows of a slab, D width, H query
heads, G key/value heads, K channels of a head, C = G K, J turned pairs, V vocabulary.

Everything but attention runs over slabs of rows that stay in the cache of a core, in place, in buffers that are made
once. Off the CPU, or in another precision than float32, the model itself runs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from paramgolf.kernels.attention import causal_attention
from paramgolf.kernels.norm import RMS_EPS
from paramgolf.model.banks import LayerMatrices
from paramgolf.model.block import VALUE_EPS, Block
from paramgolf.model.gpt import GPT
from paramgolf.predict.lean_mlp import LeanMlp, add_product

SLAB_BYTES = 6 << 20  # of MLP channels at once: shorter slabs cost the products more than the cache gives back


def lean_hidden(model: GPT, tokens_FT: Tensor, last: int | None = None) -> Tensor:
    """States [F, n, D] after the last norm of each frame's last n = `last` positions (default: all); no gradients.

    To float noise those of `model.hidden`. What other positions alone would need of the last layer is left out where
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
    return torch.mm(h_ND, model.embedding.weight.T).div_(model.recipe.softcap).tanh_().mul_(model.recipe.softcap)


class _Pass:
    """One forward pass over frames; `h_ND` is the residual stream, changed in place."""

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
        self.order_K, self.turn_T1J = _pairs_side_by_side(model), _turns(model, self.length)
        self.slab = min(rows, max(64, SLAB_BYTES // (4 * recipe.mlp_width())))
        self.mlp, self.x_RD = LeanMlp(recipe, self.slab), torch.empty(self.slab, width)
        self.q_ND = torch.empty(rows, width)
        self.k_NC, self.v_NC = torch.empty(rows, kv_width), torch.empty(rows, kv_width)
        self.first_value_NC = torch.empty(rows if recipe.value_residual else 0, kv_width)
        self.gate_NH = torch.empty(rows if recipe.gated_attention else 0, recipe.heads)

    def states(self, wanted: int) -> Tensor:
        """The states [F, n, D] of the last positions after the last norm."""
        layers = self.model.banks.split(torch.float32)
        for layer, block in enumerate(self.model.blocks):
            assert isinstance(block, Block)
            narrow = layer == len(layers) - 1 and wanted < self.length
            self._before_attention(layer, block, layers[layer], queries=not narrow)
            own_NC = self._narrow(block, layers[layer], wanted) if narrow else self.v_NC
            self._after_attention(block, layers[layer], self._read(), own_NC)
            if layer < self.recipe.skips():
                self.kept.append(self.h_ND.clone())
        _normalise(self.h_ND, self.h_ND)
        return self.h_ND.view(self.frames, wanted, -1)

    def _before_attention(self, layer: int, block: Block, w: LayerMatrices, *, queries: bool) -> None:
        """What enters the block, its keys and values and, if wanted, queries."""
        key_CD, query_DD = self._paired(w.key), self._paired(w.query)
        skip = self._skip(layer)
        for rows, places in self._slabs(self.length):
            h_RD = self.h_ND[rows]
            if skip is not None:
                h_RD.addcmul_(skip[0][rows], skip[1])
            if block.residual_mix is not None:
                h_RD.mul_(block.residual_mix[0]).addcmul_(self.start_ND[rows], block.residual_mix[1])
            x_RD = self._input(h_RD, block)
            self._values(x_RD, layer, block, w.value, rows)
            self._project(x_RD, key_CD, None, places, self.k_NC[rows])
            if queries:
                self._queries(x_RD, block, query_DD, rows, places)

    def _values(self, x_RD: Tensor, layer: int, block: Block, weight: Tensor, rows: slice) -> None:
        """The values of a layer, with the token's own and the first layer's share."""
        v_RC = torch.mm(x_RD, weight.T, out=self.v_NC[rows])
        if self.value_NC is not None and block.value_scale is not None:
            v_RC.add_(self.value_NC[rows], alpha=float(block.value_scale))
        if block.value_mix is not None:
            if layer == 0:
                self.first_value_NC[rows] = v_RC
            first, own = block.value_mix.tolist()
            v_RC.mul_(own).add_(self.first_value_NC[rows], alpha=first)

    def _queries(self, x_RD: Tensor, block: Block, query_DD: Tensor, rows: slice, places: slice) -> None:
        """The queries of a layer, and the gates of what they will read."""
        self._project(x_RD, query_DD, block.attention.query_gain, places, self.q_ND[rows])
        if block.head_gate is not None:
            torch.sigmoid(block.head_gate(x_RD), out=self.gate_NH[rows])

    def _narrow(self, block: Block, w: LayerMatrices, wanted: int) -> Tensor:
        """Go on with the last `wanted` positions of each frame alone: their queries, and their values as the result."""
        self.h_ND, own_NC = (
            x.view(self.frames, self.length, -1)[:, -wanted:].reshape(self.frames * wanted, -1)
            for x in (self.h_ND, self.v_NC)
        )
        self.q_ND, query_DD = self.q_ND[: len(self.h_ND)], self._paired(w.query)
        self.gate_NH = self.gate_NH[: len(self.h_ND)]
        for rows, places in self._slabs(wanted):
            self._queries(self._input(self.h_ND[rows], block), block, query_DD, rows, places)
        return own_NC

    def _after_attention(self, block: Block, w: LayerMatrices, read_ND: Tensor, own_NC: Tensor) -> None:
        """Add what attention read and what the MLP makes of it."""
        for rows in _evenly(len(read_ND), self.slab):
            h_RD, read_RD = self.h_ND[rows], read_ND[rows]
            if block.attention.excludes_own_value:
                self._exclude_own_value(read_RD, own_NC[rows])
            if block.head_gate is not None:
                read_RD.view(len(read_RD), -1, self.size).mul_(self.gate_NH[rows, :, None])
            add_product(h_RD, read_RD, w.output, block.attention_scale, self.x_RD)
            self.mlp.add(h_RD, self._input(h_RD, block), block, w)

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

    def _skip(self, layer: int) -> tuple[Tensor, Tensor] | None:
        if self.model.skip_weights is None or layer < self.recipe.skips() or not self.kept:
            return None
        return self.kept.pop(), self.model.skip_weights[layer - self.recipe.skips()]

    def _input(self, h_RD: Tensor, block: Block) -> Tensor:
        return _normalise(h_RD, self.x_RD[: len(h_RD)], block.depth_scale)

    def _paired(self, weight: Tensor) -> Tensor:
        """A weight of queries or keys whose rows j and j + J of each head lie side by side; q·k is the same sum."""
        return weight.view(-1, self.size, weight.shape[1])[:, self.order_K].flatten(0, 1)

    def _project(self, x_RD: Tensor, weight: Tensor, gain_H: Tensor | None, places: slice, out_RC: Tensor) -> None:
        """Queries or keys: product, norm of each head, gain, and a pair of channels turned as one complex number."""
        torch.mm(x_RD, weight.T, out=out_RC)
        part_RHK = out_RC.view(len(out_RC), -1, self.size)
        inverse_RH1 = _inverse(part_RHK)
        part_RHK.mul_(inverse_RH1 if gain_H is None else inverse_RH1.mul_(gain_H[:, None]))
        turn_t1J = self.turn_T1J[places]
        pairs = part_RHK.view(-1, len(turn_t1J), part_RHK.shape[1], self.size // 2, 2)
        torch.view_as_complex(pairs[..., : turn_t1J.shape[2], :]).mul_(turn_t1J)

    def _exclude_own_value(self, read_RD: Tensor, v_RC: Tensor) -> None:
        """XSA in place: what a head read without its part along the position's own value (spec pr549.md 2.6)."""
        v_RG1K = v_RC.view(len(v_RC), -1, 1, self.size)
        read_RGHK = read_RD.view(len(v_RC), v_RG1K.shape[1], -1, self.size)
        length_RG11 = torch.linalg.vector_norm(v_RG1K, dim=3, keepdim=True).clamp_min_(VALUE_EPS)
        own_RG1K = v_RG1K / length_RG11
        read_RGHK.sub_((read_RGHK * own_RG1K).sum(dim=3, keepdim=True) * own_RG1K)


def _evenly(count: int, most: int) -> list[slice]:
    """`count` rows in as few slices of at most `most` as there can be, all about as long."""
    parts = -(-count // most)
    return [slice(count * n // parts, count * (n + 1) // parts) for n in range(parts)]


def _pairs_side_by_side(model: GPT) -> Tensor:
    """The channels of a head: those that rotary turns together, one pair after the other, then the rest."""
    turned, size = model.recipe.turned_channels(), model.recipe.head_size()
    paired = torch.arange(turned).view(2, -1).T.flatten()
    return torch.cat([paired, torch.arange(turned, size)])


def _turns(model: GPT, length: int) -> Tensor:
    """The complex number [T, 1, J] that turns each pair of a head."""
    rotary = model.rotary
    rotary.prepare(length)
    half = rotary.turned // 2
    return torch.complex(rotary.cos_TR[:length, :half], -rotary.sin_TR[:length, :half])[:, None]


def _normalise(x_RD: Tensor, out_RD: Tensor, factor: float = 1.0) -> Tensor:
    """`out` = x / sqrt(mean(x²) + RMS_EPS), times `factor`; `out` may be `x`."""
    inverse_R1 = _inverse(x_RD)
    return torch.mul(x_RD, inverse_R1 if factor == 1.0 else inverse_R1.mul_(factor), out=out_RD)


def _inverse(x: Tensor) -> Tensor:
    """1 / sqrt(mean(x²) + RMS_EPS) over the last dimension, which stays."""
    inverse: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    return inverse.div_(x.shape[-1]).add_(RMS_EPS).rsqrt_()
