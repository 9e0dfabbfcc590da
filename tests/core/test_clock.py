"""The clock lists every phase, counts what is on the clock, and lets all ranks agree."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramgolf.clock import Clock, Entry, entries_of, seconds_on_clock
from paramgolf.errors import RunError


class Hands:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def test_phases_are_listed_with_their_times() -> None:
    """The ledger holds name, kind, start since the beginning, seconds and limit of each phase, in order of ending."""
    hands = Hands()
    clock = Clock(hands)
    hands.time += 2
    with clock.phase("warm-up", on_clock=False):
        hands.time += 3
    with clock.phase("train", on_clock=True, limit=10.0) as phase:
        hands.time += 4
        assert (phase.seconds(), phase.fraction(), phase.expired()) == (4.0, 0.4, False)
        hands.time += 8
        assert (phase.fraction(), phase.expired()) == (1.0, True)
    assert clock.ledger == [Entry("warm-up", False, 2.0, 3.0), Entry("train", True, 5.0, 12.0, 10.0)]
    assert seconds_on_clock(clock.ledger) == 12.0
    assert [entry.overrun() for entry in clock.ledger] == [0.0, 2.0]


def test_a_phase_that_fails_is_listed_too() -> None:
    """An exception passes through and the phase is in the ledger."""
    hands = Hands()
    clock = Clock(hands)
    with pytest.raises(ZeroDivisionError), clock.phase("score", on_clock=True):
        hands.time += 1
        raise ZeroDivisionError
    assert clock.ledger == [Entry("score", True, 0.0, 1.0)]


def test_resumed_phase_carries_its_seconds() -> None:
    """Seconds used before a stop count towards the fraction and the ledger."""
    hands = Hands()
    clock = Clock(hands)
    with clock.phase("train", on_clock=True, limit=10.0, used=6.0) as phase:
        hands.time += 1
        assert phase.fraction() == pytest.approx(0.7)
        hands.time += 3
        assert phase.expired()
    assert clock.ledger[0].seconds == 10.0


def test_every_reading_is_agreed() -> None:
    """A rank whose own clock runs ahead reports what rank 0 reads."""
    leader, follower = Hands(), Hands()
    clock = Clock(follower, agree=lambda own: leader.time)
    with clock.phase("train", on_clock=True, limit=10.0) as phase:
        follower.time += 500
        leader.time += 5
        assert phase.fraction() == 0.5
        assert not phase.expired()


def test_bad_limits_are_refused() -> None:
    """No limit means no fraction; limits must be positive and used seconds not negative, said with the values."""
    clock = Clock(Hands())
    with clock.phase("pack", on_clock=False) as phase, pytest.raises(RunError, match="'pack' has no limit"):
        phase.fraction()
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(RunError, match=f"limit {limit}"), clock.phase("train", on_clock=True, limit=limit):
            pass
    with pytest.raises(RunError, match="used=-1"), clock.phase("train", on_clock=True, limit=1.0, used=-1):
        pass


times = st.floats(0, 1e6)


@given(st.lists(st.builds(Entry, st.text(), st.booleans(), times, times, st.none() | times)))
def test_ledger_survives_json(ledger: list[Entry]) -> None:
    """A ledger written as JSON reads back equal and goes before the phases of a resumed run."""
    first = Clock(Hands())
    first.ledger = ledger
    text = json.dumps(first.record())
    second = Clock(Hands())
    with second.phase("later", on_clock=False):
        pass
    second.restore(json.loads(text))
    assert second.ledger == [*ledger, Entry("later", False, 0.0, 0.0)]


@pytest.mark.parametrize(
    "record,says",
    [
        ({}, "list of phases, found dict"),
        ([3], "ledger entry 0"),
        ([{"name": "x"}], "ledger entry 0"),
        ([{"name": 1, "on_clock": True, "start": 0, "seconds": 0, "limit": None}], "name=1"),
        ([{"name": "x", "on_clock": 1, "start": 0, "seconds": 0, "limit": None}], "on_clock=1"),
        ([{"name": "x", "on_clock": True, "start": "0", "seconds": 0, "limit": None}], "no numbers"),
        ([{"name": "x", "on_clock": True, "start": 0, "seconds": 0, "limit": True}], "no numbers"),
    ],
)
def test_damaged_ledgers_are_refused(record: object, says: str) -> None:
    """A record that is no ledger raises an error that says where."""
    with pytest.raises(RunError, match=says):
        entries_of(record)


def test_clock_and_run_folder_need_no_torch() -> None:
    """Importing the clock and the run folder leaves torch unloaded."""
    code = "import sys, paramgolf.clock, paramgolf.run_folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
