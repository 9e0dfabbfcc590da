"""Promises of `score`: every token credited once, before it is learnt, in float64, never without its audit."""

import dataclasses
import io
import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import CheckFailed, OutputError, RunError, TextError
from paramgolf.predict.contest import contest_bpb
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Chunk, TableRows
from paramgolf.predict.score import Score, bits_by_position, combine, score
from paramgolf.predict.score_file import load, save, score_record
from paramgolf.text.byte_table import ByteTable

V = 6
BOUNDARY = 5


class Counts:
    """Order-0 counts, one table for all lanes, rows frozen over a chunk: honest, and learns in observe only."""

    vocab_size = V

    def __init__(self) -> None:
        self.counts = np.ones(V)
        self.log: list[str] = []

    def predict(self, chunk: Chunk) -> TableRows:
        self.log.append("predict")
        row = np.log(self.counts / self.counts.sum())
        return TableRows(np.broadcast_to(row, (*chunk.tokens.shape, V)).copy(), chunk)

    def observe(self, chunk: Chunk) -> None:
        self.log.append("observe")
        self.counts += np.bincount(chunk.tokens[chunk.real()], minlength=V)


def documents_of(lengths: list[int], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, V - 1, n).astype(np.int32) for n in lengths]


def score_of(lengths: list[int], *, lanes: int = 1, chunk: int = 4, predictor: Counts | None = None, **given) -> Score:
    documents = documents_of(lengths)
    order = plan(lengths, lanes=lanes, chunk=chunk)
    settings = {"raw_bytes": sum(lengths) + 1, "text_digest": "ab" * 32, **given}
    return score(predictor or Counts(), documents, order, BOUNDARY, **settings)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.integers(1, 3), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_bits_are_those_of_a_plain_loop(lengths: list[int], lanes: int, chunk: int) -> None:
    """Every token costs -log2 of what the predictor, having learnt all earlier chunks only, gave it."""
    counts, expected = np.ones(V), []
    for handed in plan(lengths, lanes=lanes, chunk=chunk).chunks(documents_of(lengths), BOUNDARY):
        tokens = [int(t) for lane in range(lanes) for t in handed.tokens[lane, : handed.lengths[lane]]]
        expected += [-math.log2(counts[t] / counts.sum()) for t in tokens]
        for t in tokens:
            counts[t] += 1
    found = score_of(lengths, lanes=lanes, chunk=chunk)
    np.testing.assert_allclose(found.bits, expected, rtol=1e-12)
    assert found.bpb == pytest.approx((sum(expected) + found.side_bits) / (sum(lengths) + 1), rel=1e-12)


def test_a_uniform_predictor_costs_log2_of_the_vocabulary() -> None:
    """Frozen uniform rows cost log2 V a token, boundaries included, and the number of tokens is paid for."""
    frozen = Counts()
    frozen.observe = lambda chunk: None
    found = score_of([7, 0, 3], predictor=frozen, raw_bytes=20)
    assert found.tokens == 13
    assert found.side_bits == 2 * 3 + 1  # Elias gamma of 14
    assert found.bpb == pytest.approx((13 * math.log2(V) + found.side_bits) / 20, rel=1e-14)
    assert found.nats_per_token == pytest.approx(math.log(V), rel=1e-14)


def test_each_chunk_is_asked_then_observed_once() -> None:
    """Between two observes there is at least one predict, and each chunk is observed exactly once, after its asks."""
    predictor = Counts()
    score_of([40], predictor=predictor, chunk=4, audit_positions=5)
    steps = "".join(word[0] for word in predictor.log).split("o")
    assert len(steps) - 1 == 11
    assert all(asks and set(asks) == {"p"} for asks in steps[:-1])
    assert steps[-1] == ""


@pytest.mark.parametrize("wanted", [0, 1, 7, 32])
def test_audits_reach_both_ends(wanted: int) -> None:
    """The first and the last chunk are audited whatever the number; in all about as many positions as asked for."""
    predictor = Counts()
    found = score_of([400], predictor=predictor, chunk=4, audit_positions=wanted)
    steps = "".join(word[0] for word in predictor.log).split("o")
    assert len(steps[0]) > 1
    assert len(steps[-2]) > 1
    assert max(wanted, 2) <= found.audit.positions <= wanted + 2


