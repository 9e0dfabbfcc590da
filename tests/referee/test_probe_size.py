"""What the probes read: every lane gets tokens, and every kind of update is reached."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paramgolf.artifact.artifact import Artifact
from paramgolf.exhibits.lane_leak import LaneLeak
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Chunk, TableRows
from paramgolf.predict.tilt import TiltPredictor
from paramgolf.recipe import ModelRecipe, Recipe, ScoreRecipe, TokenizerRecipe
from paramgolf.referee.live import Subject, probe_subject, subject_of
from paramgolf.referee.probe_size import PROBE, SMALL_PROBE, ProbeSize, beginning
from paramgolf.text.byte_tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()
MODEL = ModelRecipe(layers=1, width=16, heads=2, kv_heads=1)
SCORE = ScoreRecipe(
    window=2048,
    stride=1024,
    chunk=4096,
    lora_rank=2,
    lora_lr=0.02,
    lora_chunks=(16, 512, 2048),
    lora_chunks_until=(256, 2304),
    lora_keeps_inner=True,
    global_documents=2500,
    ngram_order=3,
    cache_least_order=2,
)
DOCUMENTS = [b" ".join(b"word%d of document %d" % (i % 3, n) for i in range(30)) for n in range(12)]
SIZE = ProbeSize(tokens=360, chunk=32, window=64, positions=8, counterfactuals=1, candidates=16, decoded=16)


class Counts:
    """Honest order-0 counts."""

    vocab_size = TOKENIZER.vocab_size

    def __init__(self):
        self.counts = np.ones(self.vocab_size)

    def predict(self, chunk):
        row_V = np.log(self.counts / self.counts.sum())
        return TableRows(np.broadcast_to(row_V, (*chunk.tokens.shape, len(row_V))).copy(), chunk)

    def observe(self, chunk: Chunk):
        self.counts += np.bincount(chunk.tokens[chunk.real()], minlength=self.vocab_size)


def make_artifact(lanes):
    rng = np.random.default_rng(3)
    shapes = tensor_shapes(MODEL, TOKENIZER.vocab_size)
    weights = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    score = dataclasses.replace(SCORE, lanes=lanes)
    return Artifact(
        Recipe("tiny", TokenizerRecipe("bytes", TOKENIZER.vocab_size), MODEL, score=score), TOKENIZER, weights
    )


@pytest.mark.parametrize("size", [PROBE, SMALL_PROBE])
@pytest.mark.parametrize("lanes", [1, 4, 64])
@pytest.mark.parametrize(("chunks", "until"), [((32,), ()), ((2048,), ()), ((16, 32, 64), (256, 2048))])
def test_any_schedule_of_adapters_fits_the_probes_window(size, lanes, chunks, until):
    """However long the recipe's chunks are, the probe's are within its window, and all are met in one document."""
    recipe = ScoreRecipe(window=2048, stride=64, chunk=4096, lanes=lanes, lora_chunks=chunks, lora_chunks_until=until)
    short = size.settings(recipe)
    assert len(short.lora_chunks) == len(chunks)
    assert max(short.lora_chunks) <= min(short.window, short.chunk)
    share = size.tokens // (2 * lanes)
    assert sum(short.lora_chunks) <= max(share // 2, len(chunks))


@given(
    lengths=st.lists(st.integers(0, 400), min_size=1, max_size=40),
    lanes=st.integers(1, 8),
    most=st.integers(1, 300),
)
def test_every_lane_gets_tokens_if_there_are_documents(lengths, lanes, most):
    """Each document is cut to its share: as many lanes are filled as there are documents with text, up to all."""
    kept = beginning([np.zeros(length) for length in lengths], most, lanes, len(lengths))
    assert all(len(ids) <= length for ids, length in zip(kept, lengths))
    assert sum(map(len, kept)) < 2 * most + 2 * lanes
    rows = plan([len(ids) for ids in kept], lanes=lanes, chunk=16).segments
    if most >= 2 * lanes:
        texts = sum(length > 0 for length in lengths)
        assert len(set(rows.lane.tolist())) >= min(lanes, texts) or lanes == 1


def test_a_leak_between_lanes_is_met_though_the_first_document_fills_the_probe():
    """The documents are cut, so that lanes have neighbours; with one document alone nothing is said of lanes."""
    long = [b"the first document is long " * 200, b"and so is the second one " * 200]

    def statuses(documents, make):
        subject = Subject(TOKENIZER, 2, lambda tokens: make(), size=SIZE)
        return {finding.rule: finding.status for finding in probe_subject(subject, documents, seed=5)}

    assert statuses(long, lambda: LaneLeak(Counts()))["lanes-apart"] == "FAIL"
    assert set(statuses(long, Counts).values()) == {"PASS"}
    assert statuses(long[:1], Counts)["lanes-apart"] == "UNPROVEN"


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 3])
def test_adapters_a_global_phase_and_a_tilt_pass_together(lanes, monkeypatch):
    """The strict form of #2140, inner matrices kept and weights moved, keeps every promise; each update is reached."""
    torch.set_num_threads(1)
    monkeypatch.setattr("paramgolf.referee.live.probe_size", lambda predictor, lanes: SIZE)
    subject = subject_of(make_artifact(lanes), "lora-tilt")
    made: list[TiltPredictor] = []

    def noted(tokens):
        made.append(subject.probed(tokens))
        return made[-1]

    before = subject.probed(1).neural.model.embedding.weight.clone()
    findings = probe_subject(dataclasses.replace(subject, probed=noted), DOCUMENTS, seed=7)
    assert {finding.status for finding in findings} == {"PASS"}
    inner = made[0].neural
    assert inner.learning.updates > 0 and not inner.learning.stopped
    assert not torch.equal(inner.model.embedding.weight, before)
    assert made[0].experts[0].source.contexts_in_use() > 0
