"""Text from an artifact, drawn token by token from its rows."""

from __future__ import annotations

import numpy as np

from paramgolf.artifact.artifact import Artifact
from paramgolf.errors import RecipeError
from paramgolf.predict.protocol import Chunk, Float64, single_token


def sample(
    artifact: Artifact,
    prompt: bytes,
    tokens: int,
    temperature: float = 0.8,
    seed: int = 0,
    adapt: str = "none",
) -> bytes:
    """The text that follows `prompt`: at most `tokens` tokens, fewer if the model ends the document.

    Each token is drawn from its row with log-probabilities divided by `temperature`; 0 takes the likeliest. The same
    arguments give the same bytes. The prompt is not part of the answer, which may end within a character of several
    bytes. Raises `RecipeError` for a negative temperature or number of tokens.
    """
    from paramgolf.predict.adapt import build_predictor

    if not temperature >= 0 or tokens < 0:
        raise RecipeError(f"sample: temperature={temperature} and tokens={tokens} must not be negative")
    rng = np.random.default_rng(seed)
    boundary = artifact.tokenizer.boundary_id
    given = artifact.tokenizer.encode_exact(prompt).tolist()
    predictor = build_predictor(artifact, adapt, incremental=True, tokens=len(given) + tokens)
    for at, token in enumerate(given):
        predictor.observe(single_token(token, start=at == 0))
    drawn: list[int] = []
    while len(drawn) < tokens:
        nothing = single_token(0, start=not given and not drawn)
        token = draw(predictor.predict(nothing).row(0, 0), temperature, rng)
        if token == boundary:
            break
        drawn.append(token)
        predictor.observe(Chunk(np.array([[token]], dtype=np.int64), nothing.lengths, nothing.starts))
    return artifact.tokenizer.decode(drawn)


def draw(row_V: Float64, temperature: float, rng: np.random.Generator) -> int:
    """One token of a row of log-probabilities [V] in nats, sharpened by `temperature`."""
    if temperature == 0:
        return int(row_V.argmax())
    weight_V = np.exp((row_V - row_V.max()) / temperature)
    cumulative_V = weight_V.cumsum()
    return int(min(np.searchsorted(cumulative_V, rng.random() * cumulative_V[-1], side="right"), len(row_V) - 1))
