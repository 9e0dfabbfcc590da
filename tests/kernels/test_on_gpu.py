"""What only a GPU can run: the kernels chosen there equal their definitions, and the model compiles to one graph."""

from dataclasses import replace

import pytest
import torch

from paramgolf.kernels.attention import attention_backend, causal_attention, plain_causal_attention
from paramgolf.kernels.loss import loss_backend, plain_softcapped_loss, softcapped_loss
from paramgolf.kernels.varlen import masked_varlen_attention, varlen_attention, varlen_backend
from paramgolf.model.gpt import GPT
from paramgolf.recipes import get_recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative error in the 2-norm; NaN stays NaN and fails every comparison."""
    return float((found.double() - exact).norm() / exact.norm())


def draw(*shapes: tuple[int, ...], dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator(device="cuda").manual_seed(sum(map(sum, shapes)))
    return [torch.randn(s, generator=generator, device="cuda").to(dtype).requires_grad_() for s in shapes]


def exact_copies(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [x.detach().double().requires_grad_() for x in inputs]


@pytest.mark.parametrize("dtype,tolerance", [(torch.bfloat16, 1e-2), (torch.float32, 3e-3)])
@pytest.mark.parametrize("length", [1, 100, 2048])
def test_attention(dtype: torch.dtype, tolerance: float, length: int) -> None:
    """Values and gradients of whatever kernel serves are the definition's in float64, to the rounding of the dtype."""
    inputs = draw((2, length, 8, 64), (2, length, 4, 64), (2, length, 4, 64), dtype=dtype)
    exact = exact_copies(inputs)
    out = causal_attention(*(x.transpose(1, 2) for x in inputs))
    reference = plain_causal_attention(*(x.transpose(1, 2) for x in exact))
    weight = torch.randn_like(out)
    assert error(out, reference) < tolerance, attention_backend(out.device, dtype)
    found = torch.autograd.grad((out * weight).sum(), inputs)
    wanted = torch.autograd.grad((reference * weight.double()).sum(), exact)
    for name, one, other in zip("qkv", found, wanted, strict=True):
        if length > 1 or name == "v":  # of a single position the softmax is constant
            assert error(one, other) < 2 * tolerance, name


@pytest.mark.parametrize("dtype,tolerance", [(torch.bfloat16, 1e-2), (torch.float32, 3e-3)])
def test_packed_documents(dtype: torch.dtype, tolerance: float) -> None:
    """Documents laid end to end, empty ones among them, get what the mask in float64 gives."""
    inputs = draw((1000, 8, 64), (1000, 4, 64), (1000, 4, 64), dtype=dtype)
    exact = exact_copies(inputs)
    lengths = torch.tensor([300, 0, 1, 699], device="cuda")
    out = varlen_attention(*inputs, lengths, 700)
    reference = masked_varlen_attention(*exact, torch.tensor([0, 300, 300, 301, 1000], device="cuda"))
    assert error(out, reference) < tolerance, varlen_backend(out.device, dtype)
    weight = torch.randn_like(out)
    found = torch.autograd.grad((out * weight).sum(), inputs)
    wanted = torch.autograd.grad((reference * weight.double()).sum(), exact)
    for one, other in zip(found, wanted, strict=True):
        assert error(one, other) < 2 * tolerance


@pytest.mark.parametrize("dtype,tolerance", [(torch.bfloat16, 1e-2), (torch.float32, 2e-3)])
@pytest.mark.parametrize("count,vocabulary", [(1, 50), (20_000, 1024), (777, 1000), (300, 9000)])
def test_loss(dtype: torch.dtype, tolerance: float, count: int, vocabulary: int) -> None:
    """The loss and its gradients are the definition's in float64, over several pieces and blocks."""
    h, head = draw((count, 64), (vocabulary, 64), dtype=dtype)
    targets = torch.randint(vocabulary, (count,), device="cuda")
    exact = exact_copies([h, head])
    loss, reference = softcapped_loss(h, head, targets, 30.0), plain_softcapped_loss(*exact, targets, 30.0)
    assert error(loss, reference) < tolerance, loss_backend(h.device, dtype)
    found, wanted = torch.autograd.grad(loss, (h, head)), torch.autograd.grad(reference, exact)
    for one, other in zip(found, wanted, strict=True):
        assert error(one, other) < 2 * tolerance


@pytest.mark.slow
def test_model_compiles_to_one_graph() -> None:
    """The loss of the whole model, forward and backward, compiles without a break and agrees with the eager one."""
    recipe = get_recipe("pr549").model
    model = GPT(replace(recipe, layers=4, xsa_layers=(3,), value_layers=(3,)), 1024).cuda()
    model.activation_dtype = torch.bfloat16
    tokens = torch.randint(1024, (2, 2049), device="cuda")
    eager = model.loss(tokens[:, :-1], tokens[:, 1:])
    compiled = torch.compile(model.loss, fullgraph=True, dynamic=False)(tokens[:, :-1], tokens[:, 1:])
    compiled.backward()
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=0)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
