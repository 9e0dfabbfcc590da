"""The whole life of a run on this machine, in minutes and without downloads: text, tokenizer, training under a clock,
one runnable file, an audited score of held-out text, the referee's verdict, the text compressed and restored bit for
bit by a new process, and a page that shows it all. Without --text it reads the standard library of this Python.
Exit status 1 if the verdict is not legal or the restored text differs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramgolf.cli.arguments import seconds
from paramgolf.cli.output import Output

if TYPE_CHECKING:
    from paramgolf.artifact.artifact import Artifact
    from paramgolf.cli.judge import Judged
    from paramgolf.clock import Clock
    from paramgolf.predict.score import Score
    from paramgolf.recipe import Recipe
    from paramgolf.run_folder import RunFolder
    from paramgolf.text.shard_folder import ShardFolder
    from paramgolf.text.text import HeldOutText, TrainText
    from paramgolf.text.tokenizer import Tokenizer

SMALL_TEXT = 200_000  # bytes; less than this does not fill a vocabulary of 1024, and is read as bytes
PARTS_BYTES = 60_000  # of held-out text, on which each part's worth is measured
SAMPLE_TOKENS = 160


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The text, the training time, the run."""
    parser.add_argument("--text", type=Path, nargs="+", metavar="PATH", help="files or folders (default: the library)")
    parser.add_argument("--seconds", type=seconds, metavar="N", help="training time (default: the recipe's)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the new run folder (default runs/quickstart-TIME)")


def run(options: argparse.Namespace, output: Output) -> int:
    """Every phase in turn; what they found."""
    from concurrent.futures import ThreadPoolExecutor

    from paramgolf.cli.life import discarded_if_nothing_is_saved
    from paramgolf.clock import Clock
    from paramgolf.kernels.threads import torch_threads
    from paramgolf.run_folder import RunFolder

    begin = time.perf_counter()
    out = options.out or Path("runs") / time.strftime("quickstart-%Y%m%d-%H%M%S")
    folder = RunFolder.create(out)
    clock = Clock()
    with discarded_if_nothing_is_saved(folder):
        with clock.phase("text and tokenizer", on_clock=False):
            train, held_out, tokenizer, data = _prepare(options, folder, output)
        recipe = _recipe(options.seconds, tokenizer)
        final = _train_and_pack(recipe, data, folder, clock, _words(options, out))
    # Coding takes one core and the better part of a minute: scoring has the others meanwhile.
    with ThreadPoolExecutor(1) as pool:
        proving = pool.submit(_prove, final, held_out, clock)
        with torch_threads((os.cpu_count() or 1) - 1):
            artifact, judged = _score_and_judge(final, held_out, clock)
        proof = proving.result()
    measured = {"proof": proof, "peers": _measure(final, artifact, train, held_out, judged.score, clock)}
    record = _record(final, artifact, judged, measured, clock, time.perf_counter() - begin)
    _show(record, judged, measured, output)
    output.result(record)
    return 0 if record["legal"] and record["proof"]["identical"] else 1


def _prepare(
    options: argparse.Namespace, folder: RunFolder, output: Output
) -> tuple[TrainText, HeldOutText, Tokenizer, ShardFolder]:
    """The two texts, a tokenizer that knows the training text alone, and both as shards in the run."""
    from paramgolf.text.documents import read_documents
    from paramgolf.text.shard_folder import prepare
    from paramgolf.text.split import split_documents
    from paramgolf.text.stdlib import standard_library

    if options.text is None:
        train, held_out = standard_library()
    else:
        name = " ".join(path.name for path in options.text)
        train, held_out = split_documents(read_documents(options.text), name)
    output.note(f"text: {train.size():,} bytes to learn from, {held_out.size():,} held out ({held_out.name})")
    tokenizer = _tokenizer(train, output)
    return train, held_out, tokenizer, prepare(train, held_out, tokenizer, folder.path / "data")


