"""A run folder appears whole under its name, and nothing is ever written over."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from paramgolf.errors import OutputError, RunError
from paramgolf.run_folder import RunFolder, partial_path, write_atomically


def test_life_of_a_folder(tmp_path: Path) -> None:
    """Files are written under PATH.partial, and finish gives the folder its name once."""
    run = RunFolder.create(tmp_path / "deep" / "run")
    assert run.path == tmp_path / "deep" / "run.partial"
    run.write_json("score.json", {"bpb": 1.5})
    run.write_text("log.txt", "é")
    run.write_bytes("model.pyz", b"\x00\x01")
    assert not run.final_path.exists()
    assert run.finish() == run.path == tmp_path / "deep" / "run"
    assert run.finish() == run.path
    assert run.read_json("score.json") == {"bpb": 1.5}
    assert run.read_text("log.txt") == "é"
    assert (run.path / "model.pyz").read_bytes() == b"\x00\x01"
    assert not partial_path(run.final_path).exists()


def test_existing_paths_are_refused(tmp_path: Path) -> None:
    """A path or partial folder that exists is named with the next step, and stays as it was."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=r"file exists already; choose another --out"):
        RunFolder.create(tmp_path / "file")
    RunFolder.create(tmp_path / "run").write_text("a", "mine")
    with pytest.raises(OutputError, match=r"run.partial is an unfinished run; continue it with train --resume"):
        RunFolder.create(tmp_path / "run")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="dangling exists already"):
        RunFolder.create(tmp_path / "dangling")
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "run.partial" / "a").read_text() == "mine"


def test_finish_does_not_write_over_a_newcomer(tmp_path: Path) -> None:
    """If the name was taken meanwhile, both folders stay and the error says where the run is."""
    run = RunFolder.create(tmp_path / "run")
    run.write_text("a", "ours")
    (tmp_path / "run").mkdir()
    with pytest.raises(OutputError, match=r"appeared meanwhile; the finished run is in .*run\.partial"):
        run.finish()
    assert (tmp_path / "run.partial" / "a").read_text() == "ours"


def test_resume_finds_either_name(tmp_path: Path) -> None:
    """An unfinished run is found by its name or its partial name, a finished one by its name, else a clear error."""
    run = RunFolder.create(tmp_path / "run")
    assert RunFolder.resume(tmp_path / "run").path == run.path
    assert RunFolder.resume(tmp_path / "run.partial").path == run.path
    run.finish()
    found = RunFolder.resume(tmp_path / "run")
    assert (found.path, found.finished) == (tmp_path / "run", True)
    with pytest.raises(RunError, match=r"no run at .*none"):
        RunFolder.resume(tmp_path / "none")


def test_uncreatable_folder(tmp_path: Path) -> None:
    """A parent that is a file gives one line with the path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot create"):
        RunFolder.create(tmp_path / "file" / "run")


@pytest.mark.parametrize(
    "code,says", [(errno.ENOSPC, "disk full: .* needs 3 bytes"), (errno.EIO, r"cannot write .*\(3")]
)
def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, says: str) -> None:
    """When the disk refuses, the older version is whole, no temporary stays, and the message has the size."""
    target = write_atomically(tmp_path / "a", b"old")

    def refuse(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match=says):
        write_atomically(target, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert target.read_bytes() == b"old"


def test_really_full_disk(tmp_path: Path) -> None:
    """On a file system of 64 kB a write of 1 MB fails with the sizes, and what was there stays."""
    mount = shutil.which("mount")
    place = tmp_path / "small"
    place.mkdir()
    made = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True)
    if not made or made.returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        run = RunFolder.create(place / "run")
        run.write_bytes("model.pyz", b"small")
        with pytest.raises(OutputError, match=r"disk full: .*model.pyz needs 1,000,000 bytes, [\d,]+ bytes free"):
            run.write_bytes("model.pyz", bytes(1_000_000))
        assert (run.path / "model.pyz").read_bytes() == b"small"
        assert len(list(run.path.iterdir())) == 1
        with pytest.raises(OutputError, match="disk full"):
            for _ in range(100):
                run.append_line("log.txt", "x" * 1000)
    finally:
        subprocess.run(["umount", place], check=True)


def test_unreadable_records(tmp_path: Path) -> None:
    """A missing, non-UTF-8 or non-JSON file is named."""
    run = RunFolder.create(tmp_path / "run")
    with pytest.raises(RunError, match=r"has no recipe\.json"):
        run.read_text("recipe.json")
    run.write_bytes("bad", b"\xff\xfe")
    with pytest.raises(RunError, match=r"cannot read .*bad"):
        run.read_text("bad")
    run.write_text("score.json", "{")
    with pytest.raises(RunError, match=r"score\.json is not JSON"):
        run.read_json("score.json")


def test_json_takes_no_nan(tmp_path: Path) -> None:
    """A NaN is refused before anything is written, rather than producing a file that other readers reject."""
    run = RunFolder.create(tmp_path / "run")
    with pytest.raises(ValueError, match="JSON compliant"):
        run.write_json("score.json", {"bpb": float("nan")})
    assert not list(run.path.iterdir())


def test_lines_are_appended(tmp_path: Path) -> None:
    """Each call adds exactly one line."""
    run = RunFolder.create(tmp_path / "run")
    run.append_line("metrics.jsonl", '{"step": 1}')
    run.append_line("metrics.jsonl", '{"step": 2}\n')
    assert run.read_text("metrics.jsonl") == '{"step": 1}\n{"step": 2}\n'
