"""What only a GPU can run of #2140's model: learnt caps, and packed rows as one compiled graph."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from paramgolf.kernels.loss import plain_softcapped_loss, softcapped_loss
from paramgolf.kernels.varlen import Documents
from paramgolf.model.adapters import LoraAdapters
from paramgolf.model.gpt import GPT
from paramgolf.recipes.pr2140 import pr2140

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
# The record's widths, four layers: one that loops, two lanes in the last.
SMALLER = replace(pr2140().model, layers=4, xsa_layers=(0, 1, 2, 3), looped_layers=(1, 2), loops=2, parallel_layers=1)


def make_model() -> GPT:
    """A model whose new parameters are not at their first values, with bfloat16 activations."""
    model = GPT(SMALLER, 1024).cuda()
    generator = torch.Generator(device="cuda").manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "softcaps" and not parameter.any():
                parameter.normal_(0.0, 0.02, generator=generator)
    model.activation_dtype = torch.bfloat16
    return model


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1e-2), (torch.float32, 2e-3)])
@pytest.mark.parametrize(("count", "vocabulary"), [(20_000, 1024), (300, 8192)])
def test_learnt_caps(dtype: torch.dtype, tolerance: float, count: int, vocabulary: int) -> None:
    """Loss and gradients, those of both caps too, are the definition's in float64."""
    generator = torch.Generator(device="cuda").manual_seed(count)
    h, head = (torch.randn(size, 64, generator=generator, device="cuda").to(dtype) for size in (count, vocabulary))
    targets = torch.randint(vocabulary, (count,), device="cuda", generator=generator)
    given = [x.requires_grad_() for x in (h, head, torch.tensor([9.0, 5.0], device="cuda"))]
    exact = [x.detach().double().requires_grad_() for x in given]
    loss, reference = (
        softcapped_loss(*given[:2], targets, given[2]),
        plain_softcapped_loss(*exact[:2], targets, exact[2]),
    )
    found, wanted = torch.autograd.grad(loss, given), torch.autograd.grad(reference, exact)
    for one, other in zip((loss, *found), (reference, *wanted), strict=True):
        assert ((one.double() - other).norm() / other.norm()).item() < 2 * tolerance


@pytest.mark.slow
@pytest.mark.parametrize("looping", [False, True])
def test_packed_rows_compile_to_one_graph(looping: bool) -> None:
    """The loss of a packed row compiles without a break, forward and backward, and agrees with the eager one."""
    model = make_model()
    tokens = torch.randint(2, 1024, (1, 4097), device="cuda", generator=torch.Generator(device="cuda").manual_seed(1))
    documents = Documents(torch.tensor([1024, 1, 0, 1000, 1024, 1024, 23], device="cuda"), 1024)
    model.rotary.prepare(4096, 1024)
    losses = []
    for loss_of in (model.loss, torch.compile(model.loss, fullgraph=True, dynamic=False)):
        loss = loss_of(tokens[:, :-1], tokens[:, 1:], looping=looping, documents=documents)
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=0)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


def test_adapters_in_half_precision() -> None:
    """Float32 adapters on a bfloat16 stream: gradients are float32 and finite, rows near those of the CPU."""
    model = make_model()
    adapters = LoraAdapters(SMALLER, 1024, lanes=3, rank=8, alpha=16.0).cuda()
    with torch.no_grad():
        for kind in adapters.kinds:
            adapters.factors(kind)[1].normal_(0.0, 0.02, generator=torch.Generator(device="cuda").manual_seed(2))
    tokens = torch.randint(2, 1024, (3, 64), device="cuda", generator=torch.Generator(device="cuda").manual_seed(3))
    chosen = adapters.chosen()
    h = model.hidden(tokens, adapters=chosen)
    logits = model.logits(h, chosen.delta("head", 0, h))
    logits.square().mean().backward()
    assert logits.dtype == torch.float32
    for parameter in adapters.parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
        assert torch.isfinite(parameter.grad).all()
    model.cpu().activation_dtype = None
    adapters.cpu()
    exact = model.hidden(tokens.cpu(), adapters=adapters)
    rows = model.logits(exact, adapters.delta("head", 0, exact))
    assert float((logits.cpu() - rows).abs().max()) < 0.25
