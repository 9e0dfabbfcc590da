"""The names that `score --adapt` takes, with one line each; torch is not imported for them."""

from __future__ import annotations


def adapt_names() -> dict[str, str]:
    """Honest adaptations first, then the exhibits as `exhibit:NAME` with the rule that must catch each."""
    from paramgolf.exhibits import EXHIBITS
    from paramgolf.predict.adapt import ADAPTATIONS

    honest = {name: str(summary) for name, summary in ADAPTATIONS.items()}
    rogues = {f"exhibit:{name}": f"{exhibit.summary}; caught by {exhibit.rule}" for name, exhibit in EXHIBITS.items()}
    return honest | rogues


def adapt_help() -> str:
    """The list for --help."""
    names = adapt_names()
    width = max(map(len, names))
    honest = [f"  {name:<{width}}  {says}" for name, says in names.items() if ":" not in name]
    rogues = [f"  {name:<{width}}  {says}" for name, says in names.items() if ":" in name]
    return "\n".join(
        ["--adapt NAME, honest:", *honest, "", "--adapt NAME, illegal, to see the referee catch it:", *rogues]
    )


def require_honest(name: str) -> None:
    """Raise `RecipeError` unless `name` is an honest adaptation: what breaks a rule cannot be decoded."""
    from paramgolf.cli.arguments import suggestion
    from paramgolf.errors import RecipeError
    from paramgolf.predict.adapt import ADAPTATIONS

    if name not in ADAPTATIONS:
        known = ", ".join(ADAPTATIONS)
        raise RecipeError(f"cannot code with {name!r}{suggestion(name, ADAPTATIONS)} (known: {known})")


def require_adaptation(name: str) -> None:
    """Raise `RecipeError` unless a recipe may ask for `name`: before the training, not after it."""
    from paramgolf.cli.arguments import suggestion
    from paramgolf.errors import RecipeError
    from paramgolf.predict.adapt import ADAPTATIONS

    if name not in ADAPTATIONS:
        also = suggestion(name, ADAPTATIONS) or "; a recipe takes the honest names only"
        raise RecipeError(f"score.adapt={name!r} is not known{also} (`paramgolf score --help` lists all)")
