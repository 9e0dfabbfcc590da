"""The call of FlashAttention-3, with a stand-in for its package: layout, gradients, whole-graph compilation, choice."""

import sys
from types import ModuleType

import pytest
import torch

from paramgolf.kernels import attention, flash3, varlen
from paramgolf.kernels.attention import attention_backend, causal_attention, plain_causal_attention


def seen(count: int, ends: torch.Tensor | None) -> torch.Tensor:
    """Which position sees which."""
    position = torch.arange(count)
    mask = position[:, None] >= position
    if ends is None:
        return mask
    document = torch.searchsorted(ends[1:].long(), position, right=True)
    return mask & (document[:, None] == document)


def scores_of(q, k, ends):
    """Scaled scores [..., H, T, T] of [..., T, H, K], with the repeated keys."""
    k = k.repeat_interleave(q.shape[-2] // k.shape[-2], dim=-2)
    scores = torch.einsum("...qhk,...shk->...hqs", q, k) / q.shape[-1] ** 0.5
    return scores.masked_fill(~seen(q.shape[-3], ends), -torch.inf)


class StandIn(ModuleType):
    """The package as its documentation describes it, slow; it insists on its layout as the real one does."""

    def __init__(self) -> None:
        super().__init__("flash_attn_interface")
        self.calls: list[str] = []

    def _forward(self, q, k, v, ends):
        for x in (q, k, v):
            assert x.stride(-1) == 1
        scores = scores_of(q, k, ends)
        v = v.repeat_interleave(q.shape[-2] // v.shape[-2], dim=-2)
        out = torch.einsum("...hqs,...shk->...qhk", scores.softmax(-1), v)
        return out.contiguous(), scores.logsumexp(-1).float()

    def flash_attn_func(self, q, k, v, softmax_scale=None, causal=False, return_attn_probs=False):
        assert causal
        self.calls.append("forward")
        out, sums = self._forward(q, k, v, None)
        return (out, sums) if return_attn_probs else out

    def flash_attn_varlen_func(
        self, q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=False, return_attn_probs=False
    ):
        assert causal
        assert cu_seqlens_q.dtype == torch.int32
        assert int(cu_seqlens_q.diff().max()) <= max_seqlen_q == max_seqlen_k
        self.calls.append("packed forward")
        out, sums = self._forward(q, k, v, cu_seqlens_q)
        return (out, sums) if return_attn_probs else out

    def _flash_attn_backward(
        self, dout, q, k, v, out, softmax_lse, cu_seqlens_q, cu_seqlens_k, sequed_q, sequed_k, max_seqlen_q,
        max_seqlen_k, dq, dk, dv, softmax_scale, causal, window_size=(-1, -1),
    ):  # fmt: skip
        assert causal
        assert softmax_scale == pytest.approx(q.shape[-1] ** -0.5)
        assert dout.stride(-1) == 1
        assert dq.is_contiguous()
        assert sequed_q is None
        assert sequed_k is None
        assert (cu_seqlens_q is None) == (max_seqlen_q is None)
        self.calls.append("backward")
        group = q.shape[-2] // k.shape[-2]
        share = (scores_of(q, k, cu_seqlens_q) - softmax_lse.to(q.dtype)[..., None]).exp()
        wide_v = v.repeat_interleave(group, dim=-2)
        along = torch.einsum("...qhk,...shk->...hqs", dout, wide_v)
        inner = (dout * out).sum(-1).transpose(-1, -2)[..., None]
        pull = share * (along - inner) * softmax_scale
        dq.copy_(torch.einsum("...hqs,...shk->...qhk", pull, k.repeat_interleave(group, dim=-2)))
        for gradient, wide in (
            (dk, torch.einsum("...hqs,...qhk->...shk", pull, q)),
            (dv, torch.einsum("...hqs,...qhk->...shk", share, dout)),
        ):
            gradient.copy_(wide.unflatten(-2, (k.shape[-2], group)).sum(-2))


class OldStandIn(StandIn):
    """A release that had no `return_attn_probs` and always returned the pair."""

    def flash_attn_func(self, q, k, v, softmax_scale=None, causal=False):
        return super().flash_attn_func(q, k, v, softmax_scale, causal, True)


@pytest.fixture(params=[StandIn, OldStandIn])
def package(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The stand-in, chosen by both calls as on a Hopper GPU."""
    stand_in = request.param()
    monkeypatch.setitem(sys.modules, "flash_attn_interface", stand_in)
    for module in (attention, varlen):
        monkeypatch.setattr(module, "attention_backend", lambda *_: "flash-attention-3")
    torch.compiler.reset()
    return stand_in


def draw(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Queries, keys and values [B, T, H, K], as the model makes them."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 9, 4, 8), (2, 9, 2, 8), (2, 9, 2, 8)]
    return [torch.randn(shape, dtype=dtype, generator=generator, requires_grad=True) for shape in shapes]


def through_views(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """As the model calls it: transposed views of [B, T, H, K]."""
    return causal_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))


def plain_through_views(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The definition on the same views."""
    return plain_causal_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))


def weighted(function, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Output and gradients."""
    out = function(*inputs)
    weight = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
    return out.detach(), *torch.autograd.grad((out * weight).sum(), inputs)


@pytest.mark.parametrize("compiled", [False, True])
def test_equals_plain(package: StandIn, compiled: bool) -> None:
    """Layout, sums and gradients arrive where the package wants them, eager and in one compiled graph."""
    fast = torch.compile(through_views, fullgraph=True, backend="aot_eager") if compiled else through_views
    inputs = draw()
    for one, other in zip(weighted(fast, inputs), weighted(plain_through_views, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)  # the package keeps its sums in float32
    assert package.calls == ["forward", "backward"]


@pytest.mark.parametrize("compiled", [False, True])
def test_documents_equal_the_mask(package: StandIn, compiled: bool) -> None:
    """Packed documents reach the package with their ends and longest length, and give what the mask gives."""
    inputs = [x.detach()[0].requires_grad_() for x in draw()]
    lengths = torch.tensor([4, 0, 5])
    fast = varlen.varlen_attention
    fast = torch.compile(fast, fullgraph=True, backend="aot_eager") if compiled else fast
    out = fast(*inputs, lengths, 6)
    masked = varlen.masked_varlen_attention(*inputs, torch.tensor([0, 4, 4, 9], dtype=torch.int32))
    torch.testing.assert_close(out, masked, rtol=0, atol=1e-6)
    gradients = [torch.autograd.grad(x.square().sum(), inputs) for x in (out, masked)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert package.calls == ["packed forward", "backward"]


def test_nothing_is_copied(package: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's transposed views reach the package as the contiguous tensors that they came from."""
    layouts = []
    original = package._forward
    monkeypatch.setattr(package, "_forward", lambda q, k, v, e: layouts.append((q, k, v)) or original(q, k, v, e))
    inputs = [x.detach() for x in draw()]
    out = causal_attention(*(x.transpose(1, 2) for x in inputs))
    assert [x.data_ptr() for x in layouts[0]] == [x.data_ptr() for x in inputs]
    assert out.transpose(1, 2).is_contiguous()


def test_operator_checks(package: StandIn) -> None:
    """Torch's own checks of an operator pass: schema, gradients' registration, shapes without data, tracing."""
    inputs = draw(torch.float32)
    found = torch.library.opcheck(torch.ops.paramgolf.flash3_forward.default, (*inputs, None, 0))
    packed = [x.detach()[0].requires_grad_() for x in inputs]
    ends = torch.tensor([0, 4, 9], dtype=torch.int32)
    found |= torch.library.opcheck(torch.ops.paramgolf.flash3_forward.default, (*packed, ends, 6))
    assert set(found.values()) == {"SUCCESS"}


@pytest.mark.parametrize("major,package_here,expected", [(9, True, True), (8, True, False), (9, False, False)])
def test_only_on_hopper(monkeypatch: pytest.MonkeyPatch, major: int, package_here: bool, expected: bool) -> None:
    """It serves half precision on compute capability 9 where the package is; a compiled graph may ask, too."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
    monkeypatch.setattr(flash3, "installed", lambda: package_here)
    device = torch.device("cuda", 0)
    for dtype, size, fits in (
        (torch.bfloat16, 64, True), (torch.float16, 128, True), (torch.float32, 64, False),
        (torch.bfloat16, 20, False), (torch.bfloat16, 512, False),
    ):  # fmt: skip
        backend = "flash-attention-3" if expected and fits else "sdpa"
        assert attention_backend(device, dtype, size) == backend
    torch.compiler.reset()

    def ask(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if attention_backend(device, torch.bfloat16) == "flash-attention-3" else x - 1

    answer = torch.compile(ask, fullgraph=True, backend="aot_eager")(torch.zeros(()))
    assert answer.item() == (1 if expected else -1)


def test_broken_package_is_stepped_around(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """A package that was built for another torch counts as not installed."""
    (tmp_path / "flash_attn_interface.py").write_text("raise ImportError('undefined symbol')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn_interface", raising=False)
    assert not flash3.installed()
