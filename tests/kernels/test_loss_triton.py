"""The Triton loss: its numbers by the interpreter on a CPU, and that it compiles to good code for a Hopper GPU."""

import importlib.util
import json
import os
import re
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
    """What interpret_loss.py measured."""
    script = Path(__file__).with_name("interpret_loss.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_float32_equals_plain(report: dict) -> None:
    """Loss and gradients equal the definition in float64 to 1e-5: odd sizes, several blocks, any softcap or pair."""
    cases = [case for case in report["cases"] if "float32" in case["case"]]
    assert len(cases) == 18
    assert sum(len(case["dtypes"]) == 4 for case in cases) == 6  # with gradients of both caps
    for case in cases:
        assert set(case["dtypes"]) == {"torch.float32"}, case
        assert max(case["absolute"]) < 1e-5, case


def test_bfloat16_equals_plain_to_its_rounding(report: dict) -> None:
    """From bfloat16 states the loss is float32, and errors are those of scores and gradients rounded once to 8 bits."""
    cases = [case for case in report["cases"] if "bfloat16" in case["case"]]
    assert len(cases) == 18
    for case in cases:
        assert case["dtypes"][:3] == ["torch.float32", "torch.bfloat16", "torch.bfloat16"], case
        assert set(case["dtypes"][3:]) <= {"torch.float32"}, case
        assert case["relative"][0] < 1e-3, case
        assert max(case["relative"]) < 2e-2, case


def test_saturated_logits_stay_finite(report: dict) -> None:
    """With every logit at a cap of 200, where exp(200) is no float32, the loss is two thirds of 400 and finite."""
    assert report["saturated"]["value"] == pytest.approx(800 / 3, rel=1e-6)
    assert report["saturated"]["finite"]


def test_only_wanted_gradients(report: dict) -> None:
    """Under no_grad, or with inputs frozen, value and remaining gradients are bitwise the same; so are equal caps'."""
    assert report["frozen"] == dict.fromkeys(("bare", "h", "head", "caps", "equal caps"), True)


def test_whole_graph(report: dict) -> None:
    """Compiled with fullgraph it gives the eager bits, with and without gradients; torch's operator checks pass."""
    assert report["compiled"] == {"equal": True, "bare": True}
    assert set(report["registered"].values()) == {"SUCCESS"}


def test_one_piece_of_scores_at_a_time(report: dict) -> None:
    """Of 30 positions never more than a piece of 7 has scores in memory."""
    assert report["peak_rows"] == 7


@pytest.mark.parametrize("caps", [False, True])
@pytest.mark.parametrize("pointer,vocabulary", [("*bf16", 1024), ("*fp32", 8192), ("*bf16", 1000), ("*bf16", 8192)])
def test_compiles_for_hopper(pointer: str, vocabulary: int, caps: bool) -> None:
    """It becomes sm_90 machine code without a GPU; rows that are a multiple of 16 move 16 bytes at a time."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from paramgolf.kernels.loss_triton import _softcap_row_kernel

    block = min(4096, triton.next_power_of_2(vocabulary))
    constants = {"VOCABULARY": vocabulary, "WANTS_GRADIENT": True, "WANTS_CAPS": caps, "BLOCK": block}
    signature = {"scores": pointer, "targets": "*i64", "losses": "*fp32", "caps": "*fp32", "caps_gradients": "*fp32"}
    signature |= {"stride": "i32"} | dict.fromkeys(constants, "constexpr")
    aligned = [0, 1, 5] if vocabulary % 16 == 0 else []
    attributes = {(index,): [["tt.divisibility", 16]] for index in aligned}
    source = ASTSource(_softcap_row_kernel, signature, constants, attributes)
    options = {"num_warps": 4, "enable_fp_fusion": True}
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assembly = kernel.asm["ptx"]
    assert ".target sm_90" in assembly
    assert len(kernel.asm["cubin"]) > 1000
    assert ".local" not in assembly  # nothing spilled
    wide = set(re.findall(r"(?:ld|st)\.global\.(v4\.b32)", assembly))
    assert bool(wide) == bool(aligned)
