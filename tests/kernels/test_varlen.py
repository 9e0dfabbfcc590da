"""Attention over documents laid end to end equals attention to each document by itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.kernels.attention import attention_backend, plain_causal_attention
from paramgolf.kernels.varlen import masked_varlen_attention, varlen_attention, varlen_backend


def draw(count: int, heads: int, groups: int, size: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(count * 100 + heads * 10 + groups)
    shapes = [(count, heads, size), (count, groups, size), (count, groups, size)]
    return [torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True) for shape in shapes]


def by_document(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """The definition applied to one document after the other."""
    parts = zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
    outs = [plain_causal_attention(*(x.transpose(0, 1)[None] for x in part))[0].transpose(0, 1) for part in parts]
    return torch.cat(outs)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=7).filter(any),
    heads=st.sampled_from([(2, 2), (4, 2), (6, 1)]),
    width=st.sampled_from([torch.int32, torch.int64]),
)
def test_equals_each_document_alone(lengths: list[int], heads: tuple[int, int], width: torch.dtype) -> None:
    """Values and gradients are those of separate calls, grouped or not, empty ones among them; by the mask too."""
    inputs, lengths_S = draw(sum(lengths), *heads), torch.tensor(lengths, dtype=width)
    alone = by_document(*inputs, lengths)
    weight = torch.randn(alone.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = torch.autograd.grad((alone * weight).sum(), inputs)
    ends_E = torch.tensor([0, *lengths]).cumsum(0)
    for packed in (
        varlen_attention(*inputs, lengths_S, max(lengths)),
        masked_varlen_attention(*inputs, ends_E),
    ):
        torch.testing.assert_close(packed, alone, rtol=0, atol=1e-12)
        for one, other in zip(torch.autograd.grad((packed * weight).sum(), inputs), wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_no_document_sees_another() -> None:
    """Changing one document leaves the rows of all others bitwise as they were."""
    q, k, v = (x.detach() for x in draw(12, 4, 2))
    lengths = torch.tensor([5, 4, 3])
    before = varlen_attention(q, k, v, lengths)
    k2, v2 = k.clone(), v.clone()
    k2[5:9] += 1.0
    v2[5:9] -= 1.0
    after = varlen_attention(q, k2, v2, lengths)
    assert torch.equal(before[:5], after[:5])
    assert torch.equal(before[9:], after[9:])
    assert not torch.equal(before[5:9], after[5:9])


def test_whole_graph() -> None:
    """A compiled call has no graph break and one graph serves other lengths of the same number of documents."""
    inputs = draw(12, 4, 2)
    torch.compiler.reset()
    fast = torch.compile(varlen_attention, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for lengths in ([5, 4, 3], [12, 0, 0], [1, 1, 10]):
            given = torch.tensor(lengths)
            torch.testing.assert_close(fast(*inputs, given), varlen_attention(*inputs, given), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_backends_on_a_cpu(dtype: torch.dtype) -> None:
    """On a CPU both calls say that no GPU kernel serves them."""
    assert attention_backend(torch.device("cpu"), dtype) == "sdpa"
    assert varlen_backend(torch.device("cpu"), dtype) == "by-length"
