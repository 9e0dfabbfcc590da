"""Promises of `check` on a run folder: an untouched run passes, each tampered file flips the rule that names it."""

import dataclasses
import hashlib
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from paramgolf.artifact.container import build_container
from paramgolf.artifact.manifest import write_manifest
from paramgolf.artifact.primer import write_primer
from paramgolf.artifact.sources import runtime_sources
from paramgolf.artifact.weights_file import write_weights
from paramgolf.errors import RunError
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Chunk, TableRows
from paramgolf.predict.score import score
from paramgolf.predict.score_file import save, write_hashes
from paramgolf.predict.score_text import document_hashes, text_record
from paramgolf.recipe import ModelRecipe, Recipe, ScoreRecipe, TokenizerRecipe
from paramgolf.referee.check import check
from paramgolf.referee.finding import Verdict
from paramgolf.text.byte_tokenizer import ByteTokenizer
from paramgolf.text.text import HeldOutText, TrainText

RECIPE = Recipe(
    "tiny",
    TokenizerRecipe("bytes", 260),
    ModelRecipe(layers=1, width=8, heads=2, kv_heads=1),
    score=ScoreRecipe(chunk=64),
)
HELD_OUT = HeldOutText("held", [bytes([65 + i]) * (70 + 13 * i) for i in range(9)])
TRAIN = TrainText("train", [bytes([97 + i]) * (80 + i) for i in range(12)])


class Bytes:
    """An honest predictor over bytes 0..255 and the boundary 256: counts, learnt in observe."""

    vocab_size = 257

    def __init__(self) -> None:
        self.counts = np.ones(257)

    def predict(self, chunk: Chunk) -> TableRows:
        row = np.log(self.counts / self.counts.sum())
        return TableRows(np.broadcast_to(row, (*chunk.tokens.shape, 257)).copy(), chunk)

    def observe(self, chunk: Chunk) -> None:
        self.counts += np.bincount(chunk.tokens[chunk.real()], minlength=257)


def write_artifact(path: Path, changed: dict[str, bytes | None] | None = None, seed: int = 0) -> None:
    """A whole artifact with random weights; `changed` members replace or (None) lack those that it should have."""
    rng = np.random.default_rng(seed)
    shapes = tensor_shapes(RECIPE.model, ByteTokenizer().vocab_size)
    weights = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    members: dict[str, bytes | None] = runtime_sources() | {
        "recipe.json": RECIPE.to_json().encode(),
        "tokenizer.model": ByteTokenizer().to_bytes(),
        "weights.bin": write_weights(weights).data,
        "primer.bin": write_primer([], ByteTokenizer().vocab_size),
    }
    kept = {name: data for name, data in (members | (changed or {})).items() if data is not None}
    path.write_bytes(build_container(kept | {"manifest.json": write_manifest(kept, "bytes")}))


def ledger_entry(name: str, on_clock: bool, start: float, seconds: float) -> dict[str, object]:
    return {"name": name, "on_clock": on_clock, "start": start, "seconds": seconds, "limit": None}


