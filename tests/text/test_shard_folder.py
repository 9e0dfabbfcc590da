"""A folder of shards holds exactly the text it was made from, or does not exist."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paramgolf.errors import LeakError, OutputError, ShardError, TextError, TokenizerError
from paramgolf.text import shard_writer
from paramgolf.text.byte_tokenizer import ByteTokenizer
from paramgolf.text.sentencepiece_tokenizer import train_sentencepiece
from paramgolf.text.shard_folder import ShardFolder, inspect, prepare
from paramgolf.text.shards import write_shard
from paramgolf.text.text import HeldOutText, TrainText

TRAIN = TrainText("tr", [Path(__file__).read_bytes(), b"", b"second \xff document\0"])
HELD_OUT = HeldOutText("ho", [b"held out \x80", b"", "two\n\nlines \u2581".encode()])
TOKENIZERS = {"bytes": ByteTokenizer(), "sentencepiece": train_sentencepiece(TRAIN, 300)}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("shard_tokens", [97, 1000, 1_000_000])
def test_what_is_prepared_comes_back(tmp_path, kind, shard_tokens):
    """Stream, documents, text digest and tokenizer survive the folder, for shards of any size."""
    tokenizer = TOKENIZERS[kind]
    prepare(TRAIN, HELD_OUT, tokenizer, tmp_path / "out", shard_tokens)
    folder = ShardFolder.open(tmp_path / "out")
    folder.verify()
    stream = np.concatenate(folder.train_shards())
    expected = [id for document in TRAIN.documents for id in (1, *tokenizer.encode(document))]
    assert stream.dtype == np.uint16 and stream.tolist() == expected
    assert all(len(shard) == shard_tokens for shard in folder.train_shards()[:-1])
    assert [tokenizer.decode(ids) for ids in folder.held_out_documents()] == list(HELD_OUT.documents)
    assert folder.held_out_text().digest == HELD_OUT.digest and folder.held_out_text().name == "ho"
    assert isinstance(folder.held_out_text(), HeldOutText)
    assert folder.tokenizer.digest == tokenizer.digest and folder.lossless
    assert not (tmp_path / "out.partial").exists()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=st.lists(st.binary(max_size=40), min_size=1, max_size=6).filter(any), most=st.integers(1, 30))
def test_any_documents_come_back(tmp_path, documents, most):
    """Any held-out documents, empty ones included, come back in order from shards that cut them anywhere."""
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    held_out = HeldOutText("h", documents)
    train = TrainText("t", [b"0123456789"])
    folder = prepare(train, held_out, ByteTokenizer(), tmp_path / "out", most)
    assert folder.held_out_text().digest == held_out.digest


def test_the_manifest_says_what_the_files_are(tmp_path):
    """Names, counts, digests of every file and of both texts are in the manifest and in `inspect`."""
    prepare(TRAIN, HELD_OUT, ByteTokenizer(), tmp_path / "out", 1000)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["train"]["text_digest"] == TRAIN.digest and manifest["held_out"]["text_digest"] == HELD_OUT.digest
    assert manifest["train"]["bytes"] == TRAIN.size() and manifest["train"]["documents"] == 3
    assert manifest["train"]["tokens"] == TRAIN.size() + 3 and manifest["held_out"]["documents_that_differ"] == 0
    files = {path.name for path in (tmp_path / "out").iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == files >= {"paramgolf_train_000000.bin", "paramgolf_val_000000.bin"}
    report = inspect(tmp_path / "out")
    json.dumps(report)
    assert report["train"]["tokens"] == manifest["train"]["tokens"] and report["train"]["documents"] == 3
    assert report["held_out"]["shards"] == 1 and report["tokenizer"]["kind"] == "bytes" and report["has_manifest"]


def test_a_lossy_tokenizer_is_written_as_lossy(tmp_path):
    """With a tokenizer that changes text, the manifest counts the documents that differ, and `lossless` is False."""

    class Lowering(ByteTokenizer):
        lossless = False

        def encode(self, document):
            return super().encode(document.lower())

    folder = prepare(TRAIN, HELD_OUT, Lowering(), tmp_path / "out")
    assert folder.manifest["train"]["documents_that_differ"] == 1
    assert folder.manifest["tokenizer"]["lossless"] is False and not folder.lossless


def test_nothing_is_overwritten(tmp_path):
    """An existing folder, file or left-over partial folder is refused and untouched."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    (tmp_path / "other.partial").write_text("mine")
    for name in ("out", "other"):
        with pytest.raises(OutputError, match="exists"):
            prepare(TRAIN, HELD_OUT, ByteTokenizer(), tmp_path / name)
    assert (tmp_path / "out" / "mine").read_text() == (tmp_path / "other.partial").read_text() == "mine"
    assert not (tmp_path / "other").exists()


