"""Training on packed rows whose context and depth grow with the clock (spec pr2140.md 3): shapes, faults, resuming."""

import dataclasses
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.clock import Clock
from paramgolf.errors import RecipeError
from paramgolf.kernels.varlen import Documents
from paramgolf.optim.schedule import StepSettings, stages
from paramgolf.ranks import Ranks
from paramgolf.recipe import BudgetRecipe, ModelRecipe, OptimRecipe, Recipe, TrainRecipe
from paramgolf.recipes.pr2140 import pr2140, pr2140_1gpu, pr2140_tiny
from paramgolf.run_folder import RunFolder
from paramgolf.text.stream import StreamWindows
from paramgolf.text.windows import TrainingWindows
from paramgolf.train import loop
from paramgolf.train.batches import examples, in_rows, longest_rows, pieces, row_shapes, sequences_of_rank
from paramgolf.train.checkpoint import CHECKPOINT, load_checkpoint
from paramgolf.train.compiled import TrainingLoss
from paramgolf.train.loop import train
from paramgolf.train.notes import Notes
from paramgolf.train.progress import SilentDisplay
from paramgolf.train.state import TrainState
from paramgolf.train.step import Work, _phases, backward, compile_forms, one_step, warm_up

VOCAB = 20
CPU = torch.device("cpu")
MODEL = ModelRecipe(
    layers=4,
    width=16,
    heads=2,
    kv_heads=1,
    mlp_ratio=2.0,
    mlp_slope=0.3,
    rope_channels=4,
    xsa_layers=(0, 1, 2, 3),
    smear="gated",
    unet=True,
    skip_gates=True,
    looped_layers=(1, 2),
    loops=2,
    parallel_layers=1,
    sparse_gates=True,
    asymmetric_softcap=True,
    residual_mix=True,
    block_scales=True,
    init="orthogonal",
)
# Steps last a second of an injected clock: contexts change before steps 3 and 7 of 12 (from 0), loops begin at 5.
PACKED = Recipe(
    name="packed",
    model=MODEL,
    optim=OptimRecipe(newton_schulz="polar-express", muon_row_norm=True, least_lr=0.1, warmdown=0.85),
    train=TrainRecipe(
        sequence=16,
        batch_tokens=96,
        micro_tokens=48,
        order="stream",
        packed=True,
        contexts=(4, 8, 16),
        contexts_until=(0.2, 0.55),
        rewarm_steps=2,
        loop_from=0.4,
        warmup_steps=0,
        checkpoint_seconds=1000.0,
    ),
    budget=BudgetRecipe(train_seconds=12.0),
)


def with_train(recipe: Recipe, **changes: object) -> Recipe:
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **changes))


def text(tokens: int = 5000) -> np.ndarray:
    """Documents that count upwards, a boundary (1) about every ninth token."""
    drawn = np.random.default_rng(3)
    ids = 2 + np.cumsum(drawn.integers(1, 3, size=tokens)) % (VOCAB - 2)
    ids[drawn.random(tokens) < 1 / 9] = 1
    return ids.astype(np.uint16)


def stream(rank: int = 0, world: int = 1) -> StreamWindows:
    return StreamWindows([text()], PACKED.train.sequence, rank, world)


def ticking() -> Clock:
    counter = itertools.count()
    return Clock(lambda: float(next(counter)))


def run_it(path: Path, recipe: Recipe = PACKED, windows: object = None, clock: Clock | None = None):
    partial = path.with_name(f"{path.name}.partial")
    run = RunFolder.resume(path) if partial.exists() else RunFolder.create(path)
    return train(recipe, windows or stream(), VOCAB, run, clock or ticking(), SilentDisplay())


def points(path: Path) -> list[dict[str, float]]:
    log = path.with_name(f"{path.name}.partial") / "metrics.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()]


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_rows_are_consecutive_tokens() -> None:
    """Spec pr2140.md 3.1: row r of a step: n + 1 tokens from cursor + r (n + 1), n inputs and n targets one later."""
    ids = np.arange(1000)
    rows = in_rows(StreamWindows([ids], 16), PACKED.train, 1)
    inputs, targets = rows.batch(3, 2)
    for r in range(2):
        start = 3 * 2 * 49 + r * 49
        assert inputs[r].tolist() == list(range(start, start + 48))
        assert targets[r].tolist() == list(range(start + 1, start + 49))


