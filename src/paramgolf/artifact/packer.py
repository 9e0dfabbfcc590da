"""The packed file as a function of how far the model is squeezed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from paramgolf.artifact.artifact import Artifact
from paramgolf.artifact.container import build_container
from paramgolf.artifact.manifest import NAME as MANIFEST
from paramgolf.artifact.manifest import write_manifest
from paramgolf.artifact.primer import write_primer
from paramgolf.artifact.sources import runtime_sources
from paramgolf.artifact.weights_file import Raw, WeightsFile, as_float32, write_weights
from paramgolf.errors import RecipeError
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.recipe import Recipe
from paramgolf.squeeze.correction import Corrections, correct
from paramgolf.squeeze.fit import Setting
from paramgolf.squeeze.free_steps import FreeSteps
from paramgolf.squeeze.hessian import Hessians
from paramgolf.squeeze.landing import Range
from paramgolf.squeeze.matrices import matrix_names, rounded_names, visits_of
from paramgolf.squeeze.matrix_rounder import MatrixRounder
from paramgolf.squeeze.percentile import floored_share
from paramgolf.squeeze.prune import Ones
from paramgolf.squeeze.quantize import Scheme, Steps, find_steps, quantize_at, to_raw
from paramgolf.squeeze.quantized import Quantized
from paramgolf.squeeze.rows import as_rows
from paramgolf.squeeze.schemes import assign_schemes, default_schemes
from paramgolf.squeeze.sensitivity import Sensitivity
from paramgolf.text.tokenizer import TokenIds, Tokenizer

Float32 = npt.NDArray[np.float32]
Weights = Mapping[str, Float32]


class Packer:
    """The file as a function of a setting; what a setting shares with the one before is computed once.

    `hessians` of the matrices are needed by a recipe whose quantiser is "gptq", `sensitivities` of all tables and
    matrices by one whose allocation is "free"; no other uses them. Raises `RecipeError` if they are missing or not
    those of this model, or if the weights are not.
    """

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: Tokenizer,
        weights: Weights,
        primer: Sequence[TokenIds],
        hessians: Hessians | None = None,
        sensitivities: Mapping[str, Sensitivity] | None = None,
    ) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.weights = _checked(recipe, tokenizer, weights)
        self.primer = [np.asarray(document, dtype=np.int32) for document in primer]
        self._fixed = runtime_sources() | {
            "recipe.json": recipe.to_json().encode(),
            "tokenizer.model": tokenizer.to_bytes(),
        }
        self._matrices = matrix_names(self.weights)
        self._rounder = self._gptq(hessians)
        self._free = self._freely(sensitivities)
        self._steps: dict[int, dict[str, Steps]] = {}
        self._quantised: tuple[tuple[float, int], dict[str, Quantized | Raw], Ones | None] | None = None
        self._squeezed: tuple[tuple[float, int, int], WeightsFile, dict[str, Quantized | Raw]] | None = None
        self._carried: tuple[int, bytes] | None = None

    def size(self, setting: Setting) -> int:
        """Bytes of the file."""
        return len(self.file(setting))

    def file(self, setting: Setting) -> bytes:
        """The whole file."""
        members = self._fixed | {
            "weights.bin": self.weights_file(setting).data,
            "primer.bin": self._primer_file(setting.documents),
        }
        return build_container(members | {MANIFEST: write_manifest(members, self.tokenizer.kind)})

    def artifact(self, setting: Setting) -> Artifact:
        """What a reader should find, made without reading: the weights as they were quantised."""
        weights = {name: as_float32(tensor) for name, tensor in self.tensors(setting).items()}
        return Artifact(self.recipe, self.tokenizer, weights, tuple(self.primer[: setting.documents]))

    def error(self, setting: Setting) -> tuple[float, float]:
        """Squared error of all weights, and the root of its share in their squares."""
        squared = total = 0.0
        for name, values in self.artifact(setting).weights.items():
            trained = self.weights[name].astype(np.float64)
            squared += float(np.square(values - trained).sum())
            total += float(np.square(trained).sum())
        return squared, math.sqrt(squared / total) if total else 0.0

    def weights_file(self, setting: Setting) -> WeightsFile:
        """`weights.bin` and its bytes by tensor."""
        return self._squeeze(setting)[0]

    def tensors(self, setting: Setting) -> dict[str, Quantized | Raw]:
        """The weights as stored: integers and their steps, or floating point."""
        return self._squeeze(setting)[1]

    def ones(self) -> int:
        """How many ±1 the matrices have at the finest steps, if the recipe lets them be pruned."""
        ones = self._tensors_of(Setting(0))[1]
        return 0 if ones is None else ones.count

    def free_range(self) -> Range | None:
        """Where steps are allocated: the coarseness that may be asked for, and the bytes that it should take."""
        return None if self._free is None else self._free.range()

    def step_factors(self, setting: Setting) -> dict[str, float]:
        """Where steps are allocated: how much larger than the recipe's each tensor's are; rows differ around it."""
        return {} if self._free is None else self._free.allocation.factors(setting.coarseness)

    def floored_share(self, setting: Setting) -> float | None:
        """Share of the matrices' rows whose step is the published floor; None where the recipe's clip has none."""
        if self.recipe.squeeze.clip != "percentile-floor":
            return None
        tensors = self.tensors(setting)
        return floored_share(
            [t for name in self._matrices if isinstance(t := tensors[name], Quantized)], setting.coarseness
        )

    def unmended(self) -> tuple[str, ...]:
        """Matrices that were rounded to nearest though the recipe says GPTQ: no damping makes their Hessians usable."""
        return () if self._rounder is None else self._rounder.unmended

    def corrected(self, setting: Setting) -> tuple[str, ...]:
        """Tensors that have a low-rank correction."""
        found = self.tensors(setting).items()
        return tuple(name for name, t in found if isinstance(t, Quantized) and t.correction is not None)

    def widened(self) -> tuple[str, ...]:
        """Tensors of which some columns keep more bits."""
        return () if self._rounder is None else tuple(self._rounder.groups)

    def _gptq(self, hessians: Hessians | None) -> MatrixRounder | None:
        if self.recipe.squeeze.quantiser != "gptq":
            return None
        if hessians is None:
            raise RecipeError("squeeze.quantiser=gptq needs the Hessians of the matrices' inputs; calibrate first")
        rounded = {name: self.weights[name] for name in rounded_names(self.weights, self.recipe.squeeze)}
        return MatrixRounder(rounded, hessians, self.recipe.squeeze, visits_of(rounded, self.recipe.model))

    def _freely(self, sensitivities: Mapping[str, Sensitivity] | None) -> FreeSteps | None:
        if self.recipe.squeeze.allocation != "free" or self._rounder is None:
            return None
        if sensitivities is None:
            raise RecipeError("squeeze.allocation=free needs the sensitivities of all tensors; calibrate first")
        schemes = self._schemes(Setting(0))
        return FreeSteps(self.weights, schemes, self._rounder, sensitivities, self.recipe.train.sequence)

    def _squeeze(self, setting: Setting) -> tuple[WeightsFile, dict[str, Quantized | Raw]]:
        key = (setting.coarseness, setting.fewer_bits, setting.pruned)
        if self._squeezed is None or self._squeezed[0] != key:
            tensors, ones = self._tensors_of(setting)
            if setting.pruned and ones is not None:
                tensors = tensors | ones.without(setting.pruned)
            tensors = tensors | self._corrected(tensors)
            self._squeezed = (key, write_weights(tensors), tensors)
        return self._squeezed[1:]

    def _corrected(self, tensors: Mapping[str, Quantized | Raw]) -> dict[str, Quantized]:
        """Those that the recipe has corrected, whose error includes whatever was pruned."""
        squeeze = self.recipe.squeeze
        if not squeeze.corrected_tensors:
            return {}
        how = Corrections(squeeze.corrected_tensors, squeeze.correction_rank, squeeze.correction_form)
        quantised = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Quantized)}
        return correct(self.weights, quantised, how)

    def _tensors_of(self, setting: Setting) -> tuple[dict[str, Quantized | Raw], Ones | None]:
        """The tensors before any pruning, and what could be pruned."""
        key = (setting.coarseness, setting.fewer_bits)
        if self._quantised is None or self._quantised[0] != key:
            tensors, ones = self._quantise(setting), None
            if self.recipe.squeeze.prune_ones:
                ones = Ones({name: t for name in self._matrices if isinstance(t := tensors[name], Quantized)})
            self._quantised = (key, tensors, ones)
        return self._quantised[1:]

    def _schemes(self, setting: Setting) -> dict[str, Scheme]:
        return assign_schemes(
            self.weights, default_schemes(self.recipe.squeeze, setting.coarseness, setting.fewer_bits)
        )

    def _quantise(self, setting: Setting) -> dict[str, Quantized | Raw]:
        schemes = self._schemes(setting)
        if self._free is not None:
            rounded = self._free.quantise(setting.coarseness)
        else:
            rounded = {} if self._rounder is None else self._rounder.quantise(schemes)
        if setting.fewer_bits not in self._steps:
            self._steps[setting.fewer_bits] = {
                name: find_steps(self.weights[name], scheme)
                for name, scheme in schemes.items()
                if not scheme.raw() and name not in rounded
            }
        steps = self._steps[setting.fewer_bits]
        return {name: rounded.get(name) or self._nearest(name, scheme, steps) for name, scheme in schemes.items()}

    def _nearest(self, name: str, scheme: Scheme, steps: Mapping[str, Steps]) -> Quantized | Raw:
        if scheme.raw():
            return to_raw(self.weights[name], scheme.bits)
        return quantize_at(self.weights[name], steps[name], scheme)

    def _primer_file(self, documents: int) -> bytes:
        if self._carried is None or self._carried[0] != documents:
            self._carried = (documents, write_primer(self.primer[:documents], self.tokenizer.vocab_size))
        return self._carried[1]


def _checked(recipe: Recipe, tokenizer: Tokenizer, weights: Weights) -> dict[str, Float32]:
    """The weights in the model's order; `RecipeError` unless they are exactly those of the recipe's model."""
    shapes = tensor_shapes(recipe.model, tokenizer.vocab_size)
    if set(weights) != set(shapes):
        odd = ", ".join(sorted(set(weights) ^ set(shapes))[:8])
        raise RecipeError(f"these weights are missing or too many for the recipe's model: {odd}")
    for name, shape in shapes.items():
        if tuple(weights[name].shape) != shape:
            raise RecipeError(f"{name} has shape {tuple(weights[name].shape)}, the recipe's model has {shape}")
        as_rows(weights[name])
    return {name: np.asarray(weights[name], dtype=np.float32) for name in shapes}
