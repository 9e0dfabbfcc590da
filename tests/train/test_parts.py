"""Parts of training that a recipe switches on (SWA, late rounding, bfloat16 tables, the compiler), and its faults."""

import dataclasses
import itertools
import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from paramgolf.clock import Clock
from paramgolf.errors import RunError
from paramgolf.model.arithmetic import TABLES
from paramgolf.model.banks import unbank
from paramgolf.model.gpt import GPT
from paramgolf.optim.schedule import StepSettings
from paramgolf.ranks import Ranks
from paramgolf.recipe import BudgetRecipe, ModelRecipe, Recipe, SqueezeRecipe, TrainRecipe
from paramgolf.run_folder import RunFolder
from paramgolf.train.batches import Piece
from paramgolf.train.checkpoint import CHECKPOINT, load_checkpoint
from paramgolf.train.compiled import TrainingLoss
from paramgolf.train.data_digest import EDGE_TOKENS, data_digest
from paramgolf.train.loop import train
from paramgolf.train.notes import Notes
from paramgolf.train.progress import SilentDisplay
from paramgolf.train.saves import Saves
from paramgolf.train.state import TrainState, delivered
from paramgolf.train.step import Diverged, Work, one_step, warm_up

VOCAB = 24
PLAIN, ROUNDED = StepSettings(1.0, 0.95), StepSettings(1.0, 0.95, 6)
TINY = Recipe(
    name="tiny",
    model=ModelRecipe(layers=2, width=16, heads=2, kv_heads=1, mlp_ratio=2.0),
    train=TrainRecipe(sequence=16, batch_tokens=64, checkpoint_seconds=1000.0, warmup_steps=0),
    budget=BudgetRecipe(train_seconds=12.0),
)


class Counting:
    """Windows that count upwards modulo the vocabulary, drawn by the step alone."""

    def batch(self, step: int, sequences: int) -> tuple[np.ndarray, np.ndarray]:
        starts = np.random.default_rng(step).integers(0, VOCAB, size=(sequences, 1))
        rows = (starts + np.arange(17)) % VOCAB
        return rows[:, :-1].copy(), rows[:, 1:].copy()


class Heard(SilentDisplay):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


def ticking(seconds: float = 1.0) -> Clock:
    """Each reading is `seconds` after the last, so a step lasts that long."""
    counter = itertools.count()
    return Clock(lambda: seconds * next(counter))


def with_optim(recipe: Recipe, **changes: object) -> Recipe:
    return dataclasses.replace(recipe, optim=dataclasses.replace(recipe.optim, **changes))


def with_train(recipe: Recipe, **changes: object) -> Recipe:
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **changes))


def run_it(
    path: Path, recipe: Recipe, clock: Clock | None = None, digest: str = ""
) -> tuple[RunFolder, dict[str, np.ndarray], list[str]]:
    partial = path.with_name(f"{path.name}.partial")
    run, heard = RunFolder.resume(path) if partial.exists() else RunFolder.create(path), Heard()
    weights = train(recipe, Counting(), VOCAB, run, clock or ticking(), heard, data_digest=digest)
    return run, weights, heard.lines


def work_of(state: TrainState, recipe: Recipe) -> Work:
    return Work(recipe, Counting(), TrainingLoss(state.objective), Ranks())


def test_swa_delivers_the_mean_of_its_snapshots(tmp_path: Path) -> None:
    """With "swa" the weights delivered are the plain mean of the live weights at the due steps, and of no others."""
    recipe = with_optim(TINY, average="swa", swa_every=2, swa_below=0.7, warmdown=1.0)
    state = TrainState.fresh(recipe, VOCAB)
    kept = []
    for step in range(12):
        scale = 1 - step / 12
        one_step(state, work_of(state, recipe), StepSettings(scale, 0.95))
        if scale < 0.7 and (step + 1) % 2 == 0:
            kept.append({name: value.detach().clone().numpy() for name, value in state.weights().items()})
    assert len(kept) == 4
    expected = unbank({name: np.mean([each[name] for each in kept], axis=0) for name in kept[0]})
    _, weights, notes = run_it(tmp_path / "run", recipe)
    assert set(weights) == set(expected)
    for name, value in weights.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-6, err_msg=name)
    assert not notes


