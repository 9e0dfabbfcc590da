"""Opening files: ours come back whole, a stranger's are refused with the reason, and nothing of them runs."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from paramgolf.artifact.container import SHEBANG, build_container, read_container
from paramgolf.artifact.manifest import write_manifest
from paramgolf.artifact.open import open_artifact, runtime_matches, runtime_sources_of
from paramgolf.artifact.packer import Packer
from paramgolf.artifact.sources import runtime_sources
from paramgolf.errors import ArtifactError
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.recipe import ModelRecipe, Recipe, TokenizerRecipe
from paramgolf.squeeze.fit import Setting
from paramgolf.text.byte_tokenizer import ByteTokenizer

RECIPE = Recipe("tiny", TokenizerRecipe("bytes", 260), ModelRecipe(layers=1, width=8, heads=2, kv_heads=1))
TOKENIZER = ByteTokenizer()


def tiny_weights(seed=0):
    rng = np.random.default_rng(seed)
    shapes = tensor_shapes(RECIPE.model, TOKENIZER.vocab_size)
    return {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def packer():
    documents = [TOKENIZER.encode(b"first document"), TOKENIZER.encode(b""), TOKENIZER.encode(b"third")]
    return Packer(RECIPE, TOKENIZER, tiny_weights(), documents)


@pytest.fixture(scope="module")
def whole():
    return packer().file(Setting(3))


@pytest.fixture(scope="module")
def members(whole, tmp_path_factory):
    path = tmp_path_factory.mktemp("members") / "model.pyz"
    path.write_bytes(whole)
    return dict(read_container(path).members)


@pytest.fixture
def write(tmp_path):
    def write(data, name="model.pyz"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def test_a_packed_file_comes_back(whole, write):
    """Recipe, tokenizer, weights bit for bit, primer, digest and sizes are those of what was packed."""
    path = write(whole)
    artifact, expected = open_artifact(path), packer().artifact(Setting(3))
    assert artifact.recipe == RECIPE
    assert artifact.tokenizer.digest == TOKENIZER.digest
    assert list(artifact.weights) == list(expected.weights)
    assert all(artifact.weights[name].tobytes() == expected.weights[name].tobytes() for name in expected.weights)
    assert [document.tolist() for document in artifact.primer] == [document.tolist() for document in expected.primer]
    assert artifact.digest == hashlib.sha256(whole).hexdigest()
    sizes = artifact.sizes
    assert sizes["file"] == len(whole) == path.stat().st_size
    assert sizes["without_tokenizer"] == len(whole) - sizes["tokenizer"]
    parts = ("source", "recipe", "tokenizer", "weights", "primer", "manifest")
    assert all(sizes[part] > 0 for part in parts)
    assert sum(sizes[part] for part in parts) < len(whole)


def test_the_same_model_gives_the_same_bytes(whole):
    """Packing is deterministic."""
    assert packer().file(Setting(3)) == whole


def test_the_sources_inside_are_known(whole, members, write):
    """The file carries exactly what this installation would pack; one changed comment is noticed."""
    assert runtime_matches(write(whole))
    assert runtime_sources_of(write(whole)) == runtime_sources()
    changed = members | {"paramgolf/errors.py": members["paramgolf/errors.py"] + b"# other\n"}
    assert not runtime_matches(write(sealed(changed)))


def test_the_runtime_leaves_out_what_it_does_not_need():
    """The carried sources are the closure of the runtime's imports: no trainer, no referee, no command line."""
    names = runtime_sources()
    assert {"__main__.py", "paramgolf/__init__.py", "paramgolf/artifact/runtime.py", "paramgolf/model/gpt.py"} <= set(
        names
    )
    rooms = {name.split("/")[1] for name in names if name.count("/") > 1}
    assert not rooms & {"train", "referee", "cli", "report", "exhibits", "recipes"}
    assert "paramgolf/artifact/pack.py" not in names


@pytest.mark.parametrize("bit", [0, 7])
def test_every_changed_byte_is_refused(whole, write, bit):
    """Each byte of the file, changed in one bit, raises with the file's name."""
    small = sealed_small()
    for place in range(len(small)):
        damaged = bytearray(small)
        damaged[place] ^= 1 << bit
        with pytest.raises(ArtifactError, match=r"model\.pyz"):
            read_container(write(damaged))
    for place in range(bit, len(whole), 997):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        with pytest.raises(ArtifactError, match=r"model\.pyz"):
            open_artifact(write(damaged))


