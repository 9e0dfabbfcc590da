"""The coded file: any bytes to a file and back, and every damage refused."""

from __future__ import annotations

import dataclasses
import hashlib
import lzma
import random
import struct
import sys
import time
import types

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paramgolf.artifact.artifact import Artifact
from paramgolf.codec import file
from paramgolf.codec.file import decode_bytes, encode, encode_bytes, worth_a_model
from paramgolf.codec.header import END
from paramgolf.errors import CodecError, RecipeError
from paramgolf.model.gpt import GPT
from paramgolf.predict.protocol import Predictor
from paramgolf.predict.step import StepPredictor
from paramgolf.predict.ttt import TttPredictor
from paramgolf.predict.window import WindowPredictor
from paramgolf.recipe import ModelRecipe, Recipe, ScoreRecipe, TokenizerRecipe
from paramgolf.text.byte_tokenizer import ByteTokenizer

MODEL = ModelRecipe(layers=2, width=16, heads=4, kv_heads=2)
SCORE = ScoreRecipe(window=16, stride=12, chunk=24, ttt_chunk=48)
HEADER_BYTES = 100
FIXTURES = [HealthCheck.function_scoped_fixture]


def make_artifact(seed: int = 0) -> Artifact:
    rng = np.random.default_rng(seed)
    shapes = {name: tuple(p.shape) for name, p in GPT(MODEL, 260).exported_weights().items()}
    weights = {name: (rng.standard_normal(shape) * 0.2).astype(np.float32) for name, shape in shapes.items()}
    recipe = Recipe("test", TokenizerRecipe("bytes", 260), MODEL, score=SCORE)
    return Artifact(recipe, ByteTokenizer(), weights, digest=hashlib.sha256(bytes([seed])).hexdigest())


def build(artifact: Artifact, adapt: str, *, incremental: bool, tokens: int | None = None) -> Predictor:
    """The neural part of `build_predictor`, which has tests of its own."""
    assert incremental
    if adapt == "none":
        return StepPredictor(artifact.weights, artifact.recipe.model, artifact.recipe.score, 260, 1)
    if adapt == "ttt":
        model = GPT(artifact.recipe.model, 260)
        model.load_exported(artifact.weights)
        window = WindowPredictor(model, artifact.recipe.score, 260, 1, frames_per_batch=1)
        return TttPredictor(window, chunk=1, tokens=tokens)
    raise RecipeError(f"unknown adaptation {adapt!r}")


