"""Score-first test-time training of PR #549's model on one GPU, beside the published 0.216 s x 8 GPUs a chunk.

    python bench/ttt_gpu.py [--json] [--eager]     # one H100, about 3 minutes
    python bench/ttt_gpu.py --cpu-smoke            # a tiny model, to test this script

A chunk is 32,768 tokens: 512 frames of 2048 that advance by 64 are scored, then 16 sequences are trained on for 3
epochs of SGD, one step each (spec pr549.md 5.4). Two ways are timed: the bare work (model, head on the 64 wanted rows
of each frame, loss, backward, clipping, SGD; compiled and eager), and the predictor as `paramgolf score` drives it,
with its planning, its log-probabilities in float64 and its copies between host and device. Published: 0.216 s on 8
GPUs, 1.728 GPU-seconds a chunk (spec pr549.md 5.5).

Prediction, before any measurement. Scoring: 1.05 M positions at 76.2 MFLOP, 80 TFLOP; 0.10 s at 800 TFLOP/s, and
about 0.35 s at the speed of the training step's forward pass (270 TFLOP/s of 83.5 ms / 3 for 98,304 tokens). Training:
98,304 tokens, one step's forward and backward, 0.08 s compiled. So 0.4 s compiled, a quarter of the published cost;
eagerly, as published, 1 to 1.7 s. Running frames that share a prefix once would save nothing: stride 64 shifts them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import log_softmax

from gpu_measure import ceilings, device_name, memory, seconds_of
from paramgolf.kernels.attention import attention_backend
from paramgolf.model.arithmetic import flops_per_token
from paramgolf.model.gpt import GPT
from paramgolf.predict.protocol import Chunk
from paramgolf.predict.ttt import TttPredictor
from paramgolf.predict.window import WindowPredictor
from paramgolf.ranks import Ranks, pick_device
from paramgolf.recipes import get_recipe

PUBLISHED_GPU_SECONDS = 0.216 * 8
VOCAB = 1024
BOUNDARY = 1
FRAMES = 32  # of one batch
CHUNKS = 1893  # of the validation text: the learning rate of the first ones


def build_recipe(smoke: bool) -> Any:
    """The recipe; for a smoke test a chunk of few tokens."""
    recipe = get_recipe("pr549_tiny" if smoke else "pr549_1gpu")
    if not smoke:
        return recipe
    model = dataclasses.replace(recipe.model, layers=4, xsa_layers=(3,), value_layers=(3,))
    score = dataclasses.replace(recipe.score, stride=64, chunk=512, ttt_chunk=1024)
    return dataclasses.replace(recipe, model=model, score=score)


def build_model(recipe: Any, device: torch.device) -> GPT:
    """With random weights everywhere (no zero matrices), in the precision of a GPU's scoring."""
    model = GPT(recipe.model, VOCAB, seed=1, boundary_id=BOUNDARY)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 3:
                parameter.normal_(0.0, 0.03, generator=torch.Generator().manual_seed(2))
    model.activation_dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return model.to(device)


class BareChunk:
    """The arithmetic of one chunk, and nothing else."""

    def __init__(self, recipe: Any, device: torch.device, eager: bool) -> None:
        self.score, self.device = recipe.score, device
        self.model = build_model(recipe, device)
        score = self.score
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=score.ttt_lr, momentum=score.ttt_momentum)
        self.tokens = torch.randint(VOCAB, (score.ttt_chunk + score.window + 1,), device=device)
        self.wanted = self._wanted
        self.loss: Callable[..., Any] = self.model.loss
        if not eager:
            self.wanted = torch.compile(self._wanted, fullgraph=True, dynamic=False)
            self.loss = torch.compile(self.model.loss, fullgraph=True, dynamic=False)

    def _wanted(self, tokens_FW: torch.Tensor, targets_FS: torch.Tensor) -> torch.Tensor:
        logits_FSV = self.model.logits(self.model.hidden(tokens_FW)[:, -self.score.stride :])
        return -log_softmax(logits_FSV, dim=-1).gather(2, targets_FS[..., None])[..., 0]

    def score_chunk(self) -> torch.Tensor:
        """Nats of every token of the chunk."""
        window, stride = self.score.window, self.score.stride
        inputs = self.tokens[:-1].unfold(0, window, stride)[: self.score.ttt_chunk // stride]
        targets = self.tokens[1:].unfold(0, window, stride)[: len(inputs), -stride:]
        with torch.no_grad():
            parts = [
                self.wanted(inputs[i : i + FRAMES], targets[i : i + FRAMES]) for i in range(0, len(inputs), FRAMES)
            ]
        return torch.cat(parts)

    def train_chunk(self) -> None:
        """All epochs on the chunk just scored."""
        window, count = self.score.window, self.score.ttt_chunk
        inputs = self.tokens[window : window + count].view(-1, window)
        targets = self.tokens[window + 1 : window + count + 1].view(-1, window)
        batch = self.score.ttt_sequences
        for _ in range(self.score.ttt_epochs):
            for first in range(0, len(inputs), batch):
                self.loss(inputs[first : first + batch], targets[first : first + batch]).backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.score.ttt_clip_norm)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)


