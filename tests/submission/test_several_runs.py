"""Which runs make one record, and what they come to."""

import dataclasses
from collections.abc import Callable

import pytest

from paramgolf.errors import RunError
from paramgolf.submission.runs import recipe_differences, require_one_record, spread
from paramgolf.submission.scored_run import ScoredRun

Published = Callable[[int], ScoredRun]


def test_mean_and_deviation_are_the_published_ones(published: Published) -> None:
    """The three published seeds give the published mean and sample deviation (spec pr549.md 6)."""
    runs = [published(seed) for seed in (1337, 42, 2025)]
    found = spread(runs, lambda run: run.bpb)
    assert round(found.mean, 5) == 1.11938 and found.deviation is not None and round(found.deviation, 5) == 0.00058
    assert round(spread(runs, lambda run: run.nats_per_token).mean, 5) == 1.89002
    assert spread(runs[:1], lambda run: run.bpb).deviation is None


def test_only_the_seed_may_differ(published: Published) -> None:
    """Runs of other settings are refused with the settings and both values; the seed alone is no difference."""
    one, other = published(1337), published(42)
    require_one_record([one, other])
    assert recipe_differences(one.recipe, other.recipe) == []
    optim = dataclasses.replace(other.recipe.optim, matrix_lr=0.03)
    model = dataclasses.replace(other.recipe.model, xsa_layers=(9, 10))
    changed = dataclasses.replace(other, recipe=dataclasses.replace(other.recipe, optim=optim, model=model))
    with pytest.raises(RunError, match=r"optim\.matrix_lr: 0\.02, 0\.03") as refused:
        require_one_record([one, changed])
    assert "model.xsa_layers: (), (9, 10)" in str(refused.value) and len(str(refused.value).splitlines()) == 1


def test_many_differences_are_counted(published: Published) -> None:
    """Two recipes with little in common give a short list and how many more there are."""
    one, other = published(1337), published(42)
    model = dataclasses.replace(other.recipe.model, layers=2, width=64, heads=2, kv_heads=1, mlp_ratio=2.0, unet=True)
    model = dataclasses.replace(model, softcap=15.0, block_scales=True)
    with pytest.raises(RunError, match=r"; 2 more$"):
        require_one_record([one, dataclasses.replace(other, recipe=dataclasses.replace(other.recipe, model=model))])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text": {"name": "another", "digest": "0" * 64}}, "was scored on text validation"),
        ({"adapt": "none"}, "was scored with adapt ttt"),
        ({"documents_not_lossless": 0}, "documents_not_lossless 17"),
    ],
)
def test_scores_of_other_kinds_do_not_mix(published: Published, change: dict[str, object], says: str) -> None:
    """Scores of another text, or made in another way, are refused with both."""
    one, other = published(1337), published(42)
    with pytest.raises(RunError, match=says):
        require_one_record([one, dataclasses.replace(other, score=other.score | change)])


def test_a_seed_counts_once(published: Published) -> None:
    """The same seed twice is refused: it is no second sample, and its files would collide."""
    with pytest.raises(RunError, match="one seed, 42"):
        require_one_record([published(42), published(1337), published(42)])
