"""The model of any recipe for one row of tokens in float64 NumPy, from the specs' text: slow, plain, a reference.

It shares no code with the package but the recipe's fields, and knows nothing of its route: the order of blocks, the
stack of skips and the lanes are spelled out again. Sources: spec pr549.md 2, pr1185.md 2, pr2140.md 2 and 5.2.

`weights` are named as in an artifact. Legend: T positions, D width, V vocabulary, N visits, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Weights = Mapping[str, Any]


def rms(x: Array) -> Array:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1.1920929e-07)


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


class Adapters:
    """Of one lane: `factors[kind] = (A, B)`, [N, R, in] and [N, out, R], of "head" without N; scale = alpha / rank."""

    def __init__(self, factors: Mapping[str, tuple[Array, Array]], scale: float) -> None:
        self.factors, self.scale = factors, scale

    def delta(self, kind: str, visit: int, x: Array) -> Array | float:
        if kind not in self.factors:
            return 0.0
        a, b = self.factors[kind]
        if kind != "head":
            a, b = a[visit], b[visit]
        return self.scale * (x @ a.T) @ b.T


NOTHING = Adapters({}, 0.0)


class PlainGpt:
    """One pass over one row; see the module docstring."""

    def __init__(self, weights: Weights, recipe: Any, lengths: list[int] | None, adapters: Adapters) -> None:
        self.weights = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
        self.recipe, self.lengths, self.adapters = recipe, lengths, adapters
        self.first_value: Array | None = None

    def states(self, tokens: list[int], looping: bool, boundary: int) -> Array:
        recipe, w = self.recipe, self.weights
        self.tokens = tokens
        self.start = self.embed(tokens, boundary)
        order = list(range(recipe.layers))
        if recipe.looped_layers and looping:
            low, high = recipe.looped_layers[0], recipe.looped_layers[-1] + 1
            order = order[:low] + order[low:high] * recipe.loops + order[high:]
        half = len(order) // 2 if recipe.unet else 0
        lanes, stack, joined = [self.start], [], 0
        for visit, layer in enumerate(order):
            if layer >= recipe.layers - recipe.parallel_layers and len(lanes) == 1:
                lanes = [lanes[0], lanes[0]]
            if recipe.unet and visit >= half and stack:
                skip = w["skip_weights"][joined] * stack.pop()
                if recipe.skip_gates:
                    lanes[0] = skip + sigmoid(w["skip_gates"][joined]) * (lanes[0] - skip)
                else:
                    lanes[0] = lanes[0] + skip
                joined += 1
            lanes = self.block(layer, visit, lanes)
            if visit < half:
                stack.append(lanes[0])
        return rms(sum(lanes) / len(lanes))

    def embed(self, tokens: list[int], boundary: int) -> Array:
        recipe, w = self.recipe, self.weights
        x = w["embedding.weight"][tokens]
        if recipe.bigram_buckets:
            last = recipe.bigram_buckets - 1
            pairs = [last] + [((36313 * b) ^ (27191 * a)) % last for a, b in pairwise(tokens)]
            x = x + w["bigram.scale"] * w["bigram.embedding.weight"][pairs] @ w["bigram.projection.weight"].T
        if recipe.smear == "gated":
            out = x.copy()
            for t in range(1, len(tokens)):
                if tokens[t] != boundary:
                    share = sigmoid(w["smear.gate"] @ x[t, : recipe.gate_channels])
                    out[t] = x[t] + w["smear.scale"] * share * x[t - 1]
            return rms(out)
        x = rms(x)
        if recipe.smear == "none":
            return x
        g, out = sigmoid(w["smear.gate"]), x.copy()
        for t in range(len(tokens)):
            starts = t == 0 or (recipe.smear == "within-document" and tokens[t] == boundary)
            out[t] = (1 - g) * x[t] + (0.0 if starts else g * x[t - 1])
        return out

    def block(self, layer: int, visit: int, lanes: list[Array]) -> list[Array]:
        recipe, w = self.recipe, self.weights
        mixed = lanes[0]
        if recipe.residual_mix:
            mix = w[f"blocks.{layer}.residual_mix"]
            mixed = mix[0] * mixed + mix[1] * self.start
        a = self.attention(layer, visit, mixed)
        if len(lanes) == 1:
            h = mixed + a
            return [h + self.mlp(layer, visit, h)]
        m = self.mlp(layer, visit, lanes[1])
        kept, added = w["lanes.kept"][layer], w["lanes.added"][layer]
        return [kept[lane] * lanes[lane] + added[0][lane] * a + added[1][lane] * m for lane in range(2)]

    def normalised(self, layer: int, h: Array) -> Array:
        return rms(h) / math.sqrt(layer + 1) if self.recipe.depth_scale else rms(h)

    def attention(self, layer: int, visit: int, h: Array) -> Array:
        recipe, w, block = self.recipe, self.weights, f"blocks.{layer}"
        size, group = recipe.width // recipe.heads, recipe.heads // recipe.kv_heads
        n = self.normalised(layer, h)
        q, k, v = (
            n @ w[f"{block}.attention.{kind}.weight"].T + self.adapters.delta(kind, visit, n)
            for kind in ("query", "key", "value")
        )
        v = self.value(layer, v)
        heads = []
        for head in range(recipe.heads):
            of_query, of_group = (
                slice(head * size, (head + 1) * size),
                slice(head // group * size, (head // group + 1) * size),
            )
            turned_q = self.turn(rms(q[:, of_query])) * w[f"{block}.attention.query_gain"][head]
            turned_k, own = self.turn(rms(k[:, of_group])), v[:, of_group]
            read = np.zeros_like(own)
            for first, stop in self.documents(len(n)):
                for t in range(first, stop):
                    scores = turned_k[first : t + 1] @ turned_q[t] / math.sqrt(size)
                    share = np.exp(scores - scores.max())
                    read[t] = share / share.sum() @ own[first : t + 1]
            if layer in recipe.xsa_layers:
                unit = own / np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-12)
                read = read - (read * unit).sum(axis=1, keepdims=True) * unit
            if recipe.gated_attention:
                gate = w[f"{block}.head_gate.weight"][head]
                read = read * sigmoid(n @ gate + w[f"{block}.head_gate.bias"][head])[:, None]
            if recipe.sparse_gates:
                gate = w[f"{block}.sparse_gate.weight"][head]
                read = read * sigmoid(recipe.gate_scale * (n[:, : recipe.gate_channels] @ gate))[:, None]
            heads.append(read)
        out = np.concatenate(heads, axis=1) @ w[f"{block}.attention.output.weight"].T
        out = out + self.adapters.delta("output", visit, n)
        return out * w[f"{block}.attention_scale"] if recipe.block_scales else out

    def value(self, layer: int, v: Array) -> Array:
        recipe, w = self.recipe, self.weights
        if layer in recipe.value_layers:
            rows = w["value_embedding.embedding.weight"][self.tokens] @ w["value_embedding.projection.weight"].T
            v = v + w[f"blocks.{layer}.value_scale"][0] * w["value_embedding.scale"] * rows
        if recipe.value_residual:
            if self.first_value is None:
                self.first_value = v
            first, own = w[f"blocks.{layer}.value_mix"]
            v = first * self.first_value + own * v
        return v

    def turn(self, x: Array) -> Array:
        recipe = self.recipe
        turned = recipe.rope_channels or x.shape[1]
        half, base = turned // 2, recipe.rope_base
        context = max(self.lengths) if self.lengths else len(x)
        if recipe.rope_length and context > recipe.rope_length:
            base = base * (context / recipe.rope_length) ** (turned / (turned - 2))
        out = x.copy()
        for m in range(half):
            angle = np.arange(len(x)) * base ** (-2 * m / turned)
            cos, sin = np.cos(angle), np.sin(angle)
            out[:, m] = x[:, m] * cos + x[:, m + half] * sin
            out[:, m + half] = -x[:, m] * sin + x[:, m + half] * cos
        return out

    def documents(self, length: int) -> list[tuple[int, int]]:
        ends = [0, *np.cumsum(self.lengths or [length]).tolist()]
        return list(pairwise(ends))

    def mlp(self, layer: int, visit: int, h: Array) -> Array:
        recipe, w, block = self.recipe, self.weights, f"blocks.{layer}"
        n = self.normalised(layer, h)
        up = n @ w[f"{block}.mlp.up.weight"].T
        hidden = np.where(up > 0, up, recipe.mlp_slope * up) ** 2
        if recipe.gated_mlp:
            hidden = hidden * sigmoid(n @ w[f"{block}.mlp.gate.weight"].T)
        out = hidden @ w[f"{block}.mlp.down.weight"].T + self.adapters.delta("mlp", visit, n)
        if layer in recipe.routed_layers:
            score = n @ w[f"{block}.router.weight"].T + w[f"{block}.router.bias"]
            out = out * np.maximum(0.0, 2.0 * sigmoid(score) - 1.0)
        return out * w[f"{block}.mlp_scale"] if recipe.block_scales else out


def logits(
    weights: Weights,
    recipe: Any,
    tokens: list[int],
    *,
    looping: bool = True,
    lengths: list[int] | None = None,
    adapters: Adapters = NOTHING,
    boundary: int = 1,
) -> Array:
    """Logits [T, V] of one row; `lengths` of the documents that it packs, else it is one."""
    plain = PlainGpt(weights, recipe, lengths, adapters)
    h = plain.states(tokens, looping, boundary)
    scores = h @ plain.weights["embedding.weight"].T + adapters.delta("head", 0, h)
    above, below = plain.weights["softcaps"] if recipe.asymmetric_softcap else (recipe.softcap, recipe.softcap)
    return np.where(scores > 0, above * np.tanh(scores / above), below * np.tanh(scores / below))


def losses(row_logits: Array, targets: list[int]) -> Array:
    """-log softmax at each target, nats [T]."""
    highest = row_logits.max(axis=1, keepdims=True)
    normaliser = highest[:, 0] + np.log(np.exp(row_logits - highest).sum(axis=1))
    return normaliser - row_logits[np.arange(len(targets)), targets]
