"""The words and numbers of a run's page, ready to print; what is missing says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paramgolf.report.run_data import RunData

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Fact:
    """One number of the header: its label, its value, and a few words below."""

    label: str
    value: str
    below: str = ""


@dataclass(frozen=True)
class Facts:
    """Texts of the page. `verdict_word` is legal, not legal or not measured; `findings` are rule, status, says."""

    name: str
    bpb: str
    bpb_below: str
    verdict_word: str
    numbers: list[Fact]
    findings: list[tuple[str, str, str]]
    ruleset: str
    environment: list[tuple[str, str]]
    recipe: list[tuple[str, list[tuple[str, str]]]]
    commands: list[str]
    text_says: str
    hardware_says: str
    budget_says: str
    artifact_says: str


def facts_of(data: RunData) -> Facts:
    """Everything that the page says in words."""
    score, verdict, recipe = data.score or {}, data.verdict, data.recipe or {}
    text_says = _text_says(score)
    return Facts(
        name=str(recipe.get("name") or data.folder.name),
        bpb=f"{score['bpb']:.4f}" if isinstance(score.get("bpb"), (int, float)) else NOT_MEASURED,
        bpb_below=f"bits per byte on {text_says}" if score else "score the artifact to see its bits per byte",
        verdict_word=NOT_MEASURED if verdict is None else "legal" if verdict.get("legal") else "not legal",
        numbers=_numbers(data),
        findings=[_finding(entry) for entry in (verdict or {}).get("findings") or []],
        ruleset=str((verdict or {}).get("ruleset") or ""),
        environment=flat(data.environment or {}),
        recipe=_recipe_sections(recipe),
        commands=[str(line) for line in (data.environment or {}).get("commands") or []] or _commands(data),
        text_says=text_says,
        hardware_says=_hardware_says(data.environment or {}),
        budget_says=_budget_says(recipe),
        artifact_says=f"{data.artifact_bytes:,} bytes" if data.artifact_bytes else "bytes",
    )


def flat(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested records as (dotted name, text) pairs; the list of commands is shown elsewhere."""
    pairs: list[tuple[str, str]] = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            pairs += flat(value, f"{prefix}{name}.")
        elif f"{prefix}{name}" != "commands":
            words = ", ".join(map(str, value)) if isinstance(value, list) else _word(value)
            pairs.append((f"{prefix}{name}", words or "none"))
    return pairs


def _numbers(data: RunData) -> list[Fact]:
    score, proof = data.score or {}, data.proof
    budget = ((data.recipe or {}).get("budget") or {}).get("artifact_bytes")
    trained = [entry for entry in data.ledger or [] if entry.get("on_clock") and "train" in str(entry.get("name"))]
    size = Fact("artifact", NOT_MEASURED)
    if data.artifact_bytes:
        size = Fact("artifact", f"{data.artifact_bytes:,} B", f"of {budget:,} allowed" if budget else "")
    train = Fact("training", NOT_MEASURED)
    if trained:
        limit = trained[0].get("limit")
        train = Fact("training", _seconds(sum(e["seconds"] for e in trained)), f"of {limit:g} s" if limit else "")
    scoring = Fact("scoring", NOT_MEASURED)
    if score.get("seconds"):
        rate = score.get("tokens", 0) / score["seconds"]
        scoring = Fact("scoring", _seconds(score["seconds"]), f"{rate:,.0f} tokens/s" if rate else "")
    return [size, train, scoring, _proof_fact(proof)]


def _proof_fact(proof: Mapping[str, Any] | None) -> Fact:
    if proof is None:
        return Fact("proof", NOT_MEASURED, "encode and decode text to prove the score")
    word = "identical" if proof.get("identical") else "NOT identical"
    return Fact("proof", word, f"{proof.get('bytes_in', 0):,} B as {proof.get('bytes_coded', 0):,} B and back")


def _finding(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(entry.get("rule")), str(entry.get("status")), str(entry.get("says"))


def _text_says(score: Mapping[str, Any]) -> str:
    if not score:
        return "held-out text"
    name = (score.get("text") or {}).get("name") or "held-out text"
    documents = score.get("documents")
    parts = [f"{score['bytes']:,} bytes"] if isinstance(score.get("bytes"), int) else []
    parts += [_counted(documents, "document")] if isinstance(documents, int) else []
    return f"{' in '.join(parts)} of {name}" if parts else str(name)


def _hardware_says(environment: Mapping[str, Any]) -> str:
    if not environment:
        return ""
    gpus = environment.get("gpus") or []
    where = ", ".join(map(str, gpus)) if gpus else f"{environment.get('cpu', 'CPU')}, no GPU"
    return f"Measured on {where}, {_counted(environment.get('threads'), 'thread')}."


def _budget_says(recipe: Mapping[str, Any]) -> str:
    budget = recipe.get("budget") or {}
    if not budget:
        return ""
    return f"Budget: {budget.get('train_seconds', 0):g} s of training, {budget.get('artifact_bytes', 0):,} bytes."


def _recipe_sections(recipe: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    top = [(name, _word(value)) for name, value in recipe.items() if not isinstance(value, Mapping)]
    nested = [(name, flat(value)) for name, value in recipe.items() if isinstance(value, Mapping)]
    return ([("run", top)] if top else []) + nested


def _commands(data: RunData) -> list[str]:
    run = data.folder.name
    return [f"paramgolf score {run}/model.pyz TEXT", f"paramgolf check {run}", f"paramgolf report {run}"]


def _counted(number: Any, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}" if isinstance(number, int) else f"? {thing}s"


def _seconds(value: float) -> str:
    return f"{value:,.1f} s" if value < 1000 else f"{value:,.0f} s"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
