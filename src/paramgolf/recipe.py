"""A run, as one frozen value: every setting that decides the outcome, validated, fingerprinted, written as JSON.

Widths that follow from others (head size, widths of the MLP) are functions, never fields. A contradiction is refused
where it is made, with both names and both values.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal, get_origin, get_type_hints

from paramgolf.errors import RecipeError

MOST = 10**15  # of a number that is read from a file
MOST_ORDER = 32  # of n-gram contexts
LEARNT_SOFTCAPS = (1.0, 60.0)  # between which caps that are learnt stay: what every loss and kernel takes


@dataclass(frozen=True)
class TokenizerRecipe:
    """How text becomes tokens: `bytes` (260 ids) or a lossless SentencePiece BPE trained on the training text.

    "caseops" is such a BPE over text whose capitals are operators in front of small letters (spec pr2140.md 1.1).
    """

    kind: Literal["sentencepiece", "caseops", "bytes"] = "sentencepiece"
    vocab_size: int = 1024


@dataclass(frozen=True)
class ModelRecipe:
    """The transformer: by default a plain modern GPT; further fields switch on single parts of the contest's models.

    The parts are specified in spec pr549.md, pr1185.md and pr2140.md, section 2 each; layers are counted from 0.
    """

    layers: int = 6
    width: int = 128
    heads: int = 4
    kv_heads: int = 2
    mlp_ratio: float = 3.0
    mlp_slope: float = 0.0  # of the squared activation below zero: 0 is ReLU², 0.5 the LeakyReLU² of #549
    rope_base: float = 10_000.0
    rope_channels: int = 0  # that rotary turns in each head; 0: all
    rope_length: int = 0  # longer sequences raise the base (the NTK rule); 0: never
    softcap: float = 30.0
    query_gain: float = 1.5  # of each head at the start, learnt from there
    value_residual: bool = False  # each layer's values are mixed with the first layer's
    gated_attention: bool = False  # a gate for each head on what it read
    gated_mlp: bool = False  # the squared activation times a sigmoid gate (SquareGLU): a third matrix
    routed_layers: tuple[int, ...] = ()  # whose MLP serves only the positions that a router picks
    routed_share: float = 0.5  # of the positions, which training aims at
    xsa_layers: tuple[int, ...] = ()  # whose attention leaves out each position's own value
    value_layers: tuple[int, ...] = ()  # whose values get a token embedding of their own
    value_width: int = 128
    bigram_buckets: int = 0  # rows of the hashed table of token pairs; 0: none
    bigram_width: int = 128
    smear: Literal["none", "everywhere", "within-document", "gated"] = "none"  # "gated": of #2140, within documents
    unet: bool = False  # the first half's outputs are added, in reverse order, before the second half's blocks
    skip_gates: bool = False  # each joins by a gate of its own for every channel, in the place of a sum
    looped_layers: tuple[int, ...] = ()  # neighbours that run `loops` times, as a group
    loops: int = 3
    parallel_layers: int = 0  # the last ones: attention and MLP side by side, each reading a lane of its own
    sparse_gates: bool = False  # a gate for each head, from the first `gate_channels` of its input alone
    gate_channels: int = 12  # that sparse gates and the gated smear read
    gate_scale: float = 0.5  # times the score of a sparse gate
    asymmetric_softcap: bool = False  # two caps that are learnt, of logits above and below 0
    residual_mix: bool = False  # each block mixes the first embedding into its input
    block_scales: bool = False  # a gain for each channel of what attention and MLP add
    depth_scale: bool = False  # the inputs of layer i's attention and MLP times 1 / sqrt(i + 1)
    init: Literal["uniform", "orthogonal"] = "uniform"
    embedding_std: float = 0.02

    def __post_init__(self) -> None:
        _positive(self, "layers", "width", "heads", "kv_heads", "mlp_ratio", "rope_base", "softcap", "query_gain")
        _positive(self, "routed_share")
        _fraction(self, "routed_share")
        _positive(self, "value_width", "bigram_width", "embedding_std", "loops", "gate_channels", "gate_scale")
        _fraction(self, "mlp_slope")
        _not_negative(self, "rope_length")
        _divides(self, "heads", "width")
        _divides(self, "kv_heads", "heads")
        if self.head_size() % 2:
            raise RecipeError(f"model.width={self.width} / model.heads={self.heads} must be even: rotary turns pairs")
        if self.rope_channels % 2 or not 0 <= self.rope_channels <= self.head_size():
            raise RecipeError(
                f"model.rope_channels={self.rope_channels} must be even and at most the head size {self.head_size()}"
            )
        if self.rope_length and self.turned_channels() < 4:
            raise RecipeError(
                f"model.rope_length={self.rope_length} needs model.rope_channels of 4 or more, found "
                f"{self.turned_channels()}"
            )
        if not self.mlp_width():
            raise RecipeError(f"model.mlp_ratio={self.mlp_ratio} of model.width={self.width} leaves the MLP no channel")
        if self.unet and self.layers < 2:
            raise RecipeError(f"model.unet=True needs model.layers of 2 or more, found {self.layers}")
        for name in ("xsa_layers", "value_layers", "routed_layers", "looped_layers"):
            chosen = getattr(self, name)
            if list(chosen) != sorted(set(chosen)) or any(not 0 <= layer < self.layers for layer in chosen):
                raise RecipeError(
                    f"model.{name}={','.join(map(str, chosen))} must ascend within 0..{self.layers - 1} "
                    f"(model.layers={self.layers})"
                )
        self._check_composition()
        if self.bigram_buckets in (1, 2) or self.bigram_buckets < 0:
            raise RecipeError(f"model.bigram_buckets={self.bigram_buckets} must be 0 or at least 3")

    def _check_composition(self) -> None:
        looped = self.looped_layers
        if looped and list(looped) != list(range(looped[0], looped[-1] + 1)):
            raise RecipeError(
                f"model.looped_layers={','.join(map(str, looped))} must be neighbours: they run as a group"
            )
        if not 0 <= self.parallel_layers <= self.layers - (looped[-1] + 1 if looped else 0):
            raise RecipeError(
                f"model.parallel_layers={self.parallel_layers} must be last ones of model.layers={self.layers}, none "
                f"of them in model.looped_layers={','.join(map(str, looped))}"
            )
        if self.skip_gates and not self.unet:
            raise RecipeError("model.skip_gates=True needs model.unet=True: there is no skip to gate")
        if self.sparse_gates and self.gated_attention:
            raise RecipeError("model.sparse_gates=True and model.gated_attention=True contradict each other")
        least, most = LEARNT_SOFTCAPS
        if self.asymmetric_softcap and not least <= self.softcap <= most:
            raise RecipeError(
                f"model.asymmetric_softcap=True learns caps between {least:g} and {most:g}, found "
                f"model.softcap={self.softcap:g}"
            )
        if (self.sparse_gates or self.smear == "gated") and self.gate_channels > self.width:
            raise RecipeError(f"model.gate_channels={self.gate_channels} is above model.width={self.width}")

    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.width // self.heads

    def turned_channels(self) -> int:
        """Channels of one head that rotary turns."""
        return self.rope_channels or self.head_size()

    def rope_base_at(self, length: int) -> float:
        """Rotary's base for sequences of `length` tokens: raised beyond `rope_length` (spec pr549.md 2.6)."""
        if not self.rope_length or length <= self.rope_length:
            return self.rope_base
        channels = self.turned_channels()
        return float(self.rope_base * (length / self.rope_length) ** (channels / (channels - 2)))

    def kv_width(self) -> int:
        """Channels of all key (or value) heads."""
        return self.kv_heads * self.head_size()

    def mlp_width(self) -> int:
        """Hidden channels of the MLP."""
        return round(self.mlp_ratio * self.width)

    def visits(self) -> int:
        """Blocks that a token passes, those of looped layers once for each time."""
        return self.layers + (self.loops - 1) * len(self.looped_layers)

    def skips(self) -> int:
        """Pairs of visits that a U-Net skip joins."""
        return self.visits() // 2 if self.unet else 0


