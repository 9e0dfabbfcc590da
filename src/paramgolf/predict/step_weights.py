"""The weights of an artifact as the stepwise kernel reads them: (in, out), stacked over layers, fixed bits.

Legend: L layers, R visits of layers, D width, H query heads, G key/value heads, K channels of a head, C = G K,
M channels of the MLP, V vocabulary, W window, J turned pairs of channels, B buckets of token pairs, P and E widths of
the two further tables, N channels that small gates read, S U-Net skips. A part that the recipe switches off has an
empty array.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from paramgolf.errors import ArtifactError
from paramgolf.model.arithmetic import Shapes, tensor_shapes, usable_softcaps
from paramgolf.model.route import route
from paramgolf.predict.fixed_math import exp_into
from paramgolf.predict.fixed_rotary import rotary_table
from paramgolf.predict.protocol import Float64
from paramgolf.recipe import ModelRecipe

Float32 = npt.NDArray[np.float32]


class EmbeddingWeights(NamedTuple):
    """What a position is before the first block, and its value by token."""

    token_VD: Any  # tables and matrices float32, everything else float64
    pair_BP: Any
    pair_PD: Any
    pair_scale: float
    smear_D: Any  # share of the position before
    smear_N1: Any  # or what makes of a position's first channels the score of that share
    smear_scale: float
    smear_boundary: int  # the token that takes no share; -1: none
    value_VE: Any
    value_EC: Any
    value_scale: float


class LayerWeights(NamedTuple):
    """Matrices of all layers float32, everything else float64."""

    query_LDD: Any
    key_value_LDJ: Any  # keys, values and scores of the heads' gates side by side, J = 2 C (+ H)
    output_LDD: Any
    up_LDU: Any  # and the gate of a gated MLP beside it, U = M or 2 M
    down_LMD: Any
    gain_LH: Any  # with the 1 / sqrt(K) of attention
    value_gain_L: Any  # 0 where a layer has no value embedding
    excludes_L: Any  # whether a layer's reads leave out the own value
    mix_L2D: Any
    attention_scale_LD: Any
    mlp_scale_LD: Any
    depth_L: Any
    turn_WJ2: Any  # cosine and sine
    slope: float
    value_mix_L2: Any  # gains of the first visit's values and of the own
    gate_bias_LH: Any
    gate_scale: float  # times the score of a head's gate, before its bias
    routed_L: Any  # whether a layer's MLP serves only some positions
    router_LD: Any
    router_bias_L: Any


class RouteWeights(NamedTuple):
    """The visits of `model.route`, and what joins their streams and lanes; float64."""

    layer_R: Any
    keeps_R: Any
    joins_R: Any
    parallel_R: Any
    skip_SD: Any
    skip_gate_SD: Any  # share of the stream that stays where a kept one joins; empty: they are added
    kept_L2: Any  # gains of the two lanes
    added_L22: Any  # gains of what attention and MLP make, for each lane


class StepWeights(NamedTuple):
    """All weights, by the kernel that reads them."""

    embedding: EmbeddingWeights
    layers: LayerWeights
    route: RouteWeights
    head_DV: Any
    softcaps: tuple[float, float]  # of logits above 0, and of the others


def gather_weights(
    weights: Mapping[str, Float32], recipe: ModelRecipe, window: int, vocab_size: int, boundary_id: int
) -> StepWeights:
    """Stack and transpose for the kernel; raise `ArtifactError` if a tensor is missing or has another shape.

    Softcaps that are not positive raise it, too.
    """
    source = _Source(weights, tensor_shapes(recipe, vocab_size), recipe.layers)
    embedding, layers = _embedding(source, recipe, boundary_id), _layers(source, recipe, window)
    head_DV, softcaps = source.turned("embedding.weight"), (float(recipe.softcap), float(recipe.softcap))
    if recipe.asymmetric_softcap:
        softcaps = usable_softcaps(source.one("softcaps").tolist())
    return StepWeights(embedding, layers, _route(source, recipe), head_DV, softcaps)


def _layers(source: _Source, recipe: ModelRecipe, window: int) -> LayerWeights:
    layers, width = range(recipe.layers), recipe.width
    values = [float(source.one(f"blocks.{n}.value_scale")[0]) if n in recipe.value_layers else 0.0 for n in layers]
    depth = [1.0 / math.sqrt(n + 1) if recipe.depth_scale else 1.0 for n in layers]
    scales, none = recipe.block_scales, np.empty((recipe.layers, 0))
    keys, values_LDC = source.stacked("attention.key.weight"), source.stacked("attention.value.weight")
    gate_LDH, gate_bias_LH = _head_gates(source, recipe)
    router_LD, router_bias_L = _routers(source, recipe)
    return LayerWeights(
        query_LDD=source.stacked("attention.query.weight"),
        key_value_LDJ=np.concatenate([keys, values_LDC, gate_LDH], axis=2),
        output_LDD=source.stacked("attention.output.weight"),
        up_LDU=source.side_by_side("mlp.up.weight", *(["mlp.gate.weight"] if recipe.gated_mlp else [])),
        down_LMD=source.stacked("mlp.down.weight"),
        gain_LH=source.gains("attention.query_gain") / math.sqrt(recipe.head_size()),
        value_gain_L=np.array(values),
        excludes_L=np.array([n in recipe.xsa_layers for n in layers]),
        mix_L2D=source.gains("residual_mix") if recipe.residual_mix else np.empty((0, 2, width)),
        attention_scale_LD=source.gains("attention_scale") if scales else none,
        mlp_scale_LD=source.gains("mlp_scale") if scales else none,
        depth_L=np.array(depth),
        turn_WJ2=rotary_table(recipe.turned_channels() // 2, recipe.rope_base_at(window), window),
        slope=float(recipe.mlp_slope),
        value_mix_L2=source.gains("value_mix") if recipe.value_residual else none,
        gate_bias_LH=gate_bias_LH,
        gate_scale=float(recipe.gate_scale) if recipe.sparse_gates else 1.0,
        routed_L=np.array([n in recipe.routed_layers for n in layers]),
        router_LD=router_LD,
        router_bias_L=router_bias_L,
    )


def _route(source: _Source, recipe: ModelRecipe) -> RouteWeights:
    visits, skips = route(recipe), recipe.skips()
    gates_SD = sigmoid_of(source.one("skip_gates").astype(np.float64)) if recipe.skip_gates else np.empty((skips, 0))
    lanes = recipe.parallel_layers > 0
    return RouteWeights(
        layer_R=np.array([visit.layer for visit in visits]),
        keeps_R=np.array([visit.keeps for visit in visits]),
        joins_R=np.array([visit.joins for visit in visits]),
        parallel_R=np.array([visit.parallel for visit in visits]),
        skip_SD=source.one("skip_weights").astype(np.float64) if recipe.unet else np.empty((0, recipe.width)),
        skip_gate_SD=gates_SD,
        kept_L2=source.one("lanes.kept").astype(np.float64) if lanes else np.empty((0, 2)),
        added_L22=source.one("lanes.added").astype(np.float64) if lanes else np.empty((0, 2, 2)),
    )


def _head_gates(source: _Source, recipe: ModelRecipe) -> tuple[Float32, Float64]:
    """Weights [L, D, H] and biases of the heads' gates; a sparse one has zeros where it does not look."""
    layers, heads = recipe.layers, recipe.heads
    if recipe.gated_attention:
        return source.stacked("head_gate.weight"), source.gains("head_gate.bias")
    gate_LDH = np.zeros((layers, recipe.width, heads if recipe.sparse_gates else 0), dtype=np.float32)
    if recipe.sparse_gates:
        gate_LDH[:, : recipe.gate_channels] = source.stacked("sparse_gate.weight")
    return gate_LDH, np.zeros((layers, gate_LDH.shape[2]))


