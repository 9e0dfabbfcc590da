"""Promises of the claim validator: numbers that cannot belong together are found, published honest ones are not."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramgolf.referee.check import check
from paramgolf.referee.claims import constancy, schemes
from paramgolf.referee.finding import Finding
from paramgolf.referee.record_log import LN2, read_log

TOKENS = 62_021_632
Rows = dict[str, list[tuple[str, str]]]  # label: (val_loss, val_bpb) of each seed, as printed

# spec pr1185.md 6.0: all that its three logs print in eight digits.
PR1185: Rows = {
    "final_int6_roundtrip_exact": [
        ("1.92478312", "1.13991846"),
        ("1.92657340", "1.14098118"),
        ("1.92040886", "1.13727398"),
    ],
    "final_int6_sliding_window_exact": [
        ("1.88517024", "1.11641152"),
        ("1.88671840", "1.11733290"),
        ("1.88192458", "1.11441874"),
    ],
    "chained_ttt_exact": [("1.62740282", "0.96415208"), ("1.62853112", "0.96482092"), ("1.62612388", "0.96339412")],
}
# spec pr549.md 6.
PR549: Rows = {
    "DIAGNOSTIC post_ema": [("1.9196", "1.1369"), ("1.9208", "1.1376"), ("1.9187", "1.1363")],
    "final_int6_roundtrip_exact": [
        ("1.93358885", "1.14518023"),
        ("1.93502821", "1.14603270"),
        ("1.93273877", "1.14467677"),
    ],
    "final_int6_sliding_window_exact": [
        ("1.89385556", "1.12165091"),
        ("1.89556781", "1.12266500"),
        ("1.89307789", "1.12119033"),
    ],
    "legal_ttt_exact": [("1.88976776", "1.11922988"), ("1.89110239", "1.12002032"), ("1.88919190", "1.11888882")],
}
# #1019 as quoted in spec pr1185.md 6.0.
PR1019: Rows = {
    "final_int6_sliding_window_exact": [
        ("1.88276292", "1.11508120"),
        ("1.88156874", "1.11437394"),
        ("1.88220393", "1.11475014"),
    ]
}


def write_record(folder: Path, rows: Rows, tail: str = "", tokens: int | None = TOKENS, **submission: object) -> Path:
    """A record folder of three seeds whose logs print `rows`, a step line before them and `tail` with them."""
    folder.mkdir()
    (folder / "README.md").write_text("claims")
    (folder / "train_gpt.py").write_text("#" * 89_458)
    finals = list(rows.values())[-1]
    mean = sum(float(bpb) for _, bpb in finals) / len(finals)
    (folder / "submission.json").write_text(json.dumps({"val_bpb": mean} | submission))
    for number, seed in enumerate((1337, 42, 2025)):
        lines = [f"seed:{seed}", "vocab_size:1024", f"val_tokens:{tokens}" if tokens else "", tail]
        lines += ["step:4000/20000 val_loss:2.0577 val_bpb:1.2187 train_time:334000ms step_avg:83.5ms"]
        lines += [f"{label} val_loss:{pairs[number][0]} val_bpb:{pairs[number][1]}" for label, pairs in rows.items()]
        (folder / f"train_seed{seed}.log").write_text("\n".join([*lines, ""]))
    return folder


def judged(folder: Path) -> dict[str, Finding]:
    return {finding.rule: finding for finding in check(folder).findings}


def test_the_logs_of_1185_contradict_themselves_in_nine_rows_of_nine(tmp_path: Path) -> None:
    """pr1185.md 6.1 item 1: each scheme's three seeds have three constants, which the finding shows."""
    found = judged(write_record(tmp_path / "r", PR1185))["bytes"]
    assert found.status == "FAIL"
    assert (found.numbers["rows"], found.numbers["rows_off"]) == (12, 9)  # the step rows agree
    assert found.numbers["constant chained_ttt_exact"] == "1.68791025 to 1.68791136"
    assert found.numbers["constant final_int6_roundtrip_exact"] == "1.68852338 to 1.68860705"
    assert found.numbers["constant final_int6_sliding_window_exact"] == "1.68859111 to 1.68870507"


def test_without_the_number_of_tokens_the_seeds_still_contradict_each_other(tmp_path: Path) -> None:
    """The constancy needs no canonical value: three logs of one scheme with three constants are enough."""
    assert judged(write_record(tmp_path / "r", PR1185, tokens=None))["bytes"].status == "FAIL"


@pytest.mark.parametrize("name", list(PR1185))
@pytest.mark.parametrize("seed", range(3))
def test_each_of_the_nine_rows_fails_alone(tmp_path: Path, name: str, seed: int) -> None:
    """A single row of #1185 as the claim of a log already implies bytes that the contest's text does not have."""
    pair = PR1185[name][seed]
    assert judged(write_record(tmp_path / "r", {name: [pair] * 3}))["bytes"].status == "FAIL"


