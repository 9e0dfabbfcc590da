"""`README.md` of a record: what it is, the numbers of each seed, how to have them again, what the referee found."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from paramgolf.predict.adapt import ADAPTATIONS
from paramgolf.referee.rules_bytes import CONTEST_BYTES
from paramgolf.submission.names import SCRIPT, calibration_name, log_name, model_name, score_name, verdict_name
from paramgolf.submission.runs import Spread, spread
from paramgolf.submission.scored_run import ScoredRun
from paramgolf.submission.summary import Submission, blurb, hardware, is_contest_text

Column = tuple[str, Callable[[ScoredRun], float], str]


def readme_text(submission: Submission, requirements: Sequence[str]) -> str:
    """The page; every number in it comes from the runs' files."""
    parts = [
        f"# {_plain(submission.title)}",
        _plain(submission.credits.blurb or blurb(submission)),
        *_results(submission),
        *_sizes(submission),
        *_text(submission),
        *_reproduce(submission, requirements),
        *_verdicts(submission),
        *_machines(submission),
        *_files(submission),
    ]
    return "\n\n".join(parts) + "\n"


def _results(submission: Submission) -> list[str]:
    """One row a seed, then mean and sample standard deviation."""
    runs, columns = submission.runs, _columns(submission)
    rows = [[str(run.seed), *(form.format(number(run)) for _, number, form in columns)] for run in runs]
    spreads = [(spread(runs, number), form) for _, number, form in columns]
    rows.append(["mean", *(_say_mean(found, form) for found, form in spreads)])
    if len(runs) > 1:
        rows.append(["sd", *(_say_deviation(found, form) for found, form in spreads)])
    lines = [
        "## Results",
        table(["seed", *(name for name, _, _ in columns)], rows),
        "Bits per byte are those of everything a decoder needs, boundaries between documents included, over the bytes "
        "of the raw text. Nats per token is the contest's `val_loss`.",
    ]
    if submission.contest:
        says = submission.contest[runs[0].seed].says
        lines.append(f"The contest's figure divides by the bytes of its look-up tables: {says}.")
    if len(runs) == 1:
        return [*lines, "This is one seed: nothing is known of the spread."]
    return [*lines, f"sd is the sample standard deviation of the {len(runs)} seeds (n - 1)."]


def _columns(submission: Submission) -> list[Column]:
    contest: list[Column] = [("contest's bits per byte", lambda run: submission.contest[run.seed].bpb, "{:.5f}")]
    return [
        ("steps", lambda run: run.steps, "{:,.0f}"),
        ("training (s)", lambda run: run.train_seconds, "{:.1f}"),
        ("bits per byte", lambda run: run.bpb, "{:.5f}"),
        *(contest if submission.contest else []),
        ("nats per token", lambda run: run.nats_per_token, "{:.5f}"),
        ("model (bytes)", lambda run: run.artifact_bytes, "{:,.0f}"),
        ("script (bytes)", lambda run: submission.code_bytes, "{:,.0f}"),
        ("total (bytes)", submission.total_bytes, "{:,.0f}"),
        ("evaluation (s)", lambda run: run.eval_seconds, "{:.1f}"),
    ]


def _sizes(submission: Submission) -> list[str]:
    totals = [submission.total_bytes(run) for run in submission.runs]
    run = submission.runs[totals.index(max(totals))]
    cap = run.recipe.budget.artifact_bytes
    return [
        "## Bytes",
        f"The largest total is that of seed {run.seed}: {max(totals):,} bytes, {submission.code_bytes:,} of `{SCRIPT}` "
        f"as it is on the disk and {run.artifact_bytes:,} of the model file. The recipe's budget is {cap:,}; "
        "`bytes_total` in submission.json is this largest total, `val_bpb` the mean over the seeds.",
        "The total is an upper bound. The model file runs alone: besides the weights it holds "
        f"{run.source_bytes:,} bytes of sources, which the script holds too, so they are counted twice, and its "
        f"tokenizer ({run.tokenizer_bytes:,} bytes), which the contest does not count.",
    ]


def _text(submission: Submission) -> list[str]:
    score, environment = submission.runs[0].score, submission.runs[0].environment
    text, trained = score["text"], environment.get("train_text") or {}
    adapt = str(score.get("adapt"))
    lines = [
        "## Text",
        f"Scored: {score['documents']:,} documents, {score['bytes']:,} bytes, {score['tokens']:,} tokens of "
        f"{_plain(str(text.get('name')))} (digest `{submission.runs[0].text_digest}`), in one pass with adaptation "
        f"`{adapt}` ({ADAPTATIONS[adapt]}).",
    ]
    if trained.get("digest"):
        bytes_known = f", {trained['bytes']:,} bytes" if isinstance(trained.get("bytes"), int) else ""
        lines.append(
            f"Trained on: {_plain(str(trained.get('name')))}{bytes_known} (digest `{trained['digest']}`), tokenizer "
            f"digest `{environment.get('tokenizer_digest')}`."
        )
    if not is_contest_text(submission.runs[0]):
        least, most = CONTEST_BYTES
        lines.append(
            f"This is not the contest's validation text, which has {least:,} to {most:,} bytes: the figures cannot be "
            "compared with the contest's."
        )
    return [*lines, says_lossless(score)]


