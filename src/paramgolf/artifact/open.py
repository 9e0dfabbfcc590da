"""Opening an artifact, ours or a stranger's: everything is checked, nothing of it is run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from paramgolf.artifact.artifact import Artifact
from paramgolf.artifact.container import Container, is_source, read_container
from paramgolf.artifact.manifest import read_manifest
from paramgolf.artifact.primer import read_primer
from paramgolf.artifact.reader import parse_json_object
from paramgolf.artifact.weights_file import MAX_PARAMETERS, MAX_TENSORS, read_weights
from paramgolf.errors import ArtifactError, RecipeError, TokenizerError
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.recipe import ModelRecipe, Recipe
from paramgolf.text.tokenizer import Tokenizer, tokenizer_from_bytes

MEMBER_NAMES = {
    "manifest.json": "manifest",
    "recipe.json": "recipe",
    "tokenizer.model": "tokenizer",
    "weights.bin": "weights",
    "primer.bin": "primer",
}
_REQUIRED = ("recipe.json", "tokenizer.model", "weights.bin", "primer.bin")


def open_artifact(path: Path) -> Artifact:
    """Read `model.pyz`. Raises `ArtifactError` with the file and the reason for anything that is not as packed."""
    container = read_container(path)
    try:
        return _build(container)
    except (ArtifactError, RecipeError, TokenizerError) as error:
        raise ArtifactError(f"{path}: {error}") from None


def runtime_sources_of(path: Path) -> dict[str, bytes]:
    """The Python sources inside a file, by member name, as data."""
    members = read_container(path).members
    return {name: content for name, content in members.items() if is_source(name)}


def runtime_matches(path: Path) -> bool:
    """Whether the sources inside a file are, byte for byte, those that this installation would pack."""
    from paramgolf.artifact.sources import runtime_sources

    return runtime_sources_of(path) == runtime_sources()


def stored_sizes(container: Container) -> dict[str, int]:
    """Bytes as `Artifact.sizes` gives them."""
    sizes = {name: container.stored.get(member, 0) for member, name in MEMBER_NAMES.items()}
    source = sum(size for member, size in container.stored.items() if is_source(member))
    whole = {"file": container.size, "without_tokenizer": container.size - sizes["tokenizer"]}
    return whole | {"source": source} | sizes


def _build(container: Container) -> Artifact:
    members = container.members
    kind = read_manifest(members)
    missing = [name for name in _REQUIRED if name not in members]
    if missing:
        raise ArtifactError(f"it lacks {', '.join(missing)}")
    recipe = _read_recipe(members["recipe.json"])
    tokenizer = tokenizer_from_bytes(kind, members["tokenizer.model"])
    _check_vocabulary(recipe, tokenizer)
    _check_size(recipe.model, tokenizer.vocab_size)
    return Artifact(
        recipe=recipe,
        tokenizer=tokenizer,
        weights=read_weights(members["weights.bin"], tensor_shapes(recipe.model, tokenizer.vocab_size)),
        primer=read_primer(members["primer.bin"], tokenizer.vocab_size),
        digest=container.digest,
        sizes=stored_sizes(container),
    )


def _read_recipe(data: bytes) -> Recipe:
    record = parse_json_object(data, "recipe.json")
    recipe = Recipe.from_json(data.decode())
    if any(abs(number) > 1e15 for number in _numbers(record)):
        raise ArtifactError("recipe.json holds numbers beyond 1e15")
    return recipe


def _numbers(record: Mapping[str, object]) -> list[float]:
    found: list[float] = []
    for value in record.values():
        if isinstance(value, dict):
            found += _numbers(value)
        elif isinstance(value, (int, float)):
            found.append(value)
    return found


def _check_vocabulary(recipe: Recipe, tokenizer: Tokenizer) -> None:
    if recipe.tokenizer.kind != tokenizer.kind:
        raise ArtifactError(f"its recipe names a {recipe.tokenizer.kind} tokenizer, it holds {tokenizer.kind}")


TENSORS_OF_LAYER = 12  # six matrices, query gain, residual mix, two scales, value scale, sparse gate


def _check_size(model: ModelRecipe, vocab_size: int) -> None:
    """Refuse a recipe whose list of tensors alone would fill the memory, before that list is made."""
    most = MAX_TENSORS // TENSORS_OF_LAYER - 1  # a layer's worth is left for what belongs to none
    if model.layers > most:
        raise ArtifactError(f"its model has {model.layers} layers, more than {most} are not read")
    shapes = tensor_shapes(model, vocab_size).values()
    if max(math.prod(shape) for shape in shapes) > MAX_PARAMETERS:
        raise ArtifactError(f"its model has a tensor of more than {MAX_PARAMETERS} numbers, this version's limit")
