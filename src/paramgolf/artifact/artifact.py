"""What an artifact is once it has been opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from paramgolf.recipe import Recipe
from paramgolf.text.tokenizer import TokenIds, Tokenizer


@dataclass(frozen=True)
class Artifact:
    """A trained model with everything that is needed to predict.

    `weights` float32, dequantised, in the order and shapes of `model.arithmetic.tensor_shapes`; `primer` the carried
    training documents as int32 ids below the vocabulary's size; `digest` the SHA-256 (hex) of the file; `sizes` its
    bytes: `file` (what the cap applies to), `without_tokenizer`, and one entry a member (`source`, `recipe`,
    `tokenizer`, `weights`, `primer`, `manifest`) as stored. An artifact that was never a file has neither.
    """

    recipe: Recipe
    tokenizer: Tokenizer
    weights: Mapping[str, npt.NDArray[np.float32]] = field(repr=False)
    primer: tuple[TokenIds, ...] = field(default=(), repr=False)
    digest: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
