"""Which cheat is caught by which black-box test, found by running all of them.

    python bench/cheat_matrix.py [NAME ...] [--write docs/cheats.md | --check docs/cheats.md] [--says]

Runs the twelve tests of `paramgolf.referee.blackbox` over the honest controls, the toys that cheat, and every exhibit
around a small honest base, and prints the table; NAMEs run those alone, --says prints each finding's sentence. --write
puts the tables into the page (between its comments), --check exits 1 if the page shows others.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cheat_boxes import Case, all_cases
from cheat_compare import SPEC, Ratio, compared, ratios
from paramgolf.referee.blackbox import TESTS, Effort, judge
from paramgolf.referee.finding import Finding

SEED = 1
EFFORT = Effort(flips=16, cuts=20, swaps=4, decoded=40)
MARK = {"PASS": "·", "FAIL": "**X**", "UNPROVEN": "?"}
NAMES = [test.name for test in TESTS]


def run_case(case: Case) -> tuple[Finding, ...]:
    """The findings of one row."""
    return judge(case.box, case.tokens, seed=SEED, effort=EFFORT, at=case.at)


def table_of_tests() -> str:
    """One line a test: what it does, and which lie it finds."""
    lines = ["| test | what it does | which lie it finds |", "|---|---|---|"]
    lines += [f"| **{test.name}** {test.title} | {test.does} | {test.finds} |" for test in TESTS]
    return "\n".join(lines)


def matrix_line(case: Case, found: tuple[Finding, ...]) -> str:
    """One line of the matrix."""
    return f"| `{case.name}` {case.summary} | " + " | ".join(MARK[finding.status] for finding in found) + " |"


def matrix(cases: list[Case], found: dict[str, tuple[Finding, ...]]) -> str:
    """The cases that were run, in order."""
    head = ["| scorer | " + " | ".join(NAMES) + " |", "|---" * (len(NAMES) + 1) + "|"]
    return "\n".join([*head, *(matrix_line(case, found[case.name]) for case in cases)])


def comparison(found: dict[str, tuple[Finding, ...]], large: list[Ratio]) -> str:
    """Our rows beside those of the specification."""
    lines = ["| cheat | expected | caught | not caught, or more | why |", "|---|---|---|---|---|"]
    for row in SPEC:
        caught, differs = compared(row, found, large)
        lines.append(f"| {row.cheat} | {_list(row.expected)} | {_list(caught)} | {differs or '-'} | {row.why} |")
    return "\n".join(lines)


def _list(tests: set[str]) -> str:
    return " ".join(name for name in NAMES if name in tests)


def table_of_ratios(large: list[Ratio]) -> str:
    """The toys at the real ratios."""
    lines = ["| scorer | nats a token | advantage over chance, nats | T5 | largest gap of a row, nats | T11 |"]
    lines.append("|---" * 6 + "|")
    for one in large:
        words = [one.name, f"{one.mean:.2f}", f"{one.advantage:+.0f}", MARK[one.t5], f"{one.gap:+.2f}", MARK[one.t11]]
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(lines)


def replaced(page: str, parts: dict[str, str]) -> str:
    """The page with each part between its comments; raise `ValueError` where a comment is missing."""
    for name, text in parts.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        if page.count(begin) != 1 or page.count(end) != 1:
            raise ValueError(f"the page has not one pair of comments {begin.strip()} and {end}")
        page = page[: page.index(begin) + len(begin)] + text + "\n" + page[page.index(end) :]
    return page


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", help="run these rows alone")
    parser.add_argument("--says", action="store_true", help="print each finding's sentence")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page")
    parser.add_argument("--check", type=Path, metavar="PAGE", help="exit 1 if this page shows other tables")
    options = parser.parse_args(arguments)
    page = options.write or options.check
    if page and options.name:
        parser.error("a page shows all rows: leave the names out")
    cases = [case for case in all_cases() if not options.name or case.name in options.name]
    if not cases:
        parser.error(f"no row {' '.join(options.name)}; there are {', '.join(case.name for case in all_cases())}")
    found = {}
    for case in cases:
        found[case.name] = run_case(case)
        print(matrix_line(case, found[case.name]), flush=True)
        for finding in found[case.name] if options.says else ():
            print(f"    {finding.rule} {finding.status}: {finding.says}")
    return _page(page, bool(options.write), cases, found) if page else 0


def _page(page: Path, write: bool, cases: list[Case], found: dict[str, tuple[Finding, ...]]) -> int:
    large = ratios()
    parts = {
        "tests": table_of_tests(),
        "honest": matrix([case for case in cases if case.honest], found),
        "cheats": matrix([case for case in cases if not case.honest], found),
        "ratios": table_of_ratios(large),
        "compared": comparison(found, large),
    }
    old = page.read_text(encoding="utf-8")
    new = replaced(old, parts)
    if write:
        page.write_text(new, encoding="utf-8")
        print(f"wrote {page}")
        return 0
    print(f"{page} is {'up to date' if new == old else 'not what a run gives: write it anew'}")
    return int(new != old)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