@pytest.fixture
def run(tmp_path: Path, honest_run: Path) -> Path:
    """A copy of the honest run that a test may spoil."""
    return Path(shutil.copytree(honest_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def honest_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest")
    write_artifact(folder / "model.pyz")
    tokens = [np.frombuffer(document, dtype=np.uint8).astype(np.int32) for document in HELD_OUT.documents]
    found = score(
        Bytes(),
        tokens,
        plan([len(ids) for ids in tokens], chunk=64),
        256,
        raw_bytes=HELD_OUT.size(),
        text_digest=HELD_OUT.digest,
    )
    digest = hashlib.sha256((folder / "model.pyz").read_bytes()).hexdigest()
    sizes = np.array([len(document) for document in HELD_OUT.documents])
    found = dataclasses.replace(
        found,
        artifact_digest=digest,
        adapt="none",
        documents_not_lossless=0,
        document_bytes=sizes,
        document_hashes=document_hashes(HELD_OUT.documents),
    )
    save(found, folder)
    write_hashes(document_hashes(TRAIN.documents), folder)
    (folder / "recipe.json").write_text(RECIPE.to_json())
    (folder / "env.json").write_text(json.dumps({"device": "cpu", "train_text": text_record(TRAIN)}))
    (folder / "log.txt").write_text("step 1\n")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    phases = [("tokenizer", False, 0.0, 2.0), ("train", True, 2.0, 590.0), ("squeeze", False, 592.0, 9.0)]
    (folder / "ledger.json").write_text(json.dumps([ledger_entry(*phase) for phase in phases]))
    return folder


def statuses(verdict: Verdict) -> dict[str, str]:
    return {finding.rule: finding.status for finding in verdict.findings}


def flipped(verdict: Verdict) -> dict[str, str]:
    """The rules that do not pass."""
    return {rule: status for rule, status in statuses(verdict).items() if status != "PASS"}


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Change a JSON file in place: `change` mutates the record or returns another."""
    record = json.loads(path.read_text())
    changed = change(record)
    path.write_text(json.dumps(record if changed is None else changed))


def rewrite_bits(run: Path, **change: Callable[[np.ndarray], np.ndarray]) -> None:
    with np.load(run / "bits.npz", allow_pickle=False) as old:
        arrays = {name: old[name].copy() for name in old.files}
    np.savez(run / "bits.npz", **{name: change.get(name, lambda a: a)(a) for name, a in arrays.items()})


def halved_first(bits: np.ndarray) -> np.ndarray:
    bits[0] /= 2
    return bits


def swapped_documents(document: np.ndarray) -> np.ndarray:
    document[[0, -1]] = document[[-1, 0]]
    return document


def test_an_untouched_run_is_legal(run: Path) -> None:
    """Every rule of both rule sets passes on an honest run, with numbers and a sentence each."""
    for ruleset in ("parameter-golf-2026-04", "strict"):
        verdict = check(run, ruleset)
        assert flipped(verdict) == {}
        assert verdict.legal
        assert all(finding.says.endswith(".") and finding.numbers for finding in verdict.findings)
        assert Verdict.from_json(verdict.to_json()) == verdict


def set_score(name: str, value: object) -> Callable[[Path], None]:
    return lambda run: edit(run / "score.json", lambda record: record.update({name: value}))


def set_audit(name: str, value: object) -> Callable[[Path], None]:
    def tamper(run: Path) -> None:
        def change(record: dict) -> None:
            record["audit"][name] = value
            audit = record["audit"]
            causal = max(float(audit[f"max_{kind}_error"]) for kind in ("target", "future", "lane"))
            audit["max_causal_error"] = str(causal) if math.isinf(causal) else causal

        edit(run / "score.json", change)

    return tamper


def set_phase(name: str, seconds: float) -> Callable[[Path], None]:
    def change(ledger: list) -> None:
        for entry in ledger:
            if entry["name"] == name:
                entry["seconds"] = seconds

    return lambda run: edit(run / "ledger.json", change)


def add_phase(*phase: object) -> Callable[[Path], None]:
    return lambda run: edit(run / "ledger.json", lambda ledger: ledger.append(ledger_entry(*phase)))


def claim_artifact(run: Path) -> None:
    """Make score.json name the artifact that is there."""
    digest = hashlib.sha256((run / "model.pyz").read_bytes()).hexdigest()
    edit(run / "score.json", lambda record: record.update(artifact_digest=digest))


def empty_zip(run: Path) -> None:
    (run / "model.pyz").unlink()
    zipfile.ZipFile(run / "model.pyz", "w").close()
    claim_artifact(run)


def without_weights(run: Path) -> None:
    write_artifact(run / "model.pyz", {"weights.bin": bytes(range(256))})
    claim_artifact(run)


def training_hashes(hashes: np.ndarray) -> Callable[[Path], None]:
    def tamper(run: Path) -> None:
        (run / "train_documents.npy").unlink()
        write_hashes(hashes, run)

    return tamper


def overlapping(run: Path) -> None:
    training_hashes(document_hashes([*TRAIN.documents[1:], HELD_OUT.documents[3]]))(run)


AUDIT_RULES = {
    "sums-to-one": "max_sum_error",
    "credit-is-row": "max_credit_error",
    "blind-to-target": "max_target_error",
    "blind-to-future": "max_future_error",
    "lanes-apart": "max_lane_error",
    "predict-is-pure": "max_repeat_error",
}
UNPROVEN_AUDIT = dict.fromkeys(AUDIT_RULES, "UNPROVEN")

TAMPERED: dict[str, tuple[Callable[[Path], object], dict[str, str]]] = {
    "one credit halved": (lambda run: rewrite_bits(run, bits=halved_first), {"credited-once": "FAIL"}),
    "a credit below zero": (lambda run: rewrite_bits(run, bits=lambda b: b - 3), {"credited-once": "FAIL"}),
    "a credit NaN": (lambda run: rewrite_bits(run, bits=lambda b: b * np.nan), {"credited-once": "FAIL"}),
    "documents swapped": (lambda run: rewrite_bits(run, document=swapped_documents), {"credited-once": "FAIL"}),
    "bpb lowered": (set_score("bpb", 1.0), {"credited-once": "FAIL"}),
    "bpb in words": (set_score("bpb", "1.0"), {"credited-once": "FAIL"}),
    "tokens hidden": (set_score("tokens", 7), {"credited-once": "FAIL"}),
    "bytes raised": (set_score("bytes", 10**6), {"bytes": "FAIL"}),
    "bytes in words": (set_score("bytes", "many"), {"bytes": "FAIL"}),
    "artifact swapped": (lambda run: write_artifact(run / "model.pyz", seed=1), {"reproducible": "FAIL"}),
    "artifact an empty zip": (empty_zip, {"reproducible": "FAIL", "evidence": "FAIL"}),
    "artifact without weights": (without_weights, {"reproducible": "FAIL", "evidence": "FAIL"}),
    "recipe of another artifact": (
        lambda run: edit(run / "recipe.json", lambda recipe: recipe.update(seed=1)),
        {"reproducible": "FAIL"},
    ),
    "scored by an exhibit": (set_score("adapt", "exhibit:two-pass"), {"reproducible": "FAIL"}),
    "scored in other chunks": (lambda run: rewrite_bits(run, plan=lambda p: p * [1, 2, 1]), {"reproducible": "FAIL"}),
    "score without artifact": (set_score("artifact_digest", ""), {"reproducible": "UNPROVEN"}),
    "training too long": (set_phase("train", 601.0), {"ledger": "FAIL"}),
    "calibration hidden off the clock": (add_phase("GPTQ Hessians", False, 601.0, 11.0), {"ledger": "FAIL"}),
    "on-clock squeeze counts": (add_phase("squeeze again", True, 601.0, 11.0), {"ledger": "FAIL"}),
    "evaluation too long": (set_score("seconds", 601.0), {"ledger": "FAIL"}),
    "evaluation phases too long": (add_phase("score", True, 601.0, 601.0), {"ledger": "FAIL"}),
    "evaluation endless": (set_score("seconds", 10**400), {"ledger": "FAIL"}),
    "training endless": (set_phase("train", 10**400), {"ledger": "FAIL"}),
    "negative time": (set_phase("train", -5.0), {"ledger": "FAIL"}),
    "evaluation untimed": (set_score("seconds", None), {"ledger": "UNPROVEN"}),
    "training unlisted": (lambda run: (run / "ledger.json").write_text("[]"), {"ledger": "UNPROVEN"}),
    "audit missing": (set_score("audit", None), UNPROVEN_AUDIT),
    "audit of one position": (set_audit("positions", 1), UNPROVEN_AUDIT),
    "audit of nothing": (set_audit("positions", 0), UNPROVEN_AUDIT),
    "an overlap": (overlapping, {"data-separation": "FAIL"}),
    "hashes of nothing": (training_hashes(document_hashes([])), {"data-separation": "UNPROVEN"}),
    "hashes of some": (training_hashes(document_hashes(TRAIN.documents[1:])), {"data-separation": "UNPROVEN"}),
    "hashes missing": (lambda run: (run / "train_documents.npy").unlink(), {"data-separation": "UNPROVEN"}),
    "train text unknown": (
        lambda run: edit(run / "env.json", lambda e: {"device": e["device"]}),
        {"data-separation": "UNPROVEN"},
    ),
    "trained on the text": (
        lambda run: edit(run / "env.json", lambda e: e["train_text"].update(digest=HELD_OUT.digest)),
        {"data-separation": "FAIL"},
    ),
    "log missing": (lambda run: (run / "log.txt").unlink(), {"evidence": "UNPROVEN"}),
    "recipe missing": (lambda run: (run / "recipe.json").unlink(), {"evidence": "UNPROVEN"}),
    "recipe damaged": (lambda run: (run / "recipe.json").write_text("{"), {"evidence": "FAIL"}),
    **{f"{rule} broken": (set_audit(field, 0.25), {rule: "FAIL"}) for rule, field in AUDIT_RULES.items()},
    **{f"{rule} endless": (set_audit(field, "inf"), {rule: "FAIL"}) for rule, field in AUDIT_RULES.items()},
}


@pytest.mark.parametrize("name", TAMPERED)
def test_tampering_flips_exactly_the_rule_that_names_it(run: Path, name: str) -> None:
    """One change in one file turns one rule (or the rules that rest on that evidence), and the verdict is not legal."""
    tamper, expected = TAMPERED[name]
    tamper(run)
    verdict = check(run)
    assert flipped(verdict) == expected
    assert not verdict.legal


def test_size_counts_the_file_on_the_disk(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16,000,000 bytes pass, one more fails, and the tokenizer's share is shown."""
    for total, status in ((16_000_000, "PASS"), (16_000_001, "FAIL")):
        with (run / "model.pyz").open("r+b") as file:
            file.truncate(total)
        finding = next(f for f in check(run).findings if f.rule == "size")
        assert (finding.status, finding.numbers["bytes"]) == (status, total)
    write_artifact(run / "model.pyz")
    numbers = next(f for f in check(run).findings if f.rule == "size").numbers
    with zipfile.ZipFile(run / "model.pyz") as archive:
        assert numbers["tokenizer"] == archive.getinfo("tokenizer.model").compress_size > 0
    assert numbers["without_tokenizer"] == numbers["bytes"] - numbers["tokenizer"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"paramgolf/recipe.py": b"# changed"}, {"reproducible": "UNPROVEN"}),
        ({"paramgolf/recipe.py": None}, {"reproducible": "UNPROVEN"}),
        ({"paramgolf/helper.py": b"x = 1"}, {"reproducible": "UNPROVEN"}),
        ({"__main__.py": b"raise SystemExit('the referee ran this')"}, {"reproducible": "UNPROVEN"}),
        ({"helper.py": b"x = 1"}, {"reproducible": "FAIL", "evidence": "FAIL"}),
        ({"paramgolf/extra.so": b"\x7fELF"}, {"reproducible": "FAIL", "evidence": "FAIL"}),
    ],
)
def test_foreign_code_in_the_artifact_is_not_reproducible(
    run: Path, changed: dict[str, bytes | None], expected: dict[str, str]
) -> None:
    """An artifact whose sources are not the installed ones is named, even if it is the one that was scored."""
    write_artifact(run / "model.pyz", changed)
    claim_artifact(run)
    verdict = check(run)
    assert flipped(verdict) == expected
    assert next(iter(changed)) in next(f for f in verdict.findings if f.rule == "reproducible").says


