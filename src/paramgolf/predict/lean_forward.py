"""A GPT on a CPU without gradients: the mathematics of `model.gpt` with fewer passes over memory.

Legend: F frames, T positions, D width, n wanted positions, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paramgolf.model.gpt import GPT


def lean_hidden(model: GPT, tokens_FT: Tensor, last: int | None = None) -> Tensor:
    """States [F, n, D] after the last norm of the last `last` positions (default: all); call it without gradients."""
    h_FTD = model.hidden(tokens_FT)
    return h_FTD if last is None else h_FTD[:, -last:]


def lean_logits(model: GPT, h_ND: Tensor) -> Tensor:
    """Logits [N, V], to float noise those of `model.logits`; call it without gradients."""
    if h_ND.device.type != "cpu" or h_ND.dtype != torch.float32:
        return model.logits(h_ND)
    return torch.mm(h_ND, model.embedding.weight.T).div_(model.recipe.softcap).tanh_().mul_(model.recipe.softcap)
