"""Bits per byte of held-out text. The score is audited while it is made: at places that the predictor cannot foresee
its rows are checked to sum to one, to hold what was credited, and to know nothing that comes later; then the live
probes run a fresh predictor on the start of the text. Exit status 1 if that finds a broken rule, or if the evaluation's
time runs out: what was measured is then kept as score.partial.json, and is no score.

On several GPUs or processes: `torchrun --nproc_per_node N -m paramgolf score ...`; the score is the same.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramgolf.cli.adapt_names import adapt_help
from paramgolf.cli.arguments import byte_count, seconds
from paramgolf.cli.output import Output

if TYPE_CHECKING:
    from paramgolf.cli.judge import Judged
    from paramgolf.predict.evaluation import Evaluation
    from paramgolf.predict.orders import OrderClass
    from paramgolf.predict.score import Score, ScoreIncomplete
    from paramgolf.ranks import Ranks
    from paramgolf.recipe import ScoreRecipe
    from paramgolf.referee.finding import Verdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Artifact, text, adaptation, order, and where the score is kept."""
    from paramgolf.predict.orders import ORDERS

    parser.epilog = adapt_help()
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="a model.pyz")
    parser.add_argument("text", type=Path, metavar="TEXT", help="a text file, a container, a folder, or a shard folder")
    parser.add_argument("--adapt", metavar="NAME", help="what adapts, of the names below (default: the recipe's)")
    parser.add_argument(
        "--order",
        choices=ORDERS,
        metavar="|".join(ORDERS),
        help="of documents; what tells a decoder all but the stream's is charged (default: the recipe's score.order)",
    )
    parser.add_argument("--limit", type=byte_count, metavar="BYTES", help="score the first whole documents only")
    parser.add_argument(
        "--seconds", type=seconds, metavar="S", help="the evaluation's time (default: the recipe's budget.eval_seconds)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="keep score.json, bits.npz, verdict.json in this run or new folder",
    )


def run(options: argparse.Namespace, output: Output) -> int:
    """Score, judge, keep, show; of several ranks one speaks and writes."""
    from paramgolf.ranks import open_ranks

    begin = time.perf_counter()
    _refuse_taken(options.out)
    with open_ranks() as ranks:
        return _run(options, output, ranks, begin)


def _run(options: argparse.Namespace, output: Output, ranks: Ranks, begin: float) -> int:
    from paramgolf.artifact.open import open_artifact
    from paramgolf.cli.held_out import held_out_text
    from paramgolf.cli.judge import judge
    from paramgolf.predict.evaluation import Evaluation
    from paramgolf.predict.score import ScoreIncomplete

    evaluation = Evaluation(options.seconds, ranks, used=time.perf_counter() - begin)
    try:
        with evaluation.phase("open"):
            artifact = open_artifact(options.artifact)
            text = held_out_text(options.text, artifact.tokenizer)
        if options.seconds is None:
            evaluation.limit = artifact.recipe.budget.eval_seconds
        judged = judge(artifact, text, options.adapt, limit=options.limit, order=options.order, evaluation=evaluation)
    except ScoreIncomplete as error:
        return _refuse(error, evaluation, options, output) if ranks.leads else 1
    if not ranks.leads:
        return 0
    kind = _order_class(judged, artifact.recipe.score)
    _show(judged, kind, output)  # first: a full disk must not cost what was found
    if options.out is not None:
        _show_difference(judged, _keep(judged, options.out), options.out, output)
    if options.out is not None and (options.out / "recipe.json").exists():
        output.next("paramgolf", "check", options.out, "--text", options.text)
    elif options.text.is_file():
        output.next("paramgolf", "encode", options.artifact, options.text, f"{options.text.name}.pgc")
    else:
        output.next("paramgolf", "encode", options.artifact, "FILE", "FILE.pgc")
    output.result({**_record(judged), "order_class": kind})
    return 1 if judged.failed else 0


def _refuse(error: ScoreIncomplete, evaluation: Evaluation, options: argparse.Namespace, output: Output) -> int:
    """Keep and show what was measured, labelled as no score."""
    from paramgolf.predict.partial_file import partial_record, save_partial

    record = partial_record(error.partial, evaluation.entries(), str(error))
    output.note(f"paramgolf score: {error}")
    if options.out is not None:
        output.say(f"kept in {save_partial(record, options.out)}")
    empty = dict.fromkeys(("bpb", "bits", "bytes", "tokens", "seconds", "legal", "findings", "audit"))
    output.result({**empty, **record, "legal": False})
    return 1