def test_swa_without_a_snapshot_says_so(tmp_path: Path) -> None:
    """If no snapshot was due, the live weights are delivered, now and from the checkpoint, and a note says it."""
    recipe = with_optim(TINY, average="swa", swa_every=50)
    run, weights, notes = run_it(tmp_path / "run", recipe)
    assert len(notes) == 1 and "no snapshot was averaged (optim.swa_every=50" in notes[0]
    assert notes[0] in run.read_text("log.txt")
    tensors, _ = load_checkpoint(run.path / CHECKPOINT)
    live = unbank({n.removeprefix("model/"): v.numpy() for n, v in tensors.items() if n.startswith("model/")})
    for name, value in delivered(tensors).items():
        assert value.tobytes() == live[name].tobytes() == weights[name].tobytes()
        assert value.any() or "scale" in name


def test_late_rounding_reaches_the_banks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Below its scale every loss is that of rounded matrices, above it of none, and warm-up has seen both graphs."""
    recipe = with_optim(TINY, warmdown=0.5, qat_below=0.5)
    recipe = dataclasses.replace(recipe, squeeze=SqueezeRecipe(matrix_bits=4))
    asked: list[int] = []
    plain = GPT.loss

    def spy(model: GPT, inputs: torch.Tensor, targets: torch.Tensor, *, quantise_bits: int, **form: object) -> object:
        asked.append(quantise_bits)
        return plain(model, inputs, targets, quantise_bits=quantise_bits, **form)

    monkeypatch.setattr(GPT, "loss", spy)
    run_it(tmp_path / "cold", recipe)
    # The scale before step k of 12 is 1 until 6 s, then (12 - k) / 6: below one half from the tenth second on.
    assert asked == [0] * 10 + [4] * 2
    asked.clear()
    run_it(tmp_path / "warm", with_train(recipe, warmup_steps=2, max_steps=1))
    assert asked == [0, 0, 4, 4, 0]


def test_rounding_changes_loss_and_gradient_of_all_banks(small_models: ModuleType) -> None:
    """A rounded step differs from a plain one in every bank's gradient, for the model with every part."""
    recipe = dataclasses.replace(TINY, model=small_models.TRAINED)
    gradients = []
    for bits in (0, 3):
        state = TrainState.fresh(recipe, VOCAB)
        spread(state.model)
        inputs, targets = (torch.from_numpy(x) for x in Counting().batch(0, 4))
        state.model.loss(inputs, targets, quantise_bits=bits).backward()
        gradients.append({name: p.grad for name, p in state.model.named_parameters() if name.startswith("banks.")})
    assert all((gradients[0][name] - gradients[1][name]).abs().max() > 1e-5 for name in gradients[0])


def spread(model: GPT) -> None:
    """Give every parameter values, so that no product hides behind a zero."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))


def test_bfloat16_tables_train_and_resume(small_models: ModuleType, tmp_path: Path) -> None:
    """With table_dtype the three tables and their moments are bfloat16, all else float32; restoring is bitwise."""
    recipe = with_train(dataclasses.replace(TINY, model=small_models.TRAINED), table_dtype="bfloat16", max_steps=4)
    state = TrainState.fresh(recipe, VOCAB)
    one_step(state, work_of(state, recipe), StepSettings(1.0, 0.9))
    for name, parameter in state.model.named_parameters():
        expected = torch.bfloat16 if name in TABLES else torch.float32
        assert parameter.dtype == expected, name
        if parameter in state.optimizers.adam.state:
            assert state.optimizers.adam.state[parameter]["exp_avg"].dtype == expected, name
    saved = state.capture()
    other = TrainState.fresh(recipe, VOCAB)
    other.restore(saved)
    for each in (state, other):
        one_step(each, work_of(each, recipe), StepSettings(1.0, 0.9))
    again = other.capture()
    assert all(torch.equal(value, again[name]) for name, value in state.capture().items())
    _, weights, _ = run_it(tmp_path / "run", recipe)
    assert all(value.dtype == np.float32 for value in weights.values())


def test_momentum_follows_its_warm_up(tmp_path: Path) -> None:
    """The log has Muon's momentum and the gradient's norm of each step; the warm-up is a share of the clock."""
    recipe = with_optim(TINY, momentum_warmup=0.5, muon_momentum_start=0.8, muon_momentum=0.9)
    run, _, _ = run_it(tmp_path / "run", recipe)
    points = [json.loads(line) for line in run.read_text("metrics.jsonl").splitlines()]
    expected = [0.8 + 0.1 * min(1.0, step / 6) for step in range(12)]
    assert [point["momentum"] for point in points] == pytest.approx(expected)
    assert all(0 < point["grad_norm"] < 100 for point in points)


def test_boundary_reaches_the_model(small_models: ModuleType) -> None:
    """The tokenizer's boundary id is the one that the smear stops at."""
    recipe = dataclasses.replace(TINY, model=small_models.TRAINED)
    smear = TrainState.fresh(recipe, VOCAB, boundary_id=7).model.smear
    assert smear is not None and smear.boundary_id == 7


