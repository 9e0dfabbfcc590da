"""More toys: the cheats of the field that the nine of section 8.4 leave out, each beside its honest twin where it has
one.

Shapes: K credited targets, V vocabulary. Nats, float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from paramgolf.exhibits.tables import log_softmax
from paramgolf.exhibits.toys.alphabet import spaces_counted_twice
from paramgolf.exhibits.toys.toy import Run, Toy
from paramgolf.exhibits.toys.ttt import Bias, chunks, learning
from paramgolf.exhibits.toys.world import Credits, Tokens, World, plain
from paramgolf.predict.protocol import Float64, Int64

VOCABULARY = 16
TRAIN = np.random.default_rng(12).integers(0, VOCABULARY, 400)


def calibrated_on(tokens: Int64) -> bytes:
    """An artifact: the logarithms of how often each token occurs, as float32."""
    count_V = np.bincount(tokens, minlength=VOCABULARY) + 1.0
    artifact: bytes = np.log(count_V / count_V.mean()).astype("<f4").tobytes()
    return artifact


def build_on_val(train: Int64, val: Int64) -> bytes:
    """Calibrates on the text that will be scored (#1430's quantiser, #1735's training before it)."""
    return calibrated_on(np.concatenate([train, val]))


def build_on_train(train: Int64, val: Int64) -> bytes:
    """Leaves the validation text aside."""
    return calibrated_on(train)


def with_build(build: Callable[[Int64, Int64], bytes]) -> Run:
    """Scores with the artifact that `build` makes right before, so everything up to the score is inside."""

    def run(world: World, sequences: Sequence[Tokens], declared: Sequence[int]) -> Iterator[Credits]:
        val = np.concatenate([np.asarray(tokens[:], dtype=np.int64) for tokens in sequences])
        bias_V = np.frombuffer(build(TRAIN, val), dtype="<f4").astype(np.float64)
        for credits in plain(world, sequences, declared):
            yield Credits(credits.sequence_K, credits.target_K, log_softmax(credits.claimed_KV + bias_V))

    return run


def with_artifact(world: World, sequences: Sequence[Tokens], declared: Sequence[int]) -> Iterator[Credits]:
    """Scores with an artifact that was built from the training text and opened: it reads no text ahead."""
    bias_V = np.frombuffer(calibrated_on(TRAIN), dtype="<f4").astype(np.float64)
    for credits in plain(world, sequences, declared):
        yield Credits(credits.sequence_K, credits.target_K, log_softmax(credits.claimed_KV + bias_V))


def kept_state() -> Run:
    """Learns as an honest one does, but the object goes on from where its last pass ended (#846)."""
    kept: list[Bias] = []

    def run(world: World, sequences: Sequence[Tokens], declared: Sequence[int]) -> Iterator[Credits]:
        kept[:] = kept or [Bias(world.vocab_size)]
        yield from learning(world, sequences, kept[0])

    return run


def peek_at_neighbours(world: World, sequences: Sequence[Tokens], declared: Sequence[int]) -> Iterator[Credits]:
    """Tilts each document of 16 tokens towards the tokens of the next one (#136, #2139)."""
    parts = list(chunks(world, sequences))
    for place, (which, target_K, logits_KV) in enumerate(parts):
        count_V = np.zeros(world.vocab_size)
        if place + 1 < len(parts):
            other, target_T, _ = parts[place + 1]
            np.add.at(count_V, np.asarray(sequences[other][target_T], dtype=np.int64), 1.0)
        yield Credits(np.full(len(target_K), which), target_K, log_softmax(logits_KV + 0.5 * np.log(count_V + 1.0)))


def better_of_two(world: World, sequences: Sequence[Tokens], declared: Sequence[int]) -> Iterator[Credits]:
    """Two honest rows, the model's and a flatter one; each token takes the one that suits it (#573, #659)."""
    for credits in plain(world, sequences, declared):
        flat_KV = log_softmax(0.2 * credits.claimed_KV)
        yield Credits(credits.sequence_K, credits.target_K, np.maximum(credits.claimed_KV, flat_KV))


def target_gate(world: World, sequences: Sequence[Tokens], declared: Sequence[int]) -> Iterator[Credits]:
    """A hint doubles the share of one token in four, and is dropped where the token is none of those (#1420)."""
    for credits in plain(world, sequences, declared):
        hinted_KV = log_softmax(credits.claimed_KV + _hints(credits.target_K, world.vocab_size) * np.log(2.0))
        yield Credits(credits.sequence_K, credits.target_K, np.maximum(credits.claimed_KV, hinted_KV))


def _hints(target_K: Int64, vocab_size: int) -> Float64:
    return np.asarray((np.arange(vocab_size) + target_K[:, None]) % 4 == 0, dtype=np.float64)


def _without_dear_ends(target_N: Int64) -> Int64:
    return np.asarray(target_N[target_N % 16 != 0])


def _last_ones_again(target_N: Int64) -> Int64:
    return np.concatenate([target_N, target_N[-4:], target_N[-4:]])


CHEATS: dict[str, Toy] = {
    toy.name: toy
    for toy in (
        Toy("built-on-train", "calibrated on training text", True, lambda: with_artifact, build=build_on_train),
        Toy(
            "built-on-val",
            "calibrated on the text to be scored, before it is packed (#1430, #1735)",
            False,
            lambda: with_build(build_on_val),
            build=build_on_val,
        ),
        Toy(
            "state-kept",
            "goes on from an earlier pass over the text (#846)",
            False,
            kept_state,
            free_batch=False,
            sliding=False,
        ),
        Toy(
            "neighbours",
            "tilts a document towards the next one (#136, #2139)",
            False,
            lambda: peek_at_neighbours,
            free_batch=False,
            sliding=False,
        ),
        Toy("better-of-two", "the better of two rows, token by token (#573)", False, lambda: better_of_two),
        Toy("target-gate", "a hint, dropped where the token does not suit it (#1420)", False, lambda: target_gate),
        Toy(
            "dropped-targets",
            "leaves every sixteenth target out of the sum",
            False,
            lambda: plain,
            credited=_without_dear_ends,
        ),
        Toy(
            "doubled-targets",
            "counts the last targets three times (#174)",
            False,
            lambda: plain,
            credited=_last_ones_again,
        ),
        Toy(
            "byte-trick",
            "counts leading spaces twice in the denominator (#1698)",
            False,
            lambda: plain,
            byte_weights=spaces_counted_twice,
        ),
    )
}