def test_audits_cannot_be_foreseen_but_can_be_repeated() -> None:
    """Without a seed two runs audit other chunks; with the recorded seed the same."""

    def audited(seed: int | None) -> tuple[list[int], int]:
        predictor = Counts()
        found = score_of([400], predictor=predictor, audit_positions=12, seed=seed)
        return [len(asks) for asks in "".join(w[0] for w in predictor.log).split("o")], found.audit.seed

    first, seed = audited(None)
    assert audited(None)[0] != first
    assert audited(seed) == (first, seed)


def test_an_audit_changes_no_bit() -> None:
    """An honest predictor's bits are bitwise the same whatever is audited."""
    many, few = score_of([60, 9], audit_positions=60), score_of([60, 9], audit_positions=0)
    np.testing.assert_array_equal(many.bits, few.bits)


def test_the_audit_sees_a_rogue() -> None:
    """A predictor that doubles what it gives the realised token does not sum to one, and the score says so."""

    class Peek(Counts):
        def predict(self, chunk: Chunk) -> TableRows:
            row = np.tile(np.log(np.full(V, 1 / V)), (*chunk.tokens.shape, 1))
            np.put_along_axis(row, chunk.tokens[:, :, None], math.log(2 / V), axis=2)
            return TableRows(row, chunk)

    audit = score_of([30], predictor=Peek()).audit
    assert audit.max_sum_error == pytest.approx(1 / V)
    assert audit.max_target_error == pytest.approx(math.log(2))
    assert not audit.passed()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e-6, 3.0])
def test_a_credit_that_is_no_log_probability_stops_the_run(value: float) -> None:
    """NaN, infinities and positive log-probabilities raise at once and name the place."""

    class Wrong(Counts):
        def predict(self, chunk: Chunk) -> TableRows:
            table = np.full((*chunk.tokens.shape, V), -math.log(V))
            table[0, 2] = value
            return TableRows(table, chunk)

    with pytest.raises(CheckFailed, match="chunk 0, lane 0, position 2"):
        score_of([30], predictor=Wrong())


def test_a_predictor_cannot_touch_the_feed() -> None:
    """What a predictor writes into its chunk changes neither what is credited nor what is observed."""

    class Vandal(Counts):
        def predict(self, chunk: Chunk) -> TableRows:
            rows = super().predict(Chunk(chunk.tokens.copy(), chunk.lengths.copy(), chunk.starts.copy()))
            chunk.tokens[:] = 0
            chunk.lengths[:] = 1
            return rows

    np.testing.assert_array_equal(score_of([30], predictor=Vandal()).bits, score_of([30]).bits)


def test_ids_of_another_tokenizer_are_refused() -> None:
    """A token id outside the predictor's vocabulary is the user's mistake, said with the values."""
    with pytest.raises(TextError, match=r"0\.\.9 do not fit the predictor's vocabulary of 6"):
        score(Counts(), [np.array([0, 9])], plan([2], chunk=3), BOUNDARY, raw_bytes=2, text_digest="")


def test_progress_is_told_everything() -> None:
    """Progress ends at all tokens and the bits of the score, and never goes back."""
    told: list[tuple[int, int, float]] = []
    found = score_of([30, 11], progress=lambda *now: told.append(now))
    assert told == sorted(told)
    assert told[-1] == (43, 43, pytest.approx(float(found.bits.sum())))


