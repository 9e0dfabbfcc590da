"""Runs the fused MLP in Triton's interpreter, beside the plain one, and prints the differences as JSON.

A process of its own, because the interpreter is chosen (TRITON_INTERPRET=1) when a kernel is defined.
"""

import json

import torch

from paramgolf.kernels import mlp_triton
from paramgolf.kernels.mlp import plain_mlp
from paramgolf.kernels.mlp_triton import fused_mlp

mlp_triton.TILE = (16, 16, 16)


def draw(count: int, width: int, hidden: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(count * 10_000 + width * 100 + hidden)
    shapes = ((count, width), (hidden, width), (width, hidden))
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def value_and_gradients(function, inputs, slope: float) -> list[torch.Tensor]:
    value = function(*inputs, slope)
    weight = torch.linspace(-1, 1, value.numel()).view(value.shape).to(value.dtype)
    return [value.detach(), *torch.autograd.grad((value * weight).sum(), inputs)]


def differences(dtype: torch.dtype, count: int, width: int, hidden: int, slope: float) -> dict[str, object]:
    """Of value and all gradients from the plain definition in float64 on the same numbers, relative in norm."""
    inputs = draw(count, width, hidden, dtype)
    fused = value_and_gradients(fused_mlp, inputs, slope)
    exact = value_and_gradients(plain_mlp, [x.detach().double().requires_grad_() for x in inputs], slope)
    return {
        "case": f"{dtype} N={count} D={width} M={hidden} slope={slope}",
        "dtypes": sorted({str(x.dtype) for x in fused}),
        "relative": [float((a - b).norm() / b.norm().clamp_min(1e-9)) for a, b in zip(fused, exact, strict=True)],
    }


def activation() -> dict[str, list[float]]:
    """Spec pr2140.md 2.3: the activation and its slope at 1.5, -1.5 and -2, through matrices that pass numbers on."""
    x = torch.tensor([[1.5], [-1.5], [-2.0]], requires_grad=True)
    one = torch.ones(1, 1)
    value = fused_mlp(x, one, one, 0.3)
    (slope,) = torch.autograd.grad(value.sum(), x)
    return {"values": value.detach().flatten().tolist(), "slopes": slope.flatten().tolist()}


def frozen() -> bool:
    """With any of the inputs frozen, the gradients of the others are bitwise the same."""
    inputs = draw(9, 7, 21, torch.float32)
    whole = value_and_gradients(fused_mlp, inputs, 0.5)[1:]
    for kept in range(3):
        some = [x if at == kept else x.detach() for at, x in enumerate(inputs)]
        value = fused_mlp(*some, 0.5)
        weight = torch.linspace(-1, 1, value.numel()).view(value.shape)
        (gradient,) = torch.autograd.grad((value * weight).sum(), some[kept])
        if not torch.equal(gradient, whole[kept]):
            return False
    return True


def compiled() -> bool:
    """Inside a whole-graph compiled function, with views that are not contiguous, it gives the eager bits."""
    inputs = draw(9, 7, 21, torch.float32)

    def function(x, up, down, slope):
        return fused_mlp((x * 2.0).T.contiguous().T, up, down, slope) + 1.0

    fast = torch.compile(function, fullgraph=True, backend="aot_eager")
    pairs = zip(*(value_and_gradients(f, inputs, 0.3) for f in (fast, function)), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def registered() -> list[str]:
    """Torch's own checks of both operators: schema, gradients' registration, shapes without data, tracing."""
    x, up, down = draw(5, 4, 6, torch.float32)
    forward = torch.library.opcheck(torch.ops.paramgolf.mlp.default, (x, up, down, 0.3))
    given = (x.detach(), down.detach(), torch.randn(5, 6), 0.3)
    back = torch.library.opcheck(torch.ops.paramgolf.mlp_gradient.default, given)
    return sorted({*forward.values(), *back.values()})


def main() -> None:
    torch.set_num_threads(1)
    sizes = [(1, 1, 1), (16, 16, 16), (17, 5, 33), (40, 24, 50)]
    cases = [
        differences(dtype, *size, slope)
        for dtype in (torch.float32, torch.float16)
        for slope in (0.0, 0.3, 0.5)
        for size in sizes
    ]
    print(
        json.dumps(
            {
                "cases": cases,
                "activation": activation(),
                "frozen": frozen(),
                "compiled": compiled(),
                "registered": registered(),
            }
        )
    )


if __name__ == "__main__":
    main()
