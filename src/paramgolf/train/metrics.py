"""`metrics.jsonl`: one line a log point, in the order of the steps."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from paramgolf.optim.schedule import StepSettings
from paramgolf.recipe import Recipe
from paramgolf.run_folder import RunFolder

METRICS = "metrics.jsonl"
LOG_SECONDS = 0.5


@dataclass(frozen=True)
class Point:
    """A log point. `loss` is the mean nats a token of the step's batch over all ranks, before the step.

    `seconds` and `fraction` are the clock of the training phase, `tokens` all tokens so far, `tokens_per_second` since
    the last point, `lr` the scheduled rate of the matrices. `grad_norm` is that of the step before clipping, `momentum`
    Muon's, `context` the most tokens that saw each other, `looping` whether looped layers ran more than once.
    """

    step: int
    seconds: float
    fraction: float
    loss: float
    tokens: int
    tokens_per_second: float
    lr: float
    grad_norm: float
    momentum: float
    context: int = 0
    looping: bool = False


class MetricsLog:
    """Writes a point at the first step, twice a second, and at the end. `step` and `seconds`: where the run starts."""

    def __init__(self, run: RunFolder, recipe: Recipe, step: int, seconds: float) -> None:
        self._run, self._recipe = run, recipe
        self._step, self._seconds = step, seconds

    def due(self, step: int, seconds: float, over: bool) -> bool:
        """Whether this step should be written."""
        return over or step == 1 or seconds - self._seconds >= LOG_SECONDS

    def write(
        self, step: int, seconds: float, fraction: float, loss: float, grad_norm: float, settings: StepSettings
    ) -> Point:
        """Append one line of the step that was made with `settings`, and return what it says."""
        recipe, batch = self._recipe, self._recipe.train.batch_tokens
        elapsed = seconds - self._seconds
        speed = (step - self._step) * batch / elapsed if elapsed > 0 else 0.0
        lr, looping = recipe.optim.matrix_lr * settings.rate(), settings.looping and bool(recipe.model.looped_layers)
        made = (lr, grad_norm, settings.momentum, settings.context or recipe.train.sequence, looping)
        point = Point(step, seconds, fraction, loss, step * batch, speed, *made)
        self._run.append_line(METRICS, json.dumps(asdict(point)))
        self._step, self._seconds = step, seconds
        return point


def forget_after(run: RunFolder, step: int) -> None:
    """Drop lines of steps that a resumed run will do again, and a last line that a kill cut short."""
    if not (run.path / METRICS).exists():
        return
    kept = []
    for line in run.read_text(METRICS).splitlines():
        try:
            done = json.loads(line)["step"] <= step
        except (ValueError, KeyError, TypeError):
            done = False
        if done:
            kept.append(line + "\n")
    run.write_text(METRICS, "".join(kept))
