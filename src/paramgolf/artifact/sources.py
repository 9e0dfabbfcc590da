"""Which sources of this package one of its modules needs: the module and whatever it imports, found by reading them."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator
from importlib import resources

PACKAGE = "paramgolf"
ROOT_MODULE = f"{PACKAGE}.artifact.runtime"
MAIN = b'''"""Runs what this file holds: python model.pyz --help."""

from pathlib import Path

from paramgolf.artifact.runtime import main

if __name__ == "__main__":
    raise SystemExit(main(Path(__file__).parent))
'''


def runtime_sources() -> dict[str, bytes]:
    """Member name to source, sorted: what an artifact carries, `__main__.py` and the closure of the runtime."""
    return dict(sorted({**import_closure([ROOT_MODULE]), "__main__.py": MAIN}.items()))


def import_closure(roots: Iterable[str]) -> dict[str, bytes]:
    """Member name to source, sorted: the modules `roots` and all that they import within the package.

    Works for an installed package and from within a zip of its sources. Imports inside functions count; those under
    `if TYPE_CHECKING` count too, since they cost little and keep the sources complete.
    """
    found: dict[str, bytes] = {}
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        member = _member(module)
        if member is None or member[0] in found:
            continue
        name, source = member
        found[name] = source
        waiting += _imports(source)
        if "." in module:
            waiting.append(module.rpartition(".")[0])
    return dict(sorted(found.items()))


def imported_names(source: bytes) -> set[str]:
    """The first names of all absolute imports in a source: `torch` of `import torch.distributed`."""
    return {name.split(".")[0] for name in _all_imports(source)}


def _member(module: str) -> tuple[str, bytes] | None:
    """Name and source of a module or package; None if there is no such module (a name imported from one)."""
    parts = module.split(".")
    for tail in ([*parts[1:-1], f"{parts[-1]}.py"] if len(parts) > 1 else None, [*parts[1:], "__init__.py"]):
        if tail is None:
            continue
        file = resources.files(PACKAGE).joinpath(*tail)
        if file.is_file():
            return "/".join([PACKAGE, *tail]), file.read_bytes()
    return None


@functools.cache
def _imports(source: bytes) -> tuple[str, ...]:
    """Dotted names within the package that a source imports, modules or not."""
    return tuple(name for name in _all_imports(source) if name.split(".")[0] == PACKAGE)


def _all_imports(source: bytes) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
