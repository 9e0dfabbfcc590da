"""The models that predict against the whole-model oracle of spec pr2140.md 9.6: loops, skips, lanes, gates and caps."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from paramgolf.model.gpt import GPT
from paramgolf.predict.lean_forward import lean_hidden, lean_logits
from paramgolf.predict.step_kernel import StepCache, forward, head_rows
from paramgolf.predict.step_weights import gather_weights
from paramgolf.recipe import ModelRecipe

V, BOUNDARY = 16, 1
LOOPED = ModelRecipe(
    layers=5,
    width=16,
    heads=4,
    kv_heads=2,
    mlp_ratio=2.0,
    mlp_slope=0.3,
    rope_channels=2,
    xsa_layers=(0, 1, 2, 3, 4),
    smear="gated",
    gate_channels=4,
    sparse_gates=True,
    unet=True,
    skip_gates=True,
    looped_layers=(1, 2),
    loops=3,
    parallel_layers=2,
    asymmetric_softcap=True,
    residual_mix=True,
    block_scales=True,
    depth_scale=True,
)
IDS = np.array([1, 5, 9, 2, 1, 7, 7, 3])
TARGETS = np.array([5, 9, 2, 1, 7, 7, 3, 1])

FILLED = {
    **{
        f"blocks.{b}.{name}": shape
        for b in range(5)
        for name, shape in (
            ("attn.attn_gate_w", (4, 4)),
            ("attn.q_gain", (4,)),
            ("attn_scale", (16,)),
            ("mlp_scale", (16,)),
            ("resid_mix", (2, 16)),
        )
    },
    "kv_bank": (10, 8, 16),
    "mlp_down_bank": (5, 16, 32),
    "mlp_up_bank": (5, 32, 16),
    "parallel_post_lambdas": (5, 2, 2),
    "parallel_resid_lambdas": (5, 2),
    "qo_bank": (10, 16, 16),
    "skip_gates": (4, 16),
    "skip_weights": (4, 16),
    "smear_gate.weight": (1, 4),
    "smear_lambda": (1,),
    "softcap_neg": (),
    "softcap_pos": (),
    "tok_emb.weight": (16, 16),
}


def filled() -> dict[str, np.ndarray]:
    """The parameters by the names and the rule of the spec, rounded to float32."""
    assert list(FILLED) == sorted(FILLED) and len(FILLED) == 38
    values = {}
    for k, (name, shape) in enumerate(FILLED.items(), start=1):
        f = np.sin(0.7 * (np.arange(math.prod(shape)) + 1) + 1.3 * k).reshape(shape)
        kind = name.split(".")[-1] if name.startswith("blocks") else name
        if kind.endswith("bank"):
            value = 0.25 * f
        elif kind in ("tok_emb.weight", "attn_gate_w", "smear_gate.weight"):
            value = 0.5 * f
        elif kind.startswith("softcap"):
            value = 30.0 + 0 * f
        elif kind == "smear_lambda":
            value = 0.4 + 0 * f
        elif kind == "resid_mix":
            value = 0.1 * f + np.array([[1.0], [0.0]])
        elif kind == "skip_gates":
            value = 0.3 * f
        else:
            base, slope = {"q_gain": (1.5, 0.1), "parallel_resid_lambdas": (1.1, 0.05)}.get(kind, (1.0, 0.1))
            value = base + slope * f
        values[name] = value.astype(np.float32)
    return values


def artifact_weights(skips: int) -> dict[str, np.ndarray]:
    """The same under an artifact's names, with the first `skips` rows of the skips."""
    f = filled()
    weights = {
        "embedding.weight": f["tok_emb.weight"],
        "smear.gate": f["smear_gate.weight"][0],
        "smear.scale": f["smear_lambda"][0],
        "skip_weights": f["skip_weights"][:skips],
        "skip_gates": f["skip_gates"][:skips],
        "lanes.added": f["parallel_post_lambdas"],
        "lanes.kept": f["parallel_resid_lambdas"],
        "softcaps": np.array([f["softcap_pos"], f["softcap_neg"]]),
    }
    for b in range(5):
        weights |= {
            f"blocks.{b}.attention.query.weight": f["qo_bank"][b],
            f"blocks.{b}.attention.output.weight": f["qo_bank"][5 + b],
            f"blocks.{b}.attention.key.weight": f["kv_bank"][b],
            f"blocks.{b}.attention.value.weight": f["kv_bank"][5 + b],
            f"blocks.{b}.mlp.up.weight": f["mlp_up_bank"][b],
            f"blocks.{b}.mlp.down.weight": f["mlp_down_bank"][b],
            f"blocks.{b}.attention_scale": f[f"blocks.{b}.attn_scale"],
            f"blocks.{b}.mlp_scale": f[f"blocks.{b}.mlp_scale"],
            f"blocks.{b}.residual_mix": f[f"blocks.{b}.resid_mix"],
            f"blocks.{b}.attention.query_gain": f[f"blocks.{b}.attn.q_gain"],
            f"blocks.{b}.sparse_gate.weight": f[f"blocks.{b}.attn.attn_gate_w"],
        }
    return weights