def test_ranks_combine_to_the_score_of_one_machine() -> None:
    """Frozen rows scored by two ranks of two lanes are, token for token, those of one rank of four."""

    class Positional(Counts):
        """Rows that differ by token, so that a wrong order shows."""

        def predict(self, chunk: Chunk) -> TableRows:
            row = np.log(np.arange(1, V + 1) / (V * (V + 1) / 2))
            return TableRows(np.broadcast_to(row, (*chunk.tokens.shape, V)).copy(), chunk)

    lengths, facts = [9, 3, 14, 1, 6, 0, 8], {"raw_bytes": 41, "text_digest": "cd"}
    documents = documents_of(lengths)
    parts = [
        score(Positional(), documents, plan(lengths, lanes=2, chunk=4, rank=r, world=2), BOUNDARY, **facts)
        for r in range(2)
    ]
    whole = score(Positional(), documents, plan(lengths, lanes=4, chunk=4), BOUNDARY, **facts)
    joined = combine(parts[::-1])
    np.testing.assert_array_equal(joined.bits, whole.bits)
    assert joined.bpb == whole.bpb
    assert joined.audit.positions == sum(part.audit.positions for part in parts)
    with pytest.raises(ValueError, match="cannot combine ranks"):
        combine([parts[0], parts[0]])


def test_bits_by_position_add_up() -> None:
    """The bins of the plot hold every token once, and their means give back the total."""
    found = score_of([200, 3, 50])
    edges, means, counts = bits_by_position(found, bins=8)
    assert len(edges) == len(means) + 1 == len(counts) + 1
    assert counts.sum() == found.tokens
    assert (means * counts).sum() == pytest.approx(found.bits.sum())
    assert counts[0] == np.isin(found.plan.position_index(), np.arange(edges[0], edges[1])).sum()


def test_a_saved_score_comes_back(tmp_path: Path) -> None:
    """Bits, plan, audit and facts survive, and the files are not written over."""
    found = dataclasses.replace(
        score_of([30, 0, 7], lanes=2),
        artifact_digest="ff",
        adapt="none",
        text_name="t",
        documents_not_lossless=1,
        document_bytes=np.array([31, 0, 7]),
        document_hashes=np.array([1, 0, 2**63], dtype=np.uint64),
    )
    save(found, tmp_path)
    back = load(tmp_path)
    np.testing.assert_array_equal(back.bits, found.bits)
    np.testing.assert_array_equal(back.plan.lengths, found.plan.lengths)
    np.testing.assert_array_equal(back.document_hashes, found.document_hashes)
    np.testing.assert_array_equal(back.document_bytes, found.document_bytes)
    assert score_record(back) == score_record(found)
    with pytest.raises(OutputError, match="exists already"):
        save(found, tmp_path)


def rewritten(path: Path, **changed: np.ndarray) -> None:
    """Write bits.npz again with some arrays changed, as numpy itself would."""
    with np.load(path, allow_pickle=False) as old:
        arrays = {name: old[name] for name in old.files}
    np.savez(path, **{**arrays, **changed})


def test_numpy_reads_the_bits(tmp_path: Path) -> None:
    """bits.npz is an ordinary npz: anyone can open it without paramgolf."""
    found = score_of([5, 6])
    save(found, tmp_path)
    with np.load(tmp_path / "bits.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["bits"], found.bits)
        np.testing.assert_array_equal(np.bincount(arrays["document"]), [6, 7])


def test_a_changed_bit_is_refused(tmp_path: Path) -> None:
    """A BPB that does not follow from the bits raises with both numbers."""
    found = score_of([30])
    save(found, tmp_path)
    rewritten(tmp_path / "bits.npz", bits=found.bits * 0.99)
    with pytest.raises(RunError, match="adds up to"):
        load(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"bits": np.zeros(3)},
        {"bits": np.zeros((31, 1))},
        {"bits": np.zeros(31, dtype=np.float32)},
        {"bits": np.array([{"a": 1}] * 31, dtype=object)},
        {"document": np.zeros(31, dtype=np.int32)},
        {"lengths": np.array([2**62, 2**62, 2**62, 2**62])},
        {"lengths": np.array([-1, 32])},
        {"plan": np.array([1, 0])},
        {"plan": np.array([2**40, 4])},
        {"digest": np.zeros(2, dtype=np.uint8)},
        {"sizes": np.array([30, 1])},
        {"sizes": np.array([30])},
        {"hashes": np.array([30], dtype=np.uint64)},
        {"extra": np.zeros(2)},
    ],
    ids=str,
)
def test_hostile_arrays_are_refused(tmp_path: Path, changed: dict[str, np.ndarray]) -> None:
    """Wrong shapes, types, objects, overflowing lengths and unknown members raise RunError and allocate nothing."""
    save(score_of([14, 15]), tmp_path)
    rewritten(tmp_path / "bits.npz", **changed)
    with pytest.raises(RunError):
        load(tmp_path)


