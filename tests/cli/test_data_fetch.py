"""data fetch against a small repository of the hub's layout on this machine, with the troubles that networks have."""

import argparse
import dataclasses
import fcntl
import hashlib
import http.server
import json
import shutil
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paramgolf.cli import main
from paramgolf.cli.held_out import held_out_text
from paramgolf.text import hub_client, hub_download
from paramgolf.text.byte_table import contest_byte_table
from paramgolf.text.byte_tokenizer import ByteTokenizer
from paramgolf.text.caseops_training import train_contest_caseops
from paramgolf.text.sentencepiece_tokenizer import SentencePieceTokenizer, train_model
from paramgolf.text.shard_folder import ShardFolder
from paramgolf.text.shards import shard_header
from paramgolf.text.text import TrainText, digest_documents

Captured = pytest.CaptureFixture[str]
NAME = "someone/small-golf"
COMMIT = "c0ffee" + "0" * 34
SETS = "datasets/datasets/fineweb10B_sp1024"
MODEL = "datasets/tokenizers/fineweb_1024_bpe.model"
FIRST, SECOND, THIRD = (f"{SETS}/fineweb_train_{index:06d}.bin" for index in range(3))
VAL = f"{SETS}/fineweb_val_000000.bin"


def shard(ids) -> bytes:
    """A shard file's bytes."""
    return shard_header(len(ids)) + np.asarray(ids, dtype="<u2").tobytes()


def contest_like() -> SentencePieceTokenizer:
    """1024 ids with the settings of spec pr549.md 1.3, of the text that every Python has."""
    lines = [line for line in Path(argparse.__file__).read_text().split("\n") if line.strip()]
    settings = {"character_coverage": 0.999, "normalization_rule_name": "nmt_nfkc"}
    return SentencePieceTokenizer(train_model(lines, 1024, "contest-like", settings))


TOKENIZER = contest_like()
DOCUMENTS = [part.encode() for part in Path(argparse.__file__).read_text().split("\n\n") if part.strip()]
VAL_DOCUMENTS, TRAIN_DOCUMENTS = DOCUMENTS[:100], DOCUMENTS[100:]


def stream(documents, tokenizer=TOKENIZER):
    """BOS and the ids of each document."""
    return np.concatenate([[1, *tokenizer.encode(document)] for document in documents])


def manifest_of(name, tokenizer, files_train, val_tokens):
    """An entry of the repository's manifest."""
    stats = {"files_train": files_train, "files_val": 1, "docs_val": len(VAL_DOCUMENTS), "tokens_val": val_tokens}
    facts = {"vocab_size": tokenizer.vocab_size, "bos_id": 1, "tokenizer_name": f"t_{name}"}
    return {"name": name, "stats": stats, **facts}


def published() -> dict[str, bytes]:
    """Path to content of every file of the small repository."""
    train, val = stream(TRAIN_DOCUMENTS), stream(VAL_DOCUMENTS)
    as_bytes = stream(VAL_DOCUMENTS, ByteTokenizer())
    parts = np.array_split(train, 3)
    manifest = {
        "version": "10B",
        "datasets": [
            manifest_of("fineweb10B_sp1024", TOKENIZER, 3, len(val)),
            manifest_of("fineweb10B_byte260", ByteTokenizer(), 1, len(as_bytes)),
        ],
        "tokenizers": [
            {
                "name": "t_fineweb10B_sp1024",
                "model_path": "tokenizers/fineweb_1024_bpe.model",
                "vocab_path": "tokenizers/fineweb_1024_bpe.vocab",
            }
        ],
    }
    byte_sets = "datasets/datasets/fineweb10B_byte260"
    return {
        "datasets/manifest.json": json.dumps(manifest, indent=1).encode(),
        MODEL: TOKENIZER.to_bytes(),
        "datasets/tokenizers/fineweb_1024_bpe.vocab": b"<pad>\t0\n",
        FIRST: shard(parts[0]),
        SECOND: shard(parts[1]),
        THIRD: shard(parts[2]),
        VAL: shard(val),
        f"{byte_sets}/fineweb_train_000000.bin": shard(stream(TRAIN_DOCUMENTS[:9], ByteTokenizer())),
        f"{byte_sets}/fineweb_val_000000.bin": shard(as_bytes),
    }


PUBLISHED = published()
CASEOPS = train_contest_caseops(TrainText("t", TRAIN_DOCUMENTS), 600)
CASEOPS_SETS = "datasets/datasets/fineweb10B_sp600_lossless_caps_caseops_v1"


