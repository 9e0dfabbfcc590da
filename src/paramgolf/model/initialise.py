"""First values of all parameters, from one seed: the blocks start as the identity, the embedding small."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from paramgolf.recipe import ModelRecipe

BIGRAM_SCALE = 0.05
VALUE_SCALE = 0.1
VALUE_EMBEDDING_STD = 0.01
VALUE_MIX = 0.5  # of the first layer's values, and of the layer's own (spec pr1185.md 2.2)
HEAD_GATE_BIAS = 4.0  # gates begin at sigmoid(4) = 0.982 (spec pr1185.md 2.3)

# Parameters that begin as a constant, by the end of their names.
CONSTANTS = {
    "bigram.embedding.weight": 0.0,
    "bigram.scale": BIGRAM_SCALE,
    "smear.gate": 0.0,  # half of the position before
    "smear.scale": 0.0,  # of a gated smear: nothing of it
    "skip_weights": 1.0,
    "skip_gates": 0.0,  # half of the skip, half of the stream
    "lanes.added": 1.0,
    "lanes.kept": 1.1,
    "sparse_gate.weight": 0.0,  # every head counts half
    "value_embedding.scale": VALUE_SCALE,
    "value_scale": 1.0,
    "value_mix": VALUE_MIX,
    "head_gate.weight": 0.0,
    "head_gate.bias": HEAD_GATE_BIAS,
    "router.bias": 0.0,
    "attention_scale": 1.0,
    "mlp_scale": 1.0,
    "banks.down": 0.0,
}


@torch.no_grad()
def initialise(model: nn.Module, seed: int, recipe: ModelRecipe) -> None:
    """Draw all weights on the CPU, as `recipe.init` says (spec pr549.md 2.1, pr2140.md 2.1).

    Outputs and down matrices are zero either way. The same seed gives the same weights whatever happened to torch's
    global generator.
    """
    generator = torch.Generator().manual_seed(seed)
    constants = {**CONSTANTS, "query_gain": recipe.query_gain, "softcaps": recipe.softcap}
    for name, parameter in model.named_parameters():
        constant = next((value for end, value in constants.items() if name.endswith(end)), None)
        if constant is not None:
            parameter.fill_(constant)
        elif name.endswith("residual_mix"):
            parameter[0], parameter[1] = 1.0, 0.0
        elif name in ("embedding.weight", "value_embedding.embedding.weight"):
            std = recipe.embedding_std if name == "embedding.weight" else VALUE_EMBEDDING_STD
            parameter.normal_(0.0, std, generator=generator)
        else:
            matrices = parameter if parameter.dim() == 3 else parameter[None]
            drawn = len(matrices) // 2 if name == "banks.query_output" else len(matrices)
            for matrix in matrices[:drawn]:
                _draw(matrix, recipe.init, generator)
            matrices[drawn:].zero_()


def _draw(matrix: Tensor, kind: str, generator: torch.Generator) -> None:
    if kind == "orthogonal":
        nn.init.orthogonal_(matrix, generator=generator)
        return
    # Half the spread that keeps the variance: Muon moves every singular value at one speed, so start low.
    bound = 0.5 * math.sqrt(3.0 / matrix.shape[1])
    matrix.uniform_(-bound, bound, generator=generator)
