"""The page of a run: complete, self-contained, safe against its own text, and never wider than its window."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from paramgolf.artifact.container import build_container
from paramgolf.errors import ParamgolfError, RunError
from paramgolf.recipe import Recipe
from paramgolf.report.page import member_groups, render, tensor_groups, write_page
from paramgolf.report.plots import bits_by_position, one_after_the_other, running_mean

PLOTS = ["peers", "parts", "loss", "position", "ledger", "tensors", "members"]
HOSTILE = "<script>alert(1)</script> & </pre><img src=x onerror=alert(2)> " + "wide" * 60


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with every part, made of plausible numbers; nobody changes it."""
    folder = tmp_path_factory.mktemp("page") / "a run with spaces"
    folder.mkdir()
    rng = np.random.default_rng(7)
    steps = np.arange(1, 401)
    loss = 6.9 * steps**-0.22 + 0.05 * rng.standard_normal(400)
    lines = [json.dumps({"step": int(s), "seconds": 0.18 * int(s), "loss": float(x)}) for s, x in zip(steps, loss)]
    _write(folder, "metrics.jsonl", "\n".join(lines) + '\n{"step": 401, "sec')
    _write(folder, "recipe.json", Recipe(name="quickstart").to_json())
    phases = [
        ("tokenizer", False, 0.0, 3.1, None),
        ("train", True, 3.2, 72.0, 72.0),
        ("squeeze", True, 75.3, 4.2, None),
    ]
    phases += [
        ("pack", False, 79.6, 1.4, None),
        ("score", True, 81.1, 21.9, 600.0),
        ("proof", False, 103.2, 30.8, None),
    ]
    names = ("name", "on_clock", "start", "seconds", "limit")
    _write(folder, "ledger.json", [dict(zip(names, phase)) for phase in phases])
    lengths = rng.integers(40, 4000, 60)
    document = np.repeat(np.arange(60, dtype=np.int32), lengths)
    position = np.concatenate([np.arange(n) for n in lengths])
    bits = rng.exponential(2.2 + 4.0 / np.sqrt(1 + position))
    none = {"plan": np.array([1, 4096]), "digest": np.zeros(0, np.uint8), "sizes": np.zeros(0, np.int64)}
    none |= {"lengths": np.zeros(0, np.int64), "hashes": np.zeros(0, np.uint64)}
    np.savez(folder / "bits.npz", bits=bits, document=document, **none)
    text = {"name": "standard library 3.11, held out", "digest": "00"}
    score = {"bpb": 1.2431, "bytes": 1_228_675, "documents": 60, "tokens": len(bits), "seconds": 21.9, "text": text}
    _write(folder, "score.json", score)
    findings = [
        {"rule": "sums-to-one", "status": "PASS", "says": "32 rows sum to one within 2e-9.", "numbers": {}},
        {"rule": "causal", "status": "FAIL", "says": f"A row moved by 0.4 nats. {HOSTILE}", "numbers": {}},
        {"rule": "blind-decode", "status": "UNPROVEN", "says": "No position was decoded.", "numbers": {}},
    ]
    _write(folder, "verdict.json", {"legal": False, "ruleset": "strict", "findings": findings})
    peers = {"xz": 1.556, "brotli": 1.528, "zstd": 1.59, "ppmd": 1.4157, "ppmd_primed": None}
    _write(folder, "peers.json", {"peers": {name: {"bpb": bpb} for name, bpb in peers.items()}})
    rows = [
        {"name": "neural rows alone", "bpb": 1.9},
        {"name": "+ n-gram", "bpb": 1.5},
        {"name": "+ primer", "bpb": 1.2431},
    ]
    _write(folder, "parts.json", {"rows": rows})
    _write(folder, "proof.json", {"bytes_in": 20480, "bytes_coded": 3190, "identical": True, "seconds": 30.8})
    environment = {"cpu": "Test CPU", "threads": 2, "gpus": [], "versions": {"python": "3.11.7", "torch": "2.13.0"}}
    _write(folder, "env.json", {**environment, "commands": ["paramgolf quickstart --seconds 72"]})
    tensors = {
        f"blocks.{i}.{name}.weight": 9000 + i for i in range(6) for name in ("attention.query", "mlp.up", "mlp.down")
    }
    _write(folder, "sizes.json", {"tensors": {"embedding.weight": 98_000, **tensors}})
    _write(folder, "sample.txt", f"def read(self):\n    return 1\n{HOSTILE}\n\x00\x1b[31m")
    sizes = {"weights.bin": 700_000, "tokenizer.model": 21_000, "__main__.py": 9_000, "paramgolf/c.py": 4_000}
    (folder / "model.pyz").write_bytes(build_container({name: rng.bytes(size) for name, size in sizes.items()}))
    return folder