def test_strict_wants_every_document_back(run: Path) -> None:
    """A lossy tokenizer passes the contest's set with a word on it, and fails the strict one; unknown is unproven."""
    edit(run / "score.json", lambda record: record.update(documents_not_lossless=4))
    contest = next(f for f in check(run).findings if f.rule == "bytes")
    assert contest.status == "PASS"
    assert "not lossless: 4 of them do not come back" in contest.says
    assert flipped(check(run, "strict")) == {"bytes": "FAIL"}
    edit(run / "score.json", lambda record: record.update(documents_not_lossless=None))
    assert flipped(check(run, "strict")) == {"bytes": "UNPROVEN"}


def test_strict_grants_no_last_step(run: Path) -> None:
    """600.4 s of training pass as the step that was running (O3), not in the strict set."""
    set_phase("train", 600.4)(run)
    assert flipped(check(run)) == {}
    assert flipped(check(run, "strict")) == {"ledger": "FAIL"}


def test_an_artifact_alone_proves_its_size_only(run: Path) -> None:
    """model.pyz without its run: the size is judged, everything else is unproven, nothing is legal."""
    verdict = check(run / "model.pyz")
    assert statuses(verdict)["size"] == "PASS"
    assert set(flipped(verdict).values()) == {"UNPROVEN"}
    assert not verdict.legal