class PredictorChunk:
    """One chunk after the other through the predictor, as a score does it."""

    def __init__(self, recipe: Any, device: torch.device) -> None:
        self.score = recipe.score
        ranks = Ranks(device=device)
        model = build_model(recipe, device)
        window = WindowPredictor(model, recipe.score, VOCAB, BOUNDARY, frames_per_batch=FRAMES, ranks=ranks)
        self.predictor = TttPredictor(window, tokens=CHUNKS * recipe.score.ttt_chunk)
        self.random = np.random.default_rng(3)

    def __call__(self) -> float:
        nats = 0.0
        for _ in range(self.score.ttt_chunk // self.score.chunk):
            tokens = self.random.integers(2, VOCAB, size=(1, self.score.chunk))
            chunk = Chunk(tokens, np.array([self.score.chunk]), np.array([False]))
            nats -= float(self.predictor.predict(chunk).realised().sum())
            self.predictor.observe(chunk)
        return nats


def measure(smoke: bool, eager: bool) -> dict[str, Any]:
    """Seconds of a chunk by every way, with the arithmetic behind them."""
    recipe, device = build_recipe(smoke), pick_device(0)
    score, times = recipe.score, 1 if smoke else 5
    forward = flops_per_token(recipe.model, VOCAB, score.window, backward=False)
    frames = score.ttt_chunk // score.stride
    flops = {"score": forward * frames * score.window, "train": 3 * forward * score.ttt_chunk * score.ttt_epochs}
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    record: dict[str, Any] = {
        "device": device_name(device),
        "torch": torch.__version__,
        "attention": attention_backend(device, dtype, recipe.model.head_size()),
        "chunk_tokens": score.ttt_chunk,
        "frames": frames,
        "window": score.window,
        "published_gpu_seconds": PUBLISHED_GPU_SECONDS,
        "tflop": {name: value / 1e12 for name, value in flops.items()},
        "ceilings": ceilings(device, smoke),
        "ways": {},
    }
    for name in ["eager"] if eager or smoke else ["compiled", "eager"]:
        memory(device, reset=True)
        bare = BareChunk(recipe, device, name == "eager")
        parts = {
            "score": seconds_of(bare.score_chunk, device, times),
            "train": seconds_of(bare.train_chunk, device, times),
        }
        record["ways"][name] = {
            **{f"{part}_seconds": seconds for part, seconds in parts.items()},
            **{f"{part}_tflops": flops[part] / seconds / 1e12 for part, seconds in parts.items()},
            "chunk_seconds": sum(parts.values()),
            "peak_bytes": memory(device)["allocated_bytes"],
        }
        del bare
    memory(device, reset=True)
    seconds = seconds_of(PredictorChunk(recipe, device), device, times, warm=1)
    record["ways"]["predictor"] = {"chunk_seconds": seconds, "peak_bytes": memory(device)["allocated_bytes"]}
    for way in record["ways"].values():
        way["times_published_speed"] = PUBLISHED_GPU_SECONDS / way["chunk_seconds"]
    return record


def show(record: dict[str, Any]) -> None:
    print(f"device     {record['device']}, torch {record['torch']}, attention {record['attention']}")
    print(f"chunk      {record['chunk_tokens']:,} tokens: {record['frames']} frames of {record['window']}")
    print(f"work       {record['tflop']['score']:.1f} TFLOP to score, {record['tflop']['train']:.1f} to train")
    print(f"ceiling    {record['ceilings']['product_tflops']:.1f} TFLOP/s of one large product")
    print(f"published  {record['published_gpu_seconds']:.3f} GPU-seconds a chunk on H100")
    for name, way in record["ways"].items():
        parts = ", ".join(
            f"{part} {way[f'{part}_seconds']:.3f} s at {way[f'{part}_tflops']:.1f} TFLOP/s"
            for part in ("score", "train")
            if f"{part}_seconds" in way
        )
        print(
            f"{name:<10} {way['chunk_seconds']:.3f} s a chunk ({way['times_published_speed']:.2f} x published), "
            f"peak {way['peak_bytes'] / 1e9:.2f} GB" + (f": {parts}" if parts else "")
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--cpu-smoke", action="store_true", help="a tiny model, on whatever device: tests this script")
    arguments = parser.parse_args()
    if not arguments.cpu_smoke and not torch.cuda.is_available():
        sys.exit("no GPU here; next: --cpu-smoke tests the script, the figures need one H100")
    record = measure(arguments.cpu_smoke, arguments.eager)
    if arguments.json:
        print(json.dumps(record, indent=1))
    else:
        show(record)


if __name__ == "__main__":
    main()
