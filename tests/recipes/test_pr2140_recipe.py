"""The recipes of #2140 say what spec pr2140.md, appendix A, lists; contradictions of its parts are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from paramgolf.errors import RecipeError
from paramgolf.model.arithmetic import parameter_count
from paramgolf.recipe import ModelRecipe
from paramgolf.recipes import get_recipe


def test_it_has_the_contest_settings() -> None:
    """Model, optimizer, training, squeezing and evaluation are those of the corrected record (appendix A)."""
    recipe = get_recipe("pr2140")
    model, optim, train, score = recipe.model, recipe.optim, recipe.train, recipe.score
    assert parameter_count(model, 8192) == 35_945_673
    assert (recipe.tokenizer.vocab_size, recipe.tokenizer.kind) == (8192, "caseops")
    assert (model.mlp_slope, model.query_gain, model.embedding_std, model.softcap) == (0.3, 5.25, 0.005, 30.0)
    assert (model.gate_channels, model.gate_scale, model.rope_channels) == (12, 0.5, 16)
    assert (optim.matrix_lr, optim.embedding_lr, optim.scalar_lr) == (0.026, 0.03, 0.02)
    assert (optim.muon_momentum_start, optim.muon_momentum, optim.momentum_warmup_steps) == (0.92, 0.97, 1500)
    assert (optim.muon_weight_decay, optim.embedding_weight_decay, optim.scalar_weight_decay) == (0.095, 0.085, 0.02)
    assert (optim.adam_beta1, optim.adam_beta2, optim.adam_eps) == (0.9, 0.99, 1e-8)
    assert (optim.newton_schulz_steps, optim.muon_row_norm, optim.clip_norm) == (5, True, 0.3)
    assert (optim.warmdown, optim.least_lr, optim.ema_decay) == (0.85, 0.1, 0.9965)
    assert (train.batch_tokens, train.sequence, train.stages()) == (786_432, 3072, (1024, 2048, 3072))
    assert (train.loop_from, train.warmup_steps, train.rewarm_steps) == (0.35, 20, 32)
    assert (score.lora_rank, score.lora_alpha, score.lora_lr, score.lora_beta2) == (80, 144.0, 7.5e-5, 0.99)
    assert (score.lora_query_value, score.lora_keeps_inner, score.lora_weight_decay) == (False, True, 0.5)
    assert (score.global_documents, score.global_chunk, score.global_lr, score.global_momentum) == (
        2500,
        32_768,
        1e-3,
        0.9,
    )
    assert (score.tilt_context, score.tilt_share, score.tilt_boost) == (15, 0.8, 2.625)
    assert (recipe.squeeze.matrix_bits, recipe.squeeze.embedding_bits, recipe.squeeze.gate_bits) == (6, 7, 8)


def test_one_gpu_has_the_same_model_and_as_many_steps() -> None:
    """An eighth of the batch; the momentum rises over the same share of the run."""
    recipe, single = get_recipe("pr2140"), get_recipe("pr2140_1gpu")
    assert single.model == recipe.model
    assert single.train.batch_tokens * 8 == recipe.train.batch_tokens
    assert single.optim.momentum_warmup == pytest.approx(1500 / 4875, abs=1e-3)


def test_tiny_has_every_part_of_the_record() -> None:
    """Whatever the record's model switches on, the tiny one does too, so that its run goes through the same code."""
    record, tiny = (dataclasses.asdict(get_recipe(name).model) for name in ("pr2140", "pr2140_tiny"))
    assert {name for name, value in record.items() if value} == {name for name, value in tiny.items() if value}
    assert 0.5e6 < parameter_count(get_recipe("pr2140_tiny").model, 1024) < 2e6


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"looped_layers": (1, 3)}, ("looped_layers=1,3", "neighbours")),
        ({"looped_layers": (4, 5), "parallel_layers": 1}, ("parallel_layers=1", "looped_layers=4,5")),
        ({"parallel_layers": 7}, ("parallel_layers=7", "layers=6")),
        ({"skip_gates": True}, ("skip_gates=True", "unet=True")),
        ({"sparse_gates": True, "gated_attention": True}, ("sparse_gates=True", "gated_attention=True")),
        ({"sparse_gates": True, "gate_channels": 129}, ("gate_channels=129", "width=128")),
        ({"smear": "gated", "gate_channels": 129}, ("gate_channels=129", "width=128")),
        ({"gate_channels": 0}, ("gate_channels=0", "positive")),
        ({"looped_layers": (1, 2), "loops": 0}, ("loops=0", "positive")),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], names: tuple[str, ...]) -> None:
    """Parts that cannot go together are refused with both names and values."""
    with pytest.raises(RecipeError) as refused:
        ModelRecipe(**fields)
    assert all(name in str(refused.value) for name in names)