def test_activations_are_float32_on_a_cpu() -> None:
    """bfloat16 activations are a GPU's affair, and bfloat16 tables do not pull a CPU's down."""
    recipe = with_train(TINY, dtype="bfloat16", table_dtype="bfloat16")
    assert TrainState.fresh(recipe, VOCAB).model.activation_dtype == torch.float32


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo's own, of our Functions
@pytest.mark.parametrize("bits", [0, 6])
def test_training_loss_is_one_graph(small_models: ModuleType, bits: int) -> None:
    """The loss of the model with every part traces without a break, forward and backward, to the same bits."""
    torch.compiler.reset()
    state = TrainState.fresh(dataclasses.replace(TINY, model=small_models.TRAINED), VOCAB)
    spread(state.model)
    inputs, targets = (torch.from_numpy(x) for x in Counting().batch(0, 4))
    compiled = torch.compile(state.model.loss, backend="aot_eager", fullgraph=True, dynamic=False)
    losses, gradients = [], []
    for loss_of in (compiled, state.model.loss):
        loss = loss_of(inputs, targets, quantise_bits=bits)
        loss.backward()
        losses.append(loss.item())
        gradients.append([p.grad.clone() for p in state.model.parameters() if p.grad is not None])
        state.model.zero_grad()
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_without_a_compiler_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If torch.compile cannot work, at the call or at the first batch, there is one note and the eager loss."""
    state = TrainState.fresh(TINY, VOCAB)
    tokens, heard = torch.zeros(2, 16, dtype=torch.int64), Heard()
    piece = Piece(tokens, tokens)
    notes = Notes(RunFolder.create(tmp_path / "run"), heard, leads=True)

    def missing(*arguments: object, **options: object) -> object:
        raise RuntimeError("\nno Triton here\nmore lines")

    def lazy(*arguments: object, **options: object) -> object:
        return missing

    for stand_in in (missing, lazy):
        monkeypatch.setattr(torch, "compile", stand_in)
        loss_of = TrainingLoss(state.objective)
        loss_of.compile([(PLAIN, piece), (ROUNDED, piece)], notes)
        loss_of.compile([(PLAIN, piece)], notes)  # a later stage of the run tries no second time
        assert heard.lines == ["training without torch.compile, which is slower: no Triton here"]
        assert loss_of(piece, PLAIN).total.item() == state.model.loss(tokens, tokens).item()
        assert all(parameter.grad is None for parameter in state.model.parameters())
        heard.lines.clear()


def test_compiling_visits_every_graph_and_leaves_no_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every graph of the run is compiled whole, with fixed shapes, forward and backward, before the clock."""
    state, seen, options_given = TrainState.fresh(TINY, VOCAB), [], {}
    plain = state.model.loss

    def stand_in(loss: object, **options: object) -> object:
        options_given.update(options)

        def compiled(inputs: torch.Tensor, targets: torch.Tensor, **form: object) -> torch.Tensor:
            seen.append((tuple(inputs.shape), form["quantise_bits"]))
            return plain(inputs, targets, **form)

        return compiled

    monkeypatch.setattr(torch, "compile", stand_in)
    notes = Notes(RunFolder.create(tmp_path / "run"), SilentDisplay(), leads=True)
    tokens = torch.zeros(2, 16, dtype=torch.int64)
    TrainingLoss(state.objective).compile([(form, Piece(tokens, tokens)) for form in (PLAIN, ROUNDED)], notes)
    assert seen == [((2, 16), 0), ((2, 16), 6)]
    assert options_given == {"fullgraph": True, "dynamic": False}
    assert all(parameter.grad is None for parameter in state.model.parameters())


