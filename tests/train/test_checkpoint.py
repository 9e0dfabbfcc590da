"""A checkpoint comes back bitwise, and one that was damaged anywhere is refused."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import RunError
from paramgolf.model.gpt import GPT
from paramgolf.recipe import ModelRecipe, Recipe, TrainRecipe
from paramgolf.train.checkpoint import CheckpointRecord, load_checkpoint, save_checkpoint
from paramgolf.train.state import TrainState

RECIPE = Recipe("tiny", model=ModelRecipe(layers=1, width=8, heads=2, kv_heads=1), train=TrainRecipe(16, 32))
RECORD = CheckpointRecord(RECIPE.fingerprint(), 12, "of the data", [{"name": "warm-up", "seconds": 1.5}], False)


def trained_state() -> TrainState:
    state = TrainState.fresh(RECIPE, 12)
    tokens = torch.arange(24).view(2, 12) % 12
    for _ in range(2):
        state.model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        state.optimizers.reduce([])
        state.optimizers.step(1.0, 0.9)
        state.average.update(state.weights())
        state.step += 1
    state.seconds = 1.0 / 3.0
    return state


def test_state_comes_back_bitwise(tmp_path: Path) -> None:
    """Every tensor, count, second and generator of a saved state is in the restored one, bit for bit."""
    state = trained_state()
    saved = state.capture()
    save_checkpoint(tmp_path / "c", saved, RECORD)
    torch.rand(5)
    other = TrainState.fresh(RECIPE, 12)
    tensors, record = load_checkpoint(tmp_path / "c")
    other.restore(tensors)
    assert record == RECORD
    assert (other.step, other.seconds, other.average.updates) == (2, 1.0 / 3.0, 2)
    again = other.capture()
    assert set(again) == set(saved)
    assert all(torch.equal(saved[name], again[name]) for name in saved)


def test_capture_is_a_copy() -> None:
    """What happens to the state later does not change what was captured."""
    state = trained_state()
    saved = state.capture()
    kept = {name: value.clone() for name, value in saved.items()}
    with torch.no_grad():
        for weight in state.weights().values():
            weight.add_(1.0)
    state.average.update(state.weights())
    assert all(torch.equal(saved[name], kept[name]) for name in saved)


@pytest.fixture(scope="module")
def file_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "c"
    save_checkpoint(path, trained_state().capture(), RECORD)
    return path.read_bytes()


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_any_changed_byte_is_noticed(
    file_bytes: bytes, tmp_path_factory: pytest.TempPathFactory, place: float, flip: int
) -> None:
    """A change of any one byte raises a `RunError` that names the file, or (in padding) changes nothing."""
    at = int(place * len(file_bytes))
    path = tmp_path_factory.mktemp("damaged") / "c"
    path.write_bytes(file_bytes[:at] + bytes([file_bytes[at] ^ flip]) + file_bytes[at + 1 :])
    try:
        tensors, record = load_checkpoint(path)
    except RunError as error:
        assert str(path) in str(error)
        assert "move it away" in str(error)
    else:
        assert record == RECORD
        reference = trained_state().capture()
        assert all(torch.equal(tensors[name], reference[name]) for name in reference if "generator" not in name)


@pytest.mark.parametrize("keep", [0, 3, 8, 100, 1000, -1])
def test_truncated_files_are_refused(file_bytes: bytes, tmp_path: Path, keep: int) -> None:
    """A file cut anywhere gives one clear error."""
    (tmp_path / "c").write_bytes(file_bytes[:keep])
    with pytest.raises(RunError, match="is damaged"):
        load_checkpoint(tmp_path / "c")


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    """A missing file, a text, a pickle and a safetensors file of someone else are each refused."""
    with pytest.raises(RunError, match="cannot read"):
        load_checkpoint(tmp_path / "none")
    import safetensors.torch

    pickled = tmp_path / "pickle"
    torch.save({"x": torch.zeros(2)}, pickled)
    for name, data in (
        ("text", b"hello, this is no checkpoint"),
        ("pickle", pickled.read_bytes()),
        ("foreign", safetensors.torch.save({"x": torch.zeros(2)})),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RunError, match="is damaged"):
            load_checkpoint(tmp_path / name)


def test_another_model_is_refused_with_names() -> None:
    """Restoring tensors of another shape or with one missing names the tensor."""
    tensors = trained_state().capture()
    larger = TrainState.fresh(RECIPE, 13)
    with pytest.raises(RunError, match=r"model/embedding\.weight of shape \[12, 8\], expected \[13, 8\]"):
        larger.restore(tensors)
    del tensors["model/banks.up"]
    with pytest.raises(RunError, match=r"lacks model/banks\.up"):
        TrainState.fresh(RECIPE, 12).restore(tensors)


def test_fresh_states_are_equal() -> None:
    """The seed alone decides a fresh state, and its weights are those of the model of that seed."""
    torch.manual_seed(5)
    first = TrainState.fresh(RECIPE, 12).capture()
    torch.rand(3)
    second = TrainState.fresh(RECIPE, 12).capture()
    assert all(torch.equal(first[name], second[name]) for name in first)
    model = GPT(RECIPE.model, 12, RECIPE.seed)
    assert torch.equal(first["model/embedding.weight"], model.embedding.weight)
