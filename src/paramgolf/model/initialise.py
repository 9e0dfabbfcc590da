"""First values of all parameters, from one seed: the blocks start as the identity, the embedding small."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

QUERY_GAIN = 1.5
BIGRAM_SCALE = 0.05
VALUE_SCALE = 0.1
VALUE_EMBEDDING_STD = 0.01

# Parameters that begin as a constant, by the end of their names.
CONSTANTS = {
    "bigram.embedding.weight": 0.0,
    "bigram.scale": BIGRAM_SCALE,
    "smear.gate": 0.0,  # half of the position before
    "skip_weights": 1.0,
    "value_embedding.scale": VALUE_SCALE,
    "value_scale": 1.0,
    "attention_scale": 1.0,
    "mlp_scale": 1.0,
    "query_gain": QUERY_GAIN,
    "banks.down": 0.0,
}


@torch.no_grad()
def initialise(model: nn.Module, seed: int, kind: str, embedding_std: float) -> None:
    """Draw all weights on the CPU; `kind` is "uniform" or "orthogonal" (spec pr549.md 2.1).

    Outputs and down matrices are zero in both. The same seed gives the same weights whatever happened to torch's global
    generator.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        constant = next((value for end, value in CONSTANTS.items() if name.endswith(end)), None)
        if constant is not None:
            parameter.fill_(constant)
        elif name.endswith("residual_mix"):
            parameter[0], parameter[1] = 1.0, 0.0
        elif name in ("embedding.weight", "value_embedding.embedding.weight"):
            std = embedding_std if name == "embedding.weight" else VALUE_EMBEDDING_STD
            parameter.normal_(0.0, std, generator=generator)
        else:
            matrices = parameter if parameter.dim() == 3 else parameter[None]
            drawn = len(matrices) // 2 if name == "banks.query_output" else len(matrices)
            for matrix in matrices[:drawn]:
                _draw(matrix, kind, generator)
            matrices[drawn:].zero_()


def _draw(matrix: Tensor, kind: str, generator: torch.Generator) -> None:
    if kind == "orthogonal":
        nn.init.orthogonal_(matrix, generator=generator)
        return
    # Half the spread that keeps the variance: Muon moves every singular value at one speed, so start low.
    bound = 0.5 * math.sqrt(3.0 / matrix.shape[1])
    matrix.uniform_(-bound, bound, generator=generator)