def published_caseops() -> dict[str, bytes]:
    """A repository of CaseOps shards: two of validation, each with its sidecar, and two of training."""
    counted = [CASEOPS.encode_counted(document) for document in VAL_DOCUMENTS]
    val = np.concatenate([[1, *ids] for ids, _ in counted])
    sidecar = np.concatenate([[0, *counts] for _, counts in counted])
    half = len(val) // 2 + 1
    name = CASEOPS_SETS.rpartition("/")[2]
    entry = manifest_of(name, CASEOPS, 2, len(val))
    # An exporter that counts files by the contest's pattern finds the sidecars too (spec pr2140.md 1.4).
    entry["stats"]["files_val"] = 4
    model = f"tokenizers/{name}.model"
    tokenizers = [{"name": f"t_{name}", "model_path": model}]
    manifest = {"shard_size": half, "datasets": [entry], "tokenizers": tokenizers}
    files = {"datasets/manifest.json": json.dumps(manifest).encode(), f"datasets/{model}": CASEOPS.to_bytes()}
    for index in range(2):
        part = slice(index * half, (index + 1) * half)
        files[f"{CASEOPS_SETS}/fineweb_val_{index:06d}.bin"] = shard(val[part])
        files[f"{CASEOPS_SETS}/fineweb_val_bytes_{index:06d}.bin"] = shard(sidecar[part])
    for index, part in enumerate(np.array_split(stream(TRAIN_DOCUMENTS, CASEOPS), 2)):
        files[f"{CASEOPS_SETS}/fineweb_train_{index:06d}.bin"] = shard(part)
    return files


@dataclasses.dataclass
class Repository:
    """What the server has and how it fails. `cuts` are bytes that successive answers for a path bring before they break
    off; `gets` are the requests for content: path and first byte."""

    files: dict[str, bytes] = dataclasses.field(default_factory=lambda: dict(PUBLISHED))
    served: dict[str, bytes] = dataclasses.field(default_factory=dict)  # other content than was announced
    cuts: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    gets: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    sent: int = 0
    digests: bool = True
    linked: bool = True
    circle: bool = False
    ranges: bool = True
    wrong_range: bool = False
    busy: int = 0
    endpoint: str = ""

    def change_manifest(self, **changes) -> None:
        """Another value in the entry of sp1024."""
        manifest = json.loads(self.files["datasets/manifest.json"])
        manifest["datasets"][0] |= changes
        self.files["datasets/manifest.json"] = json.dumps(manifest).encode()

    def content_gets(self, path: str) -> list[int]:
        """First bytes of the requests for a path."""
        return [first for asked, first in self.gets if asked == path]