def _refuse_taken(folder: Path | None) -> None:
    """Before the work, not after it."""
    from paramgolf.errors import OutputError

    for name in ("score.json", "bits.npz", "verdict.json"):
        if folder is not None and (folder / name).exists():
            raise OutputError(f"{folder / name} exists already; choose another --out, or move it away")


def _keep(judged: Judged, folder: Path) -> Verdict:
    """Write the score into a run or a new folder; the verdict on all of that folder."""
    from paramgolf.cli.judge import save_judged
    from paramgolf.run_folder import RunFolder

    if folder.is_dir():
        return save_judged(judged, folder)
    run = RunFolder.create(folder)
    try:
        verdict = save_judged(judged, run.path)
    except BaseException:
        run.discard()
        raise
    run.finish()
    return verdict


def _show_difference(judged: Judged, kept: Verdict, folder: Path, output: Output) -> None:
    """What the run's files add to the judgement of its score, where that is not good news."""
    if judged.verdict.legal and not kept.legal:
        output.say(f"the score is legal, {folder} as a whole is not:")
        wrong = [finding for finding in kept.findings if finding.status != "PASS"]
        output.table([(finding.status, finding.rule, finding.says) for finding in wrong])


def _order_class(judged: Judged, settings: ScoreRecipe) -> OrderClass | None:
    """How the order of documents and what is carried between them bear on the score (rules.md, V12)."""
    from paramgolf.predict.orders import carries, order_class

    if judged.score is None:
        return None
    order = judged.score.plan
    return order_class(order.order, carries=carries(judged.score.adapt, settings, order.lanes))


def _show(judged: Judged, kind: OrderClass | None, output: Output) -> None:
    found = judged.score
    if found is not None:
        output.say(f"{found.bpb:.4f} bits per byte: {found.total_bits:,.0f} bits for {found.bytes:,} bytes")
        speed = found.tokens / found.seconds if found.seconds > 0 else 0.0
        output.say(f"{found.tokens:,} tokens in {found.seconds:.1f} s ({speed:,.0f} tokens/s), adapt {found.adapt}")
        if kind != "stream":
            output.say(
                f"documents {found.plan.order}, {kind}: {found.side_bits:,} bits tell the order (the contest charges "
                f"none; naming it alone takes {found.plan.permutation_bits:,.0f})"
            )
        _show_time(found, output)
        if found.documents_not_lossless:
            documents = len(found.plan.lengths)
            output.say(f"not lossless: {found.documents_not_lossless:,} of {documents:,} documents differ")
    output.table([(finding.status, finding.rule, finding.says) for finding in judged.verdict.findings])
    rogue = f": {judged.exhibit} is an exhibit, whose score never counts" if judged.exhibit else ""
    output.say("legal" if judged.verdict.legal else f"NOT legal{rogue}")


def _show_time(found: Score, output: Output) -> None:
    phases = [f"{entry.name.removeprefix('evaluation: ')} {entry.seconds:.1f} s" for entry in found.ledger]
    parts = [f"audit {found.audit_seconds:.1f} s"]
    if found.learning is not None:
        parts.append(f"test-time training {found.learning.seconds:.1f} s in {found.learning.updates:,} updates")
    total = sum(entry.seconds for entry in found.ledger)
    output.say(f"evaluation {total:.1f} s: {', '.join(phases)} (of which {', '.join(parts)})")
    if found.learning is not None and found.learning.stopped:
        output.say(f"test-time training stopped: {found.learning.stopped}")
    if found.forgotten:
        output.say(
            f"{found.forgotten:,} n-grams were forgotten for lack of memory; a larger score.ngram_bytes may help"
        )


def _record(judged: Judged) -> dict[str, Any]:
    from paramgolf.predict.score_file import score_record

    empty = dict.fromkeys(("bpb", "bits", "bytes", "tokens", "seconds", "audit"))
    return {**(empty if judged.score is None else score_record(judged.score)), **judged.verdict.record()}