def test_a_full_disk_leaves_nothing_half_made(tmp_path, monkeypatch):
    """When writing fails the error says why and neither the folder nor its partial form is there."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shard_writer.ShardWriter, "append", full)
    with pytest.raises(OutputError, match=r"disk full: .*up to .* bytes free"):
        prepare(TRAIN, HELD_OUT, ByteTokenizer(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_breaks_off_leaves_nothing_half_made(tmp_path):
    """The same when the system itself stops a write half way (a limit on file sizes)."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*out .*: File too large"):
            prepare(TRAIN, HELD_OUT, ByteTokenizer(), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_leak_is_refused_before_anything_is_written(tmp_path):
    """A held-out document that is also in the training text, or held-out text as training text, is a `LeakError`."""
    document = b"x" * 100
    with pytest.raises(LeakError):
        prepare(TrainText("t", [document]), HeldOutText("h", [document]), ByteTokenizer(), tmp_path / "out")
    with pytest.raises(LeakError):
        prepare(HELD_OUT, HELD_OUT, ByteTokenizer(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def contest_folder(tmp_path):
    """Shards as the contest has them: no manifest, no tokenizer, other names."""
    ids = ByteTokenizer().encode(b"hello")
    write_shard(tmp_path / "fineweb_train_000001.bin", [1, *ids])
    write_shard(tmp_path / "fineweb_train_000000.bin", [1, 7, 8])
    write_shard(tmp_path / "fineweb_val_000000.bin", [1, *ids, 1, *ids])
    return tmp_path


def test_a_contest_folder_opens_with_a_given_tokenizer(contest_folder):
    """Without a manifest, shards are found by name, in the order of their names; the tokenizer must be given."""
    with pytest.raises(TokenizerError, match="no tokenizer of its own"):
        ShardFolder.open(contest_folder)
    folder = ShardFolder.open(contest_folder, ByteTokenizer())
    assert [shard.tolist()[:2] for shard in folder.train_shards()] == [[1, 7], [1, 108]]
    assert list(folder.held_out_text().documents) == [b"hello", b"hello"]
    assert folder.manifest == {} and not folder.lossless
    report = inspect(contest_folder)
    assert report["tokenizer"] is None and not report["has_manifest"]
    assert (report["train"]["tokens"], report["train"]["shards"], report["held_out"]["documents"]) == (9, 2, 2)


def test_ids_of_another_tokenizer_are_refused(contest_folder):
    """A shard with ids beyond the tokenizer's vocabulary is named with the offset; the check can be put off."""
    write_shard(contest_folder / "fineweb_train_000002.bin", [1, 260])
    with pytest.raises(ShardError, match=r"fineweb_train_000002\.bin: offset 1026: .* found 260"):
        ShardFolder.open(contest_folder, ByteTokenizer())
    assert len(ShardFolder.open(contest_folder, ByteTokenizer(), check_ids=False).train_files) == 3


def test_another_tokenizer_than_the_recorded_one_is_refused(tmp_path):
    """A folder with a manifest opens with its own tokenizer only (rules V29: tables of one, shards of another)."""
    prepare(TRAIN, HELD_OUT, TOKENIZERS["sentencepiece"], tmp_path / "out")
    with pytest.raises(TokenizerError, match="use the folder's own"):
        ShardFolder.open(tmp_path / "out", ByteTokenizer())


def test_damage_is_found(tmp_path):
    """A missing listed file, a changed byte and a broken manifest are each one clear error."""
    prepare(TRAIN, HELD_OUT, ByteTokenizer(), tmp_path / "out", 100)
    shard = tmp_path / "out" / "paramgolf_train_000001.bin"
    content = bytearray(shard.read_bytes())
    content[1024] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ShardError, match=r"paramgolf_train_000001\.bin: expected SHA-256"):
        ShardFolder.open(tmp_path / "out").verify()
    shard.unlink()
    with pytest.raises(ShardError, match=r"lacks paramgolf_train_000001\.bin"):
        ShardFolder.open(tmp_path / "out")
    for manifest in ("{", '{"format": "paramgolf-shards"}', "[]", '{"format": "paramgolf-shards", "files": 3}'):
        (tmp_path / "out" / "manifest.json").write_text(manifest)
        with pytest.raises(ShardError, match=r"manifest\.json"):
            ShardFolder.open(tmp_path / "out")


def test_folders_without_shards_say_what_was_expected(tmp_path):
    """A missing folder, an empty one and one that lacks a side are named, with the pattern that was looked for."""
    with pytest.raises(TextError, match="no such folder"):
        ShardFolder.open(tmp_path / "none", ByteTokenizer())
    with pytest.raises(TextError, match=r"\*_train_\*\.bin"):
        ShardFolder.open(tmp_path, ByteTokenizer())
    write_shard(tmp_path / "a_val_0.bin", [1, 5])
    folder = ShardFolder.open(tmp_path, ByteTokenizer())
    with pytest.raises(TextError, match="no training shard"):
        folder.train_shards()
