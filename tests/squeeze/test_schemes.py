"""The list of schemes covers each parameter exactly once."""

from __future__ import annotations

import pytest

from paramgolf.errors import RecipeError
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.recipe import ModelRecipe, SqueezeRecipe
from paramgolf.squeeze.quantize import RAW_BITS, Scheme
from paramgolf.squeeze.schemes import assign_schemes, default_schemes


def test_the_default_list_covers_the_model():
    """Every parameter of the plain GPT has one scheme: matrices and the embedding as the recipe says, gains raw."""
    shapes = tensor_shapes(ModelRecipe(layers=3), 512)
    schemes = assign_schemes(shapes, default_schemes(SqueezeRecipe(matrix_bits=5, embedding_bits=7), 1.5))
    assert list(schemes) == list(shapes)
    for name, shape in shapes.items():
        expected = Scheme(RAW_BITS) if len(shape) == 1 else Scheme(7 if name == "embedding.weight" else 5, 1.5)
        assert schemes[name] == expected


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
