"""The run's checkpoint as the loop uses it: written by all ranks together, refused if it is another run's."""

from __future__ import annotations

from dataclasses import dataclass

from paramgolf.clock import Clock
from paramgolf.errors import RunError
from paramgolf.ranks import Ranks
from paramgolf.recipe import Recipe
from paramgolf.run_folder import RunFolder
from paramgolf.train.checkpoint import CHECKPOINT, CheckpointRecord, load_checkpoint, save_checkpoint
from paramgolf.train.metrics import forget_after
from paramgolf.train.state import TrainState


@dataclass
class Saves:
    """`saved_step` is the step that the last whole checkpoint holds, None without one.

    `data_digest` names the training data; "" if nobody computed it, which is then not compared.
    """

    recipe: Recipe
    vocab_size: int
    data_digest: str
    run: RunFolder
    clock: Clock
    ranks: Ranks
    saved_step: int | None = None

    def resume(self, state: TrainState) -> bool:
        """Bring `state` and the ledger to the run's checkpoint, if it has one; whether its training was finished.

        Raises `RunError` for a checkpoint of another recipe, vocabulary or data, or one that only some ranks find.
        """
        record = self._load(state)
        found = -1 if record is None else state.step
        first = round(self.ranks.agree(float(found)))
        if found != first:
            raise RunError(
                f"rank {self.ranks.rank} finds {_step_of(found)} in {self.run.path}, rank 0 {_step_of(first)}; "
                "all ranks must see one folder"
            )
        if record is None:
            return False
        self.clock.restore(record.ledger)
        self.saved_step = state.step
        if self.ranks.leads:
            forget_after(self.run, state.step)
        return record.finished

    def save(self, state: TrainState, *, finished: bool) -> None:
        """Write the checkpoint from rank 0; all ranks must call it, and wait for it."""
        tensors = state.capture()
        if self.ranks.leads:
            record = CheckpointRecord(
                self.recipe.fingerprint(), self.vocab_size, self.data_digest, self.clock.record(), finished
            )
            save_checkpoint(self.run.path / CHECKPOINT, tensors, record)
        self.ranks.agree(0.0)
        self.saved_step = state.step

    def says_how_to_go_on(self) -> str:
        """The next step after a run that ended early."""
        if self.saved_step is None:
            return "nothing was saved yet; start it again"
        return f"step {self.saved_step} is saved; continue with: paramgolf train --resume {self.run.final_path}"

    def _load(self, state: TrainState) -> CheckpointRecord | None:
        path = self.run.path / CHECKPOINT
        if not path.exists():
            return None
        tensors, record = load_checkpoint(path)
        if record.fingerprint != self.recipe.fingerprint():
            raise RunError(
                f"{path} was made by recipe {record.fingerprint}, this is {self.recipe.name} "
                f"{self.recipe.fingerprint()}"
            )
        if record.vocab_size != self.vocab_size:
            raise RunError(f"{path} has a vocabulary of {record.vocab_size}, the data one of {self.vocab_size}")
        if record.data_digest and self.data_digest and record.data_digest != self.data_digest:
            raise RunError(
                f"{path} was trained on data {record.data_digest[:16]}, this is {self.data_digest[:16]}; "
                "give --data the folder that the run began with"
            )
        state.restore(tensors)
        return record


def _step_of(step: int) -> str:
    return "no checkpoint" if step < 0 else f"a checkpoint of step {step}"
