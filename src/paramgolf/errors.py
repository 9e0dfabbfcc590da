"""Everything paramgolf raises on purpose, one tree.

A message is one or two lines: what is wrong, with the values, and the next step. The command line prints it
without a traceback and leaves with `exit_status`.

    ParamgolfError
    ├── TextError            no text, unreadable text
    │   └── LeakError        held-out text offered where only training text may go
    ├── TokenizerError       a tokenizer that cannot be read or does not fit
    ├── ShardError           a shard that is not what its header says: file, offset, expected, found
    ├── RecipeError          contradictory or unknown settings, with both names and values
    ├── BudgetError          nothing fits the byte or time budget
    ├── ArtifactError        a model.pyz that is damaged, hostile or of another version
    ├── CodecError           a coded file that is damaged or belongs to another artifact
    ├── OutputError          an output that exists, a disk that is full
    ├── RunError             a run folder that lacks what the verb needs
    └── CheckFailed          the work was done and the answer is no (exit status 1)
"""


class ParamgolfError(Exception):
    """Base of all errors that are the user's to mend; exit status 2."""

    exit_status = 2


class TextError(ParamgolfError):
    """No text, or text that cannot be read."""


class LeakError(TextError):
    """Held-out text was offered to something that learns before scoring."""


class TokenizerError(ParamgolfError):
    """A tokenizer that cannot be read, or whose vocabulary does not fit."""


class ShardError(ParamgolfError):
    """A shard that is not what its header says."""


class RecipeError(ParamgolfError):
    """Settings that contradict each other, or a recipe that does not exist."""


class BudgetError(ParamgolfError):
    """No choice of the free parameters meets the budget."""


class ArtifactError(ParamgolfError):
    """An artifact that is damaged, hostile, or written by another version."""


class CodecError(ParamgolfError):
    """A coded file that is damaged or was made by another artifact."""


class OutputError(ParamgolfError):
    """An output path that exists already, or cannot be written."""


class RunError(ParamgolfError):
    """A run folder that lacks what was asked of it."""


class CheckFailed(ParamgolfError):
    """The work was done and the verdict is negative; exit status 1."""

    exit_status = 1