def test_ranks_share_the_rows() -> None:
    """Two ranks take the rows that one would take, one each; four would have to cut them, and take shorter rows."""
    alone = in_rows(stream(), PACKED.train, 1).batch(5, 2)
    for rank in range(2):
        part = in_rows(stream(rank, 2), PACKED.train, 2).batch(5, 1)
        for side in (0, 1):
            assert (part[side] == alone[side][rank : rank + 1]).all()
    assert sequences_of_rank(PACKED.train, 4) == 1
    assert in_rows(stream(3, 4), PACKED.train, 4).batch(0, 1)[0].shape == (1, 24)


def test_shapes_of_the_record() -> None:
    """Spec pr2140.md 3.1: 98,304 tokens a rank of eight, eight rows on one GPU; the smaller recipes take one row."""
    assert sequences_of_rank(pr2140().train, 8) == 1
    assert sequences_of_rank(pr2140().train, 1) == 8
    assert sequences_of_rank(pr2140_1gpu().train, 1) == 1
    assert sequences_of_rank(pr2140_tiny().train, 1) == 1


@pytest.mark.parametrize(
    "train,world,windows,says",
    [
        ({}, 5, None, r"batch_tokens=96 does not divide over 5 ranks"),
        ({"micro_tokens": 20}, 1, None, r"share of 96 tokens .* into 5 equal rows of at most train\.micro_tokens=20"),
        ({}, 1, TrainingWindows([text()], 16, 7), r"needs a stream of tokens, found TrainingWindows"),
        ({"packed": False, "contexts": (6, 16), "contexts_until": (0.5,)}, 1, None, r"names 6, which does not divide"),
    ],
)
def test_what_cannot_be_cut_is_refused(train: dict, world: int, windows: object, says: str, tmp_path: Path) -> None:
    """Rows that do not divide, windows without a stream, and dense contexts that are no part of a sequence."""
    recipe = with_train(PACKED, **train)
    run = RunFolder.create(tmp_path / "run")
    ranks = Ranks(0, world)
    with pytest.raises(RecipeError, match=says):
        sequences_of_rank(recipe.train, world)
        in_rows(windows or stream(), recipe.train, world)
    if world == 1:
        with pytest.raises(RecipeError, match=says):
            train_with = windows or stream()
            loop.train(recipe, train_with, VOCAB, run, ticking(), SilentDisplay(), ranks)


def spans(row: np.ndarray, context: int) -> list[int]:
    """Lengths of the spans of a row, by a walk."""
    lengths: list[int] = []
    for at, token in enumerate(row):
        if at == 0 or token == 1 or lengths[-1] == context:
            lengths.append(0)
        lengths[-1] += 1
    return lengths


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([4, 8, 16]), st.booleans(), st.integers(0, 30))
def test_a_step_is_the_mean_over_rows(context: int, looping: bool, step: int) -> None:
    """Loss and gradient of a step are those of its rows, one at a time, with the spans of a plain walk."""
    state = TrainState.fresh(PACKED, VOCAB)
    work = Work(PACKED, in_rows(stream(), PACKED.train, 1), TrainingLoss(state.objective), Ranks())
    state.step = step
    loss = backward(state, work, StepSettings(1.0, 0.9, context=context, looping=looping))
    found = {name: p.grad.clone() for name, p in state.model.named_parameters() if p.grad is not None}
    state.model.zero_grad()
    expected = torch.zeros(())
    for inputs, targets in zip(*work.windows.batch(step, 2), strict=True):
        documents = Documents(torch.tensor(spans(inputs, context)), 48)
        pair = (torch.from_numpy(side[None]) for side in (inputs, targets))
        expected = expected + state.model.loss(*pair, looping=looping, documents=documents) / 2
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, parameter in state.model.named_parameters():
        if name in found:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_dense_sequences_are_cut_into_contexts() -> None:
    """Without packing the tokens of a batch are the same at every context, in shorter sequences; shares sum to one."""
    train = dataclasses.replace(PACKED.train, packed=False, micro_tokens=40)
    batch = StreamWindows([text()], 16, spans=2).batch(2, 6)
    for context, shapes in ((4, [(10, 4)] * 2 + [(4, 4)]), (8, [(5, 8)] * 2 + [(2, 8)]), (16, [(2, 16)] * 3)):
        cut = list(pieces(train, batch, context, 1, CPU))
        assert [tuple(piece.inputs_ST.shape) for piece in cut] == shapes
        assert {tuple(piece.inputs_ST.shape) for piece in examples(train, 1, context, CPU)} == set(shapes)
        assert torch.cat([piece.targets_ST.flatten() for piece in cut]).tolist() == batch[1].flatten().tolist()
        assert sum(piece.share for piece in cut) == pytest.approx(1)


