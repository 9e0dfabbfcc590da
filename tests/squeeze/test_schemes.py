"""The list of schemes covers each parameter exactly once."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from paramgolf.errors import RecipeError
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.recipe import ModelRecipe, SqueezeRecipe
from paramgolf.recipes import get_recipe
from paramgolf.squeeze.quantize import RAW_BITS, Scheme
from paramgolf.squeeze.schemes import assign_schemes, default_schemes

RECORD = get_recipe("pr549").model  # its numbers are the spec's: tests/recipes


def test_the_default_list_covers_the_plain_model():
    """Every tensor of the plain GPT has one scheme: matrices and the embedding as the recipe says, gains raw."""
    shapes = tensor_shapes(ModelRecipe(layers=3), 512)
    schemes = assign_schemes(shapes, default_schemes(SqueezeRecipe(matrix_bits=5, embedding_bits=7), 1.5))
    assert list(schemes) == list(shapes)
    for name, shape in shapes.items():
        expected = Scheme(RAW_BITS) if len(shape) == 1 else Scheme(7 if name == "embedding.weight" else 5, 1.5)
        assert schemes[name] == expected


def test_the_census_of_the_record_model():
    """66 matrices of int6, 3 tables of int8, 52 small tensors of 123,996 numbers (spec pr549.md 4.2, 4.5, 9)."""
    shapes = tensor_shapes(RECORD, 1024)
    recipe = SqueezeRecipe(matrix_bits=6, embedding_bits=8, small_bits=16, clip="percentile-floor")
    schemes = assign_schemes(shapes, default_schemes(recipe))
    assert Counter(scheme.bits for scheme in schemes.values()) == {6: 66, 8: 3, 16: 52}
    numbers = Counter()
    for name, scheme in schemes.items():
        numbers[scheme.bits] += math.prod(shapes[name])
        assert scheme.clip == ("search" if scheme.raw() else "percentile-floor")
    assert numbers == {6: 25_952_256, 8: 851_968, 16: 123_996}


def test_bits_give_way_down_to_two():
    """Fewer bits narrow every integer, never below 2."""
    schemes = assign_schemes(["embedding.weight", "blocks.0.mlp.up.weight"], default_schemes(SqueezeRecipe(), 1.0, 5))
    assert [scheme.bits for scheme in schemes.values()] == [3, 2]


def test_uncovered_ambiguous_and_repeated_names_are_named():
    """A parameter without a scheme, with two, or given twice raises with its name."""
    with pytest.raises(RecipeError, match=r"new\.gate"):
        assign_schemes(["a", "new.gate"], [("a", Scheme(6))])
    with pytest.raises(RecipeError, match=r"a\.b \(a\.\*, \*\.b\)"):
        assign_schemes(["a.b"], [("a.*", Scheme(6)), ("*.b", Scheme(8))])
    with pytest.raises(RecipeError, match="twice: a"):
        assign_schemes(["a", "a"], [("a", Scheme(6))])
