"""Planned bytes are those of the published law, and the law is that of rounded Gaussians."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramgolf.recipes.pr2140 import pr2140
from paramgolf.squeeze.size_law import integer_bits, rounded_gaussian_bits, size_law


def test_bits_at_the_published_steps():
    """MLP, attention and embedding take 3.486, 3.311 and 4.220 bits (spec pr2140.md 4.2)."""
    found = [integer_bits(11.5, 6), integer_bits(13.0, 6), integer_bits(14.0, 7)]
    assert found == pytest.approx([3.486, 3.311, 4.220], abs=5e-4)


def test_bytes_of_the_record_model():
    """10.052 + 3.581 + 2.212 MB, wide columns 0.066, scales 0.12, together 16.03 before small tensors (spec 4.2)."""
    recipe = pr2140()
    law = size_law(recipe.model, recipe.squeeze, recipe.tokenizer.vocab_size)
    integers = [law.mlp / 1e6, law.attention / 1e6, law.embedding / 1e6]
    assert integers == pytest.approx([10.052, 3.581, 2.212], abs=1e-3)
    assert law.wide / 1e6 == pytest.approx(0.066, abs=5e-4)
    assert law.scales / 1e6 == pytest.approx(0.12, abs=5e-3)
    assert (sum(integers) + (law.wide + law.scales) / 1e6) == pytest.approx(16.03, abs=5e-3)
    assert law.total() / 1e6 == pytest.approx(16.03 + (law.corrections + law.small) / 1e6, abs=5e-3)


@pytest.mark.parametrize("step", [0.05, 0.371, 1.0, 3.0, 8.0])
def test_entropy_is_that_of_drawn_integers(step):
    """The law is the order-0 entropy of a million rounded draws."""
    drawn = np.rint(np.random.default_rng(1).normal(0, 1, 1_000_000) / step)
    share = np.unique(drawn, return_counts=True)[1] / drawn.size
    assert rounded_gaussian_bits(step) == pytest.approx(-(share * np.log2(share)).sum(), abs=4e-3)


@given(st.floats(1e-6, 30.0), st.floats(1.001, 4.0))
def test_coarser_steps_never_cost_more(step, factor):
    """Entropy falls with the step, by at most a little over an octave's bit for every octave."""
    fine, coarse = rounded_gaussian_bits(step), rounded_gaussian_bits(step * factor)
    assert fine - coarse >= -1e-9
    assert coarse >= 0
    if step * factor < 0.5:
        assert fine - coarse == pytest.approx(math.log2(factor), abs=0.02)


def test_a_step_must_be_above_nought():
    """Nought and NaN are refused with the value."""
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="should be above 0"):
            rounded_gaussian_bits(bad)


def test_the_plan_is_shown(capsys):
    """`paramgolf recipes pr2140` shows the law's parts, and its total as the estimate."""
    from paramgolf.cli import main

    assert main(["recipes", "pr2140"]) == 0
    shown = capsys.readouterr().out
    recipe = pr2140()
    law = size_law(recipe.model, recipe.squeeze, recipe.tokenizer.vocab_size)
    assert f"weights of about {round(law.total()):,} bytes" in shown
    assert "attention 3.581, mlp 10.052" in shown
