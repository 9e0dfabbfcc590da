"""docs/predictor.md: every block on the page runs, from top to bottom, and what it asserts holds."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "predictor.md"


def test_the_code_on_the_page_runs(capsys):
    """A reader who pastes the blocks one after the other gets a predictor that is scored, probed and decodes."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 6
    namespace = {"__name__": "predictor_page"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "bits per byte" in printed
    assert "bytes coded" in printed


def test_the_predictor_on_the_page_has_at_most_thirty_lines():
    """The page keeps what its title says."""
    block = next(
        text for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "class Pairs" in text
    )
    lines = [line for line in block[block.index("class Pairs") :].splitlines() if line.strip()]
    assert len(lines) <= 30