def _routers(source: _Source, recipe: ModelRecipe) -> tuple[Float64, Float64]:
    """Weights and biases of all layers, zero where a layer has no router."""
    weight_LD, bias_L = np.zeros((recipe.layers, recipe.width)), np.zeros(recipe.layers)
    for n in recipe.routed_layers:
        weight_LD[n] = source.one(f"blocks.{n}.router.weight")[0]
        bias_L[n] = source.one(f"blocks.{n}.router.bias")[0]
    return weight_LD, bias_L


def _embedding(source: _Source, recipe: ModelRecipe, boundary_id: int) -> EmbeddingWeights:
    none = np.empty((0, 0), dtype=np.float32)
    pairs, values, gated = recipe.bigram_buckets > 0, bool(recipe.value_layers), recipe.smear == "gated"
    shares = recipe.smear in ("everywhere", "within-document")
    return EmbeddingWeights(
        token_VD=source.one("embedding.weight"),
        pair_BP=source.one("bigram.embedding.weight") if pairs else none,
        pair_PD=source.turned("bigram.projection.weight") if pairs else none,
        pair_scale=float(source.one("bigram.scale")) if pairs else 0.0,
        smear_D=sigmoid_of(source.one("smear.gate").astype(np.float64)) if shares else np.empty(0),
        smear_N1=source.one("smear.gate")[:, None].copy() if gated else none,
        smear_scale=float(source.one("smear.scale")) if gated else 0.0,
        smear_boundary=boundary_id if recipe.smear in ("within-document", "gated") else -1,
        value_VE=source.one("value_embedding.embedding.weight") if values else none,
        value_EC=source.turned("value_embedding.projection.weight") if values else none,
        value_scale=float(source.one("value_embedding.scale")) if values else 0.0,
    )


def sigmoid_of(x: Float64) -> Float64:
    """1 / (1 + exp(-x)) of every number, the same bits everywhere."""
    powers = np.empty(x.size)
    exp_into(np.minimum(-x.ravel(), 700.0), powers, x.size)
    return (1.0 / (1.0 + powers)).reshape(x.shape)


class _Source:
    """Tensors of an artifact, checked against the shapes of its recipe as they are fetched."""

    def __init__(self, weights: Mapping[str, Float32], shapes: Shapes, layers: int) -> None:
        self._weights, self._shapes, self._layers = weights, shapes, layers

    def one(self, name: str) -> Float32:
        """A tensor as it is, contiguous."""
        if name not in self._weights:
            raise ArtifactError(f"the weights lack {name}")
        found = self._weights[name]
        if found.shape != self._shapes[name]:
            raise ArtifactError(f"{name} has shape {found.shape}, the recipe says {self._shapes[name]}")
        return np.array(found, dtype=np.float32, order="C")

    def turned(self, name: str) -> Float32:
        """A matrix as (in, out)."""
        return np.ascontiguousarray(self.one(name).T)

    def stacked(self, kind: str) -> Float32:
        """The matrices of all layers, [L, in, out]."""
        return np.stack([self.turned(f"blocks.{layer}.{kind}") for layer in range(self._layers)])

    def side_by_side(self, *kinds: str) -> Float32:
        """Several kinds of matrices of all layers, [L, in, all outs]."""
        return np.concatenate([self.stacked(kind) for kind in kinds], axis=2)

    def gains(self, kind: str) -> Float64:
        """The vectors of all layers in float64, [L, ...]."""
        return np.stack([self.one(f"blocks.{layer}.{kind}") for layer in range(self._layers)]).astype(np.float64)
