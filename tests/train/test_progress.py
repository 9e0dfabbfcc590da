"""What the user sees: the same figures on a terminal and in a pipe, and the log that is behind them."""

import dataclasses
import io
import json
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from paramgolf.optim.schedule import StepSettings
from paramgolf.recipe import Recipe, TrainRecipe
from paramgolf.run_folder import RunFolder
from paramgolf.train.metrics import MetricsLog, Point, forget_after
from paramgolf.train.notes import Notes
from paramgolf.train.progress import LiveDisplay, PlainDisplay, SilentDisplay, describe, open_display

POINT = Point(
    step=40,
    seconds=30.4,
    fraction=0.4,
    loss=2.71828,
    tokens=81_920,
    tokens_per_second=10_240.0,
    lr=0.02,
    grad_norm=0.5,
    momentum=0.9,
)


def test_line_has_every_figure() -> None:
    """Seconds of the budget, step, loss, speed, seconds left and the size to expect are in the line."""
    assert describe(POINT, 75.0, 812_000) == (
        "30/75 s  step 40  loss 2.718  10,240 tokens/s  ETA 45 s  weights ~812,000 bytes"
    )
    assert "ETA 0 s" in describe(POINT, 20.0, 1)


def test_live_display_draws_on_a_terminal() -> None:
    """On a terminal the bar shows the point's figures and leaves the cursor visible at the end."""
    stream = io.StringIO()
    with LiveDisplay(75.0, 812_000, Console(file=stream, force_terminal=True, width=140)) as display:
        display.show(POINT)
    text = stream.getvalue()
    for word in ("train", "30/75 s", "2.718", "10,240", "ETA 45 s", "~0.81 MB"):
        assert word in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_live_display_fits_eighty_columns() -> None:
    """On a terminal of 80 columns nothing is cut off, at a million tokens a second of an hour-long budget."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, color_system=None)
    with LiveDisplay(3600.0, 16_000_000, console) as display:
        display.show(dataclasses.replace(POINT, seconds=1000.0, loss=10.25, tokens_per_second=1_000_000.0))
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    last = plain.replace("\r", "\n").strip().splitlines()[-1].strip()
    assert last.endswith("1000/3600 s  loss 10.250  1,000,000 tok/s  ETA 2600 s  ~16.00 MB")
    assert len(last) <= 80


def test_plain_display_ends_with_the_last_point_once() -> None:
    """The last point is printed at the end, but not twice if it was printed already; nothing is printed without one."""
    stream = io.StringIO()
    with PlainDisplay(75.0, 1, stream) as display:
        display.show(POINT)
    assert len(stream.getvalue().splitlines()) == 1
    with PlainDisplay(75.0, 1, stream):
        pass
    assert len(stream.getvalue().splitlines()) == 1


def test_display_suits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets the bar, a pipe gets lines, other ranks get silence."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(open_display(1.0, 1), PlainDisplay)
    assert type(open_display(1.0, 1, quiet=True)) is SilentDisplay
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(open_display(1.0, 1), LiveDisplay)


def test_log_points_are_half_a_second_apart(tmp_path: Path) -> None:
    """The first step, each half second and the end are due; speed counts tokens since the last point."""
    run = RunFolder.create(tmp_path / "run")
    train = TrainRecipe(sequence=50, batch_tokens=100)
    log, settings = MetricsLog(run, Recipe("plain", train=train), step=0, seconds=0.0), StepSettings(0.5, 0.9)
    assert log.due(1, 0.1, False)
    assert not log.due(2, 0.4, False)
    assert log.due(2, 0.4, True)
    assert log.due(3, 0.5, False)
    point = log.write(5, 0.5, 0.1, 3.0, 0.5, settings)
    assert (point.tokens, point.tokens_per_second, point.lr, point.context, point.looping) == (
        500,
        1000.0,
        0.01,
        50,
        False,
    )
    assert log.write(6, 0.75, 0.1, 3.0, 0.5, settings).tokens_per_second == 400.0
    assert log.write(7, 0.75, 0.1, 3.0, 0.5, settings).tokens_per_second == 0.0
    assert not log.due(8, 1.2, False)
    assert log.due(8, 1.25, False)


def test_forgetting_keeps_what_was_done(tmp_path: Path) -> None:
    """Lines after the step, and lines that are no records, are dropped; a run without a log is left alone."""
    run = RunFolder.create(tmp_path / "run")
    forget_after(run, 3)
    assert not list(run.path.iterdir())
    for line in ('{"step": 2}', '{"step": 3}', "5", "[]", '{"step": "x"}', '{"step": 4}', '{"step": 3'):
        run.append_line("metrics.jsonl", line)
    forget_after(run, 3)
    assert [json.loads(line) for line in run.read_text("metrics.jsonl").splitlines()] == [{"step": 2}, {"step": 3}]


def test_notes_are_shown_and_kept(tmp_path: Path) -> None:
    """A note of the leading rank is a line in a pipe, stands above the bar on a terminal, and is in the log."""
    line = "[bold]no markup[/bold] in a note"
    run = RunFolder.create(tmp_path / "run")
    pipe, terminal = io.StringIO(), io.StringIO()
    live = LiveDisplay(75.0, 1, Console(file=terminal, force_terminal=True, width=80))
    with PlainDisplay(75.0, 1, pipe) as plain, live:
        for display in (plain, live, SilentDisplay()):
            Notes(run, display, leads=True).say(line)
            Notes(run, display, leads=False).say("of another rank")
    assert pipe.getvalue() == line + "\n"
    assert line in terminal.getvalue() and "another rank" not in terminal.getvalue()
    assert [kept.split(" ", 1)[1] for kept in run.read_text("log.txt").splitlines()] == [line] * 3
