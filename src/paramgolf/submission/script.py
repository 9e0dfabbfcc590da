"""`train_gpt.py`: one script that trains and scores with nothing of this package installed.

It is a readable header, the recipe, the loader, and the package's own sources as a zip (LZMA, then base85).
"""

from __future__ import annotations

import ast
import base64
import importlib.metadata
import inspect
import io
import lzma
import re
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence

import paramgolf
from paramgolf.artifact.sources import PACKAGE, ROOT_MODULE, import_closure, imported_names
from paramgolf.errors import RunError
from paramgolf.recipe import Recipe
from paramgolf.submission import loader

LINE = 1000  # characters of the payload in a line
_EPOCH = (1980, 1, 1, 0, 0, 0)
# Python's text has no binary alignment, and its letters depend on those before: see `xz --help`, lc and pb.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "pb": 0}]
_EXHIBITS = f"{PACKAGE}/exhibits/"
_NO_EXHIBITS = b'''"""An exported script carries no predictor that breaks a rule."""

EXHIBITS: dict[str, object] = {}
'''
_MAIN = '''"""Runs the extracted sources: python DIR --data DATA --out RUN."""

import sys
from pathlib import Path

from {entry} import main

if __name__ == "__main__":
    raise SystemExit(main((Path(__file__).parent / "recipe.json").read_text(encoding="utf-8"), sys.argv[1:]))
'''


def build_script(recipe: Recipe, entry: str, commit: str | None = None) -> bytes:
    """The script; `entry` is the module whose `main(recipe_json, words)` it runs, `commit` is named in the header.

    The same sources, recipe and commit always give the same bytes. Raises `RunError` where the package's list of
    requirements is not installed with it.
    """
    sources = exported_sources(entry)
    requirements = required_packages(sources)
    payload = encode_payload(sources | _metadata(requirements))
    settings = recipe.to_json()
    parts = [
        f'#!/usr/bin/env python3\n"""{_header(recipe, requirements, commit, len(sources))}"""',
        _loader_body(),
        f'RECIPE = r"""\n{settings}\n"""\n',
        f'PAYLOAD = """\n{payload}\n"""\n',
        f'if __name__ == "__main__":\n    raise SystemExit(main(RECIPE, PAYLOAD, "{entry}", sys.argv[1:]))\n',
    ]
    return "\n".join(parts).encode()


def exported_sources(entry: str) -> dict[str, bytes]:
    """Member name to source: the closure of `entry` and of the artifact's runtime, which packing reads; no exhibits."""
    sources = {name: data for name, data in import_closure([entry, ROOT_MODULE]).items() if _EXHIBITS not in name}
    sources[f"{_EXHIBITS}__init__.py"] = _NO_EXHIBITS
    sources["__main__.py"] = _MAIN.format(entry=entry).encode()
    return dict(sorted(sources.items()))


def required_packages(sources: Mapping[str, bytes]) -> list[str]:
    """The package's own requirements, with their versions, as far as the sources import them: `numpy>=2.0`."""
    try:
        declared = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        says = f"{PACKAGE} runs without being installed, so what it requires is unknown; pip install it"
        raise RunError(says) from None
    imported = set().union(*(imported_names(data) for data in sources.values())) - set(sys.stdlib_module_names)
    return sorted(line for line in declared if "extra ==" not in line and _name(line) in imported)


def encode_payload(members: Mapping[str, bytes]) -> str:
    """A zip of the members, LZMA, base85, in lines."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), members[name])
    packed = lzma.compress(buffer.getvalue(), format=lzma.FORMAT_XZ, filters=_FILTERS)
    return "\n".join(_lines(base64.b85encode(packed).decode("ascii")))


def _lines(text: str) -> Iterable[str]:
    return (text[start : start + LINE] for start in range(0, len(text), LINE))


def _metadata(requirements: Sequence[str]) -> dict[str, bytes]:
    """What importlib.metadata asks for, so that a run of the script can record the versions it used."""
    lines = ["Metadata-Version: 2.1", f"Name: {PACKAGE}", f"Version: {paramgolf.__version__}"]
    lines += [f"Requires-Dist: {line}" for line in requirements]
    return {f"{PACKAGE}-{paramgolf.__version__}.dist-info/METADATA": "\n".join([*lines, ""]).encode()}


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]


def _loader_body() -> str:
    """The loader's text without its docstring."""
    text = inspect.getsource(loader)
    docstring = ast.parse(text).body[0]
    assert docstring.end_lineno is not None
    return "\n".join(text.splitlines()[docstring.end_lineno :]).strip("\n").join(["\n", "\n\n"])


def _header(recipe: Recipe, requirements: Sequence[str], commit: str | None, count: int) -> str:
    # The name comes from a file: nothing in it may end the docstring.
    name = re.sub(r"[^\w .,+-]", "", recipe.name)
    origin = f"{PACKAGE} {paramgolf.__version__}" + (f", commit {re.sub(r'[^0-9a-z-]', '', commit)}" if commit else "")
    packages = "\n".join(f"    {line}" for line in requirements)
    return f"""Trains, packs and scores the model of recipe {name}, on its own.

Needs Python 3.11 or newer with these packages, and nothing else:
{packages}

    python train_gpt.py --data DATA --out RUN [--seed N] [--seconds N]
    torchrun --standalone --nproc_per_node 8 train_gpt.py --data DATA --out RUN
    python train_gpt.py --extract DIR

DATA is a folder of token shards (*_train_*.bin, *_val_*.bin) with their tokenizer. RUN gets the packed model
(model.pyz), the score of the held-out shards (of another text with --text), and the log. --extract writes the
{count} readable source files that PAYLOAD below holds (a zip, LZMA-compressed, in base85).

Exported by {origin}. RECIPE holds every setting.
"""