def breaking(monkeypatch: pytest.MonkeyPatch, at: int, factor: float) -> None:
    """From loss number `at` on, the loss is multiplied by `factor`."""
    plain, calls = GPT.loss, itertools.count(1)

    def loss(model: GPT, inputs: torch.Tensor, targets: torch.Tensor, **form: object) -> torch.Tensor:
        whole = plain(model, inputs, targets, **form)
        return whole * factor if next(calls) >= at else whole

    monkeypatch.setattr(GPT, "loss", loss)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_divergence_keeps_the_last_good_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """A loss that is no number ends the run before it moves a weight; the step before is saved and can be packed."""
    good_run, good, _ = run_it(tmp_path / "good", with_train(TINY, max_steps=5))
    norms = [json.loads(line)["grad_norm"] for line in good_run.read_text("metrics.jsonl").splitlines()]
    breaking(monkeypatch, 6, factor)
    with pytest.raises(RunError, match=r"^loss is (nan|inf) at step 6, gradient norms of the last steps: ") as caught:
        run_it(tmp_path / "bad", TINY)
    message = str(caught.value)
    assert ", ".join(f"{norm:.3g}" for norm in norms) + ", nan" in message
    assert "step 5 is saved, pack it with: paramgolf train --resume" in message
    assert "lower optim.matrix_lr=0.02 or optim.embedding_lr=0.02" in message
    clock = ticking()
    _, weights, _ = run_it(tmp_path / "bad", TINY, clock)
    assert all(weights[name].tobytes() == good[name].tobytes() for name in good)
    assert [(entry.name, entry.seconds >= 5) for entry in clock.ledger] == [("warm-up", False), ("train", True)]


def test_a_gradient_that_is_no_number_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finite loss with an infinite gradient is caught too, with every weight and moment still as it was."""
    state = TrainState.fresh(TINY, VOCAB)
    work = work_of(state, TINY)
    one_step(state, work, StepSettings(1.0, 0.9))
    before = state.capture()
    hook = state.model.banks.up.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(Diverged) as caught:
        one_step(state, work, StepSettings(1.0, 0.9))
    hook.remove()
    assert math.isfinite(caught.value.loss) and not math.isfinite(caught.value.grad_norm)
    after = state.capture()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_divergence_at_the_first_step_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no good step there is no checkpoint, and the message says so; warm-up's divergence counts as the first."""
    breaking(monkeypatch, 1, math.nan)
    for name, recipe in (("cold", TINY), ("warm", with_train(TINY, warmup_steps=1))):
        with pytest.raises(RunError, match=r"loss is nan at step 1, .* no good step was made"):
            run_it(tmp_path / name, recipe)
        assert not (tmp_path / f"{name}.partial" / CHECKPOINT).exists()