def losses(recipe: ModelRecipe, cuts: list[int], segments: list[int]) -> np.ndarray:
    """Nats of the targets, in float64 and without the rounding of logits; each segment a frame of its own."""
    weights = artifact_weights(recipe.skips())
    gathered = gather_weights(weights, recipe, 8, V, BOUNDARY)
    found = []
    for begin, end in zip([0, *segments], [*segments, 8], strict=True):
        keys = np.zeros((recipe.visits(), 2, 4, 8))
        cache, states, at = StepCache(keys, np.zeros((recipe.visits(), 2, 8, 4))), np.empty((end - begin, 16)), 0
        for count in cuts:
            tokens = IDS[begin:end][max(0, at - 2) : at + count]
            forward(gathered, cache, tokens, at, states[at : at + count])
            at += count
        logits = 30 * np.tanh(states @ weights["embedding.weight"].astype(np.float64).T / 30)
        found.append(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(end - begin), TARGETS[begin:end]])
    return np.concatenate(found)


FIRST_LOOPED = [2.717691, 2.958786, 7.576945, 3.328724]
FIRST_PLAIN = [2.702766, 2.974461, 7.833020, 3.488857]


@pytest.mark.parametrize(
    ("looped", "segments", "expected"),
    [
        (False, [], [*FIRST_PLAIN, 5.638512, 1.341373, 2.300397, 6.667436]),
        (False, [4], [*FIRST_PLAIN, 5.345587, 1.360032, 2.287504, 6.690758]),
        (True, [], [*FIRST_LOOPED, 5.491605, 1.391288, 2.350471, 6.495148]),
        (True, [4], [*FIRST_LOOPED, 5.241253, 1.404467, 2.330720, 6.461170]),
    ],
    ids=["plain", "plain, two segments", "looped", "looped, two segments"],
)
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "one by one"])
def test_the_tiny_model_of_2140(looped: bool, segments: list[int], expected: list[float], at_once: bool) -> None:
    """Losses of spec pr2140.md 9.6 to the last printed digit; a second segment begins with the boundary, afresh."""
    recipe = LOOPED if looped else dataclasses.replace(LOOPED, looped_layers=())
    length = 4 if segments else 8
    found = losses(recipe, [length] if at_once else [1] * length, segments)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1.5e-6)


@pytest.mark.parametrize("last", [None, 3])
def test_the_tiny_model_of_2140_in_few_sweeps(last: int | None) -> None:
    """The fast float32 pass gives the losses of spec pr2140.md 9.6 to 2e-5, of all positions and of the last alone."""
    model = GPT(LOOPED, V, seed=None, boundary_id=BOUNDARY)
    model.load_exported(artifact_weights(LOOPED.skips()))
    with torch.no_grad():
        logits = lean_logits(model, lean_hidden(model, torch.from_numpy(IDS)[None], last)[0])
        found = functional.cross_entropy(logits, torch.from_numpy(TARGETS)[-len(logits) :], reduction="none")
    expected = [*FIRST_LOOPED, 5.491605, 1.391288, 2.350471, 6.495148]
    np.testing.assert_allclose(found.numpy(), expected[-len(found) :], rtol=0, atol=2e-5)


def test_its_rows_are_capped_on_each_side_by_a_cap_of_its_own() -> None:
    """Logits above 0 follow the first cap, the others the second, to the rounding to 1/256."""
    rng = np.random.default_rng(0)
    h_TD, head_DV = rng.standard_normal((5, 16)), (4 * rng.standard_normal((16, 9))).astype(np.float32)
    rows = np.empty((5, 9))
    head_rows(h_TD, head_DV, (7.0, 3.0), rows)
    logits = h_TD @ head_DV.astype(np.float64)
    capped = np.where(logits > 0, 7 * np.tanh(logits / 7), 3 * np.tanh(logits / 3))
    assert capped.max() > 5 and -3 < capped.min() < -2.5
    expected = capped - np.log(np.exp(capped).sum(axis=1, keepdims=True))
    assert np.abs(rows - expected).max() < 1 / 256
    assert np.abs(np.exp(rows).sum(axis=1) - 1).max() < 1e-12
