"""The flip tests of #1240: the first proof that SLOT looks ahead, with its limits (spec section 8.1).

Shapes: L = 128 positions of one sequence, V = 1024 vocabulary, D = 128 width. Nats, float32, torch on the CPU.

A random transformer of two layers is frozen; SLOT is fitted on the last 64 targets. The tests flip a *target* only,
never the input behind it, so they say nothing about the model's own causality, nothing about windows that share a
batch, and nothing about sums. The twelve tests of `paramgolf.referee.blackbox` do.

Readings that give the published figures: embedding, then two layers with weights of their own (ReLU, causal, without
positions), then 129 tokens, all from seed 42; x and y are the tokens shifted by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

VOCABULARY, WIDTH, LENGTH, SCORED_FROM, SOFTCAP = 1024, 128, 128, 64, 30.0


@dataclass(frozen=True)
class Variant:
    """How the offset is fitted: steps of AdamW (torch's defaults), first rate, and whether logits get a bias too."""

    name: str
    steps: int
    rate: float
    with_bias: bool


VARIANTS = (Variant("shared", 8, 0.005, False), Variant("per-sample", 16, 0.008, True))


@dataclass(frozen=True)
class Flips:
    """What #1240 reports of one variant: A the flip of the last target, B the worth of the true target in the fit,
    C single flips of 16 targets with `pairs` (checked, flipped) that reacted of 240. Changes are in nats."""

    a_largest: float
    a_moved: int
    b_advantage: float
    c_pairs: int
    c_largest: float
    c_mean: float
    null_change: float


@dataclass(frozen=True)
class _Frozen:
    hidden_LD: torch.Tensor
    embedding_VD: torch.Tensor
    target_L: torch.Tensor

    def cost(self, offset_D: torch.Tensor, bias_V: torch.Tensor, target_L: torch.Tensor) -> torch.Tensor:
        """Nats of each target [L]; the bias comes before the softcap."""
        import torch.nn.functional as F

        logits_LV = SOFTCAP * ((((self.hidden_LD + offset_D) @ self.embedding_VD.T) + bias_V) / SOFTCAP).tanh()
        return F.cross_entropy(logits_LV, target_L, reduction="none")

    def fitted(self, variant: Variant, target_L: torch.Tensor) -> torch.Tensor:
        """Costs of the true targets [L] once the parameters were fitted on `target_L`."""
        import torch

        parameters = [torch.zeros(WIDTH, requires_grad=True), torch.zeros(VOCABULARY, requires_grad=variant.with_bias)]
        optimizer = torch.optim.AdamW(parameters[: 1 + variant.with_bias], lr=variant.rate)
        for step in range(variant.steps):
            optimizer.param_groups[0]["lr"] = variant.rate * 0.5 * (1 + math.cos(math.pi * step / variant.steps))
            optimizer.zero_grad()
            loss = self.cost(parameters[0], parameters[1], target_L)[SCORED_FROM:].mean()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
            optimizer.step()
        with torch.no_grad():
            return self.cost(parameters[0], parameters[1], self.target_L)


def run_flips(variant: Variant) -> Flips:
    """The tests A, B and C of #1240 for one variant; a few seconds on one core."""
    import torch

    frozen = _frozen()
    base_L = frozen.fitted(variant, frozen.target_L)
    with torch.no_grad():
        nothing = torch.zeros(1)
        null_L = frozen.cost(nothing, nothing, frozen.target_L) - frozen.cost(nothing, nothing, _flip(frozen, 127))
    a_L = (frozen.fitted(variant, _flip(frozen, 127)) - base_L).abs()[SCORED_FROM:127]
    generator = torch.Generator().manual_seed(999)
    wrong: list[float] = []
    while len(wrong) < 32:
        value = int(torch.randint(0, VOCABULARY, (1,), generator=generator))
        if value != int(frozen.target_L[96]):
            wrong.append(float(frozen.fitted(variant, _with(frozen, 96, value))[96]))
    moved = []
    for flipped in range(64, 80):
        change_L = (frozen.fitted(variant, _flip(frozen, flipped)) - base_L).abs()
        moved += [float(change_L[checked]) for checked in range(64, 80) if checked != flipped]
    return Flips(
        float(a_L.max()),
        int((a_L > 1e-4).sum()),
        sum(wrong) / len(wrong) - float(base_L[96]),
        sum(one > 1e-4 for one in moved),
        max(moved),
        sum(moved) / len(moved),
        float(null_L[:127].abs().max()),
    )


def _frozen() -> _Frozen:
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(42)
        embedding = torch.nn.Embedding(VOCABULARY, WIDTH)
        layers = [
            torch.nn.TransformerEncoderLayer(WIDTH, 4, 512, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        ]
        token_1M = torch.randint(0, VOCABULARY, (1, LENGTH + 1))
        mask_LL = torch.nn.Transformer.generate_square_subsequent_mask(LENGTH)
        hidden = embedding(token_1M[:, :-1])
        for layer in layers:
            hidden = layer.eval()(hidden, src_mask=mask_LL, is_causal=True)
        hidden = torch.nn.functional.layer_norm(hidden, (WIDTH,))
    return _Frozen(hidden[0], embedding.weight.detach(), token_1M[0, 1:].clone())


def _flip(frozen: _Frozen, position: int) -> torch.Tensor:
    return _with(frozen, position, (int(frozen.target_L[position]) + 1) % VOCABULARY)


def _with(frozen: _Frozen, position: int, value: int) -> torch.Tensor:
    target_L = frozen.target_L.clone()
    target_L[position] = value
    return target_L
