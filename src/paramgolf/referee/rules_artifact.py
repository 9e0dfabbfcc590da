"""Rules about the file: how large it is, and whether it is the one that was scored."""

from __future__ import annotations

from paramgolf.predict.adapt import ADAPTATIONS
from paramgolf.recipe import ScoreRecipe
from paramgolf.referee.evidence import Evidence
from paramgolf.referee.finding import Finding, Numbers
from paramgolf.referee.limits import Limits


def size(found: Evidence, limits: Limits) -> Finding:
    """The file on the disk fits the cap (O2); shown without the tokenizer too, which the contest does not count."""
    cap = limits.artifact_bytes
    if "model.pyz" not in found.files:
        return Finding("size", "UNPROVEN", "there is no model.pyz to weigh.", {"limit": cap})
    total = found.files["model.pyz"]
    tokenizer = found.artifact.tokenizer_bytes if found.artifact else 0
    numbers = {"bytes": total, "without_tokenizer": total - tokenizer, "tokenizer": tokenizer, "limit": cap}
    says = (
        f"model.pyz has {total:,} bytes on the disk ({total - tokenizer:,} without its tokenizer); {cap:,} are allowed."
    )
    if total > cap:
        return Finding("size", "FAIL", f"{says} It is {total - cap:,} bytes too large.", numbers)
    return Finding("size", "PASS", says, numbers)


def reproducible(found: Evidence, _: Limits) -> Finding:
    """The artifact is the one that was scored, and the code inside is the installed one (C9)."""
    rule, facts = "reproducible", found.artifact
    if "model.pyz" in found.problems:
        return Finding(rule, "FAIL", f"the artifact cannot be read: {found.problems['model.pyz']}")
    scored = str((found.score or {}).get("artifact_digest") or "")
    if facts is None or not scored:
        lacking = "there is no model.pyz" if facts is None else "no score names the artifact that it is of"
        return Finding(rule, "UNPROVEN", f"{lacking}, so the score cannot be had again from it.")
    numbers: Numbers = {
        "artifact_sha256": facts.digest,
        "scored_sha256": scored,
        "sources": facts.sources,
        "changed_sources": len(facts.changed_sources),
        "foreign_sources": len(facts.foreign_sources),
    }
    if scored != facts.digest:
        says = (
            f"score.json is of an artifact {scored[:12]}..., the file here is {facts.digest[:12]}...: it was changed."
        )
        return Finding(rule, "FAIL", says, numbers)
    if found.recipe is not None and found.recipe != facts.recipe:
        return Finding(rule, "FAIL", "recipe.json is not the recipe that model.pyz holds.", numbers)
    unlike = unlike_artifact(found, facts.recipe.score)
    if unlike:
        return Finding(rule, "FAIL", unlike, numbers)
    odd = facts.changed_sources + facts.foreign_sources
    if odd:
        says = f"the artifact is the one that was scored, but {len(odd)} source files are missing or not the installed"
        return Finding(rule, "UNPROVEN", f"{says} ones: {', '.join(odd[:4])}.", numbers)
    says = f"the artifact is the one that was scored, and its {facts.sources} source files are the installed ones."
    return Finding(rule, "PASS", says, numbers)


def unlike_artifact(found: Evidence, settings: ScoreRecipe) -> str:
    """Why the recorded score cannot be one of an artifact with these settings; "" if it can.

    What adapts and the order of documents are the score's own: `score --adapt` and `--order` may choose others than the
    recipe, and the record names them.
    """
    adapt = str((found.score or {}).get("adapt") or settings.adapt)
    if adapt not in ADAPTATIONS:
        return f"the score was made with {adapt[:40]!r}, which is no honest adaptation ({', '.join(ADAPTATIONS)})."
    order = found.plan
    if order is not None and (order.lanes, order.chunk) != (settings.lanes, settings.chunk):
        recorded = f"{order.lanes} lanes of {order.chunk} tokens"
        return f"the score was made in {recorded}, the artifact's recipe says {settings.lanes} of {settings.chunk}."
    return ""
