"""A run, as one frozen value: every setting that decides the outcome, validated, fingerprinted, written as JSON.

Widths that follow from others (head size, widths of the MLP) are functions, never fields. A contradiction is refused
where it is made, with both names and both values.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from paramgolf.errors import RecipeError


@dataclass(frozen=True)
class TokenizerRecipe:
    """How text becomes tokens: `bytes` (260 ids) or a lossless SentencePiece BPE trained on the training text."""

    kind: Literal["sentencepiece", "bytes"] = "sentencepiece"
    vocab_size: int = 1024


@dataclass(frozen=True)
class ModelRecipe:
    """The plain modern GPT: RMSNorm, rotary, grouped queries, QK-norm, squared-ReLU MLP, tied embeddings, softcap."""

    layers: int = 6
    width: int = 128
    heads: int = 4
    kv_heads: int = 2
    mlp_ratio: float = 3.0
    rope_base: float = 10_000.0
    softcap: float = 30.0

    def __post_init__(self) -> None:
        _positive(self, "layers", "width", "heads", "kv_heads", "mlp_ratio", "rope_base", "softcap")
        _divides(self, "heads", "width")
        _divides(self, "kv_heads", "heads")
        if self.head_size() % 2:
            raise RecipeError(f"model.width={self.width} / model.heads={self.heads} must be even: rotary turns pairs")

    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.width // self.heads

    def kv_width(self) -> int:
        """Channels of all key (or value) heads."""
        return self.kv_heads * self.head_size()

    def mlp_width(self) -> int:
        """Hidden channels of the MLP."""
        return round(self.mlp_ratio * self.width)


@dataclass(frozen=True)
class OptimRecipe:
    """Muon for matrices, Adam for the embedding and the scalars; the learning rate falls with the wall clock."""

    matrix_lr: float = 0.02
    embedding_lr: float = 0.02
    scalar_lr: float = 0.01
    muon_momentum: float = 0.95
    muon_weight_decay: float = 0.02
    newton_schulz_steps: int = 5
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-8
    clip_norm: float = 1.0
    warmdown: float = 0.5
    ema_decay: float = 0.99

    def __post_init__(self) -> None:
        _positive(self, "matrix_lr", "embedding_lr", "scalar_lr", "newton_schulz_steps", "adam_eps")
        _fraction(self, "muon_momentum", "adam_beta1", "adam_beta2", "warmdown", "ema_decay")


@dataclass(frozen=True)
class TrainRecipe:
    """The training loop: shape of a batch, warm-up, and where it stops besides the clock.

    `batch_tokens` is the batch of all ranks; a rank takes its share in pieces of at most `micro_tokens` at a time.
    `compile` and `dtype="bfloat16"` take effect on a GPU only.
    """

    sequence: int = 256
    batch_tokens: int = 8192
    micro_tokens: int = 65_536
    max_steps: int = 1_000_000
    warmup_steps: int = 2
    compile: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        _positive(self, "sequence", "batch_tokens", "micro_tokens", "max_steps", "checkpoint_seconds")
        if self.micro_tokens < self.sequence:
            raise RecipeError(
                f"train.micro_tokens={self.micro_tokens} is below train.sequence={self.sequence}: no sequence fits"
            )
        if self.batch_tokens % self.sequence:
            raise RecipeError(
                f"train.batch_tokens={self.batch_tokens} is no multiple of train.sequence={self.sequence}"
            )


@dataclass(frozen=True)
class SqueezeRecipe:
    """Bits of the weights, and how much training text the artifact carries to prime the n-gram counts."""

    matrix_bits: int = 6
    embedding_bits: int = 8
    carry_text: bool = False

    def __post_init__(self) -> None:
        for name in ("matrix_bits", "embedding_bits"):
            if not 2 <= getattr(self, name) <= 8:
                raise RecipeError(f"squeeze.{name}={getattr(self, name)} is outside 2..8")


@dataclass(frozen=True)
class ScoreRecipe:
    """How the artifact is read out: frames of the neural window, and what adapts while it scores.

    Frames have one fixed shape of `window` tokens and advance by `stride`, so each row sees between
    `window - stride` and `window - 1` earlier tokens. `adapt` is a name that `paramgolf score --help` lists.
    """

    window: int = 256
    stride: int = 224
    adapt: str = "none"
    lanes: int = 1
    chunk: int = 1792
    ngram_order: int = 8
    ttt_chunk: int = 5376
    ttt_lr: float = 3e-4
    ttt_epochs: int = 1

    def __post_init__(self) -> None:
        _positive(self, "window", "stride", "lanes", "chunk", "ngram_order", "ttt_chunk", "ttt_lr", "ttt_epochs")
        if self.stride > self.window:
            raise RecipeError(f"score.stride={self.stride} is larger than score.window={self.window}")
        if self.ngram_order > 8:
            raise RecipeError(f"score.ngram_order={self.ngram_order} is larger than 8")


@dataclass(frozen=True)
class BudgetRecipe:
    """The limits: bytes of the packed file, seconds of training and of evaluation."""

    artifact_bytes: int = 16_000_000
    train_seconds: float = 600.0
    eval_seconds: float = 600.0

    def __post_init__(self) -> None:
        _positive(self, "artifact_bytes", "train_seconds", "eval_seconds")


@dataclass(frozen=True)
class Recipe:
    """A complete run. `dataclasses.replace` (or `with_overrides`) makes variants."""

    name: str
    tokenizer: TokenizerRecipe = field(default_factory=TokenizerRecipe)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    train: TrainRecipe = field(default_factory=TrainRecipe)
    squeeze: SqueezeRecipe = field(default_factory=SqueezeRecipe)
    score: ScoreRecipe = field(default_factory=ScoreRecipe)
    budget: BudgetRecipe = field(default_factory=BudgetRecipe)
    seed: int = 1337

    def fingerprint(self) -> str:
        """Twelve hex digits that change with any setting; names the run folder."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def to_json(self) -> str:
        """The whole recipe, keys sorted, readable back by `from_json`."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Recipe:
        """Read a recipe back; unknown, missing or wrongly typed settings raise `RecipeError`."""
        try:
            record = json.loads(text)
        except ValueError as error:
            raise RecipeError(f"recipe is not JSON: {error}") from None
        recipe: Recipe = _build(Recipe, record, "recipe")
        return recipe


def _build(kind: type[Any], record: object, where: str) -> Any:
    if not isinstance(record, dict):
        raise RecipeError(f"{where} should be an object, found {type(record).__name__}")
    hints = get_type_hints(kind)
    unknown = sorted(set(record) - set(hints))
    if unknown:
        raise RecipeError(f"{where} has unknown settings: {', '.join(map(str, unknown))}")
    missing = sorted(set(hints) - set(record))
    if missing:
        raise RecipeError(f"{where} lacks settings: {', '.join(missing)}")
    return kind(**{name: _value(hint, record[name], f"{where}.{name}") for name, hint in hints.items()})


def _value(hint: Any, value: object, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, where)
    choices = getattr(hint, "__args__", None)
    if choices is not None:
        if value not in choices:
            raise RecipeError(f"{where}={value!r} is none of {', '.join(map(repr, choices))}")
        return value
    accepted = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise RecipeError(f"{where}={value!r} should be {hint.__name__}")
    return hint(value)


def _positive(recipe: object, *names: str) -> None:
    for name in names:
        if not getattr(recipe, name) > 0:
            raise RecipeError(f"{type(recipe).__name__}.{name}={getattr(recipe, name)} must be positive")


def _fraction(recipe: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(recipe, name) <= 1:
            raise RecipeError(f"{type(recipe).__name__}.{name}={getattr(recipe, name)} is outside 0..1")


def _divides(recipe: object, part: str, whole: str) -> None:
    if getattr(recipe, whole) % getattr(recipe, part):
        raise RecipeError(
            f"{type(recipe).__name__}.{part}={getattr(recipe, part)} does not divide {whole}={getattr(recipe, whole)}"
        )