def test_examples_foresee_the_shapes_of_the_record() -> None:
    """Spec pr2140.md 3.4: lists of up to 256 ends in steps of 64, those too short for a row left out; rows sum to n."""
    train = pr2140_1gpu().train
    found = {}
    for context in train.contexts:
        drawn = examples(train, 1, context, CPU)
        found[context] = [len(piece.documents.lengths_S) + 1 for piece in drawn]
        for piece in drawn:
            assert piece.inputs_ST.shape == (1, 98_304)
            lengths = piece.documents.lengths_S
            assert int(lengths.sum()) == 98_304 and int(lengths.max()) <= piece.documents.longest == context
    assert found == {1024: [128, 192, 256], 2048: [64, 128, 192, 256], 3072: [64, 128, 192, 256]}


def test_the_clock_changes_context_loops_and_rates(tmp_path: Path) -> None:
    """Each step has the context and depth of its second; after a change the rate rises again, and it has a floor."""
    clock = ticking()
    run_it(tmp_path / "run", clock=clock)
    log = points(tmp_path / "run")
    assert [p["context"] for p in log] == [4] * 3 + [8] * 4 + [16] * 5
    assert [p["looping"] for p in log] == [False] * 5 + [True] * 7
    plain = [max(0.1, min(1.0, (1 - s / 12) / 0.85)) for s in range(12)]
    halved = [rate / 2 if s in (3, 7) else rate for s, rate in enumerate(plain)]
    assert [p["lr"] for p in log] == pytest.approx([0.02 * rate for rate in halved])
    names = [entry.name for entry in clock.ledger]
    assert names == [
        "warm-up, context 4",
        "warm-up, context 8",
        "warm-up, context 8, looping",
        "warm-up, context 16, looping",
        "train",
    ]
    assert [entry.on_clock for entry in clock.ledger] == [False] * 4 + [True]


def test_the_last_step_must_fit_by_the_longest_of_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 1 s, and of 3 s from 6 s on: of 11 s the mean would begin another at 9 s, which ends at 12 s."""
    now = [0.0]

    class Growing(Clock):
        def _reading(self) -> float:
            now[0] = now[0] + (1.0 if now[0] < 6 else 3.0) if started else 0.0
            return now[0]

    started: list[int] = []
    clock = Growing(lambda: now[0])
    plain = loop.one_step

    def starts(*arguments: object) -> object:
        started.append(1)
        return plain(*arguments)

    monkeypatch.setattr(loop, "one_step", starts)
    run_it(tmp_path / "run", dataclasses.replace(PACKED, budget=BudgetRecipe(train_seconds=11.0)), clock=clock)
    assert len(started) == 7 and now[0] == 9.0


@pytest.mark.slow
def test_it_learns(tmp_path: Path) -> None:
    """Over 60 steps through all stages the loss falls from uniform towards the text's own entropy of about 0.9 nats."""
    recipe = dataclasses.replace(with_train(PACKED, rewarm_steps=4), budget=BudgetRecipe(train_seconds=60.0))
    run_it(tmp_path / "run", recipe)
    losses = [p["loss"] for p in points(tmp_path / "run")]
    assert losses[0] == pytest.approx(np.log(VOCAB), abs=0.2)
    assert np.mean(losses[-10:]) < 2.0  # far below the 2.9 of the tokens' frequencies