@pytest.mark.parametrize("path", ["nowhere", "empty", "run/../empty"])
def test_nothing_to_judge_is_a_usage_error(tmp_path: Path, path: str) -> None:
    """A missing path and an empty folder raise RunError that says what is expected."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    with pytest.raises(RunError, match="run"):
        check(tmp_path / path)


def test_an_unknown_rule_set_is_a_usage_error(run: Path) -> None:
    """The message lists the rule sets that exist."""
    with pytest.raises(RunError, match=r"unknown rule set 'lax'; known: parameter-golf-2026-04, strict"):
        check(run, "lax")


class Bomb:
    """Unpickling this would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def hostile_files(run: Path) -> dict[str, bytes]:
    """Contents that a file of a run folder should not have, by kind."""
    return {
        "empty": b"",
        "nulls": b"\x00" * 4096,
        "number": b"1e999",
        "word": b'"word"',
        "list": b"[1, 2]",
        "null": b"null",
        "deep": b"[" * 200_000,
        "nan": b'{"bpb": NaN, "tokens": Infinity}',
        "types": b'{"bpb": [], "tokens": {}, "bytes": true, "text": 3, "audit": "x", "seconds": "y", "train_text": []}',
        "long number": b'{"bytes": ' + b"9" * 10_000 + b"}",
        "big numbers": b'{"bpb": 1e308, "bytes": 1' + b"0" * 400 + b', "tokens": 1, "seconds": 1e308}',
        "not utf-8": b'{"a": "\xff\xfe"}',
        "pickle": pickle.dumps(Bomb(run.parent / "ran")),
    }


