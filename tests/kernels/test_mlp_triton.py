"""The Triton MLP: its numbers by the interpreter on a CPU, and that it becomes tensor-core code for a Hopper GPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
]


@pytest.fixture(scope="module")
def report() -> dict:
    """What interpret_mlp.py measured."""
    script = Path(__file__).with_name("interpret_mlp.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("dtype,limit", [("float32", 2e-6), ("float16", 3e-3)])
def test_equals_plain(report: dict, dtype: str, limit: float) -> None:
    """Value and gradients equal the definition in float64, to the dtype's rounding: odd sizes, every slope.

    The interpreter cannot multiply bfloat16; float16 takes the same roundings.
    """
    cases = [case for case in report["cases"] if dtype in case["case"]]
    assert len(cases) == 12
    for case in cases:
        assert case["dtypes"] == [f"torch.{dtype}"], case
        assert len(case["relative"]) == 4 and max(case["relative"]) < limit, case


def test_activation_of_the_spec(report: dict) -> None:
    """Spec pr2140.md 2.3: act(1.5) 2.25, act(-1.5) .2025, act(-2) .36; slopes 3, -.27 and -.36."""
    assert report["activation"]["values"] == pytest.approx([2.25, 0.2025, 0.36], rel=1e-6)
    assert report["activation"]["slopes"] == pytest.approx([3.0, -0.27, -0.36], rel=1e-6)


def test_only_wanted_gradients(report: dict) -> None:
    """With inputs frozen, the remaining gradient is bitwise the same."""
    assert report["frozen"]


def test_whole_graph(report: dict) -> None:
    """Compiled with fullgraph it gives the eager bits; torch's operator checks pass."""
    assert report["compiled"]
    assert report["registered"] == ["SUCCESS"]


@pytest.mark.parametrize("pointer,backward", [("*bf16", False), ("*bf16", True), ("*fp32", False)])
def test_compiles_for_hopper(pointer: str, backward: bool) -> None:
    """It becomes sm_90 machine code without a GPU, spills nothing, and in bfloat16 uses the tensor cores."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from paramgolf.kernels.mlp_triton import GROUP, STAGES, TILE, WARPS, _product_kernel

    half = pointer == "*bf16"
    tile = TILE if half else (64, 64, 32)
    constants = {
        "BACKWARD": backward,
        "PRECISION": "tf32" if half else "ieee",
        **dict(zip("RCK", tile, strict=True)),
        "G": GROUP,
    }
    signature = dict.fromkeys(("a", "b", "pre", "out"), pointer)
    signature |= dict.fromkeys(("rows", "columns", "depth", "b_depth_stride", "b_column_stride"), "i32")
    constants["b_column_stride" if backward else "b_depth_stride"] = 1
    signature |= {"slope": "fp32", **dict.fromkeys(constants, "constexpr")}
    names = list(signature)
    aligned = [at for at, name in enumerate(names) if name not in (*constants, "slope")]
    attributes = {(at,): [["tt.divisibility", 16]] for at in aligned}
    source = ASTSource(_product_kernel, signature, constants, attributes)
    options = {"num_warps": WARPS if half else 4, "num_stages": STAGES, "enable_fp_fusion": True}
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assembly = kernel.asm["ptx"]
    assert ".target sm_90" in assembly
    assert len(kernel.asm["cubin"]) > 1000
    assert ".local" not in assembly  # nothing spilled
    assert kernel.metadata.shared <= 227 * 1024
    assert ("wgmma" in assembly) == half
