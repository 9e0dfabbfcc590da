"""Recipes build, survive JSON, and refuse contradictions with both names and values."""

import dataclasses
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramgolf.errors import RecipeError
from paramgolf.model.arithmetic import parameter_count, parameter_shapes
from paramgolf.model.gpt import GPT
from paramgolf.predict.ttt_step import learning_rate
from paramgolf.recipe import (
    BudgetRecipe,
    ModelRecipe,
    OptimRecipe,
    Recipe,
    ScoreRecipe,
    SqueezeRecipe,
    TrainRecipe,
)
from paramgolf.recipes import RECIPE_NAMES, get_recipe


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_recipe_builds_its_model(name: str) -> None:
    """Each recipe carries its own name, and its model has as many parameters as the arithmetic says."""
    recipe = get_recipe(name)
    assert recipe.name == name
    vocab_size = recipe.tokenizer.vocab_size
    model = GPT(recipe.model, vocab_size)
    assert sum(p.numel() for p in model.parameters()) == parameter_count(recipe.model, vocab_size)
    assert recipe.score.window <= recipe.train.sequence


def test_sizes_are_those_announced() -> None:
    """The quickstart has about one million parameters, the baseline about 17 million."""
    sizes = {
        name: parameter_count(get_recipe(name).model, get_recipe(name).tokenizer.vocab_size) for name in RECIPE_NAMES
    }
    assert 0.7e6 < sizes["quickstart"] < 1.5e6
    assert 16e6 < sizes["baseline"] < 18e6


def test_the_rate_of_test_time_training_is_the_published_one() -> None:
    """#1430's cosine from 1e-3 with its floor of 1e-4 (spec pr1430.md, section 11)."""
    score = get_recipe("pr1430").score
    rates = {0: 1e-3, 473: 8.535534e-4, 946: 5e-4, 1419: 1.464466e-4, 1504: 1.002275e-4, 1505: 1e-4, 1892: 1e-4}
    assert {chunk: learning_rate(score, chunk, 1893) for chunk in rates} == pytest.approx(rates, rel=1e-6)


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_recipe_survives_json(name: str) -> None:
    """Written and read back, a recipe is equal and has the same fingerprint."""
    recipe = get_recipe(name)
    back = Recipe.from_json(recipe.to_json())
    assert back == recipe
    assert back.fingerprint() == recipe.fingerprint()