KINDS = ["empty", "nulls", "number", "word", "list", "null", "deep", "nan", "types"]
KINDS += ["long number", "big numbers", "not utf-8", "pickle"]
FILES = ["recipe.json", "env.json", "ledger.json", "score.json", "bits.npz", "model.pyz", "train_documents.npy"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_gives_findings(run: Path, name: str, kind: str) -> None:
    """Whatever one file holds, check answers with a verdict that is not legal, runs nothing, and prints as JSON."""
    (run / name).write_bytes(hostile_files(run)[kind])
    verdict = check(run)
    if name != "env.json" or kind != "not utf-8":
        assert not verdict.legal
    assert Verdict.from_json(verdict.to_json()) == verdict
    assert not (run.parent / "ran").exists()
    assert all(len(finding.says) < 600 for finding in verdict.findings)


@pytest.mark.parametrize("tokens", ["many", [], {}, None, 10**400])
def test_tokens_that_are_no_number_give_findings(run: Path, tokens: object) -> None:
    """Without bits.npz the audit is judged by the number of tokens that score.json tells, whatever stands there."""
    (run / "bits.npz").unlink()
    set_score("tokens", tokens)(run)
    assert not check(run).legal


def test_pickled_objects_in_bits_are_refused(run: Path) -> None:
    """An npz with a pickled object is damaged evidence, and the pickle is not read."""
    with np.load(run / "bits.npz", allow_pickle=False) as old:
        arrays = {name: old[name] for name in old.files}
    arrays["bits"] = np.array([Bomb(run.parent / "ran")] * 3, dtype=object)
    np.savez(run / "bits.npz", allow_pickle=True, **arrays)
    assert statuses(check(run))["credited-once"] == "FAIL"
    assert not (run.parent / "ran").exists()


def test_huge_json_is_not_read(run: Path) -> None:
    """A score.json of 200 MB is refused by its size."""
    with (run / "score.json").open("wb") as file:
        file.truncate(200_000_000)
    finding = next(f for f in check(run).findings if f.rule == "evidence")
    assert finding.status == "FAIL"
    assert "200,000,000" in finding.says


def test_an_archive_of_odd_members_runs_nothing(run: Path) -> None:
    """Paths that climb out, twins and a bomb of zeros in model.pyz: findings, no files written, no memory used."""
    with zipfile.ZipFile(run / "model.pyz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../escape.py", b"x")
        archive.writestr("paramgolf/../../../etc/passwd.py", b"x")
        archive.writestr("paramgolf/errors.py", b"\x00" * 40_000_000)
    verdict = check(run)
    assert flipped(verdict) == {"reproducible": "FAIL", "evidence": "FAIL"}
    assert not (run.parents[1] / "escape.py").exists()


def test_judging_files_needs_no_torch(run: Path) -> None:
    """check on files imports neither torch nor anything of training, so reviewers wait for nothing."""
    code = (
        "import sys; from pathlib import Path; from paramgolf.referee.check import check; "
        f"assert check(Path({str(run)!r})).legal; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
