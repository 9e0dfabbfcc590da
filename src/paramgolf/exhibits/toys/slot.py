"""Toy SLOT in four forms: an offset of the hidden states and a bias of the logits, fitted on targets by AdamW.

Shapes: W windows, L positions, V vocabulary, D width, G groups of windows with one set of parameters (W or 1). Nats.
Three of the four fit on targets that they then score (PR #1430, #1240 and #1209, #1350); the strict one does not.

Readings of spec section 8.4 that give its figures: the rates run by a cosine over `steps` with both ends included
(section 4.2); the shared all-position form keeps its rate of 0.05 constant; the strict form takes 25 steps on the bias
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from paramgolf.exhibits.tables import log_softmax
from paramgolf.exhibits.toys.world import SOFTCAP, Batch, Credits, Tokens, World, batches, credited
from paramgolf.predict.protocol import Bool, Float64, Int64

EPSILON, WEIGHT_DECAY = 1e-5, 1e-8


@dataclass(frozen=True)
class Slot:
    """What is fitted, on which positions, and how: a toy scorer once `run` is called.

    `mask(world, batch)` says which positions [W, L] are in the loss. With `shared` parameters, or without, the loss is
    the sum over all fitted entries of the batch divided by their number; with `own_mean` by the window's own number.
    """

    mask: Callable[[World, Batch], Bool]
    steps: int
    first_rate: float
    last_rate: float
    betas: tuple[float, float] = (0.6, 0.5)
    shared: bool = False
    own_mean: bool = False
    fits_offset: bool = True
    fits_bias: bool = True

    def run(self, world: World, sequences: Sequence[Tokens], declared: Sequence[int]) -> Iterator[Credits]:
        """Credits batch by batch; nothing is carried from one batch to the next."""
        for batch in batches(world, sequences, declared):
            hidden_WLD = world.hidden(batch.inputs_WL)
            offset_G1D, bias_G1V = self.fit(world, hidden_WLD, batch.targets_WL, self.mask(world, batch))
            yield credited(batch, log_softmax(world.logits(hidden_WLD + offset_G1D) + bias_G1V))

    def rates(self) -> list[float]:
        """The learning rate of each step."""
        share = [0.5 * (1 + np.cos(np.pi * step / max(1, self.steps - 1))) for step in range(self.steps)]
        return [self.last_rate + (self.first_rate - self.last_rate) * one for one in share]

    def fit(self, world: World, hidden_WLD: Float64, targets_WL: Int64, mask_WL: Bool) -> tuple[Float64, Float64]:
        """Offset [G, 1, D] and bias [G, 1, V] after all steps, from zero."""
        groups = 1 if self.shared else len(hidden_WLD)
        parameters = [np.zeros((groups, 1, hidden_WLD.shape[2])), np.zeros((groups, 1, world.vocab_size))]
        moments = [(np.zeros_like(one), np.zeros_like(one)) for one in parameters]
        count = mask_WL.sum(axis=1, keepdims=True) if self.own_mean else mask_WL.sum()
        weight_WL1 = (mask_WL / np.maximum(count, 1))[:, :, None]
        # Only what is in the loss has a gradient: one column of windows is enough where few positions are fitted.
        fitted = np.flatnonzero(mask_WL.any(axis=0))
        hidden_WLD, targets_WL, weight_WL1 = hidden_WLD[:, fitted], targets_WL[:, fitted], weight_WL1[:, fitted]
        for step, rate in enumerate(self.rates(), start=1):
            offset_G1D, bias_G1V = parameters
            capped_WLV = world.capped(hidden_WLD + offset_G1D)
            error_WLV = np.exp(log_softmax(SOFTCAP * capped_WLV + bias_G1V))
            window_WL, position_WL = np.ogrid[: targets_WL.shape[0], : targets_WL.shape[1]]
            error_WLV[window_WL, position_WL, targets_WL] -= 1.0
            error_WLV *= weight_WL1
            into_hidden_WLD = (error_WLV * (1.0 - capped_WLV**2)) @ world.output_VD
            axes = (0, 1) if self.shared else (1,)
            gradients = [into_hidden_WLD.sum(axis=axes, keepdims=True), error_WLV.sum(axis=axes, keepdims=True)]
            for which, wanted in enumerate((self.fits_offset, self.fits_bias)):
                if wanted:
                    self._adamw(parameters[which], gradients[which], *moments[which], step, rate)
        return parameters[0], parameters[1]

    def _adamw(
        self, parameter: Float64, gradient: Float64, first: Float64, second: Float64, step: int, rate: float
    ) -> None:
        beta1, beta2 = self.betas
        parameter *= 1.0 - rate * WEIGHT_DECAY
        first += (1.0 - beta1) * (gradient - first)
        second += (1.0 - beta2) * (gradient**2 - second)
        scale = np.sqrt(second / (1.0 - beta2**step)) + EPSILON
        parameter -= rate * first / (1.0 - beta1**step) / scale


def _scored_but_the_last(world: World, batch: Batch) -> Bool:
    """What #1430 fits: the positions it scores, without the window's last column, which its loss slices away."""
    return batch.scored_WL & (np.arange(world.window) < world.window - 1)


def _everything(world: World, batch: Batch) -> Bool:
    return batch.known_WL


def _context(world: World, batch: Batch) -> Bool:
    """The stride of positions before the scored ones; the first window has none."""
    columns_L = np.arange(world.window)
    scored_from = world.window - world.stride
    inside_L = (columns_L >= scored_from - world.stride) & (columns_L < scored_from)
    return np.asarray(inside_L & ~batch.first_W[:, None] & batch.known_WL, dtype=np.bool_)


SLOT_1430 = Slot(_scored_but_the_last, 24, 0.432, 0.001)
SLOT_SHARED = Slot(_everything, 8, 0.05, 0.05, betas=(0.9, 0.999), shared=True, fits_bias=False)
SLOT_1350 = Slot(_context, 25, 0.2, 0.01, shared=True, fits_offset=False)
SLOT_STRICT = Slot(_context, 25, 0.05, 0.01, own_mean=True, fits_offset=False)