def test_warm_up_of_every_form_leaves_no_trace(tmp_path: Path) -> None:
    """Momentum and all else are really reset; published, Muon's survived the warm-up (spec pr2140.md 3.4, 8.20)."""
    recipe = with_train(PACKED, warmup_steps=2)
    state = TrainState.fresh(recipe, VOCAB)
    asked: list[tuple[int, bool]] = []
    loss_of = TrainingLoss(state.objective)

    class Spy(TrainingLoss):
        def __call__(self, piece, form):  # type: ignore[no-untyped-def]  # as its base
            asked.append((form.context, form.looping))
            return loss_of(piece, form)

    work = Work(recipe, in_rows(stream(), recipe.train, 1), Spy(state.objective), Ranks())
    before = state.capture()
    warm_up(state, work, ticking(), Notes(RunFolder.create(tmp_path / "notes"), SilentDisplay(), leads=True))
    after = state.capture()
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not state.optimizers.muon.state and not any("momentum" in name for name in after)
    assert list(dict.fromkeys(asked)) == [(s.context, s.looping) for s in stages(recipe)]
    one_step(state, work, stages(recipe)[0])
    fresh = TrainState.fresh(recipe, VOCAB)
    one_step(fresh, dataclasses.replace(work, loss_of=TrainingLoss(fresh.objective)), stages(recipe)[0])
    moved = [each.optimizers.muon.momentum().values() for each in (state, fresh)]
    assert all(torch.equal(one, other) for one, other in zip(*moved, strict=True))


@pytest.mark.parametrize("step", [3, pytest.param(2, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)])
def test_resume_across_a_stage_is_bitwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """A run that dies before, at or after a change of context goes on to the bits and rates of an unbroken one."""
    recipe = with_train(PACKED, checkpoint_seconds=1.0, rewarm_steps=3)
    whole = run_it(tmp_path / "whole", recipe)
    plain, calls = loop.one_step, itertools.count()

    def dies(*arguments: object) -> object:
        if next(calls) == step:
            raise MemoryError("as good as a kill: nothing is saved on the way out")
        return plain(*arguments)

    monkeypatch.setattr(loop, "one_step", dies)
    with pytest.raises(MemoryError):
        run_it(tmp_path / "broken", recipe)
    monkeypatch.undo()
    saved, _ = load_checkpoint(tmp_path / "broken.partial" / CHECKPOINT)
    assert saved["counts"].tolist()[0] == step
    assert same(whole, run_it(tmp_path / "broken", recipe))
    assert points(tmp_path / "whole") == points(tmp_path / "broken")


