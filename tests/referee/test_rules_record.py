"""Promises of judging a stranger's record: their code never runs, and published cases come out as they did."""

import json
import math
from pathlib import Path

import pytest

from paramgolf.referee.check import check
from paramgolf.referee.finding import Finding
from paramgolf.referee.record_log import read_log

LN2 = math.log(2)
TWO_SIZES = "Code size (uncompressed): 157868 bytes\nCode size (compressed): 31999 bytes"

# val_tokens and the bytes that they imply: spec rules 1.8, "Canonical totals".
CANONICAL = [
    (62_021_632, 151_080_363),
    (52_373_504, 151_074_444),
    (45_508_608, 151_074_053),
    (40_540_160, 151_078_222),
    (47_851_520, 151_074_309),
    (47_853_343, 151_080_645),
    (151_080_891, 151_080_891),
]


def log_text(
    tokens: int | None = 62_021_632,
    total_bytes: float = 151_080_363,
    bpb: float = 1.12,
    *,
    digits: int = 8,
    seed: int = 1,
    vocab: int = 1024,
    train_ms: float = 599_800,
    hessians: float = 0.0,
    eval_ms: float = 500_000,
    size: int = 15_900_000,
    code: str = "Code size: 60000 bytes",
) -> str:
    """A log as the field's scripts print it (1.7); val_loss is what makes `total_bytes` the denominator."""
    loss = bpb * LN2 * total_bytes / (tokens or 62_021_632)
    lines = [
        f"seed: {seed}",
        f"vocab_size: {vocab}",
        f"val_tokens: {tokens}" if tokens else "",
        "step:1000/20000 val_loss:2.2000 val_bpb:1.3000 train_time:90000ms step_avg:90.0ms",
        f"stopping_early: wallclock_cap train_time: {train_ms:.0f}ms step: 6900/20000",
        f"GPTQ:collected 66 Hessians in {hessians:.1f}s" if hessians else "",
        code,
        f"Total submission size int6+lzma: {size} bytes",
        f"final_int6_exact val_loss:{loss:.{digits}f} val_bpb:{bpb:.{digits}f} eval_time:{eval_ms:.0f}ms",
    ]
    return "\n".join(lines) + "\n"


