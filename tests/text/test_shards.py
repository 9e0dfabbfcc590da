"""The shard file: what is written is read, and anything else is refused with file, offset, expected and found."""

import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paramgolf.errors import OutputError, ShardError
from paramgolf.text.shards import HEADER_BYTES, read_shard, write_shard


def test_layout_is_the_contests_byte_by_byte(tmp_path):
    """Magic, version, count, zeros to byte 1024, then little-endian uint16 and nothing else (spec pr549 1.1)."""
    path = tmp_path / "x_train_000000.bin"
    write_shard(path, [1, 2, 0x1234, 65535])
    raw = path.read_bytes()
    assert raw[:4] == bytes.fromhex("88d83401")
    assert raw[4:12] == bytes([1, 0, 0, 0, 4, 0, 0, 0])
    assert raw[12:1024] == bytes(1012)
    assert raw[1024:] == bytes.fromhex("0100 0200 3412 ffff")


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ids=st.lists(st.integers(0, 65535), max_size=300))
def test_what_is_written_is_read(tmp_path, ids):
    """Any uint16 ids come back, none included, as a read-only array."""
    path = tmp_path / "x.bin"
    path.unlink(missing_ok=True)
    write_shard(path, np.array(ids, dtype=np.int64))
    back = read_shard(path)
    assert back.dtype == np.uint16 and back.tolist() == ids


def test_every_header_byte_that_is_changed_is_noticed_or_harmless(tmp_path):
    """A single changed byte in the header gives `ShardError` (first 12 bytes) or the same ids (reserved bytes)."""
    path = tmp_path / "x.bin"
    write_shard(path, np.arange(50))
    whole = path.read_bytes()
    for at in range(HEADER_BYTES):
        for flip in (0x01, 0x80, 0xFF) if at < 12 else (0xFF,):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
            if at < 12:
                with pytest.raises(ShardError, match=rf"x\.bin: offset {at // 4 * 4}: expected"):
                    read_shard(path)
            else:
                assert read_shard(path).tolist() == list(range(50))


def test_every_truncation_and_extension_is_refused(tmp_path):
    """No shorter and no longer file is read."""
    path = tmp_path / "x.bin"
    write_shard(path, np.arange(50))
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ShardError, match=r"expected .* found"):
            read_shard(path)
    path.write_bytes(whole + b"\0\0")
    with pytest.raises(ShardError, match=r"offset 8: expected 50 tokens, a file of 1124 bytes, found .* 1126 bytes"):
        read_shard(path)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=1100), header=st.booleans())
def test_any_bytes_give_ids_or_a_shard_error(tmp_path, content, header):
    """Hostile content never crashes the reader."""
    path = tmp_path / "x.bin"
    path.write_bytes(struct.pack("<2i", 20240520, 1) + content if header else content)
    try:
        ids = read_shard(path, vocab_size=300)
    except ShardError as error:
        assert "x.bin" in str(error)
    else:
        assert path.stat().st_size == HEADER_BYTES + 2 * len(ids)


def test_ids_beyond_the_vocabulary_are_named_with_their_offset(tmp_path):
    """The first id that the tokenizer does not have is an error with its offset; the largest legal id is fine."""
    path = tmp_path / "x.bin"
    write_shard(path, [1, 1023, 1024, 2000])
    with pytest.raises(ShardError, match=r"offset 1028: expected an id below 1024, found 1024 \(token 2\)"):
        read_shard(path, vocab_size=1024)
    assert len(read_shard(path, vocab_size=2001)) == 4


def test_a_missing_file_an_existing_file_and_bad_ids_are_errors(tmp_path):
    """Nothing is overwritten, and ids that are no uint16 are refused before anything is written."""
    with pytest.raises(ShardError, match=r"cannot read .*none\.bin"):
        read_shard(tmp_path / "none.bin")
    (tmp_path / "x.bin").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists"):
        write_shard(tmp_path / "x.bin", [1])
    assert (tmp_path / "x.bin").read_bytes() == b"mine"
    for ids in ([-1], [65536]):
        with pytest.raises(ShardError, match="do not fit"):
            write_shard(tmp_path / "y.bin", ids)
    assert not (tmp_path / "y.bin").exists()
