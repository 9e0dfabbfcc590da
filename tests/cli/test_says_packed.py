"""The one line that says what packing did to a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from paramgolf.artifact.pack import PackReport
from paramgolf.cli.life import says_packed
from paramgolf.squeeze.fit import Setting


def line(coarseness=1.0, **more):
    """What is said of a report with this coarseness."""
    sizes = {"bytes": 9_000, "bytes_without_tokenizer": 8_000, "bytes_by_member": {}, "bytes_by_tensor": {}}
    errors = {"squared_error": 1.0, "relative_error": 0.0123, "setting": Setting(0, coarseness)}
    return says_packed(PackReport(Path("m"), "d", **sizes, **errors, budget=9_100, documents_dropped=0, **more))


@pytest.mark.parametrize(("coarseness", "says"), [(1.5, "1.5"), (0.128, "0.128"), (1 / 32, "0.0312"), (0.98, "0.98")])
def test_steps_are_said_whichever_way_they_went(coarseness, says):
    """Coarser or finer than the recipe's, the line has the factor; at 1 it says nothing of steps."""
    assert line(coarseness).endswith(f"weights off by 1.23 %, steps times {says}")
    assert "steps" not in line()


def test_corrected_and_widened_tensors_are_named():
    """Up to four of each by name, the others as a number, all in one line."""
    said = line(corrected=("a", "b"), widened=tuple("cdefgh"))
    assert said.endswith(", corrected a, b, wide columns in c, d, e, f, 2 more")
    assert "\n" not in said
    assert "corrected" not in line() and "wide" not in line()