def says_lossless(score: dict[str, Any]) -> str:
    """Whether the tokenizer gave the scored text back, as far as anybody looked."""
    differ, documents = score.get("documents_not_lossless"), score["documents"]
    if differ is None:
        return "Whether the tokenizer gives the text back was not looked at."
    if differ == 0:
        return f"The tokenizer is lossless here: all {documents:,} scored documents come back from their tokens."
    return f"The tokenizer is NOT lossless: {differ:,} of {documents:,} scored documents do not come back."


def _reproduce(submission: Submission, requirements: Sequence[str]) -> list[str]:
    """The script alone does it; DATA is named by the digests above."""
    # Shards of a tokenizer that changes text do not say what the raw bytes were.
    text = " --text TEXT" if submission.runs[0].score.get("documents_not_lossless") else ""
    commands = ["pip install -r requirements.txt"]
    commands += [
        f"{_launch(run)} --data DATA{text} --out run_seed{run.seed} --seed {run.seed}" for run in submission.runs
    ]
    seeds = [run.seed for run in submission.runs]
    model = model_name(seeds[0])
    checks = [
        f"python {model} score TEXT",
        f"paramgolf check {model} --text TEXT",
        f"python {SCRIPT} --extract SOURCES",
    ]
    commits = sorted({str(run.environment["commit"]) for run in submission.runs if run.environment.get("commit")})
    source = f" The runs were made by commit {', '.join(commits)}" if commits else ""
    source += f", the script was exported by commit {submission.commit}." if source and submission.commit else ""
    return [
        "## How to reproduce",
        "\n".join(["```", *commands, "```"]),
        "DATA is a folder of token shards with their tokenizer, of the texts whose digests are named above; its "
        "held-out shards are scored, or the text that `--text TEXT` names. "
        f"`{SCRIPT}` trains, packs, scores and judges by itself, with Python 3.11 or newer and "
        f"{', '.join(f'`{line}`' for line in requirements)}.{source}",
        "The model files run by themselves; where paramgolf is installed it also probes them; `--extract` writes the "
        "script's readable sources:",
        "\n".join(["```", *checks, "```"]),
    ]


def _launch(run: ScoredRun) -> str:
    ranks = run.environment.get("ranks")
    return f"torchrun --standalone --nproc_per_node {ranks} {SCRIPT}" if ranks and ranks > 1 else f"python {SCRIPT}"


def _verdicts(submission: Submission) -> list[str]:
    """Every rule with its status for each seed, then what was said of each."""
    runs = submission.runs
    rules = list(dict.fromkeys(finding["rule"] for run in runs for finding in run.verdict["findings"]))
    status = [{finding["rule"]: finding["status"] for finding in run.verdict["findings"]} for run in runs]
    rows = [[rule, *(found.get(rule, "not applied") for found in status)] for rule in rules]
    unproven = submission.unproven()
    missing = [
        f"NOT PROVEN, so nobody may call these runs legal: {', '.join(unproven)}. What is missing is said below."
    ]
    parts = [
        "## Verdict of the referee",
        *(missing if unproven else []),
        f"Rule set {runs[0].verdict['ruleset']}, applied to each run's own files, with probes of the running model; "
        f"`{verdict_name(runs[0].seed)}` holds the numbers behind each sentence.",
        table(["rule", *(f"seed {run.seed}" for run in runs)], rows),
    ]
    for run in runs:
        says = [f"* {finding['rule']}: {_plain(finding['says'])}" for finding in run.verdict["findings"]]
        parts.append("\n".join([f"Seed {run.seed}:", "", *says]))
    return parts


def _machines(submission: Submission) -> list[str]:
    """The hardware and the versions; one line for seeds that share them."""
    lines: dict[str, list[str]] = {}
    for run in submission.runs:
        environment = run.environment
        versions = environment.get("versions") or {}
        listed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        cuda = f", CUDA {environment['cuda']}" if environment.get("cuda") else ""
        says = f"{hardware(run)}; Python {environment.get('python', 'unknown')}{cuda}; {listed or 'versions unknown'}"
        lines.setdefault(_plain(says), []).append(str(run.seed))
    listed_lines = [f"* seed {', '.join(seeds)}: {says}" for says, seeds in lines.items()]
    return ["## Hardware and versions", "\n".join(listed_lines)]


def _files(submission: Submission) -> list[str]:
    seeds = ", ".join(str(run.seed) for run in submission.runs)
    rows = [
        [f"`{SCRIPT}`", "trains and scores on its own: a header, the recipe, and the compressed sources"],
        ["`requirements.txt`", "the packages that it imports"],
        ["`submission.json`", "the numbers above"],
        [f"`{log_name('N')}`", "log of seed N, in the contest's lines"],
        [f"`{model_name('N')}`", "the packed model of seed N, which runs alone"],
        [f"`{score_name('N')}`, `{verdict_name('N')}`", "its score with the audit, and the referee's findings"],
    ]
    if submission.runs[0].recipe.squeeze.quantiser == "gptq":
        rows.append([f"`{calibration_name('N')}`", "what the squeezing of its weights learnt from"])
    return ["## Files", f"N is each of the seeds {seeds}.", table(["file", "what it is"], rows)]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _say_mean(found: Spread, form: str) -> str:
    return form.format(found.mean)


def _say_deviation(found: Spread, form: str) -> str:
    return "" if found.deviation is None or math.isnan(found.deviation) else form.format(found.deviation)


def _plain(text: str) -> str:
    """One line that Markdown cannot take for markup or a table's end."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