@pytest.fixture
def run(complete: Path, tmp_path: Path) -> Path:
    """A copy of the complete run that a test may change."""
    return Path(shutil.copytree(complete, tmp_path / "run"))


@pytest.fixture(scope="module")
def page(complete: Path) -> str:
    """The page of the complete run."""
    return render(complete)


def test_every_part_is_on_the_page(page: str) -> None:
    """A complete run shows its headline, every plot and its verdict; only the peer without a number is unmeasured."""
    assert page.count("<svg") == len(PLOTS)
    assert page.count("not measured") == 1
    for words in ("1.2431", "NOT legal".lower(), "1,228,675 bytes in 60 documents", "20,480 B as 3,190 B", "Test CPU"):
        assert words in page
    assert all(f'id="{key}"' in page for key in PLOTS)


def test_the_evaluation_is_drawn_after_the_run() -> None:
    """Phases of the evaluation's own clock, which begins at 0 too, follow the run's end and keep their distances."""
    rows = [
        ("train", 1.0, 60.0),
        ("squeeze", 61.0, 4.0),
        ("evaluation: open", 0.0, 2.0),
        ("evaluation: score", 2.5, 9.0),
    ]
    found = one_after_the_other([{"name": name, "start": start, "seconds": took} for name, start, took in rows])
    assert [(entry["name"], entry["start"]) for entry in found] == [
        ("train", 1.0),
        ("squeeze", 61.0),
        ("evaluation: open", 65.0),
        ("evaluation: score", 67.5),
    ]


def test_text_of_the_model_cannot_become_markup(page: str) -> None:
    """Tags in a sample or a finding are shown as text: the page has no script and no image."""
    assert not re.search(r"<(script|img|iframe|object)\b", page)
    assert page.count(html.escape("<script>alert(1)</script>")) == 2


def test_the_page_fetches_nothing(page: str) -> None:
    """No address of any kind is on the page: it looks the same offline, and tells nobody that it was opened."""
    assert "http" not in page and "//" not in re.sub(r"\s", "", page.replace("</", ""))
    assert set(re.findall(r'(?:href|src)="([^#"][^"]*)', page)) == {"data:,"}
    assert "@import" not in page and not re.search(r"url\((?!#)", page)


def test_colours_come_from_the_page(page: str) -> None:
    """No drawing fixes black or a stand-in colour, so that it can be read on a light and on a dark page."""
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawings)) == set()
    assert {"--ink", "--muted", "--accent", "--soft"} <= set(re.findall(r"var\((--\w+)\)", drawings))


@pytest.mark.parametrize("kept", ["recipe.json", "metrics.jsonl", "score.json"])
def test_missing_parts_are_not_measured(run: Path, kept: str) -> None:
    """With any one of its main files a run still has a page, which says what was not measured."""
    for path in run.iterdir():
        if path.name != kept:
            path.unlink()
    page = render(run)
    assert page.count("<svg") == (1 if kept == "metrics.jsonl" else 0)
    assert page.count("not measured") > 8