@dataclass(frozen=True)
class OptimRecipe:
    """Muon for matrices, AdamW for embeddings and scalars; the learning rate falls with the wall clock.

    `warmdown` and `momentum_warmup` are shares of the training clock. The `_steps` fields are the published forms that
    count steps (spec pr549.md 3.3, 3.8); give one of the two, the other 0.
    """

    matrix_lr: float = 0.02
    embedding_lr: float = 0.02
    scalar_lr: float = 0.01
    future_lr: float = 0.008  # of the heads that predict further ahead (`train.future_heads`)
    muon_momentum: float = 0.95
    muon_momentum_start: float = 0.85
    momentum_warmup: float = 0.0
    momentum_warmup_steps: int = 0
    muon_weight_decay: float = 0.02
    newton_schulz_steps: int = 5
    newton_schulz: Literal["quintic", "polar-express"] = "quintic"  # its coefficients; the latter change with each step
    muon_row_norm: bool = False  # rows of the momentum have length 1 before it is made orthogonal (MuonEq-R)
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-8
    embedding_weight_decay: float = 0.0
    scalar_weight_decay: float = 0.0
    clip_norm: float = 1.0
    clip: Literal["after", "before"] = "after"  # gradients are averaged over the ranks; "before" is the published order
    warmdown: float = 0.5
    warmdown_steps: int = 0
    least_lr: float = 0.0  # share of the rates that the warm-down does not go below
    average: Literal["ema", "swa"] = "ema"
    ema_decay: float = 0.99
    swa_every: int = 50  # steps between snapshots, once the rate's scale is below `swa_below`
    swa_below: float = 0.2
    qat_below: float = 0.0  # the rate's scale below which training sees quantised matrices; 0: never
    grokfast: float = 0.0  # times the running mean of the gradients, added to them; 0: never
    grokfast_decay: float = 0.98

    def __post_init__(self) -> None:
        _positive(self, "matrix_lr", "embedding_lr", "scalar_lr", "newton_schulz_steps", "adam_eps", "clip_norm")
        _positive(self, "future_lr")
        _positive(self, "swa_every", "swa_below")
        _fraction(self, "muon_momentum", "muon_momentum_start", "momentum_warmup", "adam_beta1", "adam_beta2")
        _fraction(self, "warmdown", "ema_decay", "swa_below", "qat_below", "grokfast_decay")
        _not_negative(self, "muon_weight_decay", "embedding_weight_decay", "scalar_weight_decay", "grokfast")
        _not_negative(self, "warmdown_steps", "momentum_warmup_steps")
        _fraction(self, "least_lr")
        for share, steps in (("warmdown", "warmdown_steps"), ("momentum_warmup", "momentum_warmup_steps")):
            if getattr(self, share) and getattr(self, steps):
                raise RecipeError(
                    f"optim.{share}={getattr(self, share)} and optim.{steps}={getattr(self, steps)} contradict each "
                    "other: one of them must be 0"
                )


