"""Packing meets the budget, proves itself in a new process, and never overwrites."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import paramgolf
from paramgolf.artifact import pack as pack_module
from paramgolf.artifact import packer as packer_module
from paramgolf.artifact.container import read_container
from paramgolf.artifact.open import open_artifact
from paramgolf.artifact.pack import pack
from paramgolf.artifact.packer import Packer
from paramgolf.artifact.proof import fingerprint
from paramgolf.errors import ArtifactError, BudgetError, OutputError, RecipeError
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.recipe import ModelRecipe, Recipe, ScoreRecipe, SqueezeRecipe, TokenizerRecipe
from paramgolf.squeeze.fit import Setting, fit_to_budget
from paramgolf.squeeze.quantize import quantize
from paramgolf.squeeze.quantized import Quantized, dequantize
from paramgolf.squeeze.schemes import assign_schemes, default_schemes
from paramgolf.text.byte_tokenizer import ByteTokenizer

RECIPE = Recipe(
    "tiny",
    TokenizerRecipe("bytes", 260),
    ModelRecipe(layers=2, width=32, heads=2, kv_heads=1),
    score=ScoreRecipe(window=64, stride=48),
)
TOKENIZER = ByteTokenizer()


def weights(seed=0):
    rng = np.random.default_rng(seed)
    shapes = tensor_shapes(RECIPE.model, TOKENIZER.vocab_size)
    return {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


def noise_documents(count=8, size=500):
    rng = np.random.default_rng(1)
    return [TOKENIZER.encode(rng.bytes(size)) for _ in range(count)]


def test_the_report_is_true(packed):
    """Sizes, digest and error are those of the file and of the weights that it gives back."""
    artifact = open_artifact(packed.path)
    assert packed.bytes == packed.path.stat().st_size == artifact.sizes["file"]
    assert packed.bytes_without_tokenizer == packed.bytes - artifact.sizes["tokenizer"]
    assert packed.digest == artifact.digest
    assert packed.setting == Setting(8)
    assert packed.documents_dropped == 0
    assert packed.budget == RECIPE.budget.artifact_bytes
    assert set(packed.bytes_by_tensor) == set(artifact.weights)
    assert sum(packed.bytes_by_tensor.values()) <= packed.bytes_by_member["weights"]
    trained = weights()
    squared = sum(float(np.square(artifact.weights[n].astype(np.float64) - w).sum()) for n, w in trained.items())
    assert packed.squared_error == pytest.approx(squared)
    assert 0 < packed.relative_error < 0.05


def test_nothing_else_is_left_behind(packed):
    """The folder holds the file alone, and the file may be executed."""
    assert [path.name for path in packed.path.parent.iterdir()] == ["model.pyz"]
    assert packed.path.stat().st_mode & 0o111


def test_an_existing_path_is_never_touched(tmp_path):
    """A file, a folder or a dangling link under the name raises, and stays as it is."""
    taken = tmp_path / "model.pyz"
    taken.write_text("mine")
    link = tmp_path / "link.pyz"
    link.symlink_to(tmp_path / "nowhere")
    for path in (taken, link, tmp_path):
        with pytest.raises(OutputError, match="exists already"):
            pack(RECIPE, TOKENIZER, weights(), (), path)
    assert taken.read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    """Writing into a missing folder raises with the path."""
    with pytest.raises(OutputError, match="none"):
        pack(RECIPE, TOKENIZER, weights(), (), tmp_path / "none" / "model.pyz")


def test_a_hopeless_budget_writes_nothing(tmp_path):
    """A budget that not even the coarsest weights meet raises with the smallest size, which then is enough."""
    with pytest.raises(BudgetError, match=r"10,000 bytes is [0-9,]+ too small.*at least"):
        pack(RECIPE, TOKENIZER, weights(), (), tmp_path / "model.pyz", budget=10_000)
    assert not list(tmp_path.iterdir())


def test_text_goes_before_weights_are_touched():
    """A budget between the file with and without the carried text keeps the first documents and the best weights."""
    packer = Packer(RECIPE, TOKENIZER, weights(), noise_documents())
    budget = packer.size(Setting(5)) + 20
    setting = fit_to_budget(packer.size, budget, documents=[500] * 8, bits=8)
    assert setting == Setting(5)
    assert packer.size(setting) <= budget


def test_the_file_lands_just_under_a_tight_budget():
    """When the weights have to give, the weights fill the budget to within 1 %, and their error grows."""
    packer = Packer(RECIPE, TOKENIZER, weights(), noise_documents())
    best = packer.size(Setting(0))
    budget = best - packer.artifact(Setting(0)).weights["embedding.weight"].size // 4
    setting = fit_to_budget(packer.size, budget, documents=[500] * 8, bits=8)
    assert setting.documents == 0
    assert setting.coarseness > 1
    assert 0.99 * budget <= packer.size(setting) <= budget
    assert packer.error(setting)[0] > packer.error(Setting(0))[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("blocks.1.mlp.up.weight"), "blocks.1.mlp.up.weight"),
        (lambda w: w.update(stranger=np.ones((2, 2), np.float32)), "stranger"),
        (lambda w: w.update({"embedding.weight": np.ones((2, 2), np.float32)}), "embedding.weight has shape"),
        (lambda w: w["blocks.0.attention.query_gain"].fill(np.nan), "NaN"),
        (lambda w: w["blocks.0.mlp.up.weight"].fill(np.inf), "infinite"),
    ],
)
def test_weights_of_another_model_are_refused(change, says, tmp_path):
    """Missing, foreign, misshapen and diverged weights raise with the name or the reason, and nothing is written."""
    changed = weights()
    change(changed)
    with pytest.raises(RecipeError, match=says):
        pack(RECIPE, TOKENIZER, changed, (), tmp_path / "model.pyz")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_file_that_reads_back_differently_is_not_kept(tmp_path, monkeypatch):
    """If the weights in the file were not those that were quantised, the new process notices and no file is made."""
    honest = packer_module.write_weights

    def corrupting(tensors):
        first = tensors["embedding.weight"]
        values = first.values.copy()
        values[0, 0] ^= 1
        wrong = Quantized(values, first.scales, first.bits, first.shape)
        return honest(dict(tensors) | {"embedding.weight": wrong})

    monkeypatch.setattr(packer_module, "write_weights", corrupting)
    with pytest.raises(ArtifactError, match="other weights"):
        pack(RECIPE, TOKENIZER, weights(), (), tmp_path / "model.pyz")
    assert not list(tmp_path.iterdir())


def test_a_file_that_does_not_run_is_not_kept(tmp_path, monkeypatch):
    """If the sources inside fail in a new process, its last line is the reason and no file is made."""
    honest = packer_module.runtime_sources
    broken = {"__main__.py": b"raise SystemExit('the runtime is broken')\n"}
    monkeypatch.setattr(packer_module, "runtime_sources", lambda: honest() | broken)
    with pytest.raises(ArtifactError, match="the runtime is broken"):
        pack(RECIPE, TOKENIZER, weights(), (), tmp_path / "model.pyz")
    assert not list(tmp_path.iterdir())


def test_the_fingerprint_sees_every_part(packed):
    """Another weight, another primer token or another recipe gives another fingerprint, in its own entry."""
    artifact = open_artifact(packed.path)
    before = fingerprint(artifact)
    assert fingerprint(artifact) == before
    moved = {name: values.copy() for name, values in artifact.weights.items()}
    moved["blocks.0.mlp.up.weight"][0, 0] += 1.0
    after = fingerprint(dataclasses.replace(artifact, weights=moved))
    assert after["weights"] != before["weights"]
    assert after["recipe"] == before["recipe"]
    other = fingerprint(dataclasses.replace(artifact, primer=artifact.primer[:-1]))
    assert other["primer"] != before["primer"]
    assert other["weights"] == before["weights"]
    embedding = {**artifact.weights, "embedding.weight": -2 * artifact.weights["embedding.weight"]}
    assert fingerprint(dataclasses.replace(artifact, weights=embedding))["rows"] != before["rows"]


def test_sources_inside_are_readable_and_exact(packed):
    """The carried modules are the installed files, byte for byte."""
    members = read_container(packed.path).members
    root = paramgolf.__path__[0]
    for name, content in members.items():
        if name.startswith("paramgolf/"):
            assert content == Path(root, *name.split("/")[1:]).read_bytes()


EVERY_PART = ModelRecipe(
    layers=2,
    width=32,
    heads=2,
    kv_heads=1,
    value_layers=(0,),
    value_width=8,
    bigram_buckets=16,
    bigram_width=8,
    smear="within-document",
    residual_mix=True,
    block_scales=True,
)


@pytest.mark.parametrize(("clip", "small_bits"), [("search", 32), ("percentile", 16), ("percentile-floor", 16)])
def test_every_tensor_goes_through_every_clip(clip, small_bits, tmp_path):
    """A model with scalars, vectors, tables and matrices comes back as its schemes made it, for each way to clip."""
    squeeze = SqueezeRecipe(small_bits=small_bits, clip=clip)
    recipe = dataclasses.replace(RECIPE, model=EVERY_PART, squeeze=squeeze)
    rng = np.random.default_rng(4)
    shapes = tensor_shapes(EVERY_PART, TOKENIZER.vocab_size)
    trained = {name: np.asarray(rng.normal(0, 0.2, shape), np.float32) for name, shape in shapes.items()}
    packer = Packer(recipe, TOKENIZER, trained, ())
    path = tmp_path / "model.pyz"
    path.write_bytes(packer.file(Setting(0)))
    artifact = open_artifact(path)
    assert {name: values.shape for name, values in artifact.weights.items()} == shapes
    assert shapes["bigram.scale"] == ()
    for name, scheme in assign_schemes(shapes, default_schemes(squeeze)).items():
        expected = trained[name]
        if not scheme.raw():
            expected = dequantize(quantize(expected, scheme))
        elif scheme.bits == 16:
            expected = expected.astype(np.float16).astype(np.float32)
        assert artifact.weights[name].tobytes() == expected.tobytes()
    assert 0 < packer.error(Setting(0))[1] < 0.1


@pytest.mark.slow
def test_other_clips_pass_the_proof_and_meet_a_tight_budget(tmp_path):
    """Steps of the published quantisers grow like ours when the budget asks, and the file runs in a new process."""
    recipe = dataclasses.replace(RECIPE, squeeze=SqueezeRecipe(small_bits=16, clip="percentile"))
    budget = Packer(recipe, TOKENIZER, weights(), ()).size(Setting(0)) - 4000
    report = pack(recipe, TOKENIZER, weights(), (), tmp_path / "model.pyz", budget=budget)
    assert report.setting.coarseness > 1
    assert 0.999 * budget <= report.bytes <= budget


def test_a_contest_window_does_not_slow_the_proof(packed):
    """The rows that two processes compare come from short frames, whatever frames the recipe scores with."""
    artifact = open_artifact(packed.path)
    long = dataclasses.replace(artifact.recipe, score=ScoreRecipe(window=1 << 30, stride=1 << 20))
    assert fingerprint(dataclasses.replace(artifact, recipe=long))["rows"]


@pytest.mark.slow
def test_packing_that_takes_a_while_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    """Past the first seconds every size that is tried is a line on stderr, with the budget; before, nothing is."""
    monkeypatch.setattr(pack_module, "PROGRESS_SECONDS", 0.0)
    budget = Packer(RECIPE, TOKENIZER, weights(), ()).size(Setting(0)) - 4000
    report = pack(RECIPE, TOKENIZER, weights(), (), tmp_path / "a.pyz", budget=budget)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3
    assert f"steps times {report.setting.coarseness:.3f}: {report.bytes:,} bytes, {budget:,} may be" in "\n".join(lines)
    monkeypatch.setattr(pack_module, "PROGRESS_SECONDS", 1e9)
    pack(RECIPE, TOKENIZER, weights(), (), tmp_path / "b.pyz", budget=budget)
    assert not capsys.readouterr().err
