"""The matrices of all blocks in a few banks, so that an optimizer step handles equal shapes as one batch.

Legend: L layers, D width, G all channels of keys (or values), M channels of the MLP. Weights are (out, in).

    query_output [2L, D, D]  queries of layers 0..L-1, then outputs      up   [L, M, D]
    key_value    [2L, G, D]  keys of layers 0..L-1, then values          down [L, D, M]
    gate         [L, M, D], of a gated MLP only

A bank is one parameter and one storage: gradients, momentum and collectives never copy it together. Artifacts hold the
matrices one by one, by names of their own (spec pr549.md 2.1, 3.4, 3.5, 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from paramgolf.model.arithmetic import BANKS, bank_rows
from paramgolf.model.fake_quantise import fake_quantise
from paramgolf.recipe import ModelRecipe


class LayerMatrices(NamedTuple):
    """The matrices of one layer, views into the banks."""

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    up: Tensor
    gate: Tensor | None
    down: Tensor


class Banks(nn.Module):
    """See the module docstring; it holds no values until the model initialises them."""

    gate: nn.Parameter | None

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        layers, width, kv_width, mlp_width = recipe.layers, recipe.width, recipe.kv_width(), recipe.mlp_width()
        self.layers = layers
        self.query_output = nn.Parameter(torch.empty(2 * layers, width, width))
        self.key_value = nn.Parameter(torch.empty(2 * layers, kv_width, width))
        self.up = nn.Parameter(torch.empty(layers, mlp_width, width))
        self.gate = nn.Parameter(torch.empty(layers, mlp_width, width)) if recipe.gated_mlp else None
        self.down = nn.Parameter(torch.empty(layers, width, mlp_width))

    def split(self, dtype: torch.dtype, quantise_bits: int = 0) -> list[LayerMatrices]:
        """The matrices of all layers in `dtype`, rounded to `quantise_bits` (straight through) unless that is 0.

        Each bank is cast and taken apart once: the backward pass then stacks the gradients once, where indexing would
        write a whole bank of noughts for every use.
        """
        query_output, key_value, up, down = (
            _matrices(bank, dtype, quantise_bits) for bank in (self.query_output, self.key_value, self.up, self.down)
        )
        gate = None if self.gate is None else _matrices(self.gate, dtype, quantise_bits)
        n = self.layers
        return [
            LayerMatrices(
                query=query_output[i],
                key=key_value[i],
                value=key_value[n + i],
                output=query_output[n + i],
                up=up[i],
                gate=None if gate is None else gate[i],
                down=down[i],
            )
            for i in range(n)
        ]


def _matrices(bank: Tensor, dtype: torch.dtype, quantise_bits: int) -> tuple[Tensor, ...]:
    rounded = fake_quantise(bank, quantise_bits) if quantise_bits else bank
    return rounded.to(dtype).unbind(0)


def unbank(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Banked parameters (tensors or arrays by name) under the names of an artifact; the matrices are views."""
    exported: dict[str, Any] = {}
    for name, value in parameters.items():
        if name in BANKS:
            exported.update(zip(bank_rows(name, len(value)), value, strict=True))
        else:
            exported[name] = value
    return exported


def load_banked(model: nn.Module, exported: Mapping[str, Any]) -> None:
    """Copy weights by an artifact's names (tensors or arrays) into the model's parameters.

    Raises `KeyError` for a missing name and `RuntimeError` for a wrong shape.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in BANKS:
                for row, part in zip(bank_rows(name, len(parameter)), parameter, strict=True):
                    part.copy_(torch.as_tensor(exported[row]))
            else:
                parameter.copy_(torch.as_tensor(exported[name]))
