"""The frame of the command line: words, errors, exit statuses, and the JSON line."""

import argparse
import contextlib
import errno
import io
import json
import math
import subprocess
import sys
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from paramgolf import cli
from paramgolf.cli import VERBS, main
from paramgolf.cli.arguments import byte_count, count, seconds, share, temperature
from paramgolf.cli.check import RULESET_NAMES
from paramgolf.cli.output import Output, plain
from paramgolf.cli.trouble import explain
from paramgolf.errors import CheckFailed, TextError
from paramgolf.referee.rulesets import RULESETS

HEAVY = ("torch", "numba", "matplotlib", "scipy", "sentencepiece", "rich", "jinja2")


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_light(verb: str) -> None:
    """--help of every verb says what the verb does and imports nothing heavy, so it can answer at once."""
    code = (
        "import sys; from paramgolf.cli import main; status = main(sys.argv[1:]); "
        f"print('HEAVY', [name for name in {HEAVY} if name in sys.modules]); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *verb.split(), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert f"usage: paramgolf {verb}" in done.stdout and "--json" in done.stdout
    assert len(done.stdout.splitlines()) > 5
    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_refuses_an_unknown_flag_with_a_suggestion(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt flag gives two lines at most, names the flag and the nearest one, exit 2."""
    assert main([*verb.split(), "--jsno"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and len(shown.err.splitlines()) <= 2
    assert "--jsno" in shown.err and "did you mean --json?" in shown.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["scroe"], "unknown verb 'scroe'; did you mean score?"),
        (["data", "prepar"], "unknown verb 'data prepar'; did you mean data prepare?"),
        (["train", "baseline", "--seconds", "-3"], "--seconds: '-3' is not a positive number of seconds"),
        (["train", "baseline", "--seconds", "nan"], "--seconds: 'nan' is not a positive number of seconds"),
        (["score", "a", "b", "--limit", "foo"], "--limit: 'foo' is not a number of bytes"),
        (["score", "a"], "required: TEXT"),
        (["train", "baseline", "--data", "d", "--model.width", "x"], "--model.width: 'x' is not a whole number"),
        (["train", "baseline", "--data", "d", "--model.widht", "8"], "did you mean --model.width?"),
        (["train", "baseline", "--data", "d", "--train.dtype", "f16"], "'f16' (choose from"),
        (["recipes", "baseline", "more"], "unexpected 'more'"),
        (["sample", "a", "--tokens", "0"], "--tokens: '0' is not a whole number of at least 1"),
        (["data", "prepare", "x", "--tokenizer", "bytes", "--out", "y", "--held-out", "1.5"], "'1.5' is not a share"),
    ],
)
def test_words_that_make_no_command(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A usage error is one line that names the flag and the value, exit 2."""
    assert main(words) == 2
    shown = capsys.readouterr()
    assert says in shown.err and len(shown.err.splitlines()) == 1 and shown.out == ""


def test_no_verb_shows_all_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a verb the list of verbs is shown and the status is 2; --help shows the same with status 0."""
    assert main([]) == 2
    alone = capsys.readouterr().out
    assert main(["--help"]) == 0 and capsys.readouterr().out == alone
    assert all(verb in alone and says in alone for verb, says in VERBS.items())
    assert main(["data"]) == 2 and "data inspect" in capsys.readouterr().out
    assert main(["--version"]) == 0 and "paramgolf 0." in capsys.readouterr().out


def _verb(monkeypatch: pytest.MonkeyPatch, run: object) -> None:
    """Let the verb `doctor` do `run`."""
    module = SimpleNamespace(__doc__="A verb.", add_arguments=lambda parser: None, run=run)
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: module)


@pytest.mark.parametrize(
    ("error", "says", "status"),
    [
        (TextError("no text in x"), "no text in x", 2),
        (CheckFailed("row 3 sums to 1.2"), "row 3 sums to 1.2", 1),
        (KeyboardInterrupt(), "interrupted", 130),
        (MemoryError(), "out of memory", 2),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "the disk is full: /x/y", 2),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), "permission denied: /root/x", 2),
    ],
)
def test_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, says: str, status: int
) -> None:
    """What a user can mend gives its message without a traceback, the right status, and JSON on request."""

    def run(options: argparse.Namespace, output: object) -> int:
        raise error

    _verb(monkeypatch, run)
    assert main(["doctor"]) == status
    shown = capsys.readouterr()
    assert shown.err.startswith("paramgolf doctor: ") and says in shown.err and shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert main(["doctor", "--json"]) == status
    record = json.loads(capsys.readouterr().out)
    assert says in record["error"] and record["exit_status"] == status


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no user can mend is not dressed up as a message."""
    _verb(monkeypatch, lambda options, output: {}["missing"])
    with pytest.raises(KeyError):
        main(["doctor"])
    assert explain(ZeroDivisionError()) is None


def test_json_is_the_last_line_and_all_of_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json stray prints and human lines go to stderr; stdout is one strict object. Without, no object."""

    def run(options: argparse.Namespace, output: Output) -> int:
        print("a library talks")
        output.say("a result")
        output.next("paramgolf", "score", "my file")
        output.result({"bpb": float("nan"), "path": Path("x"), "array": np.arange(2), "half": np.float32(0.5)})
        return 1

    _verb(monkeypatch, run)
    assert main(["doctor", "--json"]) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"bpb": None, "path": "x", "array": [0, 1], "half": 0.5}
    assert len(shown.out.splitlines()) == 1
    assert "a library talks" in shown.err and "next: paramgolf score 'my file'" in shown.err
    assert main(["doctor"]) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["a library talks", "a result", "next: paramgolf score 'my file'"]


def test_a_closed_pipe_is_quiet() -> None:
    """Output into a program that has stopped reading ends without a word on stderr."""
    command = [sys.executable, "-m", "paramgolf", "recipes", "baseline"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_plain_leaves_nothing_that_json_cannot_hold() -> None:
    """Numbers that are none become null, whatever holds them; enums become their values."""

    class Colour(Enum):
        RED = "red"

    value = {"a": [math.inf, -math.inf, math.nan, 1.5], 3: Colour.RED, "b": (True, None), "c": np.float64("nan")}
    assert plain(value) == {"a": [None, None, None, 1.5], "3": "red", "b": [True, None], "c": None}
    assert plain({"n": np.int64(3)}) == {"n": 3} and json.dumps(plain(np.bool_(True))) == "true"


def test_kinds_of_value() -> None:
    """Each kind takes what it should, with its unit, and refuses the rest."""
    assert seconds("1e2") == 100 and count("3") == 3 and share("0.1") == 0.1
    assert temperature("0") == 0 and temperature("0.7") == 0.7
    assert [byte_count(word) for word in ("16_000_000", "16M", "16MB", "1.5k", "2G")] == [
        16_000_000,
        16_000_000,
        16_000_000,
        1500,
        2 * 10**9,
    ]
    wrong = [(seconds, "inf"), (seconds, "0"), (count, "1.5"), (count, "-1"), (share, "0"), (share, "1")]
    wrong += [(byte_count, "0"), (byte_count, "1.5"), (byte_count, "-4k"), (byte_count, "k"), (temperature, "-1")]
    for kind, word in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=r"is not|is no"):
            kind(word)


def test_check_offers_every_ruleset() -> None:
    """The names that `check --help` lists without importing the rules are those of the rules."""
    assert tuple(ruleset.name for ruleset in RULESETS) == RULESET_NAMES


def test_python_dash_m_is_the_command() -> None:
    """`python -m paramgolf` runs the same command line and passes its status on."""
    done = subprocess.run([sys.executable, "-m", "paramgolf", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2 and "unknown verb 'nonsense'" in done.stderr
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert main(["recipes", "baseline", "--json"]) == 0
    record = json.loads(shown.getvalue().splitlines()[-1])
    assert set(record) >= {"name", "parameters", "exported_parameters", "tensors", "recipe"}
    assert record["parameters"] == sum(math.prod(shape) for shape in record["tensors"].values())


@pytest.mark.parametrize(
    ("name", "trained", "exported", "tensors"),
    [("pr549", 26_928_220, 26_928_220, 59), ("pr1185", 28_087_499, 27_038_923, 93)],
)
def test_heads_of_training_are_not_exported(
    name: str, trained: int, exported: int, tensors: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The counts are those of the records: all that is trained, and what an artifact holds (spec pr1185.md, O20)."""
    assert main(["recipes", name, "--json"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (record["parameters"], record["exported_parameters"]) == (trained, exported)
    assert len(record["tensors"]) == tensors