@dataclass(frozen=True)
class TrainRecipe:
    """The training loop: shape of a batch, warm-up, and where it stops besides the clock.

    `batch_tokens` is the batch of all ranks; a rank takes its share in pieces of at most `micro_tokens` at a time.
    `compile` takes effect on a GPU only; `dtype` is that of activations on a GPU (a CPU always computes in float32).
    """

    sequence: int = 256
    batch_tokens: int = 8192
    micro_tokens: int = 65_536
    order: Literal["shuffled", "stream"] = "shuffled"  # "stream": the shards from first to last (spec pr549.md 1.4)
    packed: bool = False  # documents lie end to end in one row and attend to themselves alone (spec pr2140.md 3.1)
    contexts: tuple[int, ...] = ()  # most tokens of a document that see each other, stage after stage; last: `sequence`
    contexts_until: tuple[float, ...] = ()  # share of the clock at which each stage but the last ends
    rewarm_steps: int = 0  # over which the rates rise again after each change of context
    loop_from: float = 0.0  # share of the clock from which looped layers run more than once
    max_steps: int = 1_000_000
    warmup_steps: int = 2
    compile: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    table_dtype: Literal["float32", "bfloat16"] = "float32"  # of the embedding tables and of what AdamW keeps for them
    future_heads: int = 0  # that also predict 2, 3, ... tokens ahead (MTP); they are trained and left out of the model
    future_weight: float = 0.15  # of their mean loss
    crown_weight: float = 0.0  # of the CROWN-Q penalty on what rounding will cost; 0: none
    crown_form: Literal["rounding", "published"] = "rounding"  # "published" has no effect (spec pr1185.md 2.6)
    crown_below: float = 0.3  # the rate's scale below which it counts
    distill_weight: float = 0.0  # of the divergence from the averaged weights' rows; 0: none
    distill_temperature: float = 1.6
    distill_below: float = 0.35  # the rate's scale below which it counts
    distill_every: int = 16  # steps between two copies of the average into the teacher
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        _positive(self, "sequence", "batch_tokens", "micro_tokens", "max_steps", "checkpoint_seconds")
        _positive(self, "distill_temperature", "distill_every")
        _not_negative(self, "warmup_steps", "future_heads", "future_weight", "crown_weight", "distill_weight")
        _fraction(self, "crown_below", "distill_below", "loop_from")
        _not_negative(self, "rewarm_steps")
        self._check_contexts()
        if self.future_heads + 1 >= self.sequence:
            raise RecipeError(
                f"train.future_heads={self.future_heads} look beyond train.sequence={self.sequence}; use fewer"
            )
        shortest = min(self.stages())
        if self.future_heads and not self.packed and self.future_heads + 1 >= shortest:
            raise RecipeError(
                f"train.future_heads={self.future_heads} look beyond the {shortest} of "
                f"train.contexts={','.join(map(str, self.contexts))}; use fewer"
            )
        if self.packed and self.order != "stream":
            raise RecipeError(f"train.packed=True needs train.order='stream', found {self.order!r}")
        if self.micro_tokens < self.sequence:
            raise RecipeError(
                f"train.micro_tokens={self.micro_tokens} is below train.sequence={self.sequence}: no sequence fits"
            )
        if self.batch_tokens % self.sequence:
            raise RecipeError(
                f"train.batch_tokens={self.batch_tokens} is no multiple of train.sequence={self.sequence}"
            )

    def stages(self) -> tuple[int, ...]:
        """The longest context of each stage; one stage of `sequence` tokens by default."""
        return self.contexts or (self.sequence,)

    def _check_contexts(self) -> None:
        contexts, until = self.contexts, self.contexts_until
        if len(until) != max(0, len(contexts) - 1) or list(until) != sorted(set(until)):
            raise RecipeError(
                f"train.contexts_until={','.join(map(str, until))} must ascend and name the end of every stage of "
                f"train.contexts={','.join(map(str, contexts))} but the last"
            )
        if any(not 0 < share < 1 for share in until):
            raise RecipeError(f"train.contexts_until={','.join(map(str, until))} must lie within 0..1")
        if contexts and contexts[-1] != self.sequence:
            raise RecipeError(
                f"train.contexts ends with {contexts[-1]}, train.sequence={self.sequence} must be the same"
            )
        for context in contexts:
            if context < 1 or self.batch_tokens % context or self.micro_tokens < context:
                raise RecipeError(
                    f"train.contexts names {context}, which must divide train.batch_tokens={self.batch_tokens} and be "
                    f"at most train.micro_tokens={self.micro_tokens}"
                )


