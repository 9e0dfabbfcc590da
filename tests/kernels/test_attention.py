"""The fused attention equals the definition."""

import pytest
import torch

from paramgolf.kernels.attention import causal_attention, plain_causal_attention


def draw(heads: int, kv_heads: int, length: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(heads * 100 + kv_heads * 10 + length)
    shapes = [(2, heads, length, 8), (2, kv_heads, length, 8), (2, kv_heads, length, 8)]
    return tuple(torch.randn(shape, generator=generator, dtype=dtype, requires_grad=True) for shape in shapes)


@pytest.mark.parametrize("heads,kv_heads", [(4, 4), (4, 2), (6, 2), (4, 1)])
@pytest.mark.parametrize("length", [1, 2, 17, 64])
@pytest.mark.parametrize("dtype,tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_fused_equals_plain(heads: int, kv_heads: int, length: int, dtype: torch.dtype, tolerance: float) -> None:
    """The library kernel gives the values and gradients of the plain definition, grouped or not."""
    inputs = draw(heads, kv_heads, length, dtype)
    weight = torch.randn(2, heads, length, 8, dtype=dtype, generator=torch.Generator().manual_seed(1))
    fused, plain = causal_attention(*inputs), plain_causal_attention(*inputs)
    torch.testing.assert_close(fused, plain, rtol=0, atol=tolerance)
    fused_grads = torch.autograd.grad((fused * weight).sum(), inputs)
    plain_grads = torch.autograd.grad((plain * weight).sum(), inputs)
    for one, other in zip(fused_grads, plain_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=20 * tolerance)


def test_query_head_reads_its_group() -> None:
    """Query head h reads key/value head h // (H / G): at position 0 the output is that head's first value."""
    q, k, v = draw(6, 2, 5, torch.float64)
    out = causal_attention(q, k, v)
    for head in range(6):
        torch.testing.assert_close(out[:, head, 0], v[:, head // 3, 0])


@pytest.mark.parametrize("attention", [causal_attention, plain_causal_attention])
def test_no_row_sees_the_future(attention: object) -> None:
    """Changing keys and values from position t on leaves the rows before t bitwise as they were."""
    q, k, v = (x.detach() for x in draw(4, 2, 32, torch.float32))
    before = attention(q, k, v)  # type: ignore[operator]  # both are the same kind of function
    k2, v2 = k.clone(), v.clone()
    k2[:, :, 20:] += 3.0
    v2[:, :, 20:] -= 3.0
    after = attention(q, k2, v2)  # type: ignore[operator]
    assert torch.equal(before[:, :, :20], after[:, :, :20])
    assert not torch.allclose(before[:, :, 20:], after[:, :, 20:])


@pytest.mark.parametrize("heads,kv_heads", [(4, 4), (6, 2)])
def test_queries_of_some_positions_equal_plain(heads: int, kv_heads: int) -> None:
    """Queries of named positions, in any order and differing between rows, get the plain definition's rows of them."""
    inputs = draw(heads, kv_heads, 17, torch.float64)
    positions = torch.tensor([[16, 0, 5, 5], [3, 4, 15, 1]])
    chosen = positions[:, None, :, None].expand(-1, heads, -1, 8)
    weight = torch.randn(2, heads, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = causal_attention(inputs[0].gather(2, chosen), *inputs[1:], positions)
    plain = plain_causal_attention(*inputs).gather(2, chosen)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad((rows * weight).sum(), inputs) for rows in (found, plain)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-11)
