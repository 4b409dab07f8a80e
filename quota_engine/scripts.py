"""
Read the Lua scripts: expand includes, and parse the header of each. Needs no Redis.

The header is not decoration: ``ScriptSpec`` is built from it, and the unit tests compare it with
the Lua locals, the Python commands and the error classes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

INCLUDE = re.compile(r'^--- @(?P<how>include|lazy) "(?P<path>[a-z_/]+)"\n', re.MULTILINE)
HEADER = re.compile(r"--\[\[\n(?P<body>.*?)\n\]\]", re.DOTALL)
SECTION = re.compile(r"^(KEYS|ARGV|RETURNS|ERRORS)\b.*\n((?:  .*\n?)+)", re.MULTILINE)
COMMENT = re.compile(
    r"^[ \t]*--(?!\[\[)[^\n]*\n|--\[\[.*?\]\]\n?|^[ \t]*\n", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class ScriptSpec:
    """One script: what it is called with, what it may answer, and its text."""

    name: str
    keys: tuple[str, ...]
    #: Whether keys of further quotas follow (a row with ``+`` after its number).
    takes_more: bool
    argv: tuple[str, ...]
    returns: tuple[str, ...]
    errors: tuple[str, ...]
    #: The script as it is written, header included, includes not.
    text: str
    #: What is loaded: includes expanded, comments stripped.
    source: str
    sha: str = field(default="")

    def __post_init__(self) -> None:
        sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", sha)


@cache
def load_scripts() -> dict[str, ScriptSpec]:
    """Return every script of the package, by name. Read once per process."""
    root = files("quota_engine.lua")
    names = sorted(entry.name for entry in root.iterdir() if entry.name.endswith(".lua"))
    return {
        name.removesuffix(".lua"): load_script(root, name.removesuffix(".lua")) for name in names
    }


def load_script(root: Traversable, name: str) -> ScriptSpec:
    """Return one script with its includes expanded and its header parsed."""
    text = (root / f"{name}.lua").read_text(encoding="utf-8")
    header = HEADER.search(text)
    if header is None:
        raise ValueError(f"{name}.lua has no header block")
    sections = dict(SECTION.findall(header["body"] + "\n"))
    keys = tuple(_rows(sections.get("KEYS", "")))
    shebang, _, body = text.partition("\n")
    expanded = _expand(body, root, included=[], open_files=(name,))
    return ScriptSpec(
        name=name,
        keys=tuple(row.split()[1] for row in keys if not row.split()[0].endswith("+")),
        takes_more=any(row.split()[0].endswith("+") for row in keys),
        argv=tuple(row.split()[1] for row in _rows(sections.get("ARGV", ""))),
        returns=tuple(row.split()[0] for row in _rows(sections.get("RETURNS", ""))),
        errors=tuple(row.split()[0] for row in _rows(sections.get("ERRORS", ""))),
        text=text,
        source=f"{shebang}\n{COMMENT.sub('', expanded)}",
    )


def _rows(section: str) -> Iterator[str]:
    return (line for line in section.splitlines() if line.strip())


def _expand(text: str, root: Traversable, included: list[str], open_files: tuple[str, ...]) -> str:
    """
    Replace each include by its file's text, the first time it is named; refuse cycles.

    ``@lazy "lib/name"`` becomes ``local function load_name()``, which defines the library only
    when it is called: what a script seldom needs then costs it nothing.
    """

    def replace(match: re.Match[str]) -> str:
        path = match["path"]
        if path in open_files:
            raise ValueError(f"include cycle: {' -> '.join((*open_files, path))}")
        if path in included:
            return ""
        is_lazy = match["how"] == "lazy"
        inner = list(included) if is_lazy else included
        inner.append(path)
        content = (root / f"{path}.lua").read_text(encoding="utf-8")
        expanded = _expand(content, root, inner, (*open_files, path))
        if is_lazy:
            name = path.rpartition("/")[2]
            return f"local function load_{name}()\n{expanded}return {name}\nend\n"
        return expanded

    return INCLUDE.sub(replace, text)
