"""A signal is a wish to stop after the step; only a later second one insists."""

import signal
import threading

import pytest

from paramgolf.train import stop
from paramgolf.train.stop import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_wish_told_twice(number: int) -> None:
    """The launcher's copy of the same signal does not end the process, and the handlers are put back."""
    before = signal.getsignal(number)
    with stop_on_signals() as request:
        assert request.number == 0
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
        assert request.number == number
    assert signal.getsignal(number) is before


def test_a_second_wish_insists(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second Ctrl-C after the first was heard acts as it would without us."""
    monkeypatch.setattr(stop, "SAME_WISH_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt), stop_on_signals() as request:
        signal.raise_signal(signal.SIGINT)
        assert request.number == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_change_nothing() -> None:
    """Outside the main thread there is a request that nothing sets."""
    before, numbers = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with stop_on_signals() as request:
            assert signal.getsignal(signal.SIGINT) is before
            numbers.append(request.number)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert numbers == [0]