def test_truncated_and_extended_files_are_refused(whole, write):
    """Any proper beginning raises, and so does a byte after the end."""
    for length in (0, 1, len(SHEBANG), 100, len(whole) // 2, len(whole) - 72, len(whole) - 71, len(whole) - 1):
        with pytest.raises(ArtifactError, match=r"model\.pyz"):
            open_artifact(write(whole[:length]))
    with pytest.raises(ArtifactError):
        open_artifact(write(whole + b"\n"))


def sealed(members):
    """A file with a manifest and seal that fit: what a careful attacker writes."""
    rest = {name: content for name, content in members.items() if name != "manifest.json"}
    return build_container(rest | {"manifest.json": write_manifest(rest, "bytes")})


def sealed_small():
    return build_container({"manifest.json": b"{}", "recipe.json": b"{}" * 40})


def sealed_zip(add):
    """A file whose zip is made by `add(archive)`, under a fitting seal."""
    buffer = io.BytesIO()
    buffer.write(SHEBANG)
    with zipfile.ZipFile(buffer, "w") as archive:
        add(archive)
        archive.comment = b"0" * 71
    body = buffer.getvalue()[:-71]
    return body + b"sha256:" + hashlib.sha256(body).hexdigest().encode()


def plain_entry(name, mode=0o100644):
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.create_system = 3
    entry.external_attr = mode << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


@pytest.mark.parametrize(
    "name",
    ["../x.py", "/etc/x.py", "paramgolf/../x.py", "evil.py", "torch/__init__.py", "paramgolf/x.so", "x", "a/",
     "C:\\x.py", "paramgolf/x.pyc", "paramgolf//x.py", "Manifest.json", "paramgolf/.py"],
)  # fmt: skip
def test_names_off_the_list_are_refused(name, write):
    """Ways out of the folder, foreign modules and anything that is not on the list raise; nothing is written."""
    path = write(sealed_zip(lambda archive: archive.writestr(plain_entry(name), b"x = 1")))
    before = sorted(path.parent.iterdir())
    with pytest.raises(ArtifactError, match="does not belong"):
        open_artifact(path)
    assert sorted(path.parent.iterdir()) == before


def test_links_are_refused(write):
    """A symbolic link under an allowed name raises."""
    data = sealed_zip(lambda archive: archive.writestr(plain_entry("recipe.json", 0o120777), b"/etc/passwd"))
    with pytest.raises(ArtifactError, match="link"):
        open_artifact(write(data))


def test_repeated_and_unsorted_members_are_refused(write):
    """Two members of one name, or an order that packing never writes, raise."""

    def twice(archive):
        archive.writestr(plain_entry("recipe.json"), b"{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(plain_entry("recipe.json"), b"{ }")

    def unsorted(archive):
        archive.writestr(plain_entry("recipe.json"), b"{}")
        archive.writestr(plain_entry("manifest.json"), b"{}")

    for add in (twice, unsorted):
        with pytest.raises(ArtifactError, match="unsorted, repeated"):
            open_artifact(write(sealed_zip(add)))


def test_a_zip_bomb_is_not_inflated(write):
    """Forty megabytes of noughts under the name of the recipe raise for their size alone."""
    bomb = sealed_zip(lambda archive: archive.writestr(plain_entry("recipe.json"), bytes(40_000_000)))
    assert len(bomb) < 100_000
    with pytest.raises(ArtifactError, match="claims 40000000 bytes, at most 65536"):
        open_artifact(write(bomb))


def test_large_members_are_never_inflated(write):
    """Weights and carried text are stored; compressed ones raise before they fill the memory."""
    bomb = sealed_zip(lambda archive: archive.writestr(plain_entry("primer.bin"), bytes(40_000_000)))
    assert len(bomb) < 100_000
    with pytest.raises(ArtifactError, match="never inflated"):
        open_artifact(write(bomb))


def test_a_member_larger_than_it_claims_is_refused(write):
    """A bomb that lies about its size in both headers raises."""
    bomb = bytearray(sealed_zip(lambda archive: archive.writestr(plain_entry("recipe.json"), bytes(1_000_000))))
    size = (1_000_000).to_bytes(4, "little")
    assert bomb.count(size) == 2
    body = bytes(bomb[:-71]).replace(size, (100).to_bytes(4, "little"))
    with pytest.raises(ArtifactError):
        open_artifact(write(body + b"sha256:" + hashlib.sha256(body).hexdigest().encode()))


def test_encrypted_members_are_refused(write):
    """The flag for encryption raises, whatever the content."""
    data = bytearray(sealed_zip(lambda archive: archive.writestr(plain_entry("recipe.json"), b"{}")))
    data[len(SHEBANG) + 6] |= 1
    directory = data.index(b"PK\x01\x02")
    data[directory + 8] |= 1
    body = bytes(data[:-71])
    with pytest.raises(ArtifactError, match="encrypted"):
        open_artifact(write(body + b"sha256:" + hashlib.sha256(body).hexdigest().encode()))


def test_hidden_bytes_between_members_are_refused(write):
    """What no directory entry accounts for cannot travel along."""

    def add(archive):
        archive.writestr(plain_entry("manifest.json"), b"{}")
        archive.fp.write(b"smuggled")
        archive.start_dir = archive.fp.tell()

    with pytest.raises(ArtifactError, match="8 bytes lie between"):
        open_artifact(write(sealed_zip(add)))


def test_a_pickle_is_refused_and_does_nothing(tmp_path, write):
    """A pickle that makes a file when it is loaded stays asleep, as a file and as a member."""
    bait = tmp_path / "bait"

    class Bomb:
        def __reduce__(self):
            return (open, (str(bait), "w"))

    for data in (pickle.dumps(Bomb()), SHEBANG + pickle.dumps(Bomb())):
        with pytest.raises(ArtifactError):
            open_artifact(write(data))
    assert not bait.exists()


def test_sources_inside_are_never_run(tmp_path, members, write):
    """A file whose `__main__.py` and modules would make a file when run or imported opens without doing so."""
    bait = tmp_path / "bait"
    evil = f"open({str(bait)!r}, 'w')\n".encode()
    bad = {name: evil + content if name.endswith(".py") else content for name, content in members.items()}
    path = write(sealed(bad))
    assert open_artifact(path).recipe == RECIPE
    assert not runtime_matches(path)
    assert not bait.exists()


def with_recipe(**changes):
    record = json.loads(RECIPE.to_json())
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            record[section][key] = value
        else:
            record[section] = value
    return json.dumps(record).encode()


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (b"[" * 60_000, "JSON"),
        (b"null", "object"),
        (b'{"name": "x"}', "lacks settings"),
        (with_recipe(extra=1), "unknown settings: extra"),
        (with_recipe(model__layers=2), "tensors"),
        (with_recipe(model__layers=10**9), "layers"),
        (with_recipe(model__width=16), "recipe's model has embedding"),
        (with_recipe(model__width=2 * 10**9), "numbers, this version's limit"),
        (with_recipe(model__width="8"), "should be int"),
        (with_recipe(model__width=2**2000, model__heads=1, model__kv_heads=1), "1e15"),
        (RECIPE.to_json().replace('"softcap": 30.0', '"softcap": 1e999').encode(), "out of range"),
        (RECIPE.to_json().replace('"softcap": 30.0', '"softcap": NaN').encode(), "NaN"),
        (with_recipe(tokenizer={"kind": "sentencepiece", "vocab_size": 260}), "tokenizer"),
    ],
)
def test_recipes_that_lie_are_refused(recipe, says, members, write):
    """Bombs, unknown and wrongly typed settings, and models that are not those of the weights raise."""
    with pytest.raises(ArtifactError, match=says):
        open_artifact(write(sealed(members | {"recipe.json": recipe})))


