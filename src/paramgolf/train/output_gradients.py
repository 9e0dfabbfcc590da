"""How much the loss hears of each output of every matrix, and of each row of a table: mean squares of gradients.

Targets are drawn from the model's own distribution, so what is measured is the curvature of its divergence from itself
and says nothing of the text's next tokens. Legend: S sequences, T tokens, N positions, R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from paramgolf.errors import LeakError, RunError
from paramgolf.kernels.varlen import Documents
from paramgolf.model.gpt import GPT
from paramgolf.ranks import Ranks
from paramgolf.squeeze.sensitivity import Sensitivity
from paramgolf.train.calibration import Source, forward_rows
from paramgolf.train.own_text import OwnText

BATCH_NUMBERS = 1 << 24  # logits of one pass at most, unless a sequence has more


class OutputGradients(TorchFunctionMode):
    """While it is entered, adds up squared gradients at the outputs of products and look-ups of the named tensors.

    Like `InputMoments` it watches calls, not blocks. The gradients come with `backward` of what was computed meanwhile.
    """

    def __init__(self, model: GPT, names: Collection[str]) -> None:
        super().__init__()
        exported = model.exported_weights()
        self._names = {exported[name].data_ptr(): name for name in names}
        device = next(model.parameters()).device
        self.outputs = {name: _noughts(exported[name], device) for name in names}
        self.lookups = {name: _noughts(exported[name], device) for name in names}
        self.positions = dict.fromkeys(names, 0)  # that a product saw

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is functional.linear and (name := self._names.get(args[1].data_ptr())):
            self.positions[name] += result.shape[:-1].numel()
            result.register_hook(lambda grad: self._add_output(name, grad))
        elif func is functional.embedding and (name := self._names.get(args[1].data_ptr())):
            rows = args[0].reshape(-1)
            result.register_hook(lambda grad: self._add_lookup(name, rows, grad))
        return result

    def _add_output(self, name: str, grad: Tensor) -> None:
        self.outputs[name] += grad.reshape(-1, grad.shape[-1]).float().square().sum(0).double()

    def _add_lookup(self, name: str, rows_N: Tensor, grad: Tensor) -> None:
        squares_N = grad.reshape(len(rows_N), -1).float().square().mean(1).double()
        self.lookups[name].index_add_(0, rows_N, squares_N)


def collect_sensitivities(
    model: GPT,
    names: Collection[str],
    source: Source,
    sequences: int,
    seed: int,
    ranks: Ranks | None = None,
    separate_at: int | None = None,
) -> dict[str, Sensitivity]:
    """The sensitivity of the named tensors on `sequences` of the source; each rank reads its share, rounded up.

    With `separate_at`, the boundary token, documents see themselves alone, as in `collect_hessians`.

    `model` computes in float32; its parameters come back without gradients. Raises `LeakError` for any other kind of
    source, `RunError` where a gradient is not finite.
    """
    if not isinstance(source, Source):
        raise LeakError(
            f"sensitivities may not use {type(source).__name__}: they take windows of training text, or the model's own"
        )
    ranks = ranks or Ranks()
    share = -(-sequences // ranks.world)
    batch = min(share, max(1, BATCH_NUMBERS // (source.sequence * model.embedding.weight.shape[0])))
    generator = torch.Generator(ranks.device).manual_seed(seed * ranks.world + ranks.rank)
    watch, batches = OutputGradients(model, names), -(-share // batch)
    with torch.enable_grad():
        for step in range(batches):
            tokens = source.draw(step * batch, batch) if isinstance(source, OwnText) else source.batch(step, batch)[0]
            for row_BT, documents in forward_rows(torch.from_numpy(tokens).to(ranks.device), separate_at):
                _backward(model, watch, row_BT, documents, generator)
    model.zero_grad(set_to_none=True)
    return _sensitivities(watch, batches * batch * source.sequence, ranks)


def _backward(
    model: GPT, watch: OutputGradients, row_BT: Tensor, documents: Documents | None, generator: torch.Generator
) -> None:
    """Gradients of the sum of the losses on targets drawn from the model."""
    with watch:
        logits_NV = model.logits(model.hidden(row_BT, documents=documents)).flatten(0, 1)
        drawn_N = torch.multinomial(logits_NV.detach().softmax(-1), 1, generator=generator)[:, 0]
        loss = functional.cross_entropy(logits_NV, drawn_N, reduction="sum")
    torch.autograd.backward(loss)


def _sensitivities(watch: OutputGradients, tokens: int, ranks: Ranks) -> dict[str, Sensitivity]:
    found: dict[str, Sensitivity] = {}
    for name, outputs_R in watch.outputs.items():
        means = ranks.add(outputs_R / max(1, watch.positions[name])), ranks.add(watch.lookups[name] / tokens)
        outputs, lookups = (mean_R.cpu().numpy() / ranks.world for mean_R in means)
        if not (np.isfinite(outputs).all() and np.isfinite(lookups).all()):
            raise RunError(f"the gradients at {name} are not finite: these are the weights of a run that diverged")
        found[name] = Sensitivity(outputs, lookups)
    return found


def _noughts(tensor: Tensor, device: torch.device) -> Tensor:
    return torch.zeros(tensor.shape[0], dtype=torch.float64, device=device)
