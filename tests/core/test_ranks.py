"""Ranks: one alone is the identity, a torchrun environment is checked, and a lost rank has a name and a reason."""

import socket
import time

import pytest
import torch
import torch.distributed as dist

from paramgolf.errors import RunError
from paramgolf.ranks import RankLost, Ranks, open_ranks

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever started these tests, they see no ranks."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_one_rank_is_the_identity() -> None:
    """Without torchrun every value and tensor comes back as it was, and no group is opened."""
    with open_ranks() as ranks:
        assert (ranks.rank, ranks.world, ranks.leads) == (0, 1, True)
        assert ranks.agree(0.1) == 0.1
        assert ranks.average([1.0, 2.0]) == [1.0, 2.0]
        tensor, whole = torch.arange(3.0), torch.zeros(3)
        assert ranks.add(tensor) is tensor
        ranks.average_tensors([tensor])
        ranks.start_gather(whole, tensor).wait()
        assert tensor.tolist() == whole.tolist() == [0, 1, 2]
        assert not dist.is_initialized()
        with pytest.raises(ValueError, match="nothing to scatter"):
            ranks.start_average_scatter(tensor, whole)


def test_incomplete_torchrun_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """RANK without the rest names what is missing."""
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(RunError, match="missing: WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"), open_ranks():
        pass


def test_a_rank_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is no whole number is shown with its name."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "two")
    with pytest.raises(RunError, match="RANK='two' should be a whole number"), open_ranks():
        pass


def test_ranks_that_never_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the other rank does not join, the wait ends with the timeout and says which rank waited."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    for name, value in zip(VARIABLES, ("0", "2", "0", "localhost", port), strict=True):
        monkeypatch.setenv(name, value)
    begin = time.monotonic()
    with pytest.raises(RankLost, match="rank 0 of 2 lost the others: "), open_ranks(timeout_seconds=1.0):
        pass
    assert time.monotonic() - begin < 60


def test_the_reason_of_a_loss_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of torch's message the place in its sources and the advice are left out; lack of memory stays what it is."""
    gloo = (
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:15510. "
        "This is typically caused by a remote worker crashing.\nmore"
    )
    errors = iter([RuntimeError(gloo), RuntimeError(""), torch.OutOfMemoryError("none left")])

    def failing(*arguments: object, **options: object) -> None:
        raise next(errors)

    monkeypatch.setattr(dist, "all_reduce", failing)
    ranks = Ranks(1, 3)
    with pytest.raises(RankLost) as caught:
        ranks.average([1.0])
    assert str(caught.value) == "rank 1 of 3 lost the others: Connection closed by peer [127.0.0.1]:15510"
    with pytest.raises(RankLost, match="rank 1 of 3 lost the others: RuntimeError"):
        ranks.add(torch.zeros(2))
    with pytest.raises(torch.OutOfMemoryError):
        ranks.average_tensors([torch.zeros(2)])
