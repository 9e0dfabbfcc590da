"""A flag for every setting of a recipe: `--model.width 256`, `--optim.matrix_lr 0.03`, `--seed 7`."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from paramgolf.recipe import Recipe

SECTIONS = tuple(name for name, hint in get_type_hints(Recipe).items() if dataclasses.is_dataclass(hint))
_WORDS = {float: "a number", int: "a whole number"}


def add_recipe_flags(parser: argparse.ArgumentParser, sections: Sequence[str] = SECTIONS) -> None:
    """One flag a setting of the named sections, without a default: the recipe has it."""
    for section in sections:
        kind = get_type_hints(Recipe)[section]
        says = _comments(kind)
        group = parser.add_argument_group(f"{section}: {str(kind.__doc__).splitlines()[0]}")
        for name, hint in get_type_hints(kind).items():
            choices = get_args(hint) if get_origin(hint) is Literal else ()
            name_of_type = "A,B,..." if get_origin(hint) is tuple else getattr(hint, "__name__", "value").upper()
            group.add_argument(
                f"--{section}.{name}",
                dest=f"{section}.{name}",
                type=str if choices else _reader(hint),
                choices=choices or None,
                metavar="|".join(choices) if choices else name_of_type,
                help=says.get(name, "").replace("%", "%%"),
            )


def _comments(kind: type[Any]) -> dict[str, str]:
    """What stands behind each setting in the source of its section, which is its one description."""
    found = (re.match(r"    (\w+): .*?  # (.+)", line) for line in inspect.getsource(kind).splitlines())
    return {match[1]: match[2] for match in found if match}


def override(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """The recipe with the settings that were given; raises `RecipeError` if they contradict each other."""
    record: dict[str, Any] = json.loads(recipe.to_json())
    for flag, value in vars(options).items():
        section, dot, name = flag.partition(".")
        if dot and value is not None:
            record[section][name] = value
    return Recipe.from_json(json.dumps(record))


def limited(recipe: Recipe, seconds: float | None, seed: int | None) -> Recipe:
    """The recipe with so many seconds of training and this seed, where they were given."""
    if seconds is not None:
        recipe = dataclasses.replace(recipe, budget=dataclasses.replace(recipe.budget, train_seconds=seconds))
    return recipe if seed is None else dataclasses.replace(recipe, seed=seed)


def _reader(hint: Any) -> Callable[[str], Any]:
    def read(word: str) -> Any:
        if hint is bool:
            if word.lower() in ("true", "yes", "1", "false", "no", "0"):
                return word.lower() in ("true", "yes", "1")
            raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")
        if get_origin(hint) is tuple:
            try:
                return [get_args(hint)[0](part) for part in word.split(",") if part]
            except ValueError:
                example = "0.1,0.7" if get_args(hint)[0] is float else "9,10"
                raise argparse.ArgumentTypeError(f"{word!r} is no list like {example}") from None
        try:
            return hint(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{word!r} is not {_WORDS.get(hint, hint.__name__)}") from None

    return read


def given_flags(options: argparse.Namespace) -> list[str]:
    """The settings' flags that were given."""
    return [f"--{flag}" for flag, value in vars(options).items() if "." in flag and value is not None]


def word_of(value: object) -> str:
    """A setting's value as its flag takes it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
