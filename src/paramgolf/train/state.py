"""Everything that a step of training changes, as one value that can be captured and put back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from paramgolf.errors import RecipeError, RunError
from paramgolf.model.arithmetic import TABLES
from paramgolf.model.banks import unbank
from paramgolf.model.gpt import GPT
from paramgolf.optim.average import WeightAverage
from paramgolf.optim.groups import build_optimizers
from paramgolf.optim.muon import MOMENTUM
from paramgolf.optim.optimizers import Optimizers
from paramgolf.optim.schedule import Stage
from paramgolf.ranks import Ranks
from paramgolf.recipe import Recipe
from paramgolf.train.distill import Teacher
from paramgolf.train.future import FutureHeads
from paramgolf.train.objective import Objective

DURATIONS_KEPT = 4

Tensors = dict[str, Tensor]
Weights = dict[str, npt.NDArray[np.float32]]


@dataclass
class TrainState:
    """The model, its optimizers, the average, and how far the run is: steps done, seconds used, the context's stage.

    `objective` has the heads and the teacher, if the recipe wants them: neither is averaged, no artifact holds them.
    """

    model: GPT
    optimizers: Optimizers
    average: WeightAverage
    objective: Objective
    step: int = 0
    seconds: float = 0.0
    stage: Stage = field(default_factory=Stage)
    durations: tuple[float, ...] = ()  # seconds of the last steps, at most `DURATIONS_KEPT`

    def took(self, seconds: float) -> None:
        """The clock stands at `seconds` after a step."""
        self.durations = (*self.durations, seconds - self.seconds)[-DURATIONS_KEPT:]
        self.seconds = seconds

    @classmethod
    def fresh(cls, recipe: Recipe, vocab_size: int, ranks: Ranks | None = None, boundary_id: int = 1) -> TrainState:
        """A run at its start on the device of `ranks`; the recipe's seed decides the weights and torch's generators.

        Raises `RecipeError` for a teacher without the average that it is a copy of.
        """
        ranks = ranks or Ranks()
        torch.manual_seed(recipe.seed)
        model = _model(recipe, vocab_size, ranks, recipe.seed, boundary_id)
        decay = recipe.optim.ema_decay if recipe.optim.average == "ema" else 1.0
        average = WeightAverage(dict(model.named_parameters()), decay)
        future = None
        if recipe.train.future_heads:
            future = FutureHeads(recipe.train.future_heads, vocab_size, recipe.model.width).to(ranks.device)
        teacher = None
        if recipe.train.distill_weight:
            if recipe.optim.average != "ema":
                raise RecipeError(
                    f"train.distill_weight={recipe.train.distill_weight} learns from the running average, which "
                    f"optim.average={recipe.optim.average} does not keep; use optim.average=ema"
                )
            teacher = Teacher(_model(recipe, vocab_size, ranks, None, boundary_id), recipe.train.distill_every)
        objective = Objective(recipe, model, future, teacher)
        return cls(model, build_optimizers(model, recipe.optim, ranks, future), average, objective)

    def weights(self) -> Tensors:
        """The model's live parameters by name."""
        return dict(self.model.named_parameters())

    def learnt(self) -> Tensors:
        """All that the optimizers move, by name: the model's parameters, and the heads beside it."""
        future = self.objective.future
        heads = {} if future is None else {f"future.{name}": head for name, head in future.named_parameters()}
        return self.weights() | heads

    def is_finite(self) -> bool:
        """Whether all weights, the live and the averaged ones, are numbers."""
        held = (*self.learnt().values(), *self.average.weights().values())
        return all(bool(value.isfinite().all()) for value in held)

    @torch.no_grad()
    def capture(self) -> Tensors:
        """Copies of all tensors of the state and of torch's generators; `restore` takes them on any number of ranks.

        All ranks must call it: each holds a part of Muon's momentum.
        """
        learnt = self.learnt()
        tensors = {_place(name): value for name, value in learnt.items()}
        tensors |= {f"average/{name}": value for name, value in self.average.weights().items()}
        if self.objective.teacher is not None:
            tensors |= {f"teacher/{name}": value for name, value in self.objective.teacher.weights().items()}
        names = {value: name for name, value in learnt.items()}
        for parameter, momentum in self.optimizers.muon.momentum().items():
            tensors[f"muon/{names[parameter]}/{MOMENTUM}"] = momentum
        for parameter, slots in self.optimizers.adam.state.items():
            tensors |= {f"adam/{names[parameter]}/{slot}": value for slot, value in slots.items()}
        for parameter, mean in self.optimizers.grokfast_means().items():
            tensors[f"grokfast/{names[parameter]}"] = mean
        tensors["counts"] = torch.tensor([self.step, self.average.updates], dtype=torch.int64)
        tensors["seconds"] = torch.tensor(self.seconds, dtype=torch.float64)
        tensors["durations"] = torch.tensor(self.durations, dtype=torch.float64)
        tensors["stage"] = torch.tensor(self.stage, dtype=torch.int64)
        tensors["generator/cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["generator/cuda"] = torch.cuda.get_rng_state()
        return {name: value.detach().clone().contiguous() for name, value in tensors.items()}

    @torch.no_grad()
    def restore(self, tensors: Tensors) -> None:
        """Become what `capture` saw, bitwise. Raises `RunError` if a tensor is missing or of another shape."""
        weights, learnt = self.weights(), self.learnt()
        for name, weight in learnt.items():
            weight.copy_(_take(tensors, _place(name), weight.shape))
        step, updates = _take(tensors, "counts", torch.Size([2])).tolist()
        self.step, self.seconds = step, float(_take(tensors, "seconds", torch.Size([])).item())
        if "stage" in tensors:  # checkpoints from before contexts could change are of the first
            self.stage = Stage(*_take(tensors, "stage", torch.Size([2])).tolist())
        # Of no fixed length; checkpoints from before steps were timed have none.
        self.durations = tuple(tensors["durations"].tolist()) if "durations" in tensors else ()
        average = {name: _take(tensors, f"average/{name}", weight.shape) for name, weight in weights.items()}
        self.average.load(average, updates)
        if self.objective.teacher is not None:
            self._restore_teacher(self.objective.teacher, tensors)
        means = {learnt[name]: tensors[f"grokfast/{name}"] for name in learnt if f"grokfast/{name}" in tensors}
        self.optimizers.load_grokfast_means(means)
        momentum = {weights[name]: _slots(tensors, "muon", name).get(MOMENTUM) for name in weights}
        self.optimizers.muon.load_momentum({key: value for key, value in momentum.items() if value is not None})
        self.optimizers.adam.state.clear()
        for name, weight in learnt.items():
            slots = _slots(tensors, "adam", name)
            if slots:
                # Fused AdamW keeps its counters, too, where the parameter is.
                self.optimizers.adam.state[weight] = {
                    slot: value.to(weight.device, copy=True) for slot, value in slots.items()
                }
        torch.set_rng_state(tensors["generator/cpu"].cpu())
        if torch.cuda.is_available() and "generator/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["generator/cuda"].cpu())

    def _restore_teacher(self, teacher: Teacher, tensors: Tensors) -> None:
        teacher.taught = any(name.startswith("teacher/") for name in tensors)
        if teacher.taught:
            teacher.copy({n: _take(tensors, f"teacher/{n}", w.shape) for n, w in self.weights().items()})


def _model(recipe: Recipe, vocab_size: int, ranks: Ranks, seed: int | None, boundary_id: int) -> GPT:
    model = GPT(recipe.model, vocab_size, seed, boundary_id).to(ranks.device)
    narrow = recipe.train.dtype == "bfloat16" and ranks.device.type == "cuda"
    model.activation_dtype = torch.bfloat16 if narrow else torch.float32
    if recipe.train.table_dtype == "bfloat16":
        for name, parameter in model.named_parameters():
            if name in TABLES:
                parameter.data = parameter.data.to(torch.bfloat16)
    return model


def delivered(tensors: Mapping[str, Tensor]) -> Weights:
    """What a captured state gives to the artifact: the average, float32 under exported names (banks taken apart).

    A run whose average never took a snapshot (SWA that was never due) gives its live weights.
    """
    prefix = "average/" if int(tensors["counts"][1]) else "model/"
    chosen = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    # The copy is the caller's own: on a CPU `numpy()` would share the memory of the state.
    return unbank({name: value.detach().float().cpu().numpy().copy() for name, value in chosen.items()})


def _place(name: str) -> str:
    # Heads stand outside "model/", from which the artifact is made.
    return name if name.startswith("future.") else f"model/{name}"


def _take(tensors: Tensors, name: str, shape: torch.Size) -> Tensor:
    if name not in tensors:
        raise RunError(f"checkpoint lacks {name}; it belongs to another model")
    if tensors[name].shape != shape:
        raise RunError(f"checkpoint has {name} of shape {list(tensors[name].shape)}, expected {list(shape)}")
    return tensors[name]


def _slots(tensors: Tensors, kind: str, name: str) -> Tensors:
    prefix = f"{kind}/{name}/"
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
