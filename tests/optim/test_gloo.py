"""Real processes over gloo: every collective of `Ranks`, and Muon on uneven banks equal to one process."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from paramgolf.optim.groups import build_optimizers
from paramgolf.recipe import OptimRecipe

SHAPES = {"embedding.weight": (6, 3), "skip_weights": (5,), "banks.up": (11, 6, 4), "banks.down": (22, 4, 4)}

PROGRAM = """
import sys
import numpy as np
import torch
from paramgolf.optim.groups import build_optimizers
from paramgolf.ranks import open_ranks
from paramgolf.recipe import OptimRecipe

SHAPES = {"embedding.weight": (6, 3), "skip_weights": (5,), "banks.up": (11, 6, 4), "banks.down": (22, 4, 4)}

class Model:
    def __init__(self):
        self.held = {n: torch.nn.Parameter(torch.linspace(-1, 1, int(np.prod(s))).view(s)) for n, s in SHAPES.items()}
    def named_parameters(self): return self.held.items()

torch.set_num_threads(1)
with open_ranks(timeout_seconds=120) as ranks:
    mine = torch.arange(4.0) + 10 * ranks.rank
    assert ranks.agree(float(ranks.rank) + 0.1) == 0.1
    assert ranks.average([float(ranks.rank)]) == [(ranks.world - 1) / 2]
    others = 5.0 * ranks.world * (ranks.world - 1)
    assert ranks.add(mine.clone()).tolist() == [i * ranks.world + others for i in range(4)]
    pair = [torch.full((2, 2), float(ranks.rank)), torch.full((3,), 2.0, dtype=torch.bfloat16)]
    ranks.average_tensors(pair)
    assert pair[0].eq((ranks.world - 1) / 2).all() and pair[1].eq(2).all() and pair[1].dtype == torch.bfloat16
    whole, part = torch.arange(ranks.world * 2.0) * (ranks.rank + 1), torch.empty(2)
    ranks.start_average_scatter(part, whole).wait()
    assert torch.allclose(part, (torch.arange(2.0) + 2 * ranks.rank) * (ranks.world + 1) / 2)
    ranks.start_gather(whole, part).wait()
    assert torch.allclose(whole, torch.arange(ranks.world * 2.0) * (ranks.world + 1) / 2)

    model = Model()
    optimizers = build_optimizers(model, OptimRecipe(clip_norm=1.0, muon_weight_decay=0.1), ranks)
    for step in range(3):
        rng = np.random.default_rng([step, ranks.rank])
        for name, parameter in model.named_parameters():
            parameter.grad = torch.from_numpy(rng.normal(size=SHAPES[name]).astype(np.float32))
        optimizers.reduce([])
        optimizers.step(1.0, 0.9)
    np.savez(sys.argv[1] + str(ranks.rank), **{n: p.detach().numpy() for n, p in model.named_parameters()})
"""


class Model:
    """Parameters that the program of the ranks has too."""

    def __init__(self) -> None:
        self.held = {n: torch.nn.Parameter(torch.linspace(-1, 1, int(np.prod(s))).view(s)) for n, s in SHAPES.items()}

    def named_parameters(self):  # type: ignore[no-untyped-def]  # as torch's
        return self.held.items()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_gloo_ranks_equal_one_process(tmp_path: Path, world: int) -> None:
    """Banks of 11 and 22 matrices over two and three processes: the ranks agree bitwise, and with one to rounding."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    shared = {**clean, "WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path / "rank")],
            env={**shared, "OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        assert "Warning" not in errors
    model = Model()
    optimizers = build_optimizers(model, OptimRecipe(clip_norm=1.0, muon_weight_decay=0.1))  # type: ignore[arg-type]
    for step in range(3):
        generators = [np.random.default_rng([step, rank]) for rank in range(world)]
        for name, parameter in model.named_parameters():
            drawn = [rng.normal(size=SHAPES[name]).astype(np.float32) for rng in generators]
            parameter.grad = torch.from_numpy(np.mean(drawn, axis=0))
        optimizers.reduce([])
        optimizers.step(1.0, 0.9)
    saved = [np.load(tmp_path / f"rank{rank}.npz") for rank in range(world)]
    for name, parameter in model.named_parameters():
        for archive in saved:
            np.testing.assert_array_equal(archive[name], saved[0][name])
        np.testing.assert_allclose(saved[0][name], parameter.detach().numpy(), rtol=0, atol=2e-5, err_msg=name)