def every_setting(record: dict[str, object], where: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    paths: list[tuple[str, ...]] = []
    for key, value in record.items():
        paths += every_setting(value, (*where, key)) if isinstance(value, dict) else [(*where, key)]
    return paths


TWICE_NAMED = {
    ("optim", "clip"): "before",
    ("squeeze", "clip"): "percentile",
    ("train", "order"): "stream",
    ("score", "order"): "longest-first",
}
OTHER_VALUES = {
    "kind": "bytes",
    "dtype": "bfloat16",
    "table_dtype": "bfloat16",
    "smear": "everywhere",
    "init": "orthogonal",
    "average": "swa",
    "matrix_bits": 5,
    "embedding_bits": 7,
    "small_bits": 16,
    "ngram_order": 7,
    "stride": 128,
    "ttt_optimizer": "sgd",
    "ttt_schedule": "cosine",
    "reserved_bytes": 1000,
    "crown_form": "published",
    "quantiser": "gptq",
    "calibration": "generated",
    "column_order": "natural",
    "slot_on": "logits",
    "slot_optimizer": "lbfgs",
    "newton_schulz": "polar-express",
    "correction_form": "symmetric",
    "allocation": "free",
    "wide_bits": 7,
    "gate_bits": 8,
    "tilt_context": 14,
    "looped_layers": (1, 2),
    "contexts": (128, 256),
    "contexts_until": (0.5,),
    "lora_chunks": (16,),
    "lora_chunks_until": (64,),
}
COMPANIONS = {  # of a setting that is nothing, or a contradiction, alone
    "warmdown_steps": {"warmdown": 0.0},
    "skip_gates": {"unet": True},
    "packed": {"order": "stream"},
    "allocation": {"quantiser": "gptq"},
    "wide_groups": {"quantiser": "gptq"},
    "contexts": {"contexts_until": (0.25,)},
    "contexts_until": {"contexts": (128, 256)},
    "lora_chunks_until": {"lora_chunks": (16, 32)},
}


def test_fingerprints_differ_with_any_setting() -> None:
    """Recipes have distinct fingerprints, and changing any one setting changes the fingerprint."""
    assert len({get_recipe(name).fingerprint() for name in RECIPE_NAMES}) == len(RECIPE_NAMES)
    recipe = get_recipe("quickstart")
    seen = {recipe.fingerprint()}
    paths = every_setting(dataclasses.asdict(recipe))
    for path in paths:
        record = dataclasses.asdict(recipe)
        inner = record
        for key in path[:-1]:
            inner = inner[key]
        value = inner[path[-1]]
        changes = {
            bool: lambda v: not v,
            int: lambda v: 2 * v or 4,
            float: lambda v: v / 2 or 0.25,
            str: lambda v: v + "x",
            tuple: lambda v: (*v, 1),
        }
        other = TWICE_NAMED.get(path, OTHER_VALUES.get(path[-1]))
        inner[path[-1]] = changes[type(value)](value) if other is None else other
        inner |= COMPANIONS.get(path[-1], {})
        seen.add(Recipe.from_json(json.dumps(record)).fingerprint())
    assert len(seen) == len(paths) + 1


@pytest.mark.parametrize(
    "wrong,hint",
    [("quikstart", "did you mean 'quickstart'"), ("base", "did you mean 'baseline'"), ("", ""), ("zzz", "")],
)
def test_unknown_names_get_a_suggestion(wrong: str, hint: str) -> None:
    """An unknown recipe is refused with the nearest name, if any is near, and the list of all."""
    with pytest.raises(RecipeError, match=f"no recipe {wrong!r}.*{hint}.*recipes: {', '.join(RECIPE_NAMES)}"):
        get_recipe(wrong)


@pytest.mark.parametrize(
    "make,says",
    [
        (lambda: ModelRecipe(width=130, heads=4), "heads=4 does not divide width=130"),
        (lambda: ModelRecipe(heads=4, kv_heads=3), "kv_heads=3 does not divide heads=4"),
        (lambda: ModelRecipe(width=12, heads=4), "width=12 / model.heads=4 must be even"),
        (lambda: ModelRecipe(layers=0), "layers=0 must be positive"),
        (lambda: ModelRecipe(softcap=float("nan")), "softcap=nan must be positive"),
        (lambda: ModelRecipe(rope_length=-1), "rope_length=-1 must not be negative"),
        (lambda: ModelRecipe(width=128, mlp_ratio=0.001), "mlp_ratio=0.001 of model.width=128 leaves the MLP no"),
        (lambda: OptimRecipe(muon_weight_decay=float("nan")), "muon_weight_decay=nan must not be negative"),
        (lambda: OptimRecipe(scalar_weight_decay=-1.0), "scalar_weight_decay=-1.0 must not be negative"),
        (lambda: OptimRecipe(warmdown_steps=-1), "warmdown_steps=-1 must not be negative"),
        (lambda: TrainRecipe(warmup_steps=-1), "warmup_steps=-1 must not be negative"),
        (lambda: ScoreRecipe(adapt="ttt-normcache", ngram_order=5), "cache_least_order=7 is above score.ngram_order=5"),
        (lambda: ScoreRecipe(alpha_base=0.5, alpha_range=0.6), "alpha_base=0.5 and score.alpha_range=0.6 add up"),
        (lambda: TrainRecipe(future_heads=300), "future_heads=300 look beyond train.sequence=256"),
        (lambda: ScoreRecipe(ttt_frozen_blocks=-1), "ttt_frozen_blocks=-1 must not be negative"),
        (lambda: OptimRecipe(ema_decay=1.5), "ema_decay=1.5 is outside 0..1"),
        (lambda: TrainRecipe(sequence=256, batch_tokens=1000), "batch_tokens=1000 .* train.sequence=256"),
        (lambda: ScoreRecipe(window=64, stride=65), "stride=65 is larger than score.window=64"),
        (lambda: ScoreRecipe(ngram_order=33), "ngram_order=33"),
        (lambda: SqueezeRecipe(matrix_bits=9), "matrix_bits=9 is outside 2..8"),
        (lambda: ScoreRecipe(lora_beta2=1.0), "lora_beta2=1.0 must be below 1"),
        (lambda: ScoreRecipe(lora_beta2=float("nan")), "lora_beta2=nan is outside 0..1"),
        (lambda: ScoreRecipe(lora_chunks=()), "lora_chunks= must name one positive number"),
        (lambda: ScoreRecipe(lora_chunks=(0,)), "lora_chunks=0 must name one positive number"),
        (
            lambda: ScoreRecipe(lora_chunks=(16, 32)),
            r"lora_chunks_until needs .*lora_chunks=16,32 \(1\), found none",
        ),
        (
            lambda: ScoreRecipe(lora_chunks=(16, 32, 64), lora_chunks_until=(256, 2000)),
            "lora_chunks_until=256,2000 and score.lora_chunks=16,32,64: chunks of 32 tokens from position 256 .* 2000",
        ),
        (lambda: ScoreRecipe(lora_chunks=(4, 8), lora_chunks_until=(0,)), "chunks of 4 tokens from position 0 do not"),
        (
            lambda: ScoreRecipe(lora_chunks=(1, 1, 1), lora_chunks_until=(5, 3)),
            "lora_chunks_until=5,3 must ascend .* score.lora_chunks=1,1,1",
        ),
        (lambda: BudgetRecipe(train_seconds=0), "^budget.train_seconds=0 must be positive"),
        (lambda: ModelRecipe(looped_layers=(2, 9)), r"looped_layers=2,9 must ascend within 0\.\.5"),
        (lambda: ModelRecipe(heads=0), "^model.heads=0 must be positive"),
        (lambda: ScoreRecipe(tilt_boost=-1.0), "^score.tilt_boost=-1.0 must not be negative"),
        (lambda: ScoreRecipe(tilt_share=2.0), "^score.tilt_share=2.0 is outside 0..1"),
    ],
)
def test_contradictions_name_fields_and_values(make: object, says: str) -> None:
    """A contradiction is refused where it is made, with the names that the flags have and the values of both sides."""
    with pytest.raises(RecipeError, match=says):
        make()  # type: ignore[operator]  # a lambda of the table above


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_other_json_is_refused_as_a_recipe(record: object) -> None:
    """No JSON value but a recipe is read, and no other exception escapes."""
    with pytest.raises(RecipeError):
        Recipe.from_json(json.dumps(record))


def test_names_need_no_torch() -> None:
    """Listing and reading recipes leaves torch unloaded."""
    code = (
        "import sys; from paramgolf.recipes import get_recipe; get_recipe('baseline'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pr549_has_the_contest_settings() -> None:
    """The recipe is spec pr549.md 3.1, and its one-GPU form has the same model and as many steps in as much time."""
    recipe, single = get_recipe("pr549"), get_recipe("pr549_1gpu")
    assert parameter_count(recipe.model, 1024) == 26_928_220
    assert len(parameter_shapes(recipe.model, 1024)) == 59
    optim, train, score = recipe.optim, recipe.train, recipe.score
    assert (optim.matrix_lr, optim.embedding_lr, optim.scalar_lr) == (0.025, 0.035, 0.025)
    assert (optim.muon_momentum_start, optim.muon_momentum, optim.momentum_warmup_steps) == (0.92, 0.99, 1500)
    assert (optim.muon_weight_decay, optim.embedding_weight_decay, optim.scalar_weight_decay) == (0.04, 0.04, 0.04)
    assert optim.clip_norm == 0.3
    assert (optim.warmdown_steps, optim.ema_decay, train.warmup_steps) == (3500, 0.997, 20)
    assert (train.batch_tokens, train.sequence, train.order) == (786_432, 2048, "stream")
    assert (score.window, score.stride, score.ttt_chunk, score.ttt_epochs, score.ttt_lr) == (2048, 64, 32_768, 3, 0.002)
    assert single.model == recipe.model
    assert single.train.batch_tokens * 8 == train.batch_tokens
    assert single.optim.warmdown == pytest.approx(3500 / 7185, abs=1e-3)


def test_pr549_tiny_has_every_part_of_the_record() -> None:
    """Whatever the record's model switches on, the tiny one does too, so that its run goes through the same code."""
    record, tiny = (dataclasses.asdict(get_recipe(name).model) for name in ("pr549", "pr549_tiny"))
    assert {name for name, value in record.items() if value} == {name for name, value in tiny.items() if value}
