"""Recipes of small models that tests of several rooms share, fixed and drawn, and the model of spec pr549.md 8.10."""

from __future__ import annotations

import dataclasses

import torch
from hypothesis import strategies as st

from paramgolf.model.gpt import GPT
from paramgolf.recipe import ModelRecipe

# Every part of #549's record.
ALL = ModelRecipe(
    layers=5,
    width=24,
    heads=4,
    kv_heads=2,
    mlp_ratio=2.5,
    mlp_slope=0.5,
    rope_base=300.0,
    rope_channels=4,
    rope_length=9,
    softcap=12.0,
    xsa_layers=(1, 4),
    value_layers=(0, 3, 4),
    value_width=7,
    bigram_buckets=11,
    bigram_width=5,
    smear="within-document",
    unet=True,
    residual_mix=True,
    block_scales=True,
    depth_scale=True,
)
GATED = dataclasses.replace(ALL, value_residual=True, gated_attention=True, gated_mlp=True, routed_layers=(1, 3, 4))
# What #2140 composes, and parts of the other systems in it: routed and mixed values pass the loops and the lanes too.
COMPOSED = dataclasses.replace(
    ALL,
    layers=6,
    smear="gated",
    gate_channels=5,
    sparse_gates=True,
    skip_gates=True,
    looped_layers=(1, 2),
    loops=3,
    parallel_layers=2,
    asymmetric_softcap=True,
    value_residual=True,
    routed_layers=(2, 5),
)
# Every part of #549's record as training begins with it.
TRAINED = ModelRecipe(
    layers=3,
    width=16,
    heads=2,
    kv_heads=1,
    mlp_slope=0.5,
    rope_channels=4,
    rope_length=8,
    xsa_layers=(2,),
    value_layers=(1, 2),
    value_width=6,
    bigram_buckets=11,
    bigram_width=5,
    smear="within-document",
    unet=True,
    residual_mix=True,
    block_scales=True,
    depth_scale=True,
    init="orthogonal",
)
# Spec pr549.md 8.10: the recipe, and the order in which its parameters are filled.
SPEC = ModelRecipe(
    layers=3,
    width=8,
    heads=2,
    kv_heads=1,
    mlp_ratio=3.0,
    mlp_slope=0.5,
    rope_channels=2,
    xsa_layers=(2,),
    value_layers=(2,),
    value_width=3,
    bigram_buckets=11,
    bigram_width=4,
    smear="everywhere",
    unet=True,
    residual_mix=True,
    block_scales=True,
    depth_scale=True,
)
_ORDER = (
    "embedding.weight",
    "bigram.embedding.weight",
    "bigram.projection.weight",
    "bigram.scale",
    "smear.gate",
    "skip_weights",
    "banks.query_output",
    "banks.key_value",
    "banks.up",
    "banks.down",
    "value_embedding.embedding.weight",
    "value_embedding.projection.weight",
    "value_embedding.scale",
    "blocks.2.value_scale",
    *(
        f"blocks.{layer}.{name}"
        for layer in range(3)
        for name in ("attention_scale", "mlp_scale", "residual_mix", "attention.query_gain")
    ),
)
_ONES = ("scale", "skip_weights", "query_gain")


@st.composite
def mixtures(draw: st.DrawFn) -> ModelRecipe:
    """Recipes with random switches, sizes and shapes."""
    layers, kv_heads, size = draw(st.integers(1, 5)), draw(st.integers(1, 2)), draw(st.sampled_from([2, 4, 6, 8]))
    heads = kv_heads * draw(st.integers(1, 3))
    some_layers = st.sets(st.integers(0, layers - 1)).map(lambda chosen: tuple(sorted(chosen)))
    turned = draw(st.sampled_from([c for c in (0, 2, 4) if c <= size]))
    looped = tuple(sorted(draw(st.lists(st.integers(0, layers - 1), max_size=2))))
    looped = tuple(range(looped[0], looped[-1] + 1)) if looped else ()
    unet, gates = layers > 1 and draw(st.booleans()), draw(st.sampled_from(["none", "of heads", "sparse"]))
    return ModelRecipe(
        layers=layers,
        width=heads * size,
        heads=heads,
        kv_heads=kv_heads,
        mlp_ratio=draw(st.sampled_from([1.0, 2.2])),
        mlp_slope=draw(st.sampled_from([0.0, 0.5])),
        rope_base=draw(st.sampled_from([50.0, 10_000.0])),
        rope_channels=turned,
        rope_length=draw(st.sampled_from([0, 7])) if (turned or size) >= 4 else 0,
        xsa_layers=draw(some_layers),
        value_layers=draw(some_layers),
        value_width=draw(st.integers(1, 9)),
        bigram_buckets=draw(st.sampled_from([0, 3, 10])),
        bigram_width=draw(st.integers(1, 9)),
        smear=draw(st.sampled_from(["none", "everywhere", "within-document", "gated"])),
        unet=unet,
        residual_mix=draw(st.booleans()),
        block_scales=draw(st.booleans()),
        depth_scale=draw(st.booleans()),
        value_residual=draw(st.booleans()),
        gated_attention=gates == "of heads",
        gated_mlp=draw(st.booleans()),
        routed_layers=draw(some_layers),
        skip_gates=unet and draw(st.booleans()),
        looped_layers=looped,
        loops=draw(st.integers(1, 3)),
        parallel_layers=draw(st.integers(0, layers - (looped[-1] + 1 if looped else 0))),
        sparse_gates=gates == "sparse",
        gate_channels=draw(st.integers(1, heads * size)),
        gate_scale=draw(st.sampled_from([0.5, 1.7])),
        asymmetric_softcap=draw(st.booleans()),
    )


def spec_model() -> GPT:
    """The filled model of spec pr549.md 8.10, float64."""
    model = GPT(SPEC, 16).double()
    parameters = dict(model.named_parameters())
    assert sorted(_ORDER) == sorted(parameters)
    with torch.no_grad():
        for k, name in enumerate(_ORDER):
            value = parameters[name]
            filled = 0.5 * torch.sin(1 + 0.7 * torch.arange(value.numel(), dtype=torch.float64) + 1.3 * k)
            value.copy_((filled + (1.0 if name.endswith(_ONES) else 0.0)).view(value.shape))
    return model
