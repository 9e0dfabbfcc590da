"""Held-out loss of variants of the quickstart recipe on the Python standard library, at equal numbers of tokens.

    python bench/tune_quickstart.py [--tokens 800000] [--threads 2] [SECTION.FIELD=VALUE ... / ...]

Each variant is a list of settings; variants are separated by `/`. The clock counts tokens, not seconds, so the loss
does not depend on the machine's load; the seconds are printed beside it. The loss is that of the averaged weights
alone, over consecutive windows without overlap: nats a token and bits a byte of the held-out files.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from paramgolf.clock import Clock
from paramgolf.model.arithmetic import parameter_count
from paramgolf.model.gpt import GPT
from paramgolf.recipe import Recipe
from paramgolf.recipes import get_recipe
from paramgolf.run_folder import RunFolder
from paramgolf.text.sentencepiece_tokenizer import SentencePieceTokenizer, train_sentencepiece
from paramgolf.text.stdlib import standard_library
from paramgolf.text.text import Text
from paramgolf.text.tokenizer import Tokenizer
from paramgolf.text.windows import TrainingWindows
from paramgolf.train.loop import train
from paramgolf.train.progress import SilentDisplay

LOCAL = Path(tempfile.gettempdir()) / "paramgolf-tune"


def stream(text: Text, tokenizer: Tokenizer) -> np.ndarray:
    """All documents as one run of ids, each ended by the boundary."""
    parts = [np.append(tokenizer.encode(document), tokenizer.boundary_id) for document in text.documents]
    return np.concatenate(parts).astype(np.int64)


def prepared(vocab_size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Training ids, held-out ids and held-out bytes; the tokenizer is kept between runs."""
    train_text, held_out = standard_library()
    kept = LOCAL / f"{train_text.digest[:12]}-{vocab_size}.model"
    if kept.exists():
        tokenizer = SentencePieceTokenizer(kept.read_bytes())
    else:
        tokenizer = train_sentencepiece(train_text, vocab_size)
        LOCAL.mkdir(exist_ok=True)
        kept.write_bytes(tokenizer.to_bytes())
    return stream(train_text, tokenizer), stream(held_out, tokenizer), held_out.size()


def with_settings(recipe: Recipe, settings: list[str]) -> Recipe:
    """All `section.field=value` applied, a section at a time; a value takes the type of the present one."""
    changes: dict[str, dict[str, object]] = {}
    for setting in settings:
        path, value = setting.split("=")
        section, name = path.split(".")
        present = getattr(getattr(recipe, section), name)
        changes.setdefault(section, {})[name] = type(present)(value)
    sections = {name: dataclasses.replace(getattr(recipe, name), **fields) for name, fields in changes.items()}
    return dataclasses.replace(recipe, **sections)


def token_clock(recipe: Recipe) -> Callable[[], float]:
    """A clock on which every step takes the same time, so that the budget is a number of tokens."""
    readings = iter(range(1 << 60))
    return lambda: float(next(readings)) * recipe.train.batch_tokens


def held_out_nats(model: GPT, ids: np.ndarray, window: int) -> float:
    """Summed nats of all held-out ids, each window starting fresh after one boundary-like first token."""
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(ids) - 1, 32 * window):
            piece = ids[start : start + 32 * window + 1]
            rows = (len(piece) - 1) // window
            parts = [(piece[: rows * window], piece[1 : rows * window + 1], rows)] if rows else []
            rest = len(piece) - 1 - rows * window
            if rest:
                parts.append((piece[rows * window : -1], piece[rows * window + 1 :], 1))
            for inputs, targets, count in parts:
                shaped = [torch.from_numpy(x.reshape(count, -1)) for x in (inputs, targets)]
                total += float(model.loss(*shaped)) * len(targets)
    return total


def run_variant(recipe: Recipe, tokens: int, ids: np.ndarray, held_out: np.ndarray, size: int) -> str:
    """Train one variant and describe it."""
    budget = dataclasses.replace(recipe.budget, train_seconds=float(tokens))
    recipe = dataclasses.replace(
        recipe, budget=budget, train=dataclasses.replace(recipe.train, checkpoint_seconds=1e18)
    )
    vocab_size = recipe.tokenizer.vocab_size
    windows = TrainingWindows([ids], recipe.train.sequence, recipe.seed)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run")
        weights = train(recipe, windows, vocab_size, run, Clock(token_clock(recipe)), SilentDisplay())
    seconds = time.perf_counter() - begin
    model = GPT(recipe.model, vocab_size)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    nats = held_out_nats(model, held_out, recipe.train.sequence)
    return (
        f"{nats / len(held_out):.4f} nats/token  {nats / math.log(2) / size:.4f} bits/byte  "
        f"{parameter_count(recipe.model, vocab_size):,} parameters  {seconds:.0f} s  {tokens / seconds:,.0f} tokens/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=800_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("settings", nargs="*", help="section.field=value; put / between variants")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    base = get_recipe("quickstart")
    ids, held_out, size = prepared(base.tokenizer.vocab_size)
    print(f"{len(ids):,} training tokens, {len(held_out):,} held-out tokens of {size:,} bytes", flush=True)
    for variant in " ".join(arguments.settings).split("/"):
        recipe = with_settings(base, variant.split())
        print(
            f"{variant.strip() or 'as it is'}: {run_variant(recipe, arguments.tokens, ids, held_out, size)}", flush=True
        )


if __name__ == "__main__":
    main()
