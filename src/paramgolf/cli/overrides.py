"""A flag for every setting of a recipe: `--model.width 256`, `--optim.matrix_lr 0.03`, `--seed 7`."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_type_hints

from paramgolf.recipe import Recipe

SECTIONS = tuple(name for name, hint in get_type_hints(Recipe).items() if dataclasses.is_dataclass(hint))
_WORDS = {float: "a number", int: "a whole number"}


def add_recipe_flags(parser: argparse.ArgumentParser, sections: Sequence[str] = SECTIONS) -> None:
    """One flag a setting of the named sections, without a default: the recipe has it."""
    for section in sections:
        kind = get_type_hints(Recipe)[section]
        group = parser.add_argument_group(f"{section}: {str(kind.__doc__).splitlines()[0]}")
        for name, hint in get_type_hints(kind).items():
            choices = get_args(hint)
            group.add_argument(
                f"--{section}.{name}",
                dest=f"{section}.{name}",
                type=str if choices else _reader(hint),
                choices=choices or None,
                metavar="|".join(choices) if choices else getattr(hint, "__name__", "value").upper(),
            )


def override(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """The recipe with the settings that were given; raises `RecipeError` if they contradict each other."""
    record: dict[str, Any] = json.loads(recipe.to_json())
    for flag, value in vars(options).items():
        section, dot, name = flag.partition(".")
        if dot and value is not None:
            record[section][name] = value
    return Recipe.from_json(json.dumps(record))


def _reader(hint: type) -> Callable[[str], Any]:
    def read(word: str) -> Any:
        if hint is bool:
            if word.lower() in ("true", "yes", "1", "false", "no", "0"):
                return word.lower() in ("true", "yes", "1")
            raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")
        try:
            return hint(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{word!r} is not {_WORDS.get(hint, hint.__name__)}") from None

    return read


def given_flags(options: argparse.Namespace) -> list[str]:
    """The settings' flags that were given."""
    return [f"--{flag}" for flag, value in vars(options).items() if "." in flag and value is not None]
