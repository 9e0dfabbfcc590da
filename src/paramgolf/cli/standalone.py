"""Train the recipe that this script holds on a folder of shards, pack the model, score the folder's held-out shards,
and judge the score: all into one new run folder. Under torchrun all ranks train and score. Stop it with Ctrl-C (or kill
it): --resume RUN goes on where it was.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramgolf.cli.arguments import Parser, UsageError, seconds
from paramgolf.cli.output import Output
from paramgolf.cli.overrides import limited
from paramgolf.cli.trouble import explain
from paramgolf.recipe import Recipe

if TYPE_CHECKING:
    from paramgolf.cli.judge import Judged
    from paramgolf.cli.life import TrainingData
    from paramgolf.ranks import Ranks
    from paramgolf.text.text import HeldOutText

NAME = "train_gpt.py"
WAIT_SECONDS = 3600.0  # that ranks wait for each other: while one packs, the others have nothing to do


def main(recipe_json: str, words: Sequence[str]) -> int:
    """Run the words on the recipe and return the exit status; never raises for what a user did wrong."""
    output = Output(as_json="--json" in words)
    try:
        options = _parser().parse(list(words))
        with output.capturing():
            status = run(Recipe.from_json(recipe_json), options, output)
    except SystemExit as leave:  # argparse leaves this way after --help
        return int(leave.code or 0)
    except KeyboardInterrupt:
        return output.fail(NAME, "interrupted", 130)
    except UsageError as error:
        return output.fail(NAME, f"{error} (see `python {NAME} --help`)", 2)
    except ModuleNotFoundError as error:
        return output.fail(NAME, f"Python module {error.name} is missing; its first lines list what to install", 2)
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        return output.fail(NAME, *explained)
    output.flush()
    return status


def run(recipe: Recipe, options: argparse.Namespace, output: Output) -> int:
    """Train or go on, pack, score, judge; 1 if a rule is broken or the evaluation's time runs out."""
    from paramgolf.artifact.compile_cache import cache_compiled_sources
    from paramgolf.cli.held_out import held_out_text
    from paramgolf.cli.life import data_of_folder
    from paramgolf.ranks import open_ranks
    from paramgolf.text.shard_folder import ShardFolder

    cache_compiled_sources()
    data = data_of_folder(ShardFolder.open(options.data), options.data)
    begin = time.perf_counter()
    # Before training, so that a text that cannot be scored costs nothing; the time counts as evaluation.
    text = held_out_text(options.text or options.data, data.tokenizer)
    reading = time.perf_counter() - begin
    with open_ranks(WAIT_SECONDS) as ranks:
        final = _train(recipe, data, options, ranks)
        return _score(final, text, reading, ranks, output)


def _parser() -> Parser:
    parser = Parser(prog=NAME, description=__doc__)
    parser.add_argument("--data", required=True, type=Path, metavar="DATA", help="folder of token shards")
    parser.add_argument("--out", type=Path, metavar="RUN", help="the new run folder (default runs/RECIPE-FINGERPRINT)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with a run that was stopped")
    parser.add_argument("--text", type=Path, metavar="TEXT", help="score this held-out text, not the shards of DATA")
    parser.add_argument("--seed", type=int, metavar="N", help="of weights and batches (default: the recipe's)")
    parser.add_argument("--seconds", type=seconds, metavar="N", help="training time (default: the recipe's)")
    parser.add_argument("--extract", metavar="DIR", help="given first: write the readable sources to DIR, and no more")
    return parser


def _train(recipe: Recipe, data: TrainingData, options: argparse.Namespace, ranks: Ranks) -> Path:
    """The finished run, on every rank."""
    from paramgolf.cli.life import require_tokenizer, train_new_run

    if options.resume is not None:
        return _resume(options.resume, data, ranks)
    recipe = limited(recipe, options.seconds, options.seed)
    require_tokenizer(recipe, data.tokenizer, str(options.data))
    out = options.out or Path("runs") / f"{recipe.name}-{recipe.fingerprint()}"
    says = f"recipe {recipe.name} {recipe.fingerprint()}, seed {recipe.seed}, on {options.data}"
    train_new_run(recipe, data, out, ranks, _command(options, out), says)
    return _packed(out, ranks)


def _resume(path: Path, data: TrainingData, ranks: Ranks) -> Path:
    from paramgolf.cli.life import log, require_tokenizer, train_and_pack
    from paramgolf.run_folder import RunFolder

    folder = RunFolder.resume(path)
    if folder.finished:
        return folder.final_path  # trained before; only its score may be missing
    recipe = Recipe.from_json(folder.read_text("recipe.json"))
    require_tokenizer(recipe, data.tokenizer, data.source)
    if ranks.leads:
        log(folder, "resumed")
    train_and_pack(recipe, data, folder, ranks)
    return _packed(folder.final_path, ranks)


def _packed(final: Path, ranks: Ranks) -> Path:
    """The run's final place, once the rank that packs has put it there."""
    ranks.agree(0.0)
    return final


def _score(final: Path, text: HeldOutText, reading: float, ranks: Ranks, output: Output) -> int:
    """Score the text with the packed file on all ranks; one keeps score and verdict in the run, and shows both."""
    from paramgolf.artifact.open import open_artifact
    from paramgolf.cli.judge import judge
    from paramgolf.cli.life import ARTIFACT
    from paramgolf.errors import OutputError
    from paramgolf.predict.evaluation import Evaluation
    from paramgolf.predict.partial_file import partial_record, save_partial
    from paramgolf.predict.score import ScoreIncomplete

    if (final / "score.json").exists():
        raise OutputError(f"{final} is trained and scored; choose another --out")
    evaluation = Evaluation(None, ranks, used=reading)
    try:
        with evaluation.phase("open"):
            artifact = open_artifact(final / ARTIFACT)
        evaluation.limit = artifact.recipe.budget.eval_seconds
        judged = judge(artifact, text, evaluation=evaluation)
    except ScoreIncomplete as error:
        if ranks.leads:
            kept = save_partial(partial_record(error.partial, evaluation.entries(), str(error)), final)
            output.note(f"what was measured is in {kept}")
        raise
    return _keep(judged, final, artifact.sizes["file"], output) if ranks.leads else 0


def _keep(judged: Judged, final: Path, size: int, output: Output) -> int:
    from paramgolf.cli.judge import save_judged

    verdict = save_judged(judged, final)
    output.table([(finding.status, finding.rule, finding.says) for finding in verdict.findings])
    if judged.score is not None:
        output.say(
            f"{judged.score.bpb:.8f} bits per byte, {judged.score.nats_per_token:.8f} nats per token; "
            f"{'legal' if verdict.legal else 'NOT legal'}; {final}: {size:,} bytes of model"
        )
    found: dict[str, Any] = {"run": final, "artifact_bytes": size, "legal": verdict.legal}
    output.result(found | {"bpb": None if judged.score is None else judged.score.bpb})
    return 1 if verdict.with_status("FAIL") else 0


def _command(options: argparse.Namespace, out: Path) -> str:
    words = ["python", NAME, "--data", str(options.data), "--out", str(out)]
    words += ["--text", str(options.text)] if options.text is not None else []
    for name in ("seed", "seconds"):
        words += [f"--{name}", f"{getattr(options, name):g}"] if getattr(options, name) is not None else []
    return shlex.join(words)


if __name__ == "__main__":
    print(f"{NAME} runs this with the recipe it holds; here use: paramgolf train", file=sys.stderr)
    raise SystemExit(2)
