"""Turning an exception into the one or two lines that a user needs, with the exit status."""

from __future__ import annotations

import errno

from paramgolf.errors import ParamgolfError

_CAUSES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file may not grow any further",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "no such file or folder",
    errno.EISDIR: "is a folder, a file was expected",
    errno.ENOTDIR: "is no folder",
    errno.EEXIST: "exists already",
}


def explain(error: Exception) -> tuple[str, int] | None:
    """The message and exit status of what a user can mend; None for a defect of ours, which deserves its traceback."""
    if isinstance(error, ParamgolfError):
        return str(error), error.exit_status
    if isinstance(error, MemoryError):
        return "out of memory; use a smaller text, batch or model, or close other programs", 2
    if isinstance(error, OSError) and error.errno is not None:
        cause = _CAUSES.get(error.errno, error.strerror or str(error))
        where = f": {error.filename}" if error.filename is not None else ""
        return f"{cause}{where}", 2
    if type(error).__name__ == "OutOfMemoryError":  # torch.cuda's, without importing torch
        return f"out of memory: {str(error).splitlines()[0]}", 2
    return None