def _tokenizer(train: TrainText, output: Output) -> Tokenizer:
    """SentencePiece learnt from the text, or bytes for a text that is too small or too uniform to fill a vocabulary."""
    from paramgolf.errors import TokenizerError
    from paramgolf.recipes import get_recipe
    from paramgolf.text.byte_tokenizer import ByteTokenizer
    from paramgolf.text.train_tokenizer import train_tokenizer

    if train.size() < SMALL_TEXT:
        return ByteTokenizer()
    wanted = get_recipe("quickstart").tokenizer
    try:
        return train_tokenizer(train, wanted.kind, wanted.vocab_size)
    except TokenizerError as error:
        output.note(f"tokens are bytes: {error}")
        return ByteTokenizer()


def _recipe(train_seconds: float | None, tokenizer: Tokenizer) -> Recipe:
    """The quickstart's recipe for this tokenizer and time."""
    from paramgolf.recipe import TokenizerRecipe
    from paramgolf.recipes import get_recipe

    recipe = get_recipe("quickstart")
    if tokenizer.kind == "bytes":
        recipe = dataclasses.replace(recipe, tokenizer=TokenizerRecipe("bytes", tokenizer.vocab_size))
    if train_seconds is None:
        return recipe
    return dataclasses.replace(recipe, budget=dataclasses.replace(recipe.budget, train_seconds=train_seconds))


def _train_and_pack(recipe: Recipe, data: ShardFolder, folder: RunFolder, clock: Clock, words: list[str]) -> Path:
    """Train under the clock, squeeze, pack; the finished run."""
    from concurrent.futures import ThreadPoolExecutor

    from paramgolf.cli.life import (
        data_of_folder,
        log,
        pack_run,
        primer_documents,
        train_weights,
        write_env,
        write_ledger,
        write_recipe,
    )
    from paramgolf.predict.compilation import compile_kernels
    from paramgolf.ranks import open_ranks

    source = data_of_folder(data, data.path)
    with open_ranks() as ranks:
        write_recipe(folder, recipe)
        write_env(folder, source, ranks, [shlex.join(words)])
        log(folder, f"recipe {recipe.name} {recipe.fingerprint()}")
        weights = train_weights(recipe, source, folder, clock, ranks)
    # Packing has one thread, so what scoring will call is compiled beside it.
    with ThreadPoolExecutor(1) as pool, clock.phase("squeeze and pack", on_clock=False):
        compiling = pool.submit(compile_kernels)
        pack_run(recipe, source.tokenizer, weights, primer_documents(recipe, source), folder)
        compiling.result()
    write_ledger(folder, clock)
    return folder.finish()


def _score_and_judge(final: Path, held_out: HeldOutText, clock: Clock) -> tuple[Artifact, Judged]:
    """Open the packed file, score, probe, and keep the verdict on the whole run."""
    from paramgolf.artifact.open import open_artifact
    from paramgolf.cli.judge import judge, save_judged
    from paramgolf.cli.life import ARTIFACT

    artifact = open_artifact(final / ARTIFACT)
    with clock.phase("score and referee", on_clock=True, limit=artifact.recipe.budget.eval_seconds):
        judged = judge(artifact, held_out)
    _write(final / "ledger.json", clock.record())
    return artifact, dataclasses.replace(judged, verdict=save_judged(judged, final))


def _prove(final: Path, held_out: HeldOutText, clock: Clock) -> dict[str, Any]:
    """The proof: one new process compresses held-out text, another restores it."""
    from paramgolf.cli.life import ARTIFACT, prove

    with clock.phase("proof", on_clock=False):
        return prove(final / ARTIFACT, held_out, final)


def _measure(
    final: Path, artifact: Artifact, train: TrainText, held_out: HeldOutText, whole: Score | None, clock: Clock
) -> dict[str, float | None]:
    """The rivals on the same bytes, each part's worth, a sample, all off the clock; the rivals' bits per byte."""
    from concurrent.futures import ThreadPoolExecutor

    from paramgolf.kernels.threads import torch_threads
    from paramgolf.predict.sample import sample
    from paramgolf.report.peers import measure_peers, peers_record

    with ThreadPoolExecutor(1) as pool, clock.phase("rivals, parts, sample", on_clock=False):
        measuring = pool.submit(measure_peers, held_out.documents, train.documents, workers=1)
        with torch_threads((os.cpu_count() or 1) - 1):
            _write(final / "parts.json", {"rows": _parts(artifact, held_out, whole)})
        rivals = measuring.result()
        _write(final / "peers.json", peers_record(held_out.documents, rivals))
        prompt = held_out.documents[0][:40]
        (final / "sample.txt").write_bytes(prompt + sample(artifact, prompt, SAMPLE_TOKENS, adapt="ngram"))
    _write(final / "ledger.json", clock.record())
    return {name: peer.bpb for name, peer in rivals.items()}