def test_a_compressed_bomb_is_refused(tmp_path: Path) -> None:
    """Members that would have to be inflated are refused unread: 400 MB of zeros cost nothing."""
    save(score_of([14]), tmp_path)
    with zipfile.ZipFile(tmp_path / "bits.npz") as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(tmp_path / "bits.npz", "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in members.items():
            new.writestr(name, data)
    with pytest.raises(RunError, match="stored plain"):
        load(tmp_path)


def test_an_array_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    """A header that claims more values than the file holds raises before anything of that size is made."""
    save(score_of([14]), tmp_path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)})
    with zipfile.ZipFile(tmp_path / "bits.npz") as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(tmp_path / "bits.npz", "w") as new:
        for name, data in {**members, "bits.npy": header.getvalue()}.items():
            new.writestr(name, data)
    with pytest.raises(RunError, match="bits is"):
        load(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"bpb": NaN}', "[" * 100_000, '{"bpb": "1"}', '{"bpb": true}', "\x00"]
)
def test_hostile_records_are_refused(tmp_path: Path, text: str) -> None:
    """score.json that is no record raises RunError, however odd."""
    save(score_of([14]), tmp_path)
    (tmp_path / "score.json").write_text(text)
    with pytest.raises(RunError):
        load(tmp_path)


@pytest.mark.parametrize("field", ["bpb", "bytes", "text", "audit"])
@pytest.mark.parametrize("value", [None, [], {}, "x", -1])
def test_records_of_wrong_types_are_refused(tmp_path: Path, field: str, value: object) -> None:
    """Each needed field with a value of another kind raises RunError."""
    save(score_of([14]), tmp_path)
    record = json.loads((tmp_path / "score.json").read_text())
    (tmp_path / "score.json").write_text(json.dumps({**record, field: value}))
    with pytest.raises(RunError):
        load(tmp_path)


@pytest.mark.parametrize("place", range(0, 1200, 31))
def test_a_damaged_byte_is_never_a_traceback(tmp_path: Path, place: int) -> None:
    """One flipped byte of bits.npz gives RunError, or the very same score if the byte carries no information."""
    found = score_of([14, 15], seed=1)
    save(found, tmp_path)
    data = bytearray((tmp_path / "bits.npz").read_bytes())
    data[place % len(data)] ^= 0xFF
    (tmp_path / "bits.npz").write_bytes(data)
    try:
        back = load(tmp_path)
    except RunError:
        return
    np.testing.assert_array_equal(back.bits, found.bits)


class Table:
    """The contest's look-up tables for six ids: id 5 is the boundary, ids 3 and 4 begin with a space."""

    base, leading_space = np.array([1, 2, 3, 1, 2, 0]), np.array([False, False, False, True, True, False])


def test_the_contest_profile_charges_by_the_tables() -> None:
    """Contest BPB leaves out the last boundary and divides by base + leading space unless a boundary precedes (1.8)."""
    table = ByteTable(Table.base, Table.leading_space, Table.base == 0)
    documents = [np.array([3, 0, 4]), np.array([2, 3])]  # bytes: 1 + 1 + 3, then 3 + 2
    order = plan([3, 2], chunk=3)
    found = score(Counts(), documents, order, BOUNDARY, raw_bytes=11, text_digest="")
    contest = contest_bpb(found, documents, table, BOUNDARY)
    assert contest.bytes == 10
    assert contest.bpb == pytest.approx(found.bits[:-1].sum() / 10, rel=1e-14)
    assert "losslessness unknown" in contest.says
    changed = dataclasses.replace(found, documents_not_lossless=2)
    assert "not lossless: 2 of 2 documents differ" in contest_bpb(changed, documents, table, BOUNDARY).says
    with pytest.raises(TextError, match="not those of the score"):
        contest_bpb(found, documents[:1], table, BOUNDARY)