@pytest.mark.parametrize("rows", [PR549, PR1019], ids=["#549", "#1019"])
def test_honest_logs_agree_in_eight_digits(tmp_path: Path, rows: Rows) -> None:
    """#549 and #1019 pass: 1.68845811 for the round trip, 1.68845364 sliding, whatever the seed (6.1 item 1)."""
    found = judged(write_record(tmp_path / "r", rows))["bytes"]
    assert found.status == "PASS", found.says
    assert found.numbers["rows_off"] == 0
    for name, value in found.numbers.items():
        if name.startswith("constant"):
            expected = 1.68845811 if "roundtrip" in name else 1.68845364
            ends = [float(word) for word in str(value).split(" to ")]
            assert all(end == pytest.approx(expected, abs=1.5e-8) for end in ends), (name, value)


@given(
    st.floats(2.0, 4.5),
    st.lists(st.floats(0.3, 8.0), min_size=2, max_size=6),
    st.integers(2, 8),
)
def test_rounding_alone_never_fails(ratio: float, scores: list[float], digits: int) -> None:
    """Honest pairs of one denominator pass, however few digits are printed."""
    text = [f"x val_loss:{bpb * ratio * LN2:.{digits}f} val_bpb:{bpb:.{digits}f}\n" for bpb in scores]
    assert constancy([read_log(str(n), line) for n, line in enumerate(text)]).status == "PASS"


@given(st.floats(2e-6, 0.1), st.booleans())
def test_a_denominator_that_moves_by_two_millionths_is_seen(change: float, up: bool) -> None:
    """Eight printed digits show a change of 2e-6 between two seeds, in either direction."""
    ratio = 2.43593 * LN2 * (1 + change if up else 1 / (1 + change))
    one = read_log("1", f"x val_loss:{1.12 * 2.43593 * LN2:.8f} val_bpb:1.12000000")
    other = read_log("2", f"x val_loss:{1.11 * ratio:.8f} val_bpb:1.11000000")
    assert constancy([one, other]).status == "FAIL"


def test_rows_that_are_not_the_claim_leave_it_open(tmp_path: Path) -> None:
    """A model's loss beside a mixture's bits is a misprint that n-gram logs have: unproven, as the claim is sound."""
    mixed = {"mixture": [("1.88", "1.05"), ("1.88", "1.06"), ("1.89", "1.04")], **PR549}
    found = judged(write_record(tmp_path / "r", mixed))["bytes"]
    assert found.status == "UNPROVEN" and "'mixture'" in found.says


def test_counters_do_not_tell_schemes_apart() -> None:
    """Steps are counters, int6 and int8 are names; the words before the pair, and no other line's, are the label."""
    text = (
        "junk\nstep:0/9 val_loss:6.9 val_bpb:4.1\nstep:4000/9 val_loss:2 val_bpb:1.2\nint6_x val_loss:1.9 val_bpb:1.1"
    )
    found = schemes([read_log("x", text)])
    assert [(scheme.label, len(scheme.rows), scheme.final) for scheme in found] == [
        ("step:N", 2, False),
        ("int6_x", 1, True),
    ]


@pytest.mark.parametrize("stamp", ["2026-03-21T{:02}:17:0{},{} ", "[{:02}:17:0{}.{}] ", "Mar 21 {:02}:17:0{} [{}] "])
def test_a_loggers_prefix_hides_no_scheme(stamp: str) -> None:
    """Behind a long prefix with times and counters the words next to the pair tell schemes apart, and group them."""
    name = "INFO some.package.of.the.author.train_gpt_with_a_long_name:evaluate_the_whole_validation_text "
    rows = [("DIAGNOSTIC post_ema", 1.9), ("legal_ttt_exact", 1.8), ("step:4,000/20,000", 1.7), ("step:9/20,000", 1.6)]
    lines = []
    for hour, size in ((9, 1), (10, 22), (23, 333)):
        prefix = stamp.format(hour, hour % 7, 10**size) + name
        lines += [f"{prefix}{label} val_loss:{loss} val_bpb:{loss / 1.68}" for label, loss in rows]
    found = schemes([read_log("x", "\n".join(lines))])
    assert [len(scheme.rows) for scheme in found] == [3, 3, 6]
    for scheme, end in zip(found, ("DIAGNOSTIC post_ema", "legal_ttt_exact", "step:N"), strict=True):
        assert scheme.label.endswith(end)


@pytest.mark.parametrize(
    "counters", ["2026-03-{0}T{0}:07:{0} ", "free {1} of {1} at {1} of {1} bytes, rank {1}, pid {1}: "]
)
def test_times_and_long_counters_next_to_the_words_still_group(counters: str) -> None:
    """Days, hours and counters of any length are the same words, also where they are most of a long line."""
    lines = [f"{counters.format(n, 10 ** (n - 6))}loss val_loss:1.9 val_bpb:1.1{n}" for n in (10, 22, 31)]
    assert len(schemes([read_log("x", "\n".join(lines))])) == 1


def own_log(side: float, bpb: float, tokens: int = 40_000, size: int = 100_000) -> str:
    """The end of a log that states tokens and bytes, and charges `side` bits beside the tokens."""
    loss = (bpb * size - side) / tokens * LN2
    return f"val_tokens:{tokens}\nval_bytes:{size}\nfinal val_loss:{loss:.8f} val_bpb:{bpb:.8f}\n"


