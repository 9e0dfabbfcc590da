"""Text that a model makes up itself, to be calibrated on where no other text may be read (as in PR #1019).

Legend: S sequences, T tokens of a sequence, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from paramgolf.errors import RecipeError, RunError
from paramgolf.model.gpt import GPT


class OwnText:
    """Sequences of `sequence` tokens: the first is any token alike, the others come from the model's rows.

    `draw` is a pure function of the seed, the rank and the step, on one machine. Every token takes a forward pass over
    what stands before it, so the time grows with the square of the length. Source: spec pr1430.md 3.1.
    """

    def __init__(self, model: GPT, sequence: int, seed: int, temperature: float = 0.8, rank: int = 0) -> None:
        if sequence < 1 or not temperature > 0:
            raise RecipeError(f"own text: sequence={sequence} and temperature={temperature} must be positive")
        self.sequence, self.temperature = sequence, temperature
        self._model, self._seed, self._rank = model, seed, rank

    @torch.no_grad()
    def draw(self, step: int, sequences: int) -> npt.NDArray[np.int64]:
        """Ids int64 [S, T]. Raises `RunError` if the model's rows are no numbers."""
        device = self._model.embedding.weight.device
        generator = torch.Generator(device).manual_seed(_mixed(self._seed, self._rank, step))
        tokens_ST = torch.empty(sequences, self.sequence, dtype=torch.int64, device=device)
        tokens_ST[:, 0] = torch.randint(self._model.vocab_size, (sequences,), generator=generator, device=device)
        for at in range(1, self.sequence):
            last_SD = self._model.hidden(tokens_ST[:, :at])[:, -1]
            share_SV = (self._model.logits(last_SD).float() / self.temperature).softmax(dim=-1)
            if not bool(share_SV.isfinite().all()):
                raise RunError("the model's rows are not finite: these are the weights of a run that diverged")
            tokens_ST[:, at] = torch.multinomial(share_SV, 1, generator=generator)[:, 0]
        drawn: npt.NDArray[np.int64] = tokens_ST.cpu().numpy()
        return drawn


def _mixed(*parts: int) -> int:
    """A seed of its own for every combination of whole numbers."""
    words = np.random.SeedSequence([part & 0xFFFFFFFF for part in parts]).generate_state(2, np.uint32).tolist()
    return int(words[0]) << 31 ^ int(words[1])
