"""The parts of a fetch that need no server: digests, names, the manifest, and what one pass over a shard tells."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import OutputError, ShardError, TextError
from paramgolf.text.byte_tokenizer import ByteTokenizer
from paramgolf.text.digests import Digest, file_digests
from paramgolf.text.hub_client import Hub, HubError, RemoteFile
from paramgolf.text.hub_download import part_of
from paramgolf.text.hub_folder import FetchFolder
from paramgolf.text.hub_layout import read_publication, variant_of
from paramgolf.text.shard_facts import count_ids, shard_facts
from paramgolf.text.shards import write_shard

BYTES = ByteTokenizer()
HELLO = "ce013625030ba8dba906f756967f9e9ca394464a"  # what git says of a file with "hello\n"
EMPTY = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # and of an empty one
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256 of "abc", FIPS 180-2


def test_digests_are_those_that_everybody_computes(tmp_path):
    """Git's blob names and the published SHA-256 of "abc", from memory and from a file."""
    path = tmp_path / "file"
    for content, kind, expected in ((b"hello\n", "git-sha1", HELLO), (b"", "git-sha1", EMPTY), (b"abc", "sha256", ABC)):
        path.write_bytes(content)
        assert file_digests(path, kind)[kind] == Digest(kind, expected)
        assert Digest(kind, "").of_same_kind(content).hex == expected
    path.write_bytes(b"abc")
    assert set(file_digests(path, "sha256", "git-sha1")) == {"sha256", "git-sha1"}


@pytest.mark.parametrize(
    ("etag", "expected"),
    [
        (f'"{ABC}"', Digest("sha256", ABC)),
        (ABC.upper(), Digest("sha256", ABC)),
        (f'W/"{HELLO}"', Digest("git-sha1", HELLO)),
        (f'"{HELLO}-3"', None),
        ('"d41d8cd98f00b204e9800998ecf8427e"', None),
        (f'"{"g" * 64}"', None),
        ("", None),
        (None, None),
    ],
)
def test_only_digests_that_are_known_are_read_from_an_entity_tag(etag, expected):
    """Quotes, the weak mark and capitals do not matter; multipart tags, MD5 and other text are no digest."""
    assert Digest.of_etag(etag) == expected


@pytest.mark.parametrize("name", ["sp1024", "fineweb-sp1024", "fineweb10B_sp1024"])
def test_a_data_set_has_three_names(name):
    """Short, the command line's, and the repository's."""
    assert variant_of(name) == "sp1024" and variant_of(name.replace("sp1024", "byte260")) == "byte260"


@pytest.mark.parametrize("name", ["", "sp", "sp0", "sp-1", "sp1024x", "../sp1024", "fineweb", "fineweb-sp1024/../x"])
def test_other_names_are_refused(name):
    """Nothing but letters `sp` and a number, or byte260, gets into a path."""
    with pytest.raises(TextError, match="no data set"):
        variant_of(name)


@given(
    content=st.one_of(
        st.binary(max_size=40),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=4) | st.just("fineweb10B_sp1024"),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["datasets", "name", "stats", "files_train", "tokenizers"]), inner, max_size=4
                )
            ),
            max_leaves=12,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
@settings(deadline=None, max_examples=300)
def test_any_manifest_is_read_or_refused(content):
    """Whatever a repository holds under the manifest's name, the answer is a publication or one clear error."""
    try:
        read_publication(content, "sp1024", "a/b")
    except HubError as error:
        assert "a/b" in str(error) and len(str(error).splitlines()) <= 2


def test_a_manifest_without_a_tokenizer_entry_means_the_usual_file():
    """Where the manifest does not list the tokenizer, it is looked for where the contest has it (spec pr549.md 1.2)."""
    entry = {"name": "fineweb10B_sp1024", "stats": {"files_train": 195, "files_val": 1}}
    found = read_publication(json.dumps({"datasets": [entry]}).encode(), "sp1024", "a/b")
    assert found.tokenizer_files == (("tokenizer.model", "datasets/tokenizers/fineweb_1024_bpe.model"),)
    assert found.shard_path("train", 194) == "datasets/datasets/fineweb10B_sp1024/fineweb_train_000194.bin"
    assert (found.files_train, found.files_val, found.vocab_size) == (195, 1, None)


