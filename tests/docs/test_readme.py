"""The README tells the truth: its commands exist, its links lead somewhere, its tree is the tree."""

import os
import re
from pathlib import Path

import pytest

from paramgolf.cli import VERBS, main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_two_commands_are_there_to_be_run():
    """Each script of the first code block is an executable file."""
    block = re.search(r"```bash\n(.*?)```", README, re.DOTALL)
    assert block is not None
    commands = [line.split()[0] for line in block[1].splitlines() if line.strip()]
    assert commands == ["scripts/quickstart", "scripts/test"]
    assert all(os.access(ROOT / command, os.X_OK) for command in commands)


def test_every_verb_has_its_line():
    """The table of verbs names all of them and no other."""
    table = README.split("## The verbs")[1].split("##")[0]
    assert all(re.search(rf"`(paramgolf )?{verb}\b", table) or f", `{verb}" in table for verb in VERBS)
    named = set(re.findall(r"`paramgolf ([a-z]+)", table))
    assert named <= {verb.split()[0] for verb in VERBS}


@pytest.mark.parametrize("verb", VERBS)
def test_the_flags_named_in_the_readme_exist(verb, capsys):
    """Each --flag that the table gives for a verb is one that its --help lists."""
    assert main([*verb.split(), "--help"]) == 0
    says = capsys.readouterr().out
    for part in re.findall(rf"`(?:paramgolf )?{verb}\b([^`]*)`", README):
        for flag in re.findall(r"--([a-z]+)\b(?!\.)", part):
            assert flag == "section" or f"--{flag}" in says, flag


def test_links_lead_to_files():
    """Every relative link of the README and the docs points to a file of the project."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), (page.name, target)


def test_the_tree_is_the_tree():
    """Every room of the package stands in the README's tree, and no other."""
    tree = README.split("src/paramgolf/\n")[1].split("```")[0]
    rooms = {path.name for path in (ROOT / "src" / "paramgolf").iterdir() if (path / "__init__.py").exists()}
    assert rooms == {name for name in re.findall(r"([a-z]+)/", tree) if name not in ("src", "tests", "bench", "docs")}
