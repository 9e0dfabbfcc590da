"""What bfloat16 states become: spec pr549.md 2.2 and 7-A2."""

import pytest
import torch

from paramgolf.kernels.attention import causal_attention
from paramgolf.kernels.loss import loss_backend, plain_softcapped_loss, softcapped_loss
from paramgolf.kernels.norm import rms_norm
from paramgolf.kernels.relu_squared import relu_squared


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("function", [rms_norm, relu_squared, lambda x: causal_attention(x, x, x)])
def test_dtype_is_kept(function, dtype: torch.dtype) -> None:
    """Norm, activation and attention give the dtype that they got, and gradients of it (spec pr549.md 7-A2)."""
    x = torch.randn(1, 2, 3, 8, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    out = function(x)
    out.float().sum().backward()
    assert out.dtype == x.grad.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loss_of_half_precision_is_float32(dtype: torch.dtype) -> None:
    """The loss of half-precision states is float32 and the plain one: a mean in 8 bits would be useless."""
    generator = torch.Generator().manual_seed(0)
    h, head = (torch.randn(n, 8, generator=generator).to(dtype).requires_grad_() for n in (5, 11))
    targets = torch.arange(5)
    loss = softcapped_loss(h, head, targets, 30.0)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, plain_softcapped_loss(h, head, targets, 30.0))


def test_which_loss() -> None:
    """Each device and dtype has one path, and says which."""
    cpu = torch.device("cpu")
    assert [loss_backend(cpu, d) for d in (torch.float32, torch.float64)] == ["piecewise"] * 2
    assert loss_backend(cpu, torch.bfloat16) == "plain"
    assert loss_backend(torch.device("cuda"), torch.float64) == "plain"
    assert loss_backend(torch.device("cuda"), torch.bfloat16) in ("triton", "plain")