@dataclass(frozen=True)
class SqueezeRecipe:
    """Bits of the weights, how their steps are found, and whether the artifact carries text to prime n-gram counts.

    `clip` "search" looks for each row's best clip on a grid; "percentile" is the search of #549 over percentiles,
    one for each tensor, and "percentile-floor" the same with the published floor of 1/q under the step.

    `quantiser` "gptq" rounds the matrices column by column and lets the later columns make up for each error (Full
    GPTQ, spec pr1430.md 3.3). It needs the second moments of every matrix's inputs, from training text (`calibration`
    "train", inside the training clock, which keeps `calibration_seconds` free for it) or from text that the model
    generates itself ("generated").
    """

    matrix_bits: int = 6
    embedding_bits: int = 8
    small_bits: int = 32  # of gains, scales and small projections: 16 or 32, floating point
    gate_bits: int = 0  # of sparse gates, 2..8; 0: floating point, as all that is small
    clip: Literal["search", "percentile", "percentile-floor", "sigma"] = "search"
    embedding_sigmas: float = 14.0  # of clip "sigma": standard deviations of a row at which its integers end
    attention_sigmas: float = 13.0
    mlp_sigmas: float = 11.5
    # How steps grow to meet the budget: all by one factor, or each tensor's by its own, such that the expected loss is
    # least (spec pr2140.md 4.2; needs second moments).
    allocation: Literal["together", "free"] = "together"
    wide_groups: int = 0  # of columns that keep `wide_bits`: where activations and weights are largest (AWQ-lite)
    wide_columns: int = 64
    wide_bits: int = 8
    corrected_tensors: int = 0  # whose rounding error is the largest: they get a low-rank correction (LQER)
    correction_rank: int = 4
    correction_form: Literal["asymmetric", "symmetric"] = "asymmetric"
    quantiser: Literal["nearest", "gptq"] = "nearest"
    calibration: Literal["train", "generated"] = "train"
    calibration_sequences: int = 64
    calibration_seconds: float = 14.0
    damping: float = 0.01  # share of the mean second moment that is added to each
    column_order: Literal["activation", "natural"] = "activation"  # in which GPTQ rounds: largest second moment first
    prune_ones: bool = False  # integers of ±1 become 0, cheapest first, before the steps grow (spec pr1430.md 3.5)
    carry_text: bool = False

    def __post_init__(self) -> None:
        for name in ("matrix_bits", "embedding_bits"):
            if not 2 <= getattr(self, name) <= 8:
                raise RecipeError(f"squeeze.{name}={getattr(self, name)} is outside 2..8")
        if self.small_bits not in (16, 32):
            raise RecipeError(f"squeeze.small_bits={self.small_bits} is neither 16 nor 32")
        if self.gate_bits and not 2 <= self.gate_bits <= 8:
            raise RecipeError(f"squeeze.gate_bits={self.gate_bits} is outside 2..8 and not 0")
        if not self.matrix_bits <= self.wide_bits <= 8:
            raise RecipeError(
                f"squeeze.wide_bits={self.wide_bits} is outside squeeze.matrix_bits={self.matrix_bits}..8"
            )
        if (self.wide_groups or self.allocation == "free") and self.quantiser != "gptq":
            raise RecipeError(
                f"squeeze.wide_groups={self.wide_groups} and squeeze.allocation={self.allocation!r} need the second "
                f"moments of squeeze.quantiser='gptq', found {self.quantiser!r}"
            )
        _positive(self, "calibration_sequences", "calibration_seconds", "wide_columns", "correction_rank")
        _positive(self, "embedding_sigmas", "attention_sigmas", "mlp_sigmas")
        _not_negative(self, "damping", "wide_groups", "corrected_tensors")


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
    ngram_order: int = 8  # tokens of the longest context
    ngram_lag: int = 0  # tokens whose counts become known together, as published; 0: each at once
    ngram_bytes: int = 0  # most memory of the counts, beyond which rare contexts are forgotten; 0: what they need
    cache_least_order: int = 7  # tokens of the shortest context that the cache believes; at most ngram_order
    cache_strength: float = 16.0  # occurrences that the prior of counts (the model's row, a shorter context) is worth
    alpha_base: float = 0.20  # of the share alpha = base + range * sigmoid(2 (entropy - centre)), entropy in nats
    alpha_range: float = 0.55
    alpha_centre: float = 2.5
    ttt_chunk: int = 5376
    ttt_optimizer: Literal["adamw", "sgd"] = "adamw"
    ttt_lr: float = 3e-4
    ttt_schedule: Literal["constant", "cosine"] = "constant"  # "cosine": from ttt_lr to 0 over the chunks of the text
    ttt_momentum: float = 0.9  # of SGD
    ttt_epochs: int = 1
    ttt_sequences: int = 8  # of one training step, over all ranks
    ttt_clip_norm: float = 1.0
    ttt_frozen_blocks: int = 0  # the first blocks, whose parameters do not move
    ttt_least_lr: float = 0.0  # below which a cosine does not fall
    ttt_weight_decay: float = 0.0  # of AdamW
    ttt_polyak: float = 0.0  # decay of the average of the weights that rows come from; 0: the weights themselves
    slot_on: Literal["hidden", "logits", "both"] = "both"  # what a delta is fitted to on tokens already scored
    slot_context: int = 256  # last scored tokens of a lane that it is fitted on
    slot_interval: int = 64  # tokens between two fits
    slot_steps: int = 8
    slot_optimizer: Literal["adamw", "lbfgs"] = "adamw"
    slot_lr: float = 0.02  # falls on a cosine to slot_least_lr
    slot_least_lr: float = 0.001
    slot_warm: float = 0.0  # share of the last delta that the next fit starts from
    order: Literal["stream", "longest-first"] = "stream"  # of documents; all but the stream's must be described
    lora_rank: int = 8  # of each lane's adapters
    lora_alpha: float = 16.0  # adapters count alpha / rank times
    lora_query_value: bool = False  # adapters of queries and values, besides keys, outputs, MLP and head
    lora_chunks: tuple[int, ...] = (32,)  # tokens of a document between two steps of its adapters, one after the other
    lora_chunks_until: tuple[int, ...] = ()  # position in the document at which each of them but the last ends
    lora_lr: float = 1e-3
    lora_beta2: float = 0.99  # of AdamW; its beta1 is 0
    lora_weight_decay: float = 0.5
    lora_keeps_inner: bool = False  # a lane's next document begins with the inner matrix that the last one learnt
    global_documents: int = 0  # scored ones after which all weights train on them (phased TTT); 0: never
    global_phases: int = 1
    global_chunk: int = 32_768  # tokens of one step
    global_lr: float = 1e-3
    global_momentum: float = 0.9
    global_clip_norm: float = 1.0
    tilt_context: int = 15  # tokens of the context that gives a hint
    tilt_share: float = 0.8  # of a context's followers that the hint must have
    tilt_boost: float = 2.625  # nats that a hint is raised by, before the row is normalised again

    def __post_init__(self) -> None:
        _positive(self, "window", "stride", "lanes", "chunk", "ngram_order", "ttt_chunk", "ttt_lr", "ttt_epochs")
        _positive(
            self, "ttt_sequences", "ttt_clip_norm", "cache_strength", "alpha_centre", "slot_context", "slot_interval"
        )
        _positive(self, "slot_steps", "slot_lr")
        _positive(self, "lora_rank", "lora_alpha", "lora_lr", "global_phases", "global_chunk", "global_lr")
        _positive(self, "global_clip_norm", "tilt_context")
        self._check_lora()
        _not_negative(self, "lora_weight_decay", "global_documents", "tilt_boost")
        _fraction(self, "ttt_momentum", "ttt_polyak", "lora_beta2", "global_momentum", "tilt_share")
        if self.tilt_context > MOST_ORDER:
            raise RecipeError(f"score.tilt_context={self.tilt_context} is larger than {MOST_ORDER}")
        _not_negative(self, "ngram_lag", "ngram_bytes", "cache_least_order", "alpha_base", "alpha_range")
        _not_negative(self, "ttt_least_lr", "ttt_weight_decay", "slot_least_lr")
        if "normcache" in self.adapt and self.cache_least_order > self.ngram_order:
            raise RecipeError(
                f"score.cache_least_order={self.cache_least_order} is above score.ngram_order={self.ngram_order}: "
                f"score.adapt={self.adapt!r} would never find a context"
            )
        if self.slot_warm < 0 or self.slot_warm > 1:
            raise RecipeError(f"score.slot_warm={self.slot_warm} is outside 0..1")
        if self.alpha_base + self.alpha_range > 1:
            raise RecipeError(
                f"score.alpha_base={self.alpha_base} and score.alpha_range={self.alpha_range} add up to more than 1"
            )
        if self.stride > self.window:
            raise RecipeError(f"score.stride={self.stride} is larger than score.window={self.window}")
        if self.ngram_order > MOST_ORDER:
            raise RecipeError(f"score.ngram_order={self.ngram_order} is larger than {MOST_ORDER}")
        _not_negative(self, "ttt_frozen_blocks")

    def _check_lora(self) -> None:
        chunks, until = self.lora_chunks, self.lora_chunks_until
        given = f"score.lora_chunks={','.join(map(str, chunks))}"
        ends = f"score.lora_chunks_until={','.join(map(str, until))}"
        if not chunks or any(chunk < 1 for chunk in chunks):
            raise RecipeError(f"{given} must name one positive number of tokens or more")
        if len(until) != len(chunks) - 1:
            raise RecipeError(
                f"score.lora_chunks_until needs one place fewer than {given} ({len(chunks) - 1}), found "
                f"{','.join(map(str, until)) or 'none'}"
            )
        if list(until) != sorted(set(until)):
            raise RecipeError(f"{ends} must ascend and name the position where each of {given} but the last ends")
        for chunk, first, last in zip(chunks, (0, *until), until):
            if last <= first or (last - first) % chunk:
                raise RecipeError(
                    f"{ends} and {given}: chunks of {chunk} tokens from position {first} do not end at {last}"
                )
        if self.lora_beta2 == 1:
            raise RecipeError(f"score.lora_beta2={self.lora_beta2} must be below 1: squares would never be learnt")