def test_divergence_after_a_resume_ends_with_what_was_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the first step after a resume diverges, the run ends with its checkpoint instead of diverging for ever."""
    path = tmp_path / "run"
    saving = with_train(TINY, checkpoint_seconds=2.0)
    breaking(monkeypatch, 4, math.nan)
    plain = Saves.save

    def killed_before_the_end(saves: Saves, state: TrainState, *, finished: bool) -> None:
        if not finished:
            plain(saves, state, finished=False)

    monkeypatch.setattr(Saves, "save", killed_before_the_end)
    with pytest.raises(RunError, match="loss is nan at step 4"):
        run_it(path, saving)
    monkeypatch.undo()
    breaking(monkeypatch, 1, math.nan)
    with pytest.raises(RunError, match=r"loss is nan at step \d+, .*; step \d+ is saved, pack it with"):
        run_it(path, saving)
    _, record = load_checkpoint(path.with_name("run.partial") / CHECKPOINT)
    assert record.finished
    _, weights, _ = run_it(path, saving)
    assert all(np.isfinite(value).all() for value in weights.values())


def test_a_step_that_broke_the_weights_is_not_offered(tmp_path: Path) -> None:
    """If the step before the one that shows it left weights that are no numbers, they are neither saved nor named."""
    with pytest.raises(RunError, match=r"loss is nan at step 2, .*; no good step was made"):
        run_it(tmp_path / "run", with_optim(TINY, matrix_lr=math.inf))
    assert not (tmp_path / "run.partial" / CHECKPOINT).exists()


def test_compiling_makes_the_rotary_tables_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables stand before a graph is traced: made within it, every later batch would compile another graph."""
    state, lengths = TrainState.fresh(TINY, VOCAB), []

    def stand_in(loss: object, **options: object) -> object:
        lengths.append(len(state.model.rotary.cos_TR))
        return state.model.loss

    monkeypatch.setattr(torch, "compile", stand_in)
    notes = Notes(RunFolder.create(tmp_path / "run"), SilentDisplay(), leads=True)
    tokens = torch.zeros(2, 16, dtype=torch.int64)
    TrainingLoss(state.objective).compile([(PLAIN, Piece(tokens, tokens))], notes)
    assert set(lengths) == {16}


def test_warm_up_resets_momentum_even_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-up that diverges in its second step leaves weights, moments and average as they were."""
    recipe = with_train(TINY, warmup_steps=3)
    state = TrainState.fresh(recipe, VOCAB)
    before = state.capture()
    breaking(monkeypatch, 2, math.nan)
    state = TrainState.fresh(recipe, VOCAB)
    notes = Notes(RunFolder.create(tmp_path / "run"), SilentDisplay(), leads=True)
    with pytest.raises(Diverged):
        warm_up(state, work_of(state, recipe), ticking(), notes)
    after = state.capture()
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_budget_below_one_step_makes_one_and_says_so(tmp_path: Path) -> None:
    """A clock shorter than a step gives a run of one step, whose ledger shows the overrun and whose note the remedy."""
    recipe = dataclasses.replace(TINY, budget=BudgetRecipe(train_seconds=0.5))
    clock = ticking(3.0)
    run, weights, notes = run_it(tmp_path / "run", recipe, clock)
    assert [json.loads(line)["step"] for line in run.read_text("metrics.jsonl").splitlines()] == [1]
    assert notes == [
        "one step took 3 s, longer than budget.train_seconds=0.5: the run is that step, over its budget; "
        "raise the budget or lower train.batch_tokens=64"
    ]
    assert clock.ledger[-1].overrun() > 0
    assert all(np.isfinite(value).all() for value in weights.values())


def test_other_data_is_refused(tmp_path: Path) -> None:
    """A run does not go on with data of another digest, and both are named; without a digest nothing is compared."""
    run_it(tmp_path / "run", TINY, digest="aaaa1111aaaa1111ffff")
    with pytest.raises(RunError, match=r"trained on data aaaa1111aaaa1111, this is bbbb2222; give --data"):
        run_it(tmp_path / "run", TINY, digest="bbbb2222")
    run_it(tmp_path / "run", TINY, digest="aaaa1111aaaa1111ffff")
    run_it(tmp_path / "run", TINY)


def test_data_digest_sees_what_it_promises() -> None:
    """Tokenizer, text digest, number, sizes and ends of the shards all move it; the order too."""
    small, long = np.arange(100, dtype=np.uint16), np.zeros(3 * EDGE_TOKENS, dtype=np.uint16)
    base = data_digest([small, long], "t", "x")
    assert base == data_digest([small.copy(), long.copy()], "t", "x")
    changed = [long.copy(), long.copy(), small.copy()]
    changed[0][0], changed[1][-1], changed[2][50] = 1, 1, 1
    others = [
        data_digest([small, long], "u", "x"),
        data_digest([small, long], "t", "y"),
        data_digest([long, small], "t", "x"),
        data_digest([small], "t", "x"),
        data_digest([small, long[:-1]], "t", "x"),
        data_digest([small, changed[0]], "t", "x"),
        data_digest([small, changed[1]], "t", "x"),
        data_digest([changed[2], long], "t", "x"),
    ]
    assert len({base, *others}) == 1 + len(others)
