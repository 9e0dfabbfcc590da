"""Everything that a step of training changes, as one value that can be captured and put back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paramgolf.errors import RunError
from paramgolf.model.gpt import GPT
from paramgolf.optim.average import WeightAverage
from paramgolf.optim.groups import build_optimizers
from paramgolf.recipe import Recipe

Tensors = dict[str, Tensor]


@dataclass
class TrainState:
    """The model, its optimizers, the average, and how far the run is: steps done and seconds used."""

    model: GPT
    optimizers: dict[str, torch.optim.Optimizer]
    average: WeightAverage
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def fresh(cls, recipe: Recipe, vocab_size: int, device: torch.device) -> TrainState:
        """A run at its start; the recipe's seed alone decides the weights and torch's generators."""
        torch.manual_seed(recipe.seed)
        model = GPT(recipe.model, vocab_size, recipe.seed).to(device)
        optimizers = build_optimizers(model, recipe.optim)
        return cls(model, optimizers, WeightAverage(dict(model.named_parameters()), recipe.optim.ema_decay))

    def weights(self) -> Tensors:
        """The live parameters by name."""
        return dict(self.model.named_parameters())

    @torch.no_grad()
    def capture(self) -> Tensors:
        """Copies of all tensors of the state and of torch's generators; `restore` takes them back."""
        tensors = {f"model/{name}": value for name, value in self.weights().items()}
        tensors |= {f"average/{name}": value for name, value in self.average.weights().items()}
        names = {id(value): name for name, value in self.weights().items()}
        for kind, optimizer in self.optimizers.items():
            for parameter, slots in optimizer.state.items():
                tensors |= {f"{kind}/{names[id(parameter)]}/{slot}": value for slot, value in slots.items()}
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
        for kind, optimizer in self.optimizers.items():
            optimizer.state.clear()
            for name, weight in weights.items():
                slots = _slots(tensors, f"{kind}/{name}/", weight)
                if slots:
                    optimizer.state[weight] = slots
        torch.set_rng_state(tensors["generator/cpu"].cpu())
        if torch.cuda.is_available() and "generator/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["generator/cuda"].cpu())


def _take(tensors: Tensors, name: str, shape: torch.Size) -> Tensor:
    if name not in tensors:
        raise RunError(f"checkpoint lacks {name}; it belongs to another model")
    if tensors[name].shape != shape:
        raise RunError(f"checkpoint has {name} of shape {list(tensors[name].shape)}, expected {list(shape)}")
    return tensors[name]


def _slots(tensors: Tensors, prefix: str, weight: Tensor) -> Tensors:
    # Counters (no dimensions) live on the CPU, as the optimizers keep them; the rest beside its parameter.
    return {
        name.removeprefix(prefix): value.clone() if value.dim() == 0 else value.to(weight.device, copy=True)
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
