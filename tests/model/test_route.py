"""Promises of the route: which block runs when, and what joins what."""

import pytest

from paramgolf.model.arithmetic import parameter_count
from paramgolf.model.route import route
from paramgolf.recipe import ModelRecipe
from paramgolf.recipes.pr2140 import pr2140


def test_the_record_model_has_the_published_route() -> None:
    """17 visits of 11 layers, 8 that keep and 9 that join but the last (spec pr2140.md 2.2)."""
    visits = route(pr2140().model)
    assert [v.layer for v in visits[:8]] == [0, 1, 2, 3, 4, 5, 3, 4]
    assert [v.layer for v in visits[8:]] == [5, 3, 4, 5, 6, 7, 8, 9, 10]
    assert [v.keeps for v in visits] == [True] * 8 + [False] * 9
    assert [v.joins for v in visits] == [-1] * 8 + [*range(8), -1]
    assert [v.layer for v in visits if v.parallel] == [8, 9, 10]


def test_before_the_loops_fewer_rows_are_used() -> None:
    """Without looping five visits keep and rows 0..4 join them, so a row serves another pair of layers later."""
    visits = route(pr2140().model, looping=False)
    assert [v.layer for v in visits] == list(range(11))
    assert [v.joins for v in visits] == [-1] * 5 + [0, 1, 2, 3, 4, -1]


def test_the_record_model_has_the_published_number_of_parameters() -> None:
    """35,945,673 (spec pr2140.md 2.1)."""
    assert parameter_count(pr2140().model, 8192) == 35_945_673


@pytest.mark.parametrize("layers", range(1, 9))
@pytest.mark.parametrize("loops", [1, 2, 3])
def test_every_kept_stream_is_joined_once(layers: int, loops: int) -> None:
    """As many visits join as keep, and no visit joins before another has kept."""
    recipe = ModelRecipe(layers=max(layers, 2), unet=True, looped_layers=(0, 1), loops=loops)
    depth = 0
    for visit in route(recipe):
        depth -= visit.joins >= 0
        assert depth >= 0
        depth += visit.keeps
    assert depth == 0 and recipe.skips() == sum(v.keeps for v in route(recipe))
