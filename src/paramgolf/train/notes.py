"""Sentences of a training run for its user: shown beside the progress, and kept in the run's log."""

from __future__ import annotations

from paramgolf.run_folder import RunFolder
from paramgolf.train.progress import Display


class Notes:
    """Speaks if `leads`; the other ranks stay silent."""

    def __init__(self, run: RunFolder, display: Display, *, leads: bool) -> None:
        self._run, self._display, self._leads = run, display, leads

    def say(self, line: str) -> None:
        """One line to the user, with the time of day in the log."""
        if self._leads:
            self._display.note(line)
            self._run.log(line)