def _parts(artifact: Artifact, held_out: HeldOutText, whole: Score | None) -> list[dict[str, Any]]:
    """BPB on the first documents, one part added after the other; all together is the beginning of `whole`."""
    from paramgolf.predict.score_text import first_documents, score_text

    limit = max(PARTS_BYTES, next(len(document) for document in held_out.documents if document))
    part = first_documents(held_out, limit)
    names = {
        "neural model alone": "none",
        "n-gram counts alone, carried text": "ngram-only",
        "model + n-gram counts of the scored text": "ngram-fresh",
    }
    # Bits of the tokens alone: the beginning of a longer text has no side bits of its own.
    bits_of = {name: score_text(artifact, part, adapt, audit_positions=2).bits.sum() for name, adapt in names.items()}
    rows = [(name, float(bits) / part.size()) for name, bits in bits_of.items()]
    if whole is not None and whole.plan.lanes == 1:
        bits = whole.bits[whole.plan.document_index() < len(part.documents)].sum()
        rows.append(("model + n-gram counts + carried text", float(bits) / part.size()))
    for name, bpb in rows:
        print(f"  {name}: {bpb:.4f} bits per byte on {part.size():,} bytes", file=sys.stderr)
    return [{"name": name, "bpb": bpb, "bytes": part.size()} for name, bpb in rows]


def _record(
    final: Path, artifact: Artifact, judged: Judged, measured: dict[str, Any], clock: Clock, took: float
) -> dict[str, Any]:
    """What --json prints, after writing the page."""
    from paramgolf.report.page import write_page

    page = write_page(final)
    spent = {entry.name: entry.seconds for entry in clock.ledger}
    return {
        "bpb": None if judged.score is None else judged.score.bpb,
        "artifact_bytes": artifact.sizes["file"],
        "train_seconds": spent["train"],
        "score_seconds": None if judged.score is None else judged.score.seconds,
        "legal": judged.verdict.legal,
        "proof": measured["proof"],
        "peers": measured["peers"],
        "run": final,
        "report": page,
        "seconds": took,
    }


def _show(record: dict[str, Any], judged: Judged, measured: dict[str, Any], output: Output) -> None:
    score, proof = judged.score, record["proof"]
    output.say()
    if score is not None:
        output.say(f"{score.bpb:.4f} bits per byte on {score.bytes:,} bytes of held-out text ({score.text_name})")
    rows = sorted(((bpb, name) for name, bpb in measured["peers"].items() if bpb is not None), reverse=True)
    output.table([(f"{bpb:.4f}", name) for bpb, name in rows])
    output.say(f"artifact  {record['artifact_bytes']:,} bytes, trained for {record['train_seconds']:.0f} s")
    broken = [finding for finding in judged.verdict.findings if finding.status != "PASS"]
    output.say(f"verdict   {'legal' if record['legal'] else 'NOT legal'} ({len(judged.verdict.findings)} rules)")
    output.table([(finding.status, finding.rule, finding.says) for finding in broken])
    same = "restored bit for bit" if proof["identical"] else "NOT restored"
    output.say(f"proof     {proof['bytes_in']:,} bytes -> {proof['bytes_coded']:,} -> {same}, {proof['seconds']:.0f} s")
    output.say(f"report    {record['report']}")
    output.say(f"took      {record['seconds']:.0f} s")
    output.next("paramgolf", "score", record["run"] / "model.pyz", record["run"] / "data", "--adapt", "none")


def _words(options: argparse.Namespace, out: Path) -> list[str]:
    words = ["paramgolf", "quickstart", "--out", str(out)]
    words += ["--text", *map(str, options.text)] if options.text else []
    return words + (["--seconds", f"{options.seconds:g}"] if options.seconds is not None else [])


def _write(path: Path, record: Any) -> None:
    from paramgolf.run_folder import write_atomically

    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
