"""Reading words into values: a parser with short errors and suggestions, and the kinds of value that verbs take."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Iterable, Sequence
from typing import NoReturn


class UsageError(Exception):
    """The words do not make a command; exit status 2."""


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, whose errors are one line and whose unknown flags come with a suggestion."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument("--json", action="store_true", help="end with one JSON object on the last line of stdout")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse all words; raise `UsageError` naming the flag or the value that is wrong."""
        self._refuse_unknown_flags(words)
        options, extra = self.parse_known_args(words)
        if extra:
            raise UsageError(f"unexpected {extra[0]!r}")
        return options

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    def _refuse_unknown_flags(self, words: Sequence[str]) -> None:
        # Before parsing, so that a misspelt required flag is named as misspelt and not as missing.
        for word in words:
            if word == "--":
                return
            flag = word.split("=", 1)[0]
            if flag.startswith("--") and flag not in self._option_string_actions:
                raise UsageError(f"unknown flag {flag}{suggestion(flag, self._option_string_actions)}")


def suggestion(asked: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(asked, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def seconds(word: str) -> float:
    """A positive, finite number of seconds."""
    return _number(word, "a positive number of seconds")


def byte_count(word: str) -> int:
    """A positive whole number of bytes; k, M and G (decimal) may follow, and a B: 16M and 16MB are 16,000,000."""
    bare = word.removesuffix("B")
    scale = {"k": 1_000, "M": 1_000_000, "G": 1_000_000_000}.get(bare[-1:], 1)
    count = (
        _number(bare[:-1] if scale > 1 else bare.replace("_", ""), "a number of bytes such as 16000000 or 16M") * scale
    )
    if count != int(count) or count < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number of bytes")
    return int(count)


def count(word: str) -> int:
    """A whole number of at least one."""
    try:
        value = int(word)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number of at least 1")
    return value


def temperature(word: str) -> float:
    """A number of at least zero; zero always takes the likeliest token."""
    return 0.0 if word in ("0", "0.0") else _number(word, "zero or a positive number")


def share(word: str) -> float:
    """A number strictly between zero and one."""
    value = _number(word, "a share between 0 and 1")
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a share between 0 and 1")
    return value


def _number(word: str, kind: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{word!r} is not {kind}")
    return value
