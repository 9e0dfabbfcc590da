"""The honest predictors: each passes every probe, has a clean audit, and decodes through the codec bit for bit."""

import functools
import heapq
import inspect
import textwrap
from collections import Counter

import numpy as np
import pytest
import torch

from paramgolf.codec.arithmetic import decode_plan, encode_plan
from paramgolf.exhibits import EXHIBITS
from paramgolf.model.gpt import GPT
from paramgolf.predict.mix import MixPredictor
from paramgolf.predict.ngram import NgramPredictor
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import TableRows
from paramgolf.predict.score import score
from paramgolf.predict.ttt import TttPredictor
from paramgolf.predict.window import WindowPredictor
from paramgolf.recipe import ModelRecipe, ScoreRecipe
from paramgolf.referee.probes import probe_predictor

V, BOUNDARY, CHUNK = 49, 48, 32
MODEL = ModelRecipe(layers=2, width=32, heads=2, kv_heads=1)
SCORE = ScoreRecipe(window=32, stride=16, ttt_chunk=64, ttt_lr=3e-3)


@functools.cache
def ids(module):
    """The source of a module in an alphabet of its 47 commonest characters and one for the rest."""
    common = "".join(character for character, _ in Counter(inspect.getsource(inspect)).most_common(47))
    return np.array([common.find(character) % 48 for character in inspect.getsource(module)])


@functools.cache
def documents():
    """Pieces of two modules of the standard library; the trained model learns from another."""
    return ids(textwrap)[300:430], ids(heapq)[1000:1110], ids(textwrap)[900:960], ids(heapq)[3000:3090]


class Uniform:
    """Knows nothing: the floor of honesty."""

    vocab_size = V

    def predict(self, chunk):
        return TableRows(np.full((*chunk.tokens.shape, V), -np.log(V)), chunk)

    def observe(self, chunk):
        pass


class OrderThree:
    """Exact counts of one to three tokens, each order the prior of the next; frozen while a chunk is predicted."""

    vocab_size = V

    def __init__(self, strength=8.0):
        self.strength = strength
        self.counts = {}
        self.last = {}

    def line(self, chunk, lane):
        tail = [] if chunk.starts[lane] else self.last.get(lane, [])
        return len(tail), tail + chunk.tokens[lane, : chunk.lengths[lane]].tolist()

    def contexts(self, line, place):
        return [tuple(line[place - size : place]) for size in range(3) if place >= size]

    def predict(self, chunk):
        logprob = np.full((*chunk.tokens.shape, V), -np.log(V))
        for lane, length in enumerate(chunk.lengths.tolist()):
            first, line = self.line(chunk, lane)
            for position in range(length):
                row = np.full(V, 1 / V)
                for context in self.contexts(line, first + position):
                    if context in self.counts:
                        seen = self.counts[context]
                        row = (seen + self.strength * row) / (seen.sum() + self.strength)
                logprob[lane, position] = np.log(row)
        return TableRows(logprob, chunk)

    def observe(self, chunk):
        for lane, length in enumerate(chunk.lengths.tolist()):
            first, line = self.line(chunk, lane)
            for place in range(first, first + length):
                for context in self.contexts(line, place):
                    self.counts.setdefault(context, np.zeros(V))[line[place]] += 1
            self.last[lane] = line[-2:]


@functools.cache
def model(steps):
    """A tiny transformer after `steps` AdamW steps on the source of `inspect` (0: as initialised)."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    gpt = GPT(MODEL, V)
    stream = torch.from_numpy(ids(inspect))
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=1e-2, weight_decay=0.0)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        starts = rng.integers(0, len(stream) - 33, 16)
        batch = torch.stack([stream[start : start + 33] for start in starts])
        logits = gpt.logits(gpt.hidden(batch[:, :-1]))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return gpt.requires_grad_(False)


def window(steps, lanes):
    return WindowPredictor(model(steps), SCORE, V, BOUNDARY, lanes, frames_per_batch=2)


def ttt(lanes):
    return TttPredictor(WindowPredictor(model(60), SCORE, V, BOUNDARY, lanes), chunk=CHUNK)


def counts(lanes):
    return NgramPredictor(4, V, BOUNDARY, lanes)


HONEST = {
    "uniform": lambda lanes: Uniform(),
    "order-3 counts": lambda lanes: OrderThree(),
    "untrained transformer": lambda lanes: window(0, lanes),
    "trained transformer": lambda lanes: window(60, lanes),
    "ttt": ttt,
    "n-gram counts": counts,
    "n-gram mix": lambda lanes: MixPredictor(window(60, lanes), counts(lanes)),
    "n-gram mix over ttt": lambda lanes: MixPredictor(ttt(lanes), counts(lanes)),
}


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_predictor_passes_every_probe(name, lanes):
    """No rule fires on what is legal, and none is left unproven."""
    found = probe_predictor(
        lambda _: HONEST[name](lanes),
        documents(),
        lanes=lanes,
        chunk=CHUNK,
        boundary_id=BOUNDARY,
        seed=11,
        positions=10,
        counterfactuals=1,
        decoded_tokens=48,
    )
    assert {finding.rule: finding.says for finding in found if finding.status != "PASS"} == {}
    assert len({finding.rule for finding in found}) == len(found) == 10


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_predictor_decodes_bit_for_bit_to_what_was_claimed(name):
    """All documents come back from a code within 0.5 % (and 96 bits) of the credited bits."""
    order = plan([len(document) for document in documents()], chunk=CHUNK)
    size = sum(map(len, documents()))
    made = score(
        HONEST[name](1), documents(), order, BOUNDARY, raw_bytes=size, text_digest="", audit_positions=4, seed=2
    )
    assert made.audit.passed()
    code, claimed = encode_plan(HONEST[name](1), documents(), order, BOUNDARY)
    assert claimed == pytest.approx(made.bits.sum(), rel=1e-9)
    assert 8 * len(code) <= claimed * 1.005 + 96
    decoded = decode_plan(HONEST[name](1), code, order, BOUNDARY)
    assert all(np.array_equal(one, other) for one, other in zip(decoded, documents(), strict=True))


def test_what_learns_is_better_than_what_does_not():
    """The gallery is real: counts beat the uniform row, training beats none, and training at test time beats both."""
    order = plan([len(document) for document in documents()], lanes=3, chunk=CHUNK)

    def bits(name):
        return score(
            HONEST[name](3), documents(), order, BOUNDARY, raw_bytes=1, text_digest="", audit_positions=1, seed=2
        ).bits.mean()

    assert bits("ttt") < bits("trained transformer") < bits("untrained transformer")
    assert bits("n-gram mix") < bits("n-gram counts") < bits("uniform") == pytest.approx(np.log2(V))
    assert bits("order-3 counts") < bits("uniform")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXHIBITS)
def test_a_rogue_is_caught_on_a_neural_base_too(name):
    """Wrapped round a trained transformer, each exhibit fails the rule that names it."""
    exhibit = EXHIBITS[name]
    found = probe_predictor(
        lambda held_out: exhibit.build(lambda: window(60, 3), held_out),
        [document[:60] for document in documents()],
        lanes=3,
        chunk=CHUNK,
        boundary_id=BOUNDARY,
        seed=4,
        positions=10,
        counterfactuals=2,
        decoded_tokens=16,
    )
    assert {finding.rule: finding.status for finding in found}[exhibit.rule] == "FAIL"
