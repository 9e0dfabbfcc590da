"""Progress of long jobs."""

import io

from paramgolf.cli.meter import Meter, announced, describe


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_one_line_in_ten_seconds() -> None:
    """In a pipe a long job writes plain lines, not more than one in ten seconds, with speed and time left."""
    clock, stream = iter([0.0, *(float(second) for second in range(1, 26))]), io.StringIO()
    with Meter("decode", "tokens", stream, lambda: next(clock)) as meter:
        for second in range(1, 26):
            meter.update(40 * second, 1000)
    lines = stream.getvalue().splitlines()
    assert lines == [
        "decode  40 %  400 of 1,000 tokens  40 tokens/s  ETA 15 s",
        "decode  80 %  800 of 1,000 tokens  40 tokens/s  ETA 5 s",
        "decode 100 %  1,000 of 1,000 tokens  40 tokens/s  ETA 0 s",
    ]


def test_a_short_job_says_nothing() -> None:
    """What is over at once leaves no line behind."""
    stream = Terminal()
    with Meter("encode", "tokens", stream, lambda: 0.0) as meter:
        meter.update(5, 5)
    assert stream.getvalue() == ""


def test_a_terminal_is_redrawn_and_left_clean() -> None:
    """On a terminal one line is redrawn in place and ends with a line end."""
    clock, stream = iter([0.0, 1.0, 2.0]), Terminal()
    with Meter("score", "tokens", stream, lambda: next(clock)) as meter:
        meter.update(1, 2, "1.5 bits")
        meter.update(2, 2)
    assert stream.getvalue().count("\n") == 1 and stream.getvalue().endswith("\n")
    assert stream.getvalue().count("\r\x1b[K") == 2 and "1.5 bits" in stream.getvalue()


def test_a_job_of_unknown_length_is_announced() -> None:
    """The line stands before the job begins: for good in a pipe, until the job ends on a terminal."""
    pipe, terminal = io.StringIO(), Terminal()
    with announced("probing ...", pipe), announced("probing ...", terminal):
        assert pipe.getvalue() == "probing ...\n" and terminal.getvalue() == "probing ..."
    assert pipe.getvalue() == "probing ...\n" and terminal.getvalue() == "probing ...\r\x1b[K"


def test_nothing_to_do_is_done() -> None:
    """An empty job divides by nothing."""
    assert describe(0, 0, 0.0, "tokens") == "100 %  0 of 0 tokens  0 tokens/s  ETA unknown"