def test_parts_are_named_after_their_version(tmp_path):
    """The digest, else the commit, is in the name of a partial file."""
    place = tmp_path / "shard.bin"
    with_digest = RemoteFile("x", 1, Digest("sha256", ABC), "c" * 40)
    assert part_of(place, with_digest).name == f"shard.bin.{ABC[:16]}.part"
    assert part_of(place, RemoteFile("x", 1, None, "c" * 40)).name == f"shard.bin.{'c' * 16}.part"


@pytest.mark.parametrize("repository", ["", "a", "a/b/c", "../..", "a/../b", "a b/c", "a/b?x=1"])
def test_a_repository_is_an_owner_and_a_name(repository):
    """Nothing else gets into an address."""
    with pytest.raises(HubError, match="is no OWNER/NAME"):
        Hub(repository)


@given(ids=st.lists(st.integers(0, 259), max_size=200))
@settings(deadline=None, max_examples=40)
def test_one_pass_tells_tokens_documents_and_bytes(tmp_path_factory, ids):
    """What is counted by ids is what decoding each id would count."""
    path = tmp_path_factory.mktemp("facts") / "s.bin"
    write_shard(path, ids)
    facts = shard_facts(path, BYTES, begins_stream=False)
    assert facts.tokens == len(ids) and facts.documents == ids.count(1)
    assert facts.text_bytes == len(BYTES.decode(ids))
    assert count_ids(np.array(ids, dtype=np.uint16))[:260].tolist() == [ids.count(one) for one in range(260)]


def test_a_stream_begins_with_bos(tmp_path):
    """The first shard of a side must begin with BOS, a later one need not; an id too many is named either way."""
    write_shard(tmp_path / "s.bin", [5, 1, 6])
    assert shard_facts(tmp_path / "s.bin", BYTES, begins_stream=False).documents == 1
    with pytest.raises(ShardError, match=r"s\.bin: offset 1024: .* BOS 1, found 5"):
        shard_facts(tmp_path / "s.bin", BYTES, begins_stream=True)
    write_shard(tmp_path / "t.bin", [1, 259, 260])
    with pytest.raises(ShardError, match=r"t\.bin: offset 1028: expected an id below 260, found 260"):
        shard_facts(tmp_path / "t.bin", BYTES, begins_stream=True)


def test_a_folders_manifest_names_what_is_whole_at_every_moment(tmp_path):
    """After each file the manifest on the disk lists it; a file that was deleted is forgotten; names are not reused."""
    out = tmp_path / "data"
    record = {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest(), "checked": "sha256"}
    folder = FetchFolder(out, "a/b", "set")
    folder.describe({"commit": "1"}, BYTES)
    for name in ("x", "y"):
        (folder.path / name).write_bytes(b"abc")
        folder.add(name, record)
        listed = json.loads((tmp_path / "data.partial" / "manifest.json").read_text())
        assert name in listed["files"] and listed["source"] == {"repository": "a/b", "dataset": "set", "commit": "1"}
    (folder.path / "y").unlink()
    again = FetchFolder(out, "a/b", "set")
    assert set(again.files) == {"x"}
    assert again.move_aside("x").name == "x.damaged" and again.files == {}
    (again.path / "x").write_bytes(b"abc")
    assert again.move_aside("x").name == "x.damaged1"
    again.finish()
    assert out.is_dir() and not (tmp_path / "data.partial").exists()
    assert json.loads((out / "manifest.json").read_text())["tokenizer"]["digest"] == BYTES.digest
    with pytest.raises(OutputError, match="holds set of a/b, not set of c/d"):
        FetchFolder(out, "c/d", "set")
