"""docs/cheats.md: its snippet runs, and its tables are what a run gives."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "cheats.md"
QUICK = [
    "plain",
    "ttt-score-first",
    "built-on-train",
    "built-on-val",
    "better-of-two",
    "state-kept",
    "neighbours",
    "byte-trick",
]


@pytest.fixture
def bench(monkeypatch):
    """bench/cheat_matrix.py as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import cheat_matrix

    yield cheat_matrix
    for name in ("cheat_matrix", "cheat_boxes", "cheat_compare"):
        sys.modules.pop(name, None)


def test_a_strangers_scorer_is_judged_in_ten_lines(capsys):
    """The page's snippet names the lie, by the tests that the page says."""
    page = PAGE.read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    exec(compile(block, PAGE.name, "exec"), {"__name__": "cheats_page"})
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    failed = [line[0] for line in printed if line[1] == "FAIL"]
    promised = re.search(r"(T1, .*) say FAIL here", page).group(1).replace(" and", ",").split(", ")
    assert failed == promised


def test_quick_rows_are_those_of_the_page(bench):
    """Rows that take no time, run again."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    cases = [case for case in bench.all_cases() if case.name in QUICK]
    assert len(cases) == len(QUICK)
    for case in cases:
        assert bench.matrix_line(case, bench.run_case(case)) in lines


def test_every_toy_and_exhibit_is_on_the_page(bench):
    """An exhibit that is added must be run: write the page anew."""
    page = PAGE.read_text(encoding="utf-8")
    assert [case.name for case in bench.all_cases() if f"| `{case.name}` {case.summary} |" not in page] == []
    assert bench.table_of_tests() in page


def test_honest_rows_fail_nothing_and_each_cheat_fails_something(bench):
    """The matrix as the page shows it: no false alarm, and nobody gets away."""
    rows = {
        line.split("`")[1]: line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    }
    for case in bench.all_cases():
        assert ("**X**" in rows[case.name]) != case.honest, case.name


def test_parts_go_between_their_comments(bench):
    """A page without the comments is refused, and the rest of a page is left alone."""
    page = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n"
    assert bench.replaced(page, {"x": "new"}) == page.replace("old", "new")
    with pytest.raises(ValueError, match="not one pair"):
        bench.replaced(page, {"y": "new"})


def test_one_row_on_the_command_line(bench, capsys):
    """Names run alone, with what each test says; an unknown one names those that exist."""
    assert bench.main(["byte-trick", "--says"]) == 0
    assert "T9 FAIL: 180 bytes are counted for a text of" in re.sub(r"FAIL: \d+", "FAIL: 180", capsys.readouterr().out)
    with pytest.raises(SystemExit):
        bench.main(["nobody"])
    assert "slot-1350" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_is_what_a_run_gives(bench):
    """All rows, the real ratios and the comparison with the specification."""
    assert bench.main(["--check", str(PAGE)]) == 0
