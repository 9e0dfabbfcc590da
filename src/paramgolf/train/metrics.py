"""`metrics.jsonl`: one line a log point, in the order of the steps."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from paramgolf.run_folder import RunFolder

METRICS = "metrics.jsonl"
LOG_SECONDS = 0.5


@dataclass(frozen=True)
class Point:
    """A log point. `loss` is the mean nats a token of the step's batch over all ranks, before the step.

    `seconds` and `fraction` are the clock of the training phase, `tokens` all tokens so far, `tokens_per_second` since
    the last point, `lr` the scheduled rate of the matrices. `grad_norm` is that of the step before clipping, `momentum`
    Muon's.
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


class MetricsLog:
    """Writes a point at the first step, twice a second, and at the end. `step` and `seconds`: where the run starts."""

    def __init__(self, run: RunFolder, batch_tokens: int, step: int, seconds: float) -> None:
        self._run, self._batch_tokens = run, batch_tokens
        self._step, self._seconds = step, seconds

    def due(self, step: int, seconds: float, over: bool) -> bool:
        """Whether this step should be written."""
        return over or step == 1 or seconds - self._seconds >= LOG_SECONDS

    def write(
        self, step: int, seconds: float, fraction: float, loss: float, lr: float, grad_norm: float, momentum: float
    ) -> Point:
        """Append one line and return what it says."""
        tokens, elapsed = (step - self._step) * self._batch_tokens, seconds - self._seconds
        speed = tokens / elapsed if elapsed > 0 else 0.0
        point = Point(step, seconds, fraction, loss, step * self._batch_tokens, speed, lr, grad_norm, momentum)
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
