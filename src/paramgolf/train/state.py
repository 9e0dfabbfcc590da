"""Everything that a step of training changes, as one value that can be captured and put back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from paramgolf.errors import RunError
from paramgolf.model.arithmetic import TABLES
from paramgolf.model.banks import unbank
from paramgolf.model.gpt import GPT
from paramgolf.optim.average import WeightAverage
from paramgolf.optim.groups import build_optimizers
from paramgolf.optim.muon import MOMENTUM
from paramgolf.optim.optimizers import Optimizers
from paramgolf.ranks import Ranks
from paramgolf.recipe import Recipe

Tensors = dict[str, Tensor]
Weights = dict[str, npt.NDArray[np.float32]]


@dataclass
class TrainState:
    """The model, its optimizers, the average, and how far the run is: steps done and seconds used."""

    model: GPT
    optimizers: Optimizers
    average: WeightAverage
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def fresh(cls, recipe: Recipe, vocab_size: int, ranks: Ranks | None = None, boundary_id: int = 1) -> TrainState:
        """A run at its start on the device of `ranks`; the recipe's seed decides the weights and torch's generators."""
        ranks = ranks or Ranks()
        torch.manual_seed(recipe.seed)
        model = GPT(recipe.model, vocab_size, recipe.seed, boundary_id).to(ranks.device)
        narrow = recipe.train.dtype == "bfloat16" and ranks.device.type == "cuda"
        model.activation_dtype = torch.bfloat16 if narrow else torch.float32
        if recipe.train.table_dtype == "bfloat16":
            for name, parameter in model.named_parameters():
                if name in TABLES:
                    parameter.data = parameter.data.to(torch.bfloat16)
        decay = recipe.optim.ema_decay if recipe.optim.average == "ema" else 1.0
        average = WeightAverage(dict(model.named_parameters()), decay)
        return cls(model, build_optimizers(model, recipe.optim, ranks), average)

    def weights(self) -> Tensors:
        """The live parameters by name."""
        return dict(self.model.named_parameters())

    def is_finite(self) -> bool:
        """Whether all weights, the live and the averaged ones, are numbers."""
        held = (*self.weights().values(), *self.average.weights().values())
        return all(bool(value.isfinite().all()) for value in held)

    @torch.no_grad()
    def capture(self) -> Tensors:
        """Copies of all tensors of the state and of torch's generators; `restore` takes them on any number of ranks.

        All ranks must call it: each holds a part of Muon's momentum.
        """
        tensors = {f"model/{name}": value for name, value in self.weights().items()}
        tensors |= {f"average/{name}": value for name, value in self.average.weights().items()}
        names = {value: name for name, value in self.weights().items()}
        for parameter, momentum in self.optimizers.muon.momentum().items():
            tensors[f"muon/{names[parameter]}/{MOMENTUM}"] = momentum
        for parameter, slots in self.optimizers.adam.state.items():
            tensors |= {f"adam/{names[parameter]}/{slot}": value for slot, value in slots.items()}
        tensors["counts"] = torch.tensor([self.step, self.average.updates], dtype=torch.int64)
        tensors["seconds"] = torch.tensor(self.seconds, dtype=torch.float64)
        tensors["generator/cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["generator/cuda"] = torch.cuda.get_rng_state()
        return {name: value.detach().clone().contiguous() for name, value in tensors.items()}

    @torch.no_grad()
    def restore(self, tensors: Tensors) -> None:
        """Become what `capture` saw, bitwise. Raises `RunError` if a tensor is missing or of another shape."""
        weights = self.weights()
        for name, weight in weights.items():
            weight.copy_(_take(tensors, f"model/{name}", weight.shape))
        step, updates = _take(tensors, "counts", torch.Size([2])).tolist()
        self.step, self.seconds = step, float(_take(tensors, "seconds", torch.Size([])).item())
        average = {name: _take(tensors, f"average/{name}", weight.shape) for name, weight in weights.items()}
        self.average.load(average, updates)
        momentum = {weights[name]: _slots(tensors, "muon", name).get(MOMENTUM) for name in weights}
        self.optimizers.muon.load_momentum({key: value for key, value in momentum.items() if value is not None})
        self.optimizers.adam.state.clear()
        for name, weight in weights.items():
            slots = _slots(tensors, "adam", name)
            if slots:
                # Fused AdamW keeps its counters, too, where the parameter is.
                self.optimizers.adam.state[weight] = {
                    slot: value.to(weight.device, copy=True) for slot, value in slots.items()
                }
        torch.set_rng_state(tensors["generator/cpu"].cpu())
        if torch.cuda.is_available() and "generator/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["generator/cuda"].cpu())


def delivered(tensors: Mapping[str, Tensor]) -> Weights:
    """What a captured state gives to the artifact: the average, float32 under exported names (banks taken apart).

    A run whose average never took a snapshot (SWA that was never due) gives its live weights.
    """
    prefix = "average/" if int(tensors["counts"][1]) else "model/"
    chosen = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    # The copy is the caller's own: on a CPU `numpy()` would share the memory of the state.
    return unbank({name: value.detach().float().cpu().numpy().copy() for name, value in chosen.items()})


def _take(tensors: Tensors, name: str, shape: torch.Size) -> Tensor:
    if name not in tensors:
        raise RunError(f"checkpoint lacks {name}; it belongs to another model")
    if tensors[name].shape != shape:
        raise RunError(f"checkpoint has {name} of shape {list(tensors[name].shape)}, expected {list(shape)}")
    return tensors[name]


def _slots(tensors: Tensors, kind: str, name: str) -> Tensors:
    prefix = f"{kind}/{name}/"
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