class Handler(http.server.BaseHTTPRequestHandler):
    """The hub's answers: small files at once, large ones from a store to which a redirect leads."""

    repository: Repository

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        repository = self.repository
        if repository.busy:
            repository.busy -= 1
            return self.leave(503)
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/store/"):
            return self.content(path.removeprefix("/store/"), {"ETag": f'"{"ab" * 32}"'}, body)
        if path.startswith("/datasets/old/name/"):
            return self.leave(307, {"Location": path.replace("old/name", NAME)})
        if not path.startswith(f"/datasets/{NAME}/resolve/"):
            return self.leave(401, {"X-Error-Code": "RepoNotFound"})
        revision, _, file = path.removeprefix(f"/datasets/{NAME}/resolve/").partition("/")
        if revision not in ("main", COMMIT):
            return self.leave(404, {"X-Error-Code": "RevisionNotFound"})
        if repository.circle:
            return self.leave(302, {"Location": self.path})
        if file not in repository.files:
            return self.leave(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        content = repository.files[file]
        headers = {"X-Repo-Commit": COMMIT}
        if file.endswith(".json") or not repository.digests:
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            tag = {"ETag": f'W/"{blob}"'} if repository.digests else {}
            return self.content(file, headers | tag, body)
        if not repository.linked:
            # Another name of this machine: another host, as far as addresses tell.
            port = repository.endpoint.rsplit(":", 1)[1]
            return self.leave(302, headers | {"Location": f"http://localhost:{port}/store/{file}"})
        linked = {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content))}
        return self.leave(302, headers | linked | {"Location": f"/store/{file}"})

    def content(self, file: str, headers: dict[str, str], body: bool) -> None:
        repository = self.repository
        content = repository.served.get(file, repository.files[file])
        asked = self.headers.get("Range")
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and repository.ranges else 0
        if body:
            repository.gets.append((file, int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0))
        self.send_response(206 if first else 200)
        if first:
            shown = first + 1 if repository.wrong_range else first
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        if body:
            cuts = repository.cuts.get(file, [])
            part = content[first : first + cuts.pop(0)] if cuts else content[first:]
            repository.sent += len(part)
            self.wfile.write(part)

    def leave(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def repository(monkeypatch):
    """A served repository; nobody waits before another try."""
    monkeypatch.setattr(hub_client.Hub, "wait", lambda *_: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    found = Repository()
    handler = type("OneHandler", (Handler,), {"repository": found})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        found.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def fetch(repository: Repository, out: Path, shards: int = 2, *more: str, dataset: str = "fineweb-sp1024") -> int:
    """Run the verb."""
    words = ["data", "fetch", dataset, "--shards", str(shards), "--out", str(out), "--repo", NAME]
    return main([*words, "--endpoint", repository.endpoint, *more])


def complaint(captured: Captured) -> str:
    """The last line of stderr; two lines at most belong to the error."""
    return captured.readouterr().err.splitlines()[-1]


def names(folder: Path) -> set[str]:
    """Files of a folder."""
    return {path.name for path in folder.iterdir()}


WHOLE = {"manifest.json", "hub_manifest.json", "tokenizer.model", "tokenizer.vocab", "fineweb_val_000000.bin"}
TWO = WHOLE | {"fineweb_train_000000.bin", "fineweb_train_000001.bin"}


def test_what_is_published_is_fetched_checked_and_opened(repository, tmp_path, capsys):
    """Two of three shards: every byte is the repository's, every digest was checked, and inspect finds the same."""
    out = tmp_path / "data"
    assert fetch(repository, out, 2, "--json") == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert names(out) == TWO and names(tmp_path) == {"data"}
    for path in (FIRST, SECOND, VAL):
        assert (out / Path(path).name).read_bytes() == PUBLISHED[path]
    assert (out / "tokenizer.model").read_bytes() == PUBLISHED[MODEL]
    assert said["verified"] == {"sha256": 5, "git-sha1": 1} and said["commit"] == COMMIT
    assert said["folder"] == str(out) and said["shards"] == 2
    assert said["tokens"] == sum((len(PUBLISHED[path]) - 1024) // 2 for path in (FIRST, SECOND))
    assert said["bytes"] == sum((out / name).stat().st_size for name in TWO - {"manifest.json"})
    assert said["next"] == ["paramgolf", "train", "pr549", "--data", str(out)]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["source"]["repository"] == NAME and manifest["files"]["tokenizer.model"]["checked"] == "sha256"
    assert main(["data", "inspect", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["verified_files"] == 6 and found["tokenizer"]["vocab_size"] == 1024
    assert found["train"]["tokens"] == said["tokens"] and found["train"]["shards"] == 2
    assert found["held_out"]["documents"] == len(VAL_DOCUMENTS)


def test_held_out_text_and_denominator_are_those_of_the_tokens(repository, tmp_path, capsys):
    """The folder's held-out text is what its tokens decode to, and its bytes are those that the contest charges."""
    assert fetch(repository, tmp_path / "data", 1, "--json") == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    decoded = [TOKENIZER.decode(TOKENIZER.encode(document)) for document in VAL_DOCUMENTS]
    assert decoded != VAL_DOCUMENTS  # the contest's tokenizer changes line ends
    text = held_out_text(tmp_path / "data")
    assert text.digest == digest_documents(decoded) and said["held_out"]["bytes"] == text.size()
    ids = stream(VAL_DOCUMENTS)
    targets = (len(ids) - 1) // 2048 * 2048
    charged = contest_byte_table(TOKENIZER).bytes_of(ids[:targets], ids[1 : targets + 1])
    assert said["validation"] == {"targets": targets, "bytes": int(charged.sum())} and targets >= 2048


def test_what_is_there_is_not_fetched_again(repository, tmp_path, capsys):
    """The same command moves the manifest only; for one more shard it moves that shard only; fewer are a note."""
    out = tmp_path / "data"
    assert fetch(repository, out, 2) == 0
    repository.gets.clear()
    assert fetch(repository, out, 2, "--json") == 0
    assert {path for path, _ in repository.gets} == {"datasets/manifest.json"}
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["downloaded_bytes"] == 0
    repository.gets.clear()
    assert fetch(repository, out, 3) == 0
    assert {path for path, _ in repository.gets} == {"datasets/manifest.json", THIRD}
    assert len(ShardFolder.open(out).train_files) == 3
    capsys.readouterr()
    assert fetch(repository, out, 1) == 0
    assert "has 3 training shards, 1 were asked for" in capsys.readouterr().err


def test_a_connection_that_breaks_is_taken_up_where_it_broke(repository, tmp_path, capsys):
    """Three cuts in one shard, one of them before the first byte: no byte is fetched twice, the shard is whole."""
    repository.cuts = {FIRST: [100, 0, 1500]}
    assert fetch(repository, tmp_path / "data", 1) == 0
    assert repository.content_gets(FIRST) == [0, 100, 100, 1600]
    assert (tmp_path / "data" / "fineweb_train_000000.bin").read_bytes() == PUBLISHED[FIRST]


@given(cuts=st.lists(st.integers(0, 2000), max_size=4), ranges=st.booleans())
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cuts_give_the_same_file(repository, tmp_path, cuts, ranges):
    """Wherever the connection breaks, and whether or not the server can go on in the middle, the file is right."""
    repository.cuts, repository.ranges = {VAL: list(cuts)}, ranges
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    assert fetch(repository, tmp_path / "data", 1) == 0
    assert (tmp_path / "data" / "fineweb_val_000000.bin").read_bytes() == PUBLISHED[VAL]


def test_an_interrupted_download_goes_on_in_a_new_command(repository, tmp_path, capsys):
    """A server that stops sending ends the command with one line; the next command asks for the missing bytes only."""
    out = tmp_path / "data"
    repository.cuts = {SECOND: [700] + [0] * 50}
    assert fetch(repository, out, 2) == 2
    said = complaint(capsys)
    assert "fineweb_train_000001.bin: the connection ended after 700 of" in said and "run the command again" in said
    assert not out.exists() and (tmp_path / "data.partial" / "fineweb_train_000000.bin").exists()
    repository.cuts, repository.sent = {}, 0
    repository.gets.clear()
    assert fetch(repository, out, 2) == 0
    assert repository.content_gets(SECOND) == [700] and repository.content_gets(FIRST) == []
    assert repository.sent == len(PUBLISHED[SECOND]) - 700 + len(PUBLISHED["datasets/manifest.json"])
    assert names(out) == TWO and (out / "fineweb_train_000001.bin").read_bytes() == PUBLISHED[SECOND]


def test_ctrl_c_loses_nothing(repository, tmp_path, capsys, monkeypatch):
    """Status 130, a line that says how to go on, and the bytes that had arrived are used."""
    usual = hub_download._write_all

    def interrupted(out, chunk):
        usual(out, chunk[:500])
        raise KeyboardInterrupt

    monkeypatch.setattr(hub_download, "_write_all", interrupted)
    assert fetch(repository, tmp_path / "data", 1) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    monkeypatch.setattr(hub_download, "_write_all", usual)
    assert fetch(repository, tmp_path / "data", 1) == 0
    assert repository.content_gets(MODEL) == [0, 500]


def test_a_repository_that_was_renamed_is_followed(repository, tmp_path, capsys):
    """The hub redirects old names to the new one; digests are checked all the same."""
    assert fetch(repository, tmp_path / "data", 1, "--repo", "old/name", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["verified"] == {"sha256": 4, "git-sha1": 1}


def test_a_store_elsewhere_is_not_asked_for_digests(repository, tmp_path, capsys):
    """Where the hub names neither digest nor size, the store tells the size; its own tag is no digest."""
    repository.linked = False
    assert fetch(repository, tmp_path / "data", 1, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["verified"] == {"size only": 4, "git-sha1": 1}


def test_a_server_that_is_no_hub(repository, tmp_path, capsys):
    """A server that leads in circles is given up."""
    repository.circle = True
    assert fetch(repository, tmp_path / "data", 1) == 2
    assert "does not say how large datasets/manifest.json is; is it a hub?" in complaint(capsys)


def test_a_server_that_comes_back_is_waited_for(repository, tmp_path):
    """Busy answers (503) in the middle of the work are asked again."""
    repository.busy = 3
    assert fetch(repository, tmp_path / "data", 1) == 0


def test_a_server_that_stays_busy_is_an_error(repository, tmp_path, capsys):
    """After some attempts the status and the file are said."""
    repository.busy = 1000
    assert fetch(repository, tmp_path / "data", 1) == 2
    assert "answered HTTP 503" in complaint(capsys)


def flipped(content: bytes, at: int) -> bytes:
    """One bit of one byte is another."""
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("path", [FIRST, VAL, MODEL])
def test_a_wrong_digest_names_file_expected_and_found(repository, tmp_path, capsys, path):
    """A file with one changed bit never gets its name, is removed, and is fetched anew by the next command."""
    bad = flipped(PUBLISHED[path], 2000)
    repository.served = {path: bad}
    assert fetch(repository, tmp_path / "data", 1) == 2
    name = "tokenizer.model" if path == MODEL else Path(path).name
    said = complaint(capsys)
    assert said.endswith(
        f"{name}: expected sha256 {hashlib.sha256(PUBLISHED[path]).hexdigest()}, "
        f"found {hashlib.sha256(bad).hexdigest()}; removed, run the command again"
    )
    assert not (tmp_path / "data").exists()
    assert not [left for left in names(tmp_path / "data.partial") if left.startswith(name)]
    repository.served = {}
    assert fetch(repository, tmp_path / "data", 1) == 0


def test_a_wrong_manifest_digest_is_refused(repository, tmp_path, capsys):
    """The manifest is held against git's digest of it."""
    bad = PUBLISHED["datasets/manifest.json"].replace(b'"files_train": 3', b'"files_train": 9')
    repository.served = {"datasets/manifest.json": bad}
    assert fetch(repository, tmp_path / "data", 1) == 2
    assert "datasets/manifest.json: expected git-sha1" in complaint(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_went_bad_is_moved_aside_and_fetched_again(repository, tmp_path, capsys):
    """A changed byte and a cut shard in a finished folder are found, kept beside under another name, and mended."""
    out = tmp_path / "data"
    assert fetch(repository, out, 2) == 0
    (out / "fineweb_train_000001.bin").write_bytes(flipped(PUBLISHED[SECOND], 1500))
    (out / "fineweb_train_000000.bin").write_bytes(PUBLISHED[FIRST][:-2])
    capsys.readouterr()
    assert fetch(repository, out, 2) == 0
    said = capsys.readouterr().err
    assert "fineweb_train_000001.bin: expected sha256" in said and "moved to fineweb_train_000001.bin.damaged" in said
    for path in (FIRST, SECOND):
        assert (out / Path(path).name).read_bytes() == PUBLISHED[path]
    assert (out / "fineweb_train_000000.bin.damaged").read_bytes() == PUBLISHED[FIRST][:-2]
    assert names(out) == TWO | {"fineweb_train_000000.bin.damaged", "fineweb_train_000001.bin.damaged"}
    ShardFolder.open(out).verify()


def test_without_digests_sizes_headers_and_ids_are_checked(repository, tmp_path, capsys):
    """Without digests from the server that is recorded, and headers and sizes are looked at all the same."""
    repository.digests = False
    assert fetch(repository, tmp_path / "data", 1, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["verified"] == {"size only": 5}
    files = json.loads((tmp_path / "data" / "manifest.json").read_text())["files"]
    assert files["fineweb_train_000000.bin"]["checked"] == "size only"
    for at, says in ((0, "expected magic"), (4, "expected version"), (8, "offset 8: expected")):
        repository.served = {FIRST: flipped(PUBLISHED[FIRST], at)}
        assert fetch(repository, tmp_path / f"bad{at}", 1) == 2
        said = complaint(capsys)
        assert says in said and "fineweb_train_000000.bin" in said and said.endswith("removed, run the command again")
        assert "fineweb_train_000000.bin" not in names(tmp_path / f"bad{at}.partial")


def test_shards_of_another_tokenizer_are_refused(repository, tmp_path, capsys):
    """An id beyond the vocabulary, and a stream that does not begin with BOS, are named with offset and value."""
    for ids, says in (
        ([1, 5, 1024, 7], "offset 1028: expected an id below 1024, found 1024"),
        ([7, 8], "BOS 1, found 7"),
    ):
        repository.files[FIRST] = shard(ids)
        assert fetch(repository, tmp_path / "data", 1) == 2
        said = complaint(capsys)
        assert says in said and "another tokenizer" in said and said.endswith("; it is what the repository holds")
        assert "fineweb_train_000000.bin" not in names(tmp_path / "data.partial")


@pytest.mark.parametrize(("key", "value", "says"), [("vocab_size", 2048, "2048 ids"), ("bos_id", 2, "2 as BOS")])
def test_a_tokenizer_that_is_not_the_manifests_is_refused(repository, tmp_path, capsys, key, value, says):
    """Vocabulary size and BOS of the tokenizer are held against the manifest."""
    repository.change_manifest(**{key: value})
    assert fetch(repository, tmp_path / "data", 1) == 2
    said = complaint(capsys)
    assert "tokenizer and shards do not belong together" in said and f"was made with {says}" in said
    assert not (tmp_path / "data").exists()


def test_sums_are_held_against_the_manifest(repository, tmp_path, capsys):
    """Other numbers of validation tokens than the manifest's are an error, not a folder."""
    stats = {"files_train": 3, "files_val": 1, "tokens_val": 17}
    repository.change_manifest(stats=stats)
    assert fetch(repository, tmp_path / "data", 1) == 2
    assert "tokens, its manifest says 17" in complaint(capsys)
    assert not (tmp_path / "data").exists()


def test_more_shards_than_there_are_names_both_numbers(repository, tmp_path, capsys):
    """Asked 4 of 3: refused before anything is written."""
    assert fetch(repository, tmp_path / "data", 4) == 2
    assert "4 training shards were asked for" in (said := complaint(capsys)) and "has 3 of fineweb10B_sp1024" in said
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_the_manifest_promises_and_nobody_has(repository, tmp_path, capsys):
    """The missing file is named, before any shard is moved."""
    del repository.files[SECOND]
    assert fetch(repository, tmp_path / "data", 2) == 2
    assert f"{NAME} has no file {SECOND} at revision {COMMIT}" in complaint(capsys)
    assert repository.content_gets(FIRST) == []


def test_a_repository_without_a_manifest(repository, tmp_path, capsys):
    """The message says which file the layout needs."""
    del repository.files["datasets/manifest.json"]
    assert fetch(repository, tmp_path / "data", 1) == 2
    assert "has no file datasets/manifest.json" in complaint(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "is no manifest of the contest"),
        (b"[]", "is no manifest of the contest"),
        (b'{"datasets": [{"name": "fineweb10B_sp1024", "stats": {}}]}', "it lacks 'files_train'"),
        (b'{"datasets": [{"name": "fineweb10B_sp2048"}]}', "did you mean fineweb-sp2048? it has: fineweb10B_sp2048"),
        (b'{"datasets": []}', "it has: none"),
    ],
)
def test_a_manifest_of_something_else(repository, tmp_path, capsys, content, says):
    """What is no manifest, or has no such data set, is one line that says so."""
    repository.files["datasets/manifest.json"] = content
    assert fetch(repository, tmp_path / "data", 1) == 2
    assert says in complaint(capsys)


@pytest.mark.parametrize("path", ["../../secret", "/etc/passwd", "a/../../b"])
def test_a_manifest_cannot_lead_out_of_the_repository(repository, tmp_path, capsys, path):
    """Paths of the manifest stay under its root."""
    manifest = json.loads(PUBLISHED["datasets/manifest.json"])
    manifest["tokenizers"][0]["model_path"] = path
    repository.files["datasets/manifest.json"] = json.dumps(manifest).encode()
    assert fetch(repository, tmp_path / "data", 1) == 2
    assert "leads out of the repository" in complaint(capsys)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--repo", "nobody/nothing"], "no public dataset repository nobody/nothing at"),
        (["--repo", "nobody"], "'nobody' is no OWNER/NAME"),
        (["--revision", "v9"], "has no revision 'v9'"),
        (["--endpoint", "ftp://example.org"], "is no http or https address"),
        (
            ["--endpoint", "http://127.0.0.1:1"],
            "cannot reach http://127.0.0.1:1: Connection refused; check the network",
        ),
        (["--shards", "0"], "'0' is not a whole number of at least 1"),
    ],
)
def test_wrong_places(repository, tmp_path, capsys, words, says):
    """Repository, revision, address and a server that is down: one line each, nothing written."""
    assert fetch(repository, tmp_path / "data", 1, *words) == 2
    assert says in complaint(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("asked", "meant"), [("fineweb-sp1O24", "fineweb-sp1024"), ("byte26", "fineweb-byte260")])
def test_a_misspelt_data_set_gets_a_suggestion(tmp_path, capsys, asked, meant):
    """Unknown names are refused without a network, with the nearest known one."""
    assert main(["data", "fetch", asked, "--shards", "1", "--out", str(tmp_path / "x")]) == 2
    assert f"no data set '{asked}'; did you mean {meant}?" in complaint(capsys)


def test_the_byte_variant_brings_its_own_tokenizer(repository, tmp_path, capsys):
    """byte260 needs no tokenizer file of the repository; the next command has the flags that it needs."""
    out = tmp_path / "data"
    assert fetch(repository, out, 1, "--json", dataset="byte260") == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["next"][-4:] == ["--tokenizer.kind", "bytes", "--tokenizer.vocab_size", "260"]
    assert said["verified"] == {"sha256": 2, "git-sha1": 1, "made here": 1}
    assert held_out_text(out).digest == digest_documents(VAL_DOCUMENTS)


@pytest.mark.parametrize("name", ["data", "data.partial"])
def test_a_folder_of_something_else_is_left_alone(repository, tmp_path, capsys, name):
    """A user's folder under the name is refused and untouched."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "fineweb_train_000000.bin").write_text("mine")
    assert fetch(repository, tmp_path / "data", 1) == 2
    assert f"{name} exists and is no folder that data fetch made" in complaint(capsys)
    assert names(tmp_path / name) == {"fineweb_train_000000.bin"}
    assert (tmp_path / name / "fineweb_train_000000.bin").read_text() == "mine"


def test_a_folder_of_another_data_set_is_left_alone(repository, tmp_path, capsys):
    """Two variants do not share a folder; an empty folder is taken."""
    (tmp_path / "data").mkdir()
    assert fetch(repository, tmp_path / "data", 1) == 0
    assert fetch(repository, tmp_path / "data", 1, dataset="byte260") == 2
    assert f"holds fineweb10B_sp1024 of {NAME}, not fineweb10B_byte260" in complaint(capsys)


def test_a_disk_that_is_too_small_is_said_first(repository, tmp_path, capsys, monkeypatch):
    """Both numbers, before the first shard is moved."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1234))
    assert fetch(repository, tmp_path / "data", 2) == 2
    needed = sum(len(PUBLISHED[path]) for path in (FIRST, SECOND, VAL))
    assert f"needs {needed:,} bytes more, 1,234 bytes free" in complaint(capsys)
    assert repository.content_gets(VAL) == []


def test_a_disk_that_fills_up_keeps_what_arrived(repository, tmp_path, capsys):
    """The system refuses to write on (a limit on file sizes): one line; with room again the download goes on."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = len(PUBLISHED[MODEL]) + 1000
    repository.files[FIRST] = shard(np.ones(limit, dtype=np.uint16))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        assert fetch(repository, tmp_path / "data", 1) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot write" in (said := complaint(capsys)) and "File too large" in said
    assert fetch(repository, tmp_path / "data", 1) == 0
    assert repository.content_gets(FIRST) == [0, limit]


def test_a_server_that_sends_another_part_is_refused(repository, tmp_path, capsys):
    """Bytes from another place than asked are not joined to what is there."""
    repository.cuts, repository.wrong_range = {FIRST: [300]}, True
    assert fetch(repository, tmp_path / "data", 1) == 2
    assert "asked for bytes 300-" in complaint(capsys)


def test_two_fetches_do_not_write_the_same_file(repository, tmp_path, capsys):
    """A partial file that another process writes is refused, not mixed."""
    repository.cuts = {FIRST: [300] + [0] * 50}
    assert fetch(repository, tmp_path / "data", 1) == 2
    part = next((tmp_path / "data.partial").glob("fineweb_train_000000.bin.*.part"))
    with part.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert fetch(repository, tmp_path / "data", 1) == 2
    assert "is being written by another process" in complaint(capsys)


def test_parts_of_two_versions_are_never_joined(repository, tmp_path):
    """When the repository's file changed in between, the old beginning is dropped."""
    repository.cuts = {FIRST: [300] + [0] * 50}
    assert fetch(repository, tmp_path / "data", 1) == 2
    repository.cuts = {}
    repository.files[FIRST] = shard(np.arange(1, 900))
    assert fetch(repository, tmp_path / "data", 1) == 0
    assert (tmp_path / "data" / "fineweb_train_000000.bin").read_bytes() == repository.files[FIRST]
    assert names(tmp_path / "data") == WHOLE | {"fineweb_train_000000.bin"}


def test_a_shard_from_elsewhere_is_noticed(repository, tmp_path, capsys):
    """A shard that the manifest does not list is not trained on."""
    out = tmp_path / "data"
    assert fetch(repository, out, 1) == 0
    (out / "fineweb_train_000007.bin").write_bytes(shard([1, 5, 6]))
    assert main(["data", "inspect", str(out)]) == 2
    assert "holds fineweb_train_000007.bin, which manifest.json does not list" in complaint(capsys)


def test_a_failed_write_is_one_line(repository, tmp_path, capsys):
    """A place that cannot be written names itself."""
    (tmp_path / "file").write_text("mine")
    assert fetch(repository, tmp_path / "file" / "data", 1) == 2
    assert str(tmp_path / "file") in complaint(capsys) and names(tmp_path) == {"file"}


@pytest.mark.slow
def test_the_folder_trains(repository, tmp_path, capsys):
    """One step of the contest's model, small, in the order of the stream, on what was fetched."""
    out = tmp_path / "data"
    assert fetch(repository, out, 2) == 0
    words = ["train", "pr549_tiny", "--data", str(out), "--out", str(tmp_path / "run"), "--train.max_steps", "1"]
    assert main(words) == 0
    assert (tmp_path / "run" / "model.pyz").exists()
    assert main(["score", str(tmp_path / "run" / "model.pyz"), str(out), "--adapt", "none", "--limit", "2000"]) == 0


def test_a_commit_that_is_none_is_not_used(repository, tmp_path, capsys, monkeypatch):
    """What a server calls its commit becomes no part of a path unless it is one: the fetch goes on without it."""
    monkeypatch.setitem(globals(), "COMMIT", "../../../evil")
    repository.digests = False
    assert fetch(repository, tmp_path / "data", 1, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["commit"] is None
    assert names(tmp_path) == {"data"} and names(tmp_path / "data") == TWO - {"fineweb_train_000001.bin"}


@pytest.mark.parametrize("side", ["files_val", "files_train"])
def test_more_shards_than_names_are_refused(repository, tmp_path, capsys, side):
    """A manifest that promises a billion shards is refused before anything is made of them."""
    stats = {"files_train": 3, "files_val": 1, side: 10**9}
    repository.change_manifest(stats=stats)
    assert fetch(repository, tmp_path / "data", 1) == 2
    assert "1,000,000,000 shards" in complaint(capsys) and names(tmp_path) == set()


def test_a_manifest_of_endless_nesting_is_one_line(repository, tmp_path, capsys):
    """Brackets without end are no manifest, and no traceback."""
    repository.files["datasets/manifest.json"] = b"[" * 100_000
    assert fetch(repository, tmp_path / "data", 1) == 2
    assert "is no manifest of the contest" in complaint(capsys) and names(tmp_path) == set()


def test_names_of_a_manifest_do_not_reach_the_terminal_raw(repository, tmp_path, capsys):
    """A data set whose name holds control characters is not listed."""
    repository.change_manifest(name="fineweb10B_sp1024\x1b[2J")
    assert fetch(repository, tmp_path / "data", 1) == 2
    says = capsys.readouterr().err
    assert "\x1b" not in says and "it has: fineweb10B_byte260" in says


def test_a_file_that_came_in_one_part_has_no_speed(repository, tmp_path, capsys):
    """No line says 0.0 MB/s of a download that nobody timed."""
    assert fetch(repository, tmp_path / "data", 1) == 0
    says = capsys.readouterr().err
    assert "13,508 of 13,508 bytes" in says and "MB/s" not in says


def test_caseops_shards_bring_their_sidecars(repository, tmp_path, capsys):
    """Every validation shard has its sidecar; the denominator is theirs, of all targets; the split is named."""
    repository.files = published_caseops()
    out = tmp_path / "data"
    assert fetch(repository, out, 1, "--json", dataset="fineweb-caseops-sp600") == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    shards = {f"fineweb_{part}_{index:06d}.bin" for part in ("val", "val_bytes") for index in range(2)}
    own = {"manifest.json", "hub_manifest.json", "tokenizer_caseops.model", "fineweb_train_000000.bin"}
    assert names(out) == shards | own and said["tokenizer"]["kind"] == "caseops"
    raw = sum(map(len, VAL_DOCUMENTS))
    lost = sum(len(document) - int(CASEOPS.encode_counted(document)[1].sum()) for document in VAL_DOCUMENTS)
    assert said["validation"] == {"targets": len(stream(VAL_DOCUMENTS, CASEOPS)) - 1, "bytes": raw - lost}
    assert said["next"][:3] == ["paramgolf", "train", "pr2140"]
    folder = ShardFolder.open(out)
    folder.verify()
    assert folder.tokenizer.digest == CASEOPS.digest and len(folder.sidecar_files) == len(folder.held_out_files) == 2
    assert folder.manifest["split"] == {"rule": "first", "held_out": len(VAL_DOCUMENTS)}
    assert main(["data", "inspect", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["sidecars"] == {"files": 2, "tokens": said["held_out"]["tokens"], "bytes": raw - lost}
    assert main(["data", "inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "tokenizer: caseops, 600 ids, normalises" in shown and "sidecars: 2, " in shown and "the first 100" in shown


def test_a_published_sidecar_of_another_length_is_refused(repository, tmp_path, capsys):
    """Both files are named, and the bad one is removed, whatever its digest says."""
    repository.files = published_caseops()
    path = f"{CASEOPS_SETS}/fineweb_val_bytes_000001.bin"
    good = np.frombuffer(repository.files[path][1024:], dtype="<u2")
    repository.files[path] = shard(good[:-1])
    assert fetch(repository, tmp_path / "data", 1, dataset="caseops-sp600") == 2
    said = complaint(capsys)
    assert (
        f"fineweb_val_bytes_000001.bin has {len(good) - 1:,} entries, fineweb_val_000001.bin has {len(good):,}" in said
    )
    assert "fineweb_val_bytes_000001.bin" not in names(tmp_path / "data.partial")
    del repository.files[path]
    assert fetch(repository, tmp_path / "data", 1, dataset="caseops-sp600") == 2
    assert f"has no file {path}" in complaint(capsys)


def test_caseops_shards_with_a_plain_tokenizer_are_refused(repository, tmp_path, capsys):
    """A model without the operators is not what the shards were made with."""
    repository.files = published_caseops()
    model = next(path for path in repository.files if path.endswith(".model"))
    repository.files[model] = TOKENIZER.to_bytes()
    assert fetch(repository, tmp_path / "data", 1, dataset="caseops-sp600") == 2
    assert "not a CaseOps model: it lacks user-defined symbols" in complaint(capsys)


def test_caseops_data_sets_that_are_missing_or_many(repository, tmp_path, capsys):
    """A repository with none says what it has; with two it says which."""
    assert fetch(repository, tmp_path / "data", 1, dataset="fineweb-caseops-sp8192") == 2
    assert "has no data set fineweb10B_sp8192_*caseops*" in complaint(capsys)
    repository.files = published_caseops()
    manifest = json.loads(repository.files["datasets/manifest.json"])
    manifest["datasets"].append({**manifest["datasets"][0], "name": "fineweb10B_sp600_caseops_v2"})
    repository.files["datasets/manifest.json"] = json.dumps(manifest).encode()
    assert fetch(repository, tmp_path / "data", 1, dataset="fineweb-caseops-sp600") == 2
    assert "has 2 data sets for fineweb-caseops-sp600" in complaint(capsys)