@dataclass(frozen=True)
class BudgetRecipe:
    """The limits: bytes of what is submitted, seconds of training and of evaluation.

    `reserved_bytes` of the `artifact_bytes` stay free for what is handed in beside the packed file: a script.
    """

    artifact_bytes: int = 16_000_000
    reserved_bytes: int = 0
    train_seconds: float = 600.0
    eval_seconds: float = 600.0

    def __post_init__(self) -> None:
        _positive(self, "artifact_bytes", "train_seconds", "eval_seconds")
        if not 0 <= self.reserved_bytes < self.artifact_bytes:
            raise RecipeError(
                f"budget.reserved_bytes={self.reserved_bytes} must be at least 0 and below "
                f"budget.artifact_bytes={self.artifact_bytes}"
            )

    def packed_bytes(self) -> int:
        """The most that the packed file may have."""
        return self.artifact_bytes - self.reserved_bytes


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
    if get_origin(hint) is tuple:
        kind = hint.__args__[0]
        accepted_items = (int, float) if kind is float else (int,)
        if not isinstance(value, (list, tuple)) or any(type(item) not in accepted_items for item in value):
            raise RecipeError(f"{where}={value!r} should be a list of {'' if kind is float else 'whole '}numbers")
        return tuple(kind(item) for item in value)
    choices = getattr(hint, "__args__", None)
    if choices is not None:
        if value not in choices:
            raise RecipeError(f"{where}={value!r} is none of {', '.join(map(repr, choices))}")
        return value
    if isinstance(value, int) and abs(value) > MOST:  # a stranger's; it would not even become a float
        raise RecipeError(f"{where} holds a number beyond 1e15")
    accepted = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise RecipeError(f"{where}={value!r} should be {hint.__name__}")
    return hint(value)


def _flag(recipe: object, name: str) -> str:
    """The setting as the command line spells it: `score.window` of a ScoreRecipe."""
    return f"{type(recipe).__name__.removesuffix('Recipe').lower()}.{name}"


def _positive(recipe: object, *names: str) -> None:
    for name in names:
        if not getattr(recipe, name) > 0:
            raise RecipeError(f"{_flag(recipe, name)}={getattr(recipe, name)} must be positive")


def _not_negative(recipe: object, *names: str) -> None:
    for name in names:
        if not getattr(recipe, name) >= 0:  # nor not a number
            raise RecipeError(f"{_flag(recipe, name)}={getattr(recipe, name)} must not be negative")


def _fraction(recipe: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(recipe, name) <= 1:
            raise RecipeError(f"{_flag(recipe, name)}={getattr(recipe, name)} is outside 0..1")


def _divides(recipe: object, part: str, whole: str) -> None:
    if getattr(recipe, whole) % getattr(recipe, part):
        raise RecipeError(
            f"{_flag(recipe, part)}={getattr(recipe, part)} does not divide {whole}={getattr(recipe, whole)}"
        )