@pytest.mark.parametrize("ids", [[5], [1], [1, 5], [1] + [5] * 200])
def test_odd_texts_train(tmp_path: Path, ids: list[int]) -> None:
    """One document without a boundary, empty documents alone, documents of one token, documents beyond the context."""
    shard = np.array(ids * (1 + 600 // len(ids)), dtype=np.uint16)
    weights = run_it(tmp_path / "run", with_train(PACKED, max_steps=9), StreamWindows([shard], 16))
    assert all(np.isfinite(value).all() for value in weights.values())
    assert all(np.isfinite(p["loss"]) for p in points(tmp_path / "run"))


SMALL = dataclasses.replace(MODEL, layers=2, looped_layers=(0,), xsa_layers=(0,))
TWO = dataclasses.replace(with_train(PACKED, contexts=(4, 16), contexts_until=(0.3,)), model=SMALL)
# Rows of 512 tokens, of which 64 ends are foreseen.
WIDE = with_train(TWO, batch_tokens=512, micro_tokens=512, contexts=(16,), contexts_until=(), loop_from=0.0)
DENSE = with_train(TWO, packed=False)


def under_ntk(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, rope_length=6))


def short_documents() -> np.ndarray:
    """In the first 65 rows of 512 documents have 12 tokens in the mean; then boundaries stand closer and closer."""
    drawn = np.random.default_rng(4)
    ids = drawn.integers(2, VOCAB, size=513 * 80)
    often = np.where(np.arange(len(ids)) < 513 * 65, 1 / 12, np.where(np.arange(len(ids)) < 513 * 72, 1 / 3, 1 / 2.2))
    ids[drawn.random(len(ids)) < often] = 1
    return ids.astype(np.uint16)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each graph that is compiled."""
    torch.compiler.reset()
    found: list[int] = []
    real = torch.compile

    def backend(graph, inputs):  # type: ignore[no-untyped-def]  # as Dynamo calls it
        found.append(1)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, **how: real(function, backend=backend, **how))
    return found


def compiled(recipe: Recipe, windows: StreamWindows, path: Path) -> tuple[TrainState, Work, Path]:
    """A run after the warm-up that a GPU would have, and its log."""
    state = TrainState.fresh(recipe, VOCAB)
    work = Work(recipe, in_rows(windows, recipe.train, 1), TrainingLoss(state.objective), Ranks())
    run = RunFolder.create(path / "notes")
    work.loss_of.prepare(longest_rows(recipe.train, 1))
    for name, forms in _phases(recipe).items():
        compile_forms(state, work, forms, Notes(run, SilentDisplay(), leads=True), name)
    return state, work, run.path / "log.txt"


GRAPHS = [
    pytest.param(TWO, 3, id="packed"),
    pytest.param(under_ntk(TWO), 3, id="packed, NTK"),
    pytest.param(DENSE, 3, id="dense"),
    pytest.param(under_ntk(DENSE), 3, id="dense, NTK"),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo's own, of our Functions
@pytest.mark.parametrize("recipe,count", GRAPHS)
def test_every_stage_is_one_graph(tmp_path: Path, graphs: list[int], recipe: Recipe, count: int) -> None:
    """A piece traces without a break, once for each shape of the examples; no step on the clock compiles."""
    windows = stream() if recipe.train.packed else StreamWindows([text()], 16, spans=2)
    state, work, log = compiled(recipe, windows, tmp_path)
    assert len(graphs) == sum(len(work.examples(form)) for form in stages(recipe))
    assert len(graphs) == count
    lines = log.read_text().splitlines()
    assert len(lines) == len(stages(recipe))  # a line for each, and nothing failed
    assert all("shapes in 1 forms, off the clock" in line for line in lines)
    for form in stages(recipe) * 2:
        one_step(state, work, form)
    assert len(graphs) == count


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo's own, of our Functions
def test_many_short_documents_compile_little(tmp_path: Path, graphs: list[int]) -> None:
    """Rows like the first batches have their graph; ever shorter documents later cost one graph for each doubling."""
    (form,) = stages(WIDE)
    state, work, _ = compiled(WIDE, StreamWindows([short_documents()], 16), tmp_path)
    foreseen = [len(piece.documents.lengths_S) + 1 for piece in work.examples(form)]
    assert foreseen == [64, 128]
    assert len(graphs) == 2
    for state.step in (0, 20, 63):
        one_step(state, work, form)
    assert len(graphs) == 2
    for state.step in range(66, 79):
        one_step(state, work, form)
    assert len(graphs) == 3  # of 256 ends


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo's own, of our Functions
def test_a_refused_graph_is_no_end(tmp_path: Path, graphs: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch refuses to compile once more, the step is made without, to the same loss, and one note says so."""
    monkeypatch.setattr("paramgolf.train.compiled.MOST_GRAPHS", 2)
    (form,) = stages(WIDE)
    # Torch's own patch: pytest's would hide the setting when it takes it back.
    with torch._dynamo.config.patch(recompile_limit=2):
        state, work, log = compiled(WIDE, StreamWindows([short_documents()], 16), tmp_path)
        state.step = 70
        piece = next(iter(work.pieces(70, 16)))
        plain = state.model.loss(*piece[:2], documents=piece.documents)
        assert one_step(state, work, form).loss == pytest.approx(plain.item(), rel=1e-5)
        assert len(graphs) == 2
        for _ in range(3):
            one_step(state, work, form)
    assert log.read_text().count("training without torch.compile, which is slower: ") == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=60, max_size=200), st.sampled_from([4, 16, 64]))
def test_unforeseen_rows_come_in_few_shapes(lengths: list[int], context: int) -> None:
    """Any row has a foreseen number of ends or a power of two of them, and the spans of a walk whatever the padding."""
    row = np.full(1024, 5)
    row[[start for start in np.cumsum([0, *lengths]) if start < 1024]] = 1
    train = TrainRecipe(sequence=64, batch_tokens=1024, micro_tokens=1024, order="stream", packed=True)
    (piece,) = pieces(train, (row[None], row[None]), context, 1, CPU)
    found = piece.documents.lengths_S.tolist()
    walked = spans(row, context)
    assert found[: len(walked)] == walked and not any(found[len(walked) :])
    count = len(found) + 1
    assert row_shapes(row[None], context, 1) == {count}
    drawn = {len(each.documents.lengths_S) + 1 for each in examples(train, 1, context, CPU)}
    assert count in drawn or (count > max(drawn) and count & (count - 1) == 0)
    assert count in {len(each.documents.lengths_S) + 1 for each in examples(train, 1, context, CPU, {count})}


