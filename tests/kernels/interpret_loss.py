"""Runs the fused loss in Triton's interpreter, beside the plain one, and prints the differences as JSON.

A process of its own, because the interpreter is chosen (TRITON_INTERPRET=1) when a kernel is defined.
"""

import json

import torch

from paramgolf.kernels import loss_triton
from paramgolf.kernels.loss import plain_softcapped_loss
from paramgolf.kernels.loss_triton import fused_softcapped_loss

WIDTH = 12
PIECE = 7  # positions


def draw(count: int, vocabulary: int, dtype: torch.dtype, spread: float = 3.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(count * 10_000 + vocabulary)
    h = torch.randn(count, WIDTH, generator=generator).to(dtype).requires_grad_()
    head = (spread * torch.randn(vocabulary, WIDTH, generator=generator)).to(dtype).requires_grad_()
    return h, head, torch.randint(vocabulary, (count,), generator=generator)


def limit_pieces(vocabulary: int, dtype: torch.dtype) -> None:
    loss_triton.PIECE_BYTES = PIECE * vocabulary * dtype.itemsize


def value_and_gradients(function, h, head, targets, softcap) -> list[torch.Tensor]:
    learnt = [softcap] if isinstance(softcap, torch.Tensor) else []
    value = function(h, head, targets, softcap)
    return [value, *torch.autograd.grad(value * 3.0, (h, head, *learnt))]


def differences(dtype: torch.dtype, count: int, vocabulary: int, softcap, block: int) -> dict[str, object]:
    """Of value and gradients (of a pair of caps too) from the plain definition in float64 on the same numbers."""
    case = f"{dtype} N={count} V={vocabulary} softcap={softcap} block={block}"
    exact_cap = softcap
    if isinstance(softcap, tuple):
        softcap = torch.tensor(softcap, requires_grad=True)
        exact_cap = softcap.detach().double().requires_grad_()
    limit_pieces(vocabulary, dtype)
    loss_triton.MAX_BLOCK = block
    h, head, targets = draw(count, vocabulary, dtype)
    fused = value_and_gradients(fused_softcapped_loss, h, head, targets, softcap)
    exact = [x.detach().double().requires_grad_() for x in (h, head)]
    plain = value_and_gradients(plain_softcapped_loss, *exact, targets, exact_cap)
    return {
        "case": case,
        "dtypes": [str(x.dtype) for x in fused],
        "absolute": [float((a.detach() - b.detach()).abs().max()) for a, b in zip(fused, plain, strict=True)],
        "relative": [
            float((a.detach() - b.detach()).norm() / b.detach().norm().clamp_min(1e-9))
            for a, b in zip(fused, plain, strict=True)
        ],
    }


def saturated() -> dict[str, object]:
    """All logits at their caps, where a softmax without a maximum or an exp(2x) overflows."""
    h = torch.full((3, 4), 1e4, requires_grad=True)
    head = torch.cat([torch.ones(1, 4), -torch.ones(7, 4)]).requires_grad_()
    value, *gradients = value_and_gradients(fused_softcapped_loss, h, head, torch.tensor([0, 1, 1]), 200.0)
    return {"value": float(value.detach()), "finite": all(bool(torch.isfinite(x).all()) for x in gradients)}


def frozen() -> dict[str, bool]:
    """Without gradients, or with one of the two frozen, the rest is bitwise what it was."""
    limit_pieces(50, torch.float32)
    h, head, targets = draw(23, 50, torch.float32)
    value, grad_h, grad_head = value_and_gradients(fused_softcapped_loss, h, head, targets, 30.0)
    with torch.no_grad():
        bare = fused_softcapped_loss(h, head, targets, 30.0)
    (only_h,) = torch.autograd.grad(fused_softcapped_loss(h, head.detach(), targets, 30.0) * 3.0, h)
    (only_head,) = torch.autograd.grad(fused_softcapped_loss(h.detach(), head, targets, 30.0) * 3.0, head)
    caps = torch.tensor([30.0, 30.0], requires_grad=True)
    learnt, grad_h_too, grad_head_too, grad_caps = value_and_gradients(fused_softcapped_loss, h, head, targets, caps)
    (only_caps,) = torch.autograd.grad(fused_softcapped_loss(h.detach(), head.detach(), targets, caps) * 3.0, caps)
    return {
        "bare": torch.equal(bare, value.detach()) and not bare.requires_grad,
        "h": torch.equal(only_h, grad_h),
        "head": torch.equal(only_head, grad_head),
        "caps": torch.equal(only_caps, grad_caps),
        "equal caps": torch.equal(learnt, value)
        and torch.equal(grad_h_too, grad_h)
        and torch.equal(grad_head_too, grad_head),
    }


def compiled() -> dict[str, bool]:
    """The loss inside a whole-graph compiled function, with gradients through the operations around it."""
    limit_pieces(50, torch.float32)
    h, head, targets = draw(23, 50, torch.float32)

    def function(h, head, targets, softcap):
        return fused_softcapped_loss(h * 2.0, head.to(h.dtype), targets, softcap) + 1.0

    fast = torch.compile(function, fullgraph=True, backend="aot_eager")
    caps = torch.tensor([30.0, 3.0], requires_grad=True)
    eager = value_and_gradients(function, h, head, targets, caps)
    graph = value_and_gradients(fast, h, head, targets, caps)
    equal = all(torch.equal(a, b) for a, b in zip(eager, graph, strict=True))
    with torch.no_grad():
        one_cap = function(h, head, targets, 30.0)
        bare = fast(h, head, targets, 30.0)
    return {"equal": equal, "bare": torch.equal(bare, one_cap)}


def registered() -> dict[str, str]:
    """Torch's own checks of an operator: schema, gradients' registration, shapes without data, whole-graph tracing."""
    h, head, targets = draw(2, 5, torch.float32)
    operator = torch.ops.paramgolf.softcapped_loss.default
    caps = torch.tensor([30.0, 20.0], requires_grad=True)
    return torch.library.opcheck(operator, (h, head, targets, caps, True, True, True))


def peak_rows() -> int:
    """Most rows of scores that existed at once, of 30 positions."""
    limit_pieces(50, torch.float32)
    rows: list[int] = []
    original = loss_triton._softcap_rows

    def spy(scores, *rest):
        rows.append(scores.untyped_storage().nbytes() // (50 * 4))
        original(scores, *rest)

    loss_triton._softcap_rows = spy
    h, head, targets = draw(30, 50, torch.float32)
    fused_softcapped_loss(h, head, targets, 30.0).backward()
    loss_triton._softcap_rows = original
    return max(rows)


def main() -> None:
    torch.set_num_threads(1)
    sizes = [(1, 1, 16), (1, 50, 16), (23, 50, 16), (23, 50, 4096), (9, 1000, 4096), (8, 64, 4096)]
    cases = [
        differences(dtype, count, vocabulary, softcap, block)
        for dtype in (torch.float32, torch.bfloat16)
        for softcap in (30.0, 0.5, (4.0, 0.7))
        for count, vocabulary, block in sizes
    ]
    report = {
        "cases": cases,
        "saturated": saturated(),
        "frozen": frozen(),
        "compiled": compiled(),
        "registered": registered(),
        "peak_rows": peak_rows(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