@pytest.mark.parametrize("name", ["recipe.json", "tokenizer.model", "weights.bin", "primer.bin"])
def test_missing_and_garbled_members_are_named(name, members, write):
    """Without a member, or with noise in its place, the file is refused."""
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        open_artifact(write(sealed({key: value for key, value in members.items() if key != name})))
    with pytest.raises(ArtifactError):
        open_artifact(write(sealed(members | {name: b"\x80\x04garbage" * 9})))


def test_manifests_that_do_not_fit_are_refused(members, write):
    """A digest of other content, an unknown format or a list of other members raises."""
    rest = {name: content for name, content in members.items() if name != "manifest.json"}
    record = json.loads(write_manifest(rest, "bytes"))
    wrong = [
        (record | {"format": 2}, "format 2"),
        (record | {"members": {}}, "lists other members"),
        (record | {"members": record["members"] | {"weights.bin": "0" * 64}}, r"SHA-256 of weights\.bin"),
        (record | {"tokenizer": 3}, "should have"),
        (record | {"extra": 3}, "should have"),
    ]
    for manifest, says in wrong:
        data = build_container(rest | {"manifest.json": json.dumps(manifest).encode()})
        with pytest.raises(ArtifactError, match=says):
            open_artifact(write(data))
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        open_artifact(write(build_container(rest)))


def test_what_is_no_file_is_refused(tmp_path):
    """A missing path and a folder raise with the path."""
    with pytest.raises(ArtifactError, match="cannot read"):
        open_artifact(tmp_path / "none.pyz")
    with pytest.raises(ArtifactError, match="not a file"):
        open_artifact(tmp_path)