PROGRAM = """
import itertools, json, os, signal, sys
import numpy as np
from pathlib import Path
from paramgolf.clock import Clock
from paramgolf.recipe import Recipe
from paramgolf.run_folder import RunFolder
from paramgolf.ranks import open_ranks
from paramgolf.text.stream import StreamWindows
from paramgolf.train import loop
from paramgolf.train.progress import SilentDisplay

path, recipe = Path(sys.argv[1]), Recipe.from_json(Path(sys.argv[2]).read_text())
shard, dies_at, forms, plain = np.load(sys.argv[3]), int(sys.argv[4]), [], loop.one_step
def spy(state, work, settings, stop):
    if state.step == dies_at: os.kill(os.getpid(), signal.SIGKILL)
    forms.append((state.step, settings.context, settings.looping, settings.rate()))
    return plain(state, work, settings, stop)
loop.one_step = spy
with open_ranks(120.0) as ranks:
    ticks = itertools.count(0, 1 + 97 * ranks.rank)  # rank 1's own clock runs wild
    mine = path.with_name(f"{path.name}-{ranks.rank}")
    partial = mine.with_name(mine.name + ".partial")
    run = RunFolder.resume(mine) if partial.exists() else RunFolder.create(mine)
    windows = StreamWindows([shard], recipe.train.sequence, ranks.rank, ranks.world)
    clock = Clock(lambda: float(next(ticks)), ranks.agree)
    weights = loop.train(recipe, windows, 20, run, clock, SilentDisplay(), ranks)
    np.savez(f"{mine}.npz", **weights)
    Path(f"{mine}.forms").write_text(json.dumps(forms))
"""


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[object]:
    """A function that runs the program in `world` processes and returns their exit states."""
    recipe = with_train(PACKED, checkpoint_seconds=2.0)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    np.save(tmp_path / "ids.npy", text())
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}

    def launch(name: str, world: int = 1, dies_at: int = -1) -> list[int]:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            group = {"WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
        arguments = [str(tmp_path / name), str(tmp_path / "recipe.json"), str(tmp_path / "ids.npy"), str(dies_at)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *arguments],
                env={**clean, "OMP_NUM_THREADS": "1"}
                | ({**group, "RANK": str(r), "LOCAL_RANK": str(r)} if world > 1 else {}),
            )
            for r in range(world)
        ]
        return [process.wait(timeout=200) for process in processes]

    yield launch


@pytest.mark.slow
def test_two_ranks_switch_together(tmp_path: Path, launched) -> None:
    """Two gloo ranks change context, depth and rate at the same steps (rank 0's clock), and equal one rank."""
    assert launched("one") == [0]
    assert launched("two", 2) == [0, 0]
    forms = [json.loads((tmp_path / f"{name}.forms").read_text()) for name in ("one-0", "two-0", "two-1")]
    assert forms[0] == forms[1] == forms[2]
    assert [form[1:3] for form in forms[0]] == [[4, False]] * 3 + [[8, False]] * 2 + [[8, True]] * 2 + [[16, True]] * 5
    one, first, second = (np.load(tmp_path / f"{name}.npz") for name in ("one-0", "two-0", "two-1"))
    for name in one.files:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        np.testing.assert_allclose(first[name], one[name], rtol=0, atol=2e-4, err_msg=name)


@pytest.mark.slow
def test_a_killed_process_goes_on(tmp_path: Path, launched) -> None:
    """After SIGKILL one step into a new context the resumed process ends with the bits of an undisturbed one."""
    assert launched("whole") == [0]
    assert launched("broken", dies_at=8) == [-signal.SIGKILL]
    assert launched("broken") == [0]
    whole, broken = (np.load(tmp_path / f"{name}-0.npz") for name in ("whole", "broken"))
    assert all(whole[name].tobytes() == broken[name].tobytes() for name in whole.files)
