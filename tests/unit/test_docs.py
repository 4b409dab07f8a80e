"""
What README and docs name exists: files, tests, commands, settings.

Goal: no page sends a reader to something that is gone. Method: read the pages, and ask the command
line and the test files. Running the examples is tests/acceptance/test_readme.py's.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.main import get_command

from quota_engine.cli import Commands
from quota_engine.settings import Settings
from tools import faults_table, settings_table

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])

LINK = re.compile(r'\[([^\]]*)\]\(([^)\s]+)(?:\s+"([^"]*)")?\)')
CODE = re.compile(r"```.*?^```|``.+?``|`[^`]+`", re.DOTALL | re.MULTILINE)
FENCED = re.compile(r"^ *```sh\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:\./run|quota-engine|make)(?: [^\n]*)?")
RUN_ITSELF = {"test", "check"}


class Link(NamedTuple):
    """A link that leads to a file of the checkout."""

    page: Path
    text: str
    target: Path
    title: str


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def links() -> Iterator[Link]:
    for page in PAGES:
        for text, target, title in LINK.findall(page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target):
                path = page.parent / target.partition("#")[0] if target[0] != "#" else page
                yield Link(page, text, path.resolve(), title)


def commands() -> Iterator[tuple[Path, str]]:
    """Every command line that stands as code in a page."""
    for page in PAGES:
        for code in CODE.findall(page.read_text(encoding="utf-8")):
            for line in code.strip("`").splitlines():
                said = line.strip().removeprefix("$ ").partition("  #")[0].rstrip()
                if COMMAND.fullmatch(said):
                    yield page, said


@cache
def functions_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_every_link_leads_somewhere() -> None:
    assert [
        f"{name_of(link.page)}: {link.text} -> {link.target}"
        for link in links()
        if not link.target.exists()
    ] == []


def test_every_test_that_a_page_names_exists() -> None:
    missing = []
    for link in links():
        if link.target.suffix == ".py" and link.target.is_relative_to(ROOT / "tests"):
            named = re.findall(r"test_\w+", link.title or link.text)
            known = functions_of(link.target) if link.target.exists() else set()
            if not named or not known.issuperset(named):
                missing.append(f"{name_of(link.page)}: {link.title or link.text}")
    assert missing == []


def test_every_promise_names_its_test() -> None:
    text = (ROOT / "docs/invariants.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|(?! Promise|---)(.+)\|$", text, re.MULTILINE)
    assert len(rows) > 20
    assert [row for row in rows if "](../tests/" not in row] == []


@pytest.mark.parametrize("said", sorted({said for _, said in commands()}))
def test_every_command_that_a_page_names_exists(said: str) -> None:
    program, *words = shlex.split(said)
    if not words or words == ["--help"]:
        return
    if program == "make":
        targets = re.findall(
            r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
        )
        assert words[0] in targets
    elif program == "./run" and words[0] == "python":
        assert words[1].startswith("-") or (ROOT / words[1]).exists()
    elif program != "./run" or words[0] not in RUN_ITSELF:
        _check_cli(words)


def _check_cli(words: list[str]) -> None:
    """Fail unless the command line knows these nouns, verbs and options."""
    noun, *rest = words
    assert noun in Commands.entries, f"no command {noun}"
    module, _, attribute = Commands.entries[noun].target.partition(":")
    command = get_command(getattr(import_module(module), attribute))
    while (verbs := getattr(command, "commands", {})) and rest and not rest[0].startswith("-"):
        verb, *rest = rest
        for one in verb.split("|"):
            assert one in verbs, f"{noun} has no verb {one}"
        command = verbs[verb.split("|")[0]]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    options = {word.strip("[]").partition("=")[0] for word in rest if word.lstrip("[")[:2] == "--"}
    assert options <= known, f"{noun} has no option {options - known}"


def blocks_of(page: Path) -> Iterator[str]:
    """Every command line of this program in the fenced blocks of a page."""
    for block in FENCED.findall(page.read_text(encoding="utf-8")):
        for line in block.splitlines():
            said = line.strip().partition("  #")[0].rstrip()
            if said.startswith("quota-engine "):
                yield said


@pytest.mark.parametrize("said", sorted(set(blocks_of(ROOT / "docs/operations.md"))))
def test_a_command_of_a_runbook_is_understood(said: str) -> None:
    _, noun, *rest = shlex.split(said)
    module, _, attribute = Commands.entries[noun].target.partition(":")
    command = get_command(getattr(import_module(module), attribute))
    if verbs := getattr(command, "commands", {}):
        verb, *rest = rest
        command = verbs[verb]
    command.make_context(noun, rest)  # raises what click would say to the operator


@pytest.mark.parametrize(
    ("said", "answer"),
    [("recovery run --adpot", "No such option"), ("quarantine show", "Missing")],
)
def test_a_command_that_is_wrong_is_not_understood(said: str, answer: str) -> None:
    with pytest.raises(Exception, match=answer):
        test_a_command_of_a_runbook_is_understood(f"quota-engine {said}")


def test_every_setting_that_a_page_names_exists() -> None:
    known = {f"QUOTA_ENGINE_{name.upper()}" for name in Settings.model_fields}
    known |= {"QUOTA_ENGINE_DEBUG"}  # the command line's own
    assert [
        f"{name_of(page)}: {name}"
        for page in PAGES
        for name in re.findall(r"QUOTA_ENGINE_[A-Z_]*[A-Z]", page.read_text(encoding="utf-8"))
        if name not in known
    ] == []


def test_the_table_of_settings_is_that_of_the_code() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == settings_table.with_table(text)


def test_the_fault_matrix_is_that_of_the_tests() -> None:
    assert faults_table.PAGE.read_text(encoding="utf-8") == faults_table.page()


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs/decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in folder.glob("0*.md") if f"]({path.name})" not in index] == []


def test_the_readme_shows_the_first_example() -> None:
    example = (ROOT / "examples/first_hold.py").read_text(encoding="utf-8")
    code = example.partition('"""\n\n')[2]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"```python\n{code}```" in readme
    assert len(code.splitlines()) <= 12
