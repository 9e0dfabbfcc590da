"""The rule about the order of documents: its class, its price, and what contradicts it (rules.md, V12)."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from paramgolf.errors import RunError
from paramgolf.predict.orders import carries
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import TableRows
from paramgolf.predict.score import combine, score
from paramgolf.predict.score_file import load, read_arrays, read_record, save, score_record
from paramgolf.recipe import Recipe, ScoreRecipe
from paramgolf.recipes import get_recipe
from paramgolf.referee.evidence import Evidence, run_evidence
from paramgolf.referee.limits import Limits
from paramgolf.referee.rules_order import document_order
from paramgolf.referee.rules_score import credited_once
from paramgolf.referee.rulesets import RULESETS

LENGTHS = [3, 9, 0, 9, 4]
DOCUMENTS = [np.arange(length) % 7 for length in LENGTHS]


class Uniform:
    vocab_size = 8

    def predict(self, chunk):
        return TableRows(np.full((*chunk.tokens.shape, 8), -np.log(8.0)), chunk)

    def observe(self, chunk):
        pass


def scored(lanes=1, order="longest-first", **changes):
    one = plan(LENGTHS, lanes=lanes, chunk=4, order=order)
    sizes = {"document_bytes": np.array([6, 18, 0, 18, 8], dtype=np.int64)}
    found = score(Uniform(), DOCUMENTS, one, 7, raw_bytes=50, text_digest="ab", audit_positions=2, seed=1)
    return dataclasses.replace(found, **{"adapt": "tilt", **sizes, **changes})


def evidence(tmp_path: Path, recipe: Recipe | None = None, **options) -> Evidence:
    save(scored(**options), tmp_path)
    return dataclasses.replace(run_evidence(tmp_path), recipe=recipe)


def recipe_with(**changes) -> Recipe:
    recipe = get_recipe("pr549_tiny")
    return dataclasses.replace(recipe, score=dataclasses.replace(recipe.score, **changes))


def test_the_streams_order_needs_no_words(tmp_path):
    """Class stream, and it passes under every rule set."""
    finding = document_order(evidence(tmp_path, order="stream"), Limits())
    assert (finding.status, finding.numbers["class"]) == ("PASS", "stream")
    assert all(document_order in ruleset.rules for ruleset in RULESETS)


def test_a_permuted_order_with_state_shows_what_is_charged_and_what_is_not(tmp_path):
    """One lane: the lengths are charged, and the bits of the permutation alone stand beside (5!/2! orders here)."""
    found = evidence(tmp_path, recipe_with())
    finding = document_order(found, Limits())
    assert (finding.status, finding.numbers["class"]) == ("PASS", "permuted-stateful")
    assert finding.numbers["permutation_bits"] == pytest.approx(math.log2(60))
    assert finding.numbers["permutation_bpb"] == pytest.approx(math.log2(60) / 50)
    assert finding.numbers["side_bits"] == 5 + 7 + 1 + 7 + 5
    assert "legal by precedent" in finding.says
    # And they are in the BPB that credited-once adds up again.
    again = credited_once(found, Limits())
    assert again.status == "PASS"
    assert again.numbers["side_bits"] == 25


def test_an_order_that_nothing_depends_on_is_stateless(tmp_path):
    """The model alone, in lanes where each document begins anew."""
    finding = document_order(evidence(tmp_path, recipe_with(), lanes=2, adapt="none"), Limits())
    assert (finding.status, finding.numbers["class"]) == ("PASS", "permuted-stateless")
    assert "by its own account (score.json: adapt 'none'" in finding.says


def test_without_a_recipe_nobodys_word_is_taken_for_it(tmp_path):
    """What adapts is then not known, so state may have been carried."""
    finding = document_order(evidence(tmp_path, None, lanes=2, adapt="none"), Limits())
    assert finding.numbers["class"] == "permuted-stateful"


def test_what_carries_state_between_documents():
    """One lane always; adapters that begin anew do not, a global phase or an inner matrix that is kept does."""
    plain = ScoreRecipe()
    assert carries("none", plain, 1)
    assert not carries("none", plain, 2)
    assert not carries("lora", plain, 2)
    assert carries("lora", dataclasses.replace(plain, lora_keeps_inner=True), 2)
    assert carries("lora", dataclasses.replace(plain, global_documents=5), 2)
    assert all(carries(name, plain, 8) for name in ("tilt", "lora-tilt", "ttt", "normcache", "never heard of"))


def test_files_that_contradict_each_other_fail(tmp_path):
    """score.json may not tell another order than the bits are in."""
    found = evidence(tmp_path, recipe_with())
    record = {**found.score, "plan": {**found.score["plan"], "order": "stream"}}
    finding = document_order(dataclasses.replace(found, score=record), Limits())
    assert finding.status == "FAIL"
    assert "'stream'" in finding.says


def test_no_bits_prove_no_order(tmp_path):
    """Missing files leave the order unknown."""
    assert document_order(run_evidence(tmp_path), Limits()).status == "UNPROVEN"


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_score_in_any_order_comes_back_from_its_files(tmp_path, lanes):
    """Saved and loaded: the same plan, bits and side bits."""
    before = scored(lanes)
    save(before, tmp_path)
    after = load(tmp_path)
    assert score_record(after) == score_record(before)
    assert after.plan.document_index().tolist() == before.plan.document_index().tolist()


def test_files_from_before_there_were_orders_are_read(tmp_path):
    """Two numbers of a plan mean the stream's order; an order that does not exist is refused."""
    from paramgolf.predict.score_file import plan_of

    save(scored(order="stream"), tmp_path)
    arrays = read_arrays(tmp_path / "bits.npz")
    assert read_record(tmp_path / "score.json")["plan"]["order"] == "stream"
    assert plan_of({**arrays, "plan": arrays["plan"][:2]}).order == "stream"
    for wrong in (2, -1):
        with pytest.raises(RunError, match="order"):
            plan_of({**arrays, "plan": np.array([1, 4, wrong])})


def test_ranks_put_a_permuted_score_together():
    """Two ranks of one lane make the score of two lanes, and parts of two orders are not mixed."""
    parts = []
    for rank, order in ((0, "longest-first"), (1, "longest-first"), (1, "stream")):
        one = plan(LENGTHS, chunk=4, rank=rank, world=2, order=order)
        parts.append(score(Uniform(), DOCUMENTS, one, 7, raw_bytes=50, text_digest="", audit_positions=2, seed=1))
    whole = combine(parts[:2])
    assert whole.plan.order == "longest-first"
    assert whole.total_bits == pytest.approx(scored(2).total_bits)
    with pytest.raises(ValueError, match="different plans"):
        combine([parts[0], parts[2]])