def test_side_bits_are_the_same_for_every_seed() -> None:
    """Logs that state their bytes may charge side information: the same for all seeds, and never less than nothing."""
    honest = [read_log(str(n), own_log(31, bpb)) for n, bpb in enumerate((1.3, 1.31, 1.29))]
    assert constancy(honest).status == "PASS"
    assert constancy([*honest, read_log("x", own_log(41, 1.3))]).status == "FAIL"
    below = constancy([read_log("x", own_log(-500, 1.3))])
    assert below.status == "FAIL" and "500 bits lower" in below.says


SIZES = "Serialized model int6+lzma: 15866275 bytes\nCode size: 89458 bytes\nTotal submission size int6+lzma: {} bytes"


@pytest.mark.parametrize(("total", "status"), [(15_955_733, "PASS"), (15_955_732, "FAIL"), (15_866_275, "FAIL")])
def test_a_total_is_a_model_and_its_code(tmp_path: Path, total: int, status: str) -> None:
    """The printed total must be the sum of a printed model and a printed script, to the byte."""
    found = judged(write_record(tmp_path / "r", PR549, SIZES.format(total)))["evidence"]
    assert found.status == status, found.says


def test_the_size_before_squeezing_says_nothing_of_the_total(tmp_path: Path) -> None:
    """A log that prints the float32 model alone is honest: its total is less than that, and cannot be recomputed."""
    tail = "Serialized model: 106542082 bytes\nCode size: 100000 bytes\nTotal submission size: {} bytes"
    assert judged(write_record(tmp_path / "a", PR549, tail.format(15_966_275)))["evidence"].status != "FAIL"
    both = tail.format(15_966_275) + "\nSerialized model int6: 15800000 bytes"
    assert judged(write_record(tmp_path / "b", PR549, both))["evidence"].status == "FAIL"


def test_the_files_are_those_that_the_logs_speak_of(tmp_path: Path) -> None:
    """#1430: a script of 184,380 bytes, logs of one of 184,360; a total that no log prints; seeds that no log has."""
    tail = SIZES.format(15_955_733)
    folder = write_record(tmp_path / "a", PR549, tail, bytes_total=15_900_000, seeds=[1337, 42, 7])
    (folder / "train_gpt.py").write_text("#" * 89_478)
    found = judged(folder)["evidence"]
    assert found.status == "UNPROVEN"
    for words in ("has 89,478 bytes, the logs ran one of 89,458", "claims 15,900,000", "names the seeds"):
        assert words in found.says
    right = write_record(tmp_path / "b", PR549, tail, bytes_total=15_955_733, seeds={"1337": 1, "42": 1, "2025": 1})
    assert judged(right)["evidence"].status == "PASS"


def test_one_run_under_two_seeds_is_found(tmp_path: Path) -> None:
    """Two seeds that end in the same sixteen digits are one run (V42)."""
    rows = {"legal_ttt_exact": [PR549["legal_ttt_exact"][0]] * 2 + PR549["legal_ttt_exact"][2:]}
    found = judged(write_record(tmp_path / "r", rows))["evidence"]
    assert found.status == "FAIL" and "they are one run" in found.says


def test_logs_without_a_seed_accuse_nobody(tmp_path: Path) -> None:
    """A copy of a log that names no seed is no other seed; two seeds with one end are found beside it."""
    same = PR549["legal_ttt_exact"][0]
    folder = write_record(tmp_path / "a", {"legal_ttt_exact": [same, *PR549["legal_ttt_exact"][1:]]})
    log = folder / "train_seed1337.log"
    nameless = log.read_text().replace("seed:1337\n", "")
    (folder / "a_copy.log").write_text(nameless)
    (folder / "z_copy.log").write_text(nameless)
    assert "one run" not in judged(folder)["evidence"].says
    other = write_record(tmp_path / "b", {"legal_ttt_exact": [same] * 2 + PR549["legal_ttt_exact"][2:]})
    (other / "a_copy.log").write_text(nameless)
    assert "1337" in judged(other)["evidence"].says and "they are one run" in judged(other)["evidence"].says


@pytest.mark.parametrize(
    ("submission", "status"),
    [
        ({"val_loss": 1.89002}, "PASS"),
        ({"val_loss": 1.88}, "FAIL"),
        ({"seed_results": {"1337": {"val_bpb": 1.11923}, "42": {"val_bpb": 1.12}}}, "PASS"),
        ({"seed_results": {"42": {"val_bpb": 1.1189}}}, "FAIL"),
        ({"seed_results": {"42": {"val_bpb": "1.1"}, "1337": 3}, "seeds": 3}, "PASS"),
        ({"seed_results": [1], "val_loss": True}, "PASS"),
    ],
)
def test_the_submission_says_what_the_logs_say(tmp_path: Path, submission: dict[str, object], status: str) -> None:
    """Losses and the results of single seeds agree with the logs; what is no number is left aside."""
    found = judged(write_record(tmp_path / "r", PR549, **submission))["evidence"]
    assert found.status == status, found.says