def record(folder: Path, *logs: str, code_bytes: int = 60_000, **submission: object) -> dict[str, Finding]:
    """Write a record folder whose script would leave a file behind if anyone ran it, and judge it."""
    folder.mkdir(exist_ok=True)
    script = f"import pathlib; pathlib.Path({str(folder / 'ran')!r}).touch()\n#"
    noise = "".join(chr(33 + (i * i * 7 + i // 3) % 90) for i in range(code_bytes - len(script)))
    (folder / "train_gpt.py").write_text(script + noise)
    (folder / "README.md").write_text("claims")
    (folder / "submission.json").write_text(json.dumps(submission))
    for number, text in enumerate(logs):
        (folder / f"train_seed{number}.log").write_text(text)
    verdict = check(folder)
    assert not (folder / "ran").exists()
    assert not verdict.legal
    return {finding.rule: finding for finding in verdict.findings}


def test_a_clean_record_passes_what_files_can_show(tmp_path: Path) -> None:
    """Size, times, implied bytes and evidence pass; what needs a run is unproven, so the record is not legal yet."""
    found = record(tmp_path / "r", *(log_text(seed=s, bpb=1.12 + s / 1e4) for s in range(3)), val_bpb=1.1201)
    passed = {rule for rule, finding in found.items() if finding.status == "PASS"}
    assert passed == {"size", "ledger", "bytes", "evidence"}
    assert {finding.status for rule, finding in found.items() if rule not in passed} == {"UNPROVEN"}


@pytest.mark.parametrize(("tokens", "size"), CANONICAL)
def test_every_canonical_run_implies_the_contests_bytes(tmp_path: Path, tokens: int, size: int) -> None:
    """R0 on the canonical totals of 1.8 passes, with the implied bytes in the numbers."""
    finding = record(tmp_path / "r", log_text(tokens, size))["bytes"]
    assert finding.status == "PASS"
    assert finding.numbers["implied_bytes"] == pytest.approx(size, rel=1e-7)


@pytest.mark.parametrize(
    ("case", "tokens", "size"),
    [
        ("#926 wrong space marker (V25): 3.2502 bytes a token", 62_021_632, 62_021_632 * 3.2502),
        ("#1184 byte fallback (V26): 182.8 M", 62_021_632, 182_800_000),
        ("#2138 sentinels counted (V28): 164,594,398", 47_851_520, 164_594_398),
        ("#1846 tables of another tokenizer (V29): 4.2313", 45_514_752, 45_514_752 * 4.2313),
        ("#1734 spaces counted twice (V24): x 1.17704", 62_021_632, 151_080_363 * 1.17704),
        ("#1854 10k documents (V32)", 9_662_464, 29_950_000),
        ("#1901 ratio one with sub-words (V31)", 62_021_632, 62_021_632),
        ("the launch baseline: 2.4423, 0.26 % high (1.8)", 62_021_632, 62_021_632 * 2.4423),
    ],
)
def test_known_byte_bugs_are_found(tmp_path: Path, case: str, tokens: int, size: float) -> None:
    """R0 fails each published denominator error from its log alone."""
    assert record(tmp_path / "r", log_text(tokens, size))["bytes"].status == "FAIL", case


def test_one_bad_log_is_enough(tmp_path: Path) -> None:
    """Two good logs do not hide a third with another denominator, which is named."""
    found = record(tmp_path / "r", log_text(seed=1), log_text(seed=2), log_text(total_bytes=164e6, seed=3))
    assert found["bytes"].status == "FAIL"
    assert found["bytes"].numbers["log"] == "train_seed2.log"


def test_printed_digits_are_allowed_for(tmp_path: Path) -> None:
    """Four digits cannot show 0.01 %: an honest pair must not fail by rounding, and two digits prove nothing."""
    for bpb in (1.1194, 1.0565, 0.9871):
        finding = record(tmp_path / "r", log_text(bpb=bpb, digits=4))["bytes"]
        assert finding.status == "PASS", finding
    assert record(tmp_path / "r", log_text(bpb=1.12, digits=2))["bytes"].status == "UNPROVEN"


def test_without_val_tokens_the_vocabulary_tells(tmp_path: Path) -> None:
    """The bytes a token stands for are compared with those of the contest's tokenizers (1.8)."""
    assert record(tmp_path / "a", log_text(None))["bytes"].status == "PASS"
    assert record(tmp_path / "b", log_text(None, vocab=8192))["bytes"].status == "FAIL"
    assert record(tmp_path / "c", log_text(None, vocab=5000))["bytes"].status == "UNPROVEN"
    one = 62_021_632  # ratio exactly 1.0 with a sub-word vocabulary (#1903)
    assert record(tmp_path / "d", log_text(None, one, vocab=5000))["bytes"].status == "FAIL"


@pytest.mark.parametrize(
    ("case", "size", "code", "raw_code", "status"),
    [
        ("#1855", 15_897_259, TWO_SIZES, 157_868, "UNPROVEN"),
        ("#1959", 16_042_632, "Code size: 66546 bytes", 66_546, "UNPROVEN"),
        ("#1809", 16_024_793, "Code size (compressed): 2000 bytes", 2_000, "FAIL"),
        ("under the cap", 15_900_000, "Code size: 60000 bytes", 60_000, "PASS"),
    ],
)  # fmt: skip
def test_both_readings_of_the_code_size(
    tmp_path: Path, case: str, size: int, code: str, raw_code: int, status: str
) -> None:
    """1.4: a size that passes with the code compressed only is unproven, since both readings were applied."""
    finding = record(tmp_path / "r", log_text(size=size, code=code), code_bytes=raw_code)["size"]
    assert finding.status == status, case
    if case == "#1855":
        assert finding.numbers["bytes_raw_code"] == 16_023_128
        assert finding.numbers["bytes_compressed_code"] == 15_897_259


def test_size_from_the_submission_if_no_log_tells(tmp_path: Path) -> None:
    """Without a size line the fields bytes_total and bytes_code are used; without them nothing is known."""
    found = record(tmp_path / "a", "no numbers", bytes_total=15_980_000, bytes_code=10_000, code_bytes=60_000)
    assert found["size"].numbers["bytes_raw_code"] == 16_030_000
    assert record(tmp_path / "b", "no numbers")["size"].status == "UNPROVEN"


@pytest.mark.parametrize(
    ("case", "facts", "status"),
    [
        ("within", {}, "PASS"),
        ("one step over (O3)", {"train_ms": 600_400}, "PASS"),
        ("#442 601.6 s", {"train_ms": 601_600}, "FAIL"),
        ("#2135 Hessians after the loop", {"train_ms": 599_600, "hessians": 6.9}, "FAIL"),
        ("#1868 re-run with a reserve", {"train_ms": 592_000, "hessians": 3.5}, "PASS"),
        ("#1557 evaluation 617 s", {"eval_ms": 617_000}, "FAIL"),
    ],
)
def test_times_from_the_log(tmp_path: Path, case: str, facts: dict[str, float], status: str) -> None:
    """Training counts the Hessians (#609), evaluation its own 600 s; cases of 1.5 and V38, V39."""
    assert record(tmp_path / "r", log_text(**facts))["ledger"].status == status, case


def test_calibration_is_named_only_where_a_log_prints_it(tmp_path: Path) -> None:
    """A log without a line of Hessians says nothing of calibration, and so does the finding."""
    assert "calibration included" in record(tmp_path / "a", log_text(train_ms=590_000, hessians=3.5))["ledger"].says
    assert "calibration" not in record(tmp_path / "b", log_text())["ledger"].says


def test_the_claim_must_be_the_mean_of_the_logs(tmp_path: Path) -> None:
    """A headline that its logs do not show fails (#86 claimed 1.1502, its log says 1.1666)."""
    logs = [log_text(bpb=1.1666 + s * 1e-6, seed=s) for s in range(3)]
    assert record(tmp_path / "a", *logs, val_bpb=1.1502)["evidence"].status == "FAIL"
    assert record(tmp_path / "b", *logs, val_bpb=1.1666)["evidence"].status == "PASS"
    assert record(tmp_path / "c", *logs)["evidence"].status == "UNPROVEN"


def test_three_seeds_are_asked_for(tmp_path: Path) -> None:
    """One log, or three of one seed, is incomplete evidence (C9)."""
    one = record(tmp_path / "a", log_text(), val_bpb=1.12)["evidence"]
    same = record(tmp_path / "b", log_text(), log_text(), log_text(), val_bpb=1.12)["evidence"]
    assert (one.status, same.status) == ("UNPROVEN", "UNPROVEN")
    assert "1 logs with a final score" in one.says
    assert "1 different seeds" in same.says


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"val_bpb": "1.1"}', '{"val_bpb": NaN}', "[" * 99_999, "\x00"]
)
def test_hostile_submissions_are_findings(tmp_path: Path, text: str) -> None:
    """submission.json of any content gives a verdict."""
    record(tmp_path / "r", log_text())
    (tmp_path / "r" / "submission.json").write_text(text)
    verdict = check(tmp_path / "r")
    assert next(f for f in verdict.findings if f.rule == "evidence").status in ("FAIL", "UNPROVEN")


def test_odd_logs_are_read_in_bounds(tmp_path: Path) -> None:
    """Zero losses, digits without end, binary and long lines give no exception and no pass."""
    odd = [
        "val_loss:0.0 val_bpb:0.0",
        "val_loss:" + "9" * 5000 + " val_bpb:1.1",
        "val_loss:1e9 val_bpb:nan",
        "val_loader:" + "x" * 3_000_000 + "tokens:5",
        "\x00\xff" * 1000,
        "train_time:ms",
        "seed:" + "9" * 400,
    ]
    for number, text in enumerate(odd):
        assert record(tmp_path / str(number), text)["bytes"].status == "UNPROVEN"


def test_the_last_pair_counts() -> None:
    """Validation during training is not the claim: the last pair of the log is."""
    facts = read_log("x", log_text(bpb=1.05))
    assert facts.val_bpb == 1.05
    assert facts.val_loss == pytest.approx(1.05 * 1.68846, rel=1e-5)  # nats/token per 1 BPB of SP1024, 1.8
