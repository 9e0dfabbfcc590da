"""Sidecars of held-out shards, the two ways to divide documents, and validation documents kept out of training."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import LeakError, ShardError, TextError
from paramgolf.text.byte_tokenizer import ByteTokenizer
from paramgolf.text.caseops import OPERATORS
from paramgolf.text.caseops_training import train_caseops, train_contest_caseops
from paramgolf.text.shard_documents import documents_of
from paramgolf.text.shard_folder import ShardFolder, inspect, prepare, prepare_held_out
from paramgolf.text.shards import read_shard, write_shard
from paramgolf.text.sidecar import is_sidecar, read_sidecar, sidecar_entries, sidecar_path
from paramgolf.text.split import Split, require_same_split, split_first
from paramgolf.text.text import HeldOutText, TrainText
from paramgolf.text.unseen import require_unseen
from paramgolf.text.validation import contest_bpb, sidecar_denominator

PARTS = [part.encode() for part in Path(argparse.__file__).read_text(encoding="utf-8").split("\n\n") if part.strip()]
TRAIN = TrainText("tr", PARTS[60:])
HELD_OUT = HeldOutText("ho", [*PARTS[:10], b"", "\ue001 The \ue004É ½".encode(), b"A\xffB", *PARTS[10:20]])
LOSSLESS, CONTEST = train_caseops(TRAIN, 400), train_contest_caseops(TRAIN, 400)
FIRST = Split("first", 20)


@pytest.mark.parametrize("shard_tokens", [89, 1_000_000])
def test_a_prepared_folder_has_sidecars_that_sum_to_the_raw_bytes(tmp_path, shard_tokens):
    """Beside every held-out shard, cut where it is cut; 0 for BOS; empty documents and U+E001 included."""
    folder = prepare(TRAIN, HELD_OUT, LOSSLESS, tmp_path / "out", shard_tokens, FIRST)
    assert folder.tokenizer.kind == "caseops" and folder.tokenizer.digest == LOSSLESS.digest and folder.lossless
    assert [sidecar_path(shard) for shard in folder.held_out_files] == list(folder.sidecar_files)
    assert not any(is_sidecar(path.name) for path in (*folder.held_out_files, *folder.train_files))
    ids, entries = np.concatenate(folder.held_out_shards()), np.concatenate(folder.held_out_sidecars())
    assert len(ids) == len(entries) and entries.dtype == np.uint16 and entries.sum() == HELD_OUT.size()
    assert not entries[ids == LOSSLESS.boundary_id].any()
    starts = np.flatnonzero(ids == LOSSLESS.boundary_id)
    assert [int(part.sum()) for part in np.split(entries, starts)[1:]] == [len(one) for one in HELD_OUT.documents]
    assert folder.held_out_text().digest == HELD_OUT.digest
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["split"] == {"rule": "first", "held_out": 20} and manifest["tokenizer"]["kind"] == "caseops"
    assert manifest["held_out"]["sidecar_bytes"] == HELD_OUT.size()
    assert {path.name for path in folder.sidecar_files} <= set(manifest["files"])
    folder.verify()
    assert inspect(tmp_path / "out")["held_out"]["tokens"] == len(ids)


def test_a_normalising_folder_says_what_it_loses(tmp_path):
    """Documents that differ, those that only the tolerant decoder reads, and the bytes that are charged."""
    held_out = HeldOutText("h", [b"Plain Words", "It is 0.3ºC".encode(), b" two\n\nlines "])
    folder = prepare(TRAIN, held_out, CONTEST, tmp_path / "out")
    record = folder.manifest["held_out"]
    assert (record["documents_that_differ"], record["documents_decoded_tolerantly"]) == (2, 1)
    assert record["sidecar_bytes"] == held_out.size() - 2 == np.concatenate(folder.held_out_sidecars()).sum()
    assert not folder.lossless
    with pytest.raises(TextError, match="no sidecars"):
        prepare(TRAIN, held_out, ByteTokenizer(), tmp_path / "bytes").held_out_sidecars()


def test_names():
    """Names of the contest (spec 1.4) and of this project; only held-out shards have sidecars."""
    assert sidecar_path(Path("x/fineweb_val_000012.bin")) == Path("x/fineweb_val_bytes_000012.bin")
    assert is_sidecar("fineweb_val_bytes_000000.bin") and not is_sidecar("fineweb_val_000000.bin")
    assert not is_sidecar("my_bytes_train_000000.bin") and not is_sidecar("my_bytes_val_000000.bin")


def test_a_sidecar_of_another_length_names_both_files(tmp_path):
    """One entry too few or too many, a missing or a lost sidecar, and a BOS that costs bytes are refused on opening."""
    prepare(TRAIN, HELD_OUT, LOSSLESS, tmp_path / "out", 500)
    (tmp_path / "out" / "manifest.json").unlink()
    shard, sidecar = tmp_path / "out" / "paramgolf_val_000000.bin", tmp_path / "out" / "paramgolf_val_bytes_000000.bin"
    good = read_sidecar(shard).copy()
    for bad in (good[:-1], np.append(good, 1)):
        sidecar.unlink()
        write_shard(sidecar, bad)
        with pytest.raises(
            ShardError, match=rf"{sidecar.name} has {len(bad):,} .* {shard.name} has {len(good):,}"
        ) as no:
            ShardFolder.open(tmp_path / "out")
        assert len(str(no.value).splitlines()) <= 2
    sidecar.unlink()
    write_shard(sidecar, np.append([7], good[1:]))
    with pytest.raises(ShardError, match="offset 1024: expected 0 bytes for a BOS, found 7"):
        ShardFolder.open(tmp_path / "out")
    sidecar.rename(tmp_path / "out" / "paramgolf_val_bytes_000099.bin")
    with pytest.raises(ShardError, match=r"000099.bin belongs to no shard: paramgolf_val_000099.bin is missing"):
        ShardFolder.open(tmp_path / "out")
    (tmp_path / "out" / "paramgolf_val_bytes_000099.bin").unlink()
    others = list((tmp_path / "out").glob("*_val_bytes_*.bin"))
    assert others  # so that one is missing among several
    with pytest.raises(ShardError, match=f"{shard.name} has no sidecar"):
        ShardFolder.open(tmp_path / "out")


def test_a_token_of_too_many_bytes_is_refused(tmp_path):
    """65,536 bytes of white space in one token do not fit into an entry (spec pr2140.md 8.33); nothing is left."""
    assert sidecar_entries([65_535, 0], "x").tolist() == [65_535, 0]
    document = b"a" + b" " * 70_000 + b"b"
    with pytest.raises(ShardError, match=r"h, document 1: token \d stands for 70,0\d\d bytes") as error:
        prepare(TRAIN, HeldOutText("h", [b"x", document]), CONTEST, tmp_path / "out")
    assert len(str(error.value).splitlines()) == 2 and list(tmp_path.iterdir()) == []
    folder = prepare(TRAIN, HeldOutText("h", [b"x", document]), LOSSLESS, tmp_path / "out")
    assert np.concatenate(folder.held_out_sidecars()).sum() == 70_003


def test_bits_per_byte_of_the_record():
    """Spec pr2140.md 1.5: of 47,853,343 targets and 151,080,645 bytes, for both published losses."""
    for loss, bpb in ((2.31072442, 1.05590816), (2.31614048, 1.05838308)):
        assert contest_bpb(loss, 47_853_343, 151_080_645) == pytest.approx(bpb, abs=5e-9)


@given(counts=st.lists(st.integers(0, 65_535), min_size=2, max_size=30))
def test_the_denominator_is_the_entries_of_the_targets(counts):
    """All tokens but the first are targets; those with zero bytes count too (spec pr2140.md 1.5)."""
    found = sidecar_denominator(np.array(counts, dtype=np.uint16))
    assert (found.targets, found.bytes) == (len(counts) - 1, sum(counts[1:]))


def test_the_first_documents_are_held_out():
    """In their order; too many or none is refused with both numbers; copies can be left out of training."""
    documents = [b"one", b"two", b"three", b"one"]
    train, held_out = split_first(documents, "x", 2)
    assert (list(train.documents), list(held_out.documents)) == ([b"three", b"one"], [b"one", b"two"])
    assert list(split_first(documents, "x", 2, leave_out_copies=True)[0].documents) == [b"three"]
    for count in (0, 4, 50_000):
        with pytest.raises(TextError, match=f"the first {count:,} of 4 documents"):
            split_first(documents, "x", count)


def test_validation_of_another_split_is_refused_with_both_numbers(tmp_path):
    """The trap of spec pr2140.md 1.4: training shards after document 10,000, validation of the first 50,000."""
    with pytest.raises(LeakError, match=r"first 10,000 documents .*first 50,000 documents") as error:
        require_same_split({"split": {"rule": "first", "held_out": 10_000}}, Split("first", 50_000), "there")
    assert len(str(error.value).splitlines()) == 2 and "--held-out-first 10000" in str(error.value)
    with pytest.raises(LeakError, match=r"share of 0\.08 .*share of 0\.1"):
        require_same_split({"split": Split("content", 0.08).to_json()}, Split("content", 0.1), "there")
    require_same_split({"split": Split("content", 0.08).to_json()}, Split("first", 5), "there")
    require_same_split({"split": {"rule": "first", "held_out": 5}}, Split("first", 5), "there")
    require_same_split({}, Split("first", 5), "there")
    train, held_out = split_first(PARTS, "x", 10)
    data = prepare(train, held_out, LOSSLESS, tmp_path / "ten", split=Split("first", 10))
    with pytest.raises(LeakError, match=r"first 10 documents .*first 30 documents"):
        prepare_held_out(split_first(PARTS, "x", 30)[1], data, tmp_path / "val", split=Split("first", 30))
    with pytest.raises(LeakError, match=r"also in the training shards of .*ten, the first is document 10"):
        prepare_held_out(split_first(PARTS, "x", 30)[1], data, tmp_path / "val")
    assert not (tmp_path / "val").exists()
    alone = prepare_held_out(held_out, data, tmp_path / "val", split=Split("first", 10))
    assert alone.tokenizer.digest == LOSSLESS.digest and alone.train_files == () and alone.lossless
    assert alone.held_out_text().digest == held_out.digest


def test_documents_are_found_by_hash_in_shards_of_any_making(tmp_path):
    """A folder without a manifest, whose documents straddle shards: a long document that is in both is refused."""
    data = prepare(TRAIN, HELD_OUT, CONTEST, tmp_path / "out", 97)
    shards = data.train_shards()
    require_unseen(HELD_OUT, CONTEST, shards, "there")
    long = max(TRAIN.documents, key=len)
    with pytest.raises(LeakError, match="1 of 2 held-out documents are also"):
        require_unseen(HeldOutText("h", [b"new", long]), CONTEST, shards, "there")
    with pytest.raises(LeakError, match="--leave-out-copies"):
        prepare(TRAIN, HeldOutText("h", [long]), CONTEST, tmp_path / "again")


@settings(deadline=None, max_examples=100)
@given(
    documents=st.lists(st.lists(st.integers(2, 9), max_size=5), min_size=1, max_size=8),
    cuts=st.lists(st.integers(0, 40)),
)
def test_documents_come_out_of_shards_cut_anywhere(documents, cuts):
    """Whatever the cuts, empty documents and empty shards included."""
    stream = np.array([id for document in documents for id in (1, *document)], dtype=np.uint16)
    parts = np.split(stream, sorted(cut for cut in cuts if cut <= len(stream)))
    assert [found.tolist() for found in documents_of(parts, 1)] == documents


def test_operators_in_a_text_are_text(tmp_path):
    """A document full of literal operators is trained on, written and read back like any other."""
    trouble = ("".join(OPERATORS) + " Words\n").encode() * 30
    folder = prepare(
        TrainText("t", [*TRAIN.documents, trouble]), HeldOutText("h", [trouble[1:]]), LOSSLESS, tmp_path / "o"
    )
    assert folder.lossless and folder.held_out_text().documents[0] == trouble[1:]
    assert read_shard(folder.sidecar_files[0]).sum() == len(trouble) - 1