def test_what_is_no_run_is_refused(tmp_path: Path, run: Path) -> None:
    """An empty folder, a missing one and a damaged file are named; nothing is written."""
    with pytest.raises(RunError, match=r"no recipe\.json"):
        write_page(tmp_path)
    with pytest.raises(RunError, match="no run folder"):
        write_page(tmp_path / "nowhere")
    damaged = {"score.json": "{", "ledger.json": "{}", "metrics.jsonl": "{\n{}\n", "bits.npz": "PK", "model.pyz": "PK"}
    for name, damage in damaged.items():
        kept = (run / name).read_bytes()
        _write(run, name, damage)
        with pytest.raises(ParamgolfError, match=re.escape(name)):
            render(run)
        (run / name).write_bytes(kept)
    assert not (run / "report.html").exists() and not (tmp_path / "report.html").exists()


def test_bits_by_position_is_the_mean_over_documents() -> None:
    """Interleaved documents are taken apart: position counts within a document, and all bits are accounted for."""
    document = np.array([0, 1, 0, 1, 1, 2], dtype=np.int32)
    bits = np.array([1.0, 2.0, 10.0, 20.0, 30.0, 6.0])
    centres, means = bits_by_position(bits, document)
    assert centres.tolist() == [1, 2, 3]
    assert means.tolist() == [3.0, 15.0, 30.0]


def test_running_mean_looks_back_only() -> None:
    """Each value is the mean of itself and those just before."""
    assert running_mean(np.array([1.0, 3.0, 5.0, 7.0]), 2).tolist() == [1.0, 2.0, 4.0, 6.0]


def test_groups_keep_every_byte() -> None:
    """Grouping tensors and members loses no byte."""
    tensors = {"blocks.0.mlp.up.weight": 5, "blocks.11.mlp.up.weight": 6, "embedding.weight": 7}
    assert tensor_groups(tensors) == {"mlp.up": 11, "embedding": 7}
    assert member_groups({"a.py": 1, "b/c.py": 2, "weights.bin": 4}) == {"runtime source": 3, "weights.bin": 4}


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (1280, 400)
MEASURE = """
<!doctype html><body style="margin:0">FRAMES
<pre id="out"></pre><script>
function measure(frame) {
  const inside = frame.contentDocument, boxes = {};
  for (const figure of inside.querySelectorAll("figure")) {
    const drawing = figure.querySelector("svg");
    const box = drawing ? drawing.getBoundingClientRect() : {width: 0, height: 0};
    const texts = [...figure.querySelectorAll("svg text")].map(t => t.getBoundingClientRect());
    const cut = texts.filter(t => t.left < box.left - 1 || t.right > box.right + 1).length;
    boxes[figure.id] = [box.width, box.height, cut];
  }
  return {scroll: inside.documentElement.scrollWidth, inner: frame.contentWindow.innerWidth, boxes};
}
onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(measure);
  document.getElementById("out").textContent = JSON.stringify(found);
};
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on PATH")
def test_a_browser_shows_every_plot_and_nothing_overflows(run: Path, tmp_path: Path) -> None:
    """In headless Chromium every plot has a box with area, no label is cut off, no page is wider than its window."""
    shutil.copy(write_page(run), tmp_path / "page.html")
    # In frames, since a headless window cannot be as narrow as a telephone.
    frames = [f'<iframe src="page.html" style="border:0;width:{width}px;height:900px"></iframe>' for width in WIDTHS]
    _write(tmp_path, "harness.html", MEASURE.replace("FRAMES", "".join(frames)))
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += ["--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1400,1000", "--dump-dom", (tmp_path / "harness.html").as_uri()]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    found = re.search(r'<pre id="out">(.+?)</pre>', done.stdout)
    assert found, done.stderr[-2000:]
    pages = json.loads(html.unescape(found.group(1)))
    assert [page["inner"] for page in pages] == list(WIDTHS)
    for page in pages:
        assert page["scroll"] <= page["inner"] and sorted(page["boxes"]) == sorted(PLOTS)
        for key, (wide, high, cut) in page["boxes"].items():
            assert wide > 200 and high > 60 and cut == 0, (page["inner"], key, wide, high, cut)


def _write(folder: Path, name: str, content: object) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")
