"""Files and folders into documents."""

import json
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paramgolf.errors import TextError
from paramgolf.text.documents import read_documents, survey_documents


def write_jsonl_zst(path: Path, records: list[object], frames: int = 1) -> None:
    lines = [json.dumps(record).encode() + b"\n" for record in records]
    size = -(-len(lines) // frames)
    parts = [b"".join(lines[at : at + size]) for at in range(0, len(lines), size)]
    path.write_bytes(b"".join(zstandard.compress(part) for part in parts))


def test_a_named_file_is_one_document_whatever_it_holds(tmp_path):
    """A file the user names is taken byte for byte: binary, invalid UTF-8 and carriage returns included."""
    content = b"\0\xff\r\n\x80 text\n"
    (tmp_path / "odd.bin").write_bytes(content)
    assert read_documents([tmp_path / "odd.bin"]) == [content]


def test_a_folder_is_read_in_path_order_and_leaves_out_what_is_no_text(tmp_path):
    """Hidden, binary, non-UTF-8 and empty files of a folder are left out and counted; the rest comes sorted."""
    for name, content in {
        "b/two.py": b"2",
        "a.txt": b"1",
        "b/three.md": b"3",
        ".hidden": b"x",
        ".git/config": b"x",
        "binary": b"abc\0def",
        "latin1.txt": b"caf\xe9",
        "empty.txt": b"",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    survey = survey_documents([tmp_path])
    assert survey.documents == [b"1", b"3", b"2"]
    assert (survey.hidden, survey.binary, survey.not_utf8, survey.empty) == (2, 1, 1, 1)
    assert "2 hidden, 1 binary, 1 not UTF-8, 1 empty" in survey.says()


def test_containers_inside_a_folder_give_their_documents(tmp_path):
    """A .jsonl in a folder is read line by line, not as one text."""
    (tmp_path / "x.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}\n')
    assert read_documents([tmp_path]) == [b"one", b"two"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts=st.lists(st.text(), min_size=1, max_size=8).filter(any), frames=st.integers(1, 3))
def test_jsonl_and_its_zstd_form_give_the_same_documents(tmp_path, texts, frames):
    """What was written as JSON lines comes back, from plain files and from one or several zstd frames."""
    records = [{"text": text, "source": "s"} for text in texts]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_jsonl_zst(tmp_path / "a.jsonl.zst", records, frames)
    expected = [text.encode("utf-8", "surrogatepass") for text in texts]
    assert read_documents([tmp_path / "a.jsonl"]) == expected
    assert read_documents([tmp_path / "a.jsonl.zst"]) == expected


@pytest.mark.parametrize(
    ("line", "says"),
    [("{nope", "not JSON"), ('{"txt": "a"}', "keys ['txt']"), ("[1]", "found list"), ('{"text": 3}', "field 'text'")],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path, line, says):
    """An unusable record is an error that names file:line, in plain and compressed files."""
    plain, packed = tmp_path / "bad.jsonl", tmp_path / "bad.jsonl.zst"
    plain.write_text('{"text": "fine"}\n' + line + "\n")
    packed.write_bytes(zstandard.compress(plain.read_bytes()))
    for path in (plain, packed):
        with pytest.raises(TextError, match=r"bad\.jsonl.*:2: ") as error:
            read_documents([path])
        assert says in str(error.value)


def test_a_zstd_file_that_is_cut_or_damaged_is_refused(tmp_path):
    """No proper prefix of a compressed file is silently read as a shorter text, and a flipped byte is noticed."""
    path = tmp_path / "x.jsonl.zst"
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    whole = compressor.compress(b"".join(b'{"text": "line %d"}\n' % number for number in range(200)))
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(TextError, match="damaged zstd"):
            read_documents([path])
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(TextError, match="damaged zstd"):
            read_documents([path])


def test_parquet_needs_its_column_and_gives_its_rows(tmp_path):
    """Column `text` of a parquet file is read row by row; without it, or with a null, the error says so."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["a", "é"], "n": [1, 2]}), tmp_path / "x.parquet")
    assert read_documents([tmp_path / "x.parquet"]) == [b"a", "é".encode()]
    parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "y.parquet")
    with pytest.raises(TextError, match=r"y\.parquet: expected a column 'text', found body"):
        read_documents([tmp_path / "y.parquet"])
    parquet.write_table(pyarrow.table({"text": ["a", None]}), tmp_path / "z.parquet")
    with pytest.raises(TextError, match=r"z\.parquet: row 1: "):
        read_documents([tmp_path / "z.parquet"])
    (tmp_path / "w.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(TextError, match=r"cannot read .*w\.parquet"):
        read_documents([tmp_path / "w.parquet"])


def test_without_pyarrow_the_error_tells_how_to_get_it(tmp_path, monkeypatch):
    """Parquet without its extra is one clear line with the pip command."""
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TextError, match=r"pip install 'paramgolf\[parquet\]'"):
        read_documents([tmp_path / "x.parquet"])


def test_missing_paths_and_no_text_are_errors_with_the_path(tmp_path):
    """A missing path, an empty folder, an empty file and an empty list each say what was looked at."""
    (tmp_path / "empty.txt").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(TextError, match=r"no such file or folder: .*nowhere"):
        read_documents([tmp_path / "nowhere"])
    for paths in ([tmp_path / "empty.txt"], [tmp_path / "folder"], []):
        with pytest.raises(TextError, match="no text in "):
            read_documents(paths)


def test_an_unreadable_file_is_an_error(tmp_path, monkeypatch):
    """A file that cannot be opened is named, never skipped in silence."""
    (tmp_path / "x.txt").write_bytes(b"x")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(TextError, match=r"cannot read .*x\.txt: Permission denied"):
        read_documents([tmp_path])


def test_a_link_that_leads_nowhere_or_in_a_circle_is_no_trap(tmp_path):
    """Dangling links in a folder are left out and linked folders are not followed for ever."""
    (tmp_path / "a.txt").write_bytes(b"a")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle").symlink_to(tmp_path, target_is_directory=True)
    assert read_documents([tmp_path]) == [b"a"]
