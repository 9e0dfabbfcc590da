"""Which parameter is stored how: a list of (name pattern, scheme) that covers each parameter exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from paramgolf.errors import RecipeError
from paramgolf.recipe import SqueezeRecipe
from paramgolf.squeeze.quantize import Clip, Scheme

SchemeList = Sequence[tuple[str, Scheme]]

_TABLES = ("embedding.weight", "bigram.embedding.weight", "value_embedding.embedding.weight")
_ATTENTION = "blocks.*.attention.*.weight"
_MLP = "blocks.*.mlp.*.weight"
_GATES = "blocks.*.sparse_gate.weight"
_SMALL = (
    "skip_weights",
    "skip_gates",
    "softcaps",
    "smear.gate",
    "smear.scale",
    "lanes.added",
    "lanes.kept",
    "bigram.scale",
    "bigram.projection.weight",
    "value_embedding.scale",
    "value_embedding.projection.weight",
    "blocks.*.attention.query_gain",
    "blocks.*.attention_scale",
    "blocks.*.mlp_scale",
    "blocks.*.residual_mix",
    "blocks.*.value_scale",
    "blocks.*.value_mix",
    "blocks.*.head_gate.weight",
    "blocks.*.head_gate.bias",
    "blocks.*.router.weight",
    "blocks.*.router.bias",
)


def default_schemes(recipe: SqueezeRecipe, coarseness: float = 1.0, fewer_bits: int = 0) -> SchemeList:
    """The recipe's schemes, made coarser: steps times `coarseness`, each integer `fewer_bits` narrower (2 at least).

    Covers every tensor that an artifact may hold: tables, the matrices of attention and MLP, gates, and all that is
    small. Gates and what is small stay as they are.
    """
    small = Scheme(recipe.small_bits)

    def scheme(bits: int, sigmas: float) -> Scheme:
        clip: Clip = recipe.clip
        narrow, wide = max(2, bits - fewer_bits), max(2, recipe.wide_bits - fewer_bits)
        return Scheme(narrow, coarseness, clip, sigmas if clip == "sigma" else 0.0, wide)

    return (
        *((name, scheme(recipe.embedding_bits, recipe.embedding_sigmas)) for name in _TABLES),
        (_ATTENTION, scheme(recipe.matrix_bits, recipe.attention_sigmas)),
        (_MLP, scheme(recipe.matrix_bits, recipe.mlp_sigmas)),
        (_GATES, Scheme(recipe.gate_bits, clip="largest") if recipe.gate_bits else small),
        *((name, small) for name in _SMALL),
    )


def assign_schemes(names: Iterable[str], schemes: SchemeList) -> dict[str, Scheme]:
    """The scheme of each name, in the order of `names`.

    Patterns are those of `fnmatch` (`*` also spans dots). Raises `RecipeError` with the names that no pattern matches
    and those that several do: an ambiguous list is a mistake, not a matter of order.
    """
    names = list(names)
    matches = {name: [(p, scheme) for p, scheme in schemes if fnmatchcase(name, p)] for name in names}
    missing = [name for name, found in matches.items() if not found]
    if missing:
        raise RecipeError(f"no scheme for {', '.join(missing)}; add a pattern to the list of schemes")
    double = [f"{name} ({', '.join(p for p, _ in found)})" for name, found in matches.items() if len(found) > 1]
    if double:
        raise RecipeError(f"more than one scheme for {'; '.join(double)}; make the patterns disjoint")
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise RecipeError(f"parameters named twice: {', '.join(repeated)}")
    return {name: found[0][1] for name, found in matches.items()}
