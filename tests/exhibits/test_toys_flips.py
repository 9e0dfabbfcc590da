"""The flip tests of #1240 give its published table again (spec pr1430.md section 8.1)."""

import pytest

from paramgolf.exhibits.toys.flips_1240 import VARIANTS, run_flips


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "a", "b", "c_largest", "c_mean"),
    [(VARIANTS[0], 0.255651, 0.2382, 0.341888, 0.0768), (VARIANTS[1], 0.774382, 0.7255, 1.06057, 0.2296)],
    ids=["shared", "per-sample"],
)
def test_published_figures(variant, a, b, c_largest, c_mean):
    """A: 63 of 63 moved, B: the worth of the true target, C: 240 of 240 pairs; nothing moves without a fit."""
    found = run_flips(variant)
    assert found.null_change == 0.0
    assert found.a_largest == pytest.approx(a, abs=1e-5)
    assert found.a_moved == 63
    assert found.b_advantage == pytest.approx(b, abs=6e-5)
    assert found.c_pairs == 240
    assert found.c_largest == pytest.approx(c_largest, abs=1e-4)
    assert found.c_mean == pytest.approx(c_mean, abs=1e-4)