@pytest.fixture(autouse=True)
def builder(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("paramgolf.predict.adapt")
    module.build_predictor = build
    monkeypatch.setitem(sys.modules, "paramgolf.predict.adapt", module)


@settings(deadline=None, max_examples=25, suppress_health_check=FIXTURES)
@given(st.binary(max_size=60), st.sampled_from(["smallest", "model"]))
def test_any_bytes_come_back(data: bytes, method: str) -> None:
    """Empty, NUL, invalid UTF-8: whatever the bytes are, they come back, with the model too."""
    coded = encode(make_artifact(), data, method=method)
    assert decode_bytes(make_artifact(), coded.data) == data
    assert coded.method == "model" or method == "smallest"
    assert coded.tokens == (len(data) if coded.method == "model" else 0)


@settings(deadline=None, max_examples=6, suppress_health_check=FIXTURES)
@given(st.text(max_size=100))
def test_text_comes_back_while_the_model_learns(text: str) -> None:
    """With test-time training the decoder learns the same, step by step."""
    data = text.encode("utf-8", errors="surrogatepass")
    coded = encode(make_artifact(), data, "ttt", method="model")
    assert decode_bytes(make_artifact(), coded.data) == data


def test_learning_changes_the_code() -> None:
    """The name of the adaptation reaches the predictor, and the file says which it was."""
    data = b"abcabcabd" * 15
    plain, learnt = (encode(make_artifact(), data, adapt, method="model") for adapt in ("none", "ttt"))
    assert learnt.claimed_bits < plain.claimed_bits
    assert decode_bytes(make_artifact(), learnt.data) == data
    with pytest.raises(RecipeError, match="unknown adaptation 'nonsense'"):
        encode(make_artifact(), data, "nonsense", method="model")


def test_the_size_is_what_the_rows_claim() -> None:
    """The code is within 0.5 % of the claimed bits, and the rest of the file under 100 bytes and 4 a block."""
    data = random.Random(0).randbytes(4000)
    coded = encode(make_artifact(), data, method="model")
    assert coded.tokens == 4000
    assert 0 <= 8 * coded.code_bytes - coded.claimed_bits < 0.005 * coded.claimed_bits
    assert len(coded.data) <= coded.code_bytes + HEADER_BYTES + 8
    assert decode_bytes(make_artifact(), coded.data) == data


@pytest.mark.parametrize("method", ["smallest", "model"])
@pytest.mark.parametrize("data", [b"", b"hello \xff\x00 world", b"a" * 3000])
def test_a_file_damaged_in_any_byte_is_refused(data: bytes, method: str) -> None:
    """Each byte changed, each prefix and each extension is a CodecError, before a predictor is even built."""
    if method == "model":
        data = data[:40]
    artifact = make_artifact()
    good = encode(artifact, data, method=method).data
    sys.modules["paramgolf.predict.adapt"].build_predictor = None
    rng = random.Random(0)
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= rng.randrange(1, 256)
        with pytest.raises(CodecError):
            decode_bytes(artifact, bytes(bad))
        with pytest.raises(CodecError):
            decode_bytes(artifact, good[:at])
    with pytest.raises(CodecError, match="damaged or cut off"):
        decode_bytes(artifact, good + b"\0")


@pytest.mark.parametrize("method", ["smallest", "model"])
def test_another_artifact_is_refused(method: str) -> None:
    """A file made with another artifact names both digests, whatever its method."""
    coded = encode(make_artifact(0), b"some text", method=method).data
    with pytest.raises(CodecError) as caught:
        decode_bytes(make_artifact(1), coded)
    assert make_artifact(0).digest[:32] in str(caught.value)
    assert make_artifact(1).digest[:32] in str(caught.value)


def test_an_artifact_that_never_was_a_file_is_refused() -> None:
    """Without a digest nothing can be coded."""
    with pytest.raises(CodecError, match="pack it first"):
        encode_bytes(dataclasses.replace(make_artifact(), digest=""), b"text")


def test_a_machine_with_other_rows_is_reported_at_the_first_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the decoder's rows differ, the check of the first block finds it, before the rest is decoded."""
    monkeypatch.setattr(file, "BLOCK", 64)
    data = bytes(range(32, 96)) * 4
    coded = encode(make_artifact(), data, method="model").data
    assert decode_bytes(make_artifact(), coded) == data
    other = dataclasses.replace(make_artifact(1), digest=make_artifact(0).digest)
    shares: list[float] = []
    with pytest.raises(CodecError, match=r"tokens 0 to 63 come out differently|fits no token"):
        decode_bytes(other, coded, shares.append)
    assert max(shares) <= 0.25


def test_a_sealed_header_that_lies_is_refused() -> None:
    """A header with a good seal but impossible numbers, an unknown version or a short body is a CodecError."""
    artifact = make_artifact()
    good = encode(artifact, b"some text", "none", method="model").data[:-END]
    at = 4 + 1 + 1 + 16 + 1 + len("none")
    lies = {
        "version 9": good[:4] + b"\x09" + good[5:],
        "method 7": good[:5] + b"\x07" + good[6:],
        "damaged": good[: at + 8] + struct.pack("<I", 2**32 - 1) + good[at + 12 :],
        "9 tokens for": good[: at + 20],
        "not the 5 coded": good[:at] + struct.pack("<Q", 5) + good[at + 8 :],
        "not the 9 coded": good[: at + 12] + b"\0" * 8 + good[at + 20 :],
        "not ASCII": good[: at - 1] + b"\xff" + good[at:],
        "header of the coded file needs": good[:22] + b"\xff" + good[23:],
    }
    for message, content in lies.items():
        with pytest.raises(CodecError, match=message):
            decode_bytes(artifact, content + hashlib.sha256(content).digest()[:END])


def test_xz_that_grows_beyond_its_length_is_refused() -> None:
    """A bomb in the xz body is not unpacked beyond the length that the header states."""
    artifact = make_artifact()
    coded = encode_bytes(artifact, b"a" * 5000)
    body = lzma.compress(bytes(5_000_000))
    content = coded[: 4 + 1 + 1 + 16 + 1 + len("none") + 20] + body
    with pytest.raises(CodecError, match="decoded 5001 bytes that are not the 5000"):
        decode_bytes(artifact, content + hashlib.sha256(content).digest()[:END])


def test_ten_megabytes_of_zeros_are_fast_and_small() -> None:
    """10 MB of zeros take seconds, not an hour, and come back."""
    begin = time.perf_counter()
    data = bytes(10_000_000)
    coded = encode(make_artifact(), data)
    assert coded.method == "xz" and len(coded.data) < 10_000
    assert decode_bytes(make_artifact(), coded.data) == data
    assert time.perf_counter() - begin < 60


@settings(deadline=None, max_examples=15, suppress_health_check=FIXTURES)
@given(st.one_of(st.binary(max_size=50), st.text(max_size=30).map(str.encode), st.integers(0, 3000).map(bytes)))
def test_no_file_is_larger_than_xz_or_the_data_and_a_header(data: bytes) -> None:
    """The chosen method is never worse than xz, nor than the data itself, by more than the header."""
    size = len(encode_bytes(make_artifact(), data))
    assert size <= min(len(data), len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))) + HEADER_BYTES


def test_what_is_worth_a_model() -> None:
    """Text is, in any script and with some bad bytes; binaries, zeros and nothing are not."""
    prose = "Es war einmal, наконец, 昔々. ".encode() * 3
    assert worth_a_model(prose, len(prose))
    assert worth_a_model(prose + b"\xff\x00", len(prose))
    assert not worth_a_model(prose, len(prose) // 21)
    assert not worth_a_model(random.Random(0).randbytes(1000), 1000)
    assert not worth_a_model(b"\0" * 1000, 1000)
    assert not worth_a_model(b"", 0)


def test_progress_rises_from_nothing_to_all() -> None:
    """Both directions tell shares that rise from 0 to 1."""
    data = b"text " * 120
    for _ in range(2):
        up: list[float] = []
        down: list[float] = []
        coded = encode(make_artifact(), data, method="model", progress=up.append)
        decode_bytes(make_artifact(), coded.data, down.append)
        assert up == sorted(up) and down == sorted(down)
        assert up[0] == down[0] == 0 and up[-1] == down[-1] == 1 and len(up) > 3


def test_threads_are_left_as_they_were() -> None:
    """Coding with torch in the process runs on one thread and puts the user's number back, also after an error."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    coded = encode(make_artifact(), b"text", "ttt", method="model").data
    other = dataclasses.replace(make_artifact(1), digest=make_artifact(0).digest)
    with pytest.raises(CodecError):
        decode_bytes(other, coded)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
