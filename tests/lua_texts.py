"""
What can be known of the Lua scripts by reading them: which calls happen in which order.

A reading, not a run: branches are taken as they stand in the text, loops once.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import typing
from dataclasses import MISSING, dataclass, fields
from importlib.resources import files
from typing import Any, TypeAlias

from quota_engine import commands
from quota_engine.commands import Action, Command, GrantTerms, RefundPart, Snapshot, Transfer
from quota_engine.commands.reconcile import Snapshotted
from quota_engine.drift import Seen
from quota_engine.events import EventId
from quota_engine.keys import QuotaName
from quota_engine.limits import Limit
from quota_engine.scripts import COMMENT, INCLUDE, load_scripts

#: ("error", code) or ("command", name of a Redis command), in the order of the text.
Happening: TypeAlias = tuple[str, str]

#: Every Redis command that scripts write with. A new one belongs here.
WRITES = frozenset(
    {"XADD", "XTRIM", "XDEL", "HSET", "HDEL", "HINCRBY", "SET", "DEL", "UNLINK"}
    | {"ZADD", "ZREM", "PEXPIRE", "PEXPIREAT", "EXPIRE", "RENAME", "XSETID"}
)
READS = frozenset(
    {
        "HMGET",
        "HGET",
        "HGETALL",
        "HKEYS",
        "HLEN",
        "EXISTS",
        "TIME",
        "TYPE",
        "XINFO",
        "XLEN",
        "XRANGE",
    }
    | {"ZRANGE", "ZRANGEBYSCORE", "ZCARD", "ZSCORE"}
)
_FUNCTION = re.compile(
    r"^(?:local )?function ([\w.]+)\([^\n]*\)\n(.*?)^end$", re.MULTILINE | re.DOTALL
)
_HAPPENING = re.compile(
    r'error_reply\([^\n]*?"(?P<error>[A-Z][A-Z_]+)[ "]|redis\.p?call\(\s*"(?P<command>\w+)"'
    r"|(?<![\w.])(?!redis\.)(?P<call>[a-z_]\w*(?:\.\w+)?)\("
)


@dataclass(frozen=True, slots=True)
class Library:
    """One file of lua/lib: its text, and its code without comments."""

    name: str
    text: str
    code: str


def code_of(text: str) -> str:
    """Return Lua text without its comments."""
    return COMMENT.sub("", text)


def script_code(name: str) -> str:
    """Return one script's own code, without header and includes."""
    return code_of(load_scripts()[name].text)


def _libraries() -> dict[str, Library]:
    found = {}
    for entry in (files("quota_engine.lua") / "lib").iterdir():
        if entry.name.endswith(".lua"):
            text = entry.read_text(encoding="utf-8")
            name = entry.name.removesuffix(".lua")
            found[name] = Library(name, text, code_of(text))
    return found


LIBRARIES = _libraries()


def names_used(code: str) -> set[str]:
    """Return the libraries whose functions or values the code names."""
    words = set(re.findall(r"(?<![\w.])([a-z_]+)(?=[.\[])", re.sub(r'"[^"\n]*"', '""', code)))
    return {name for name in LIBRARIES if name in words}


def included_names(text: str) -> set[str]:
    """Return the libraries that a file includes itself."""
    return {match["path"].rpartition("/")[2] for match in INCLUDE.finditer(text)}


def functions_of(code: str) -> dict[str, str]:
    """Return the functions that a chunk defines at its outermost level."""
    return dict(_FUNCTION.findall(code))


def happenings(script: str, code: str | None = None) -> list[Happening]:
    """Return what a script (or a part of its code) does, libraries included, in text order."""
    own = functions_of(script_code(script))
    text = _FUNCTION.sub("", script_code(script) if code is None else code)
    return list(_happenings(text, own, ()))


def _happenings(
    code: str, own: dict[str, str], inside: tuple[str, ...]
) -> typing.Iterator[Happening]:
    for match in _HAPPENING.finditer(code):
        if match["error"]:
            yield "error", match["error"]
        elif match["command"]:
            assert match["command"] in WRITES | READS, f"{match['command']}: does it write?"
            yield "command", match["command"]
        else:
            for called, body, scope in _called(match["call"], own):
                if called not in inside:
                    yield from _happenings(body, scope, (*inside, called))


def _called(name: str, own: dict[str, str]) -> list[tuple[str, str, dict[str, str]]]:
    """Return the functions that a call of ``name`` may run, each with what it sees itself."""
    if name in own:
        return [(name, own[name], own)]
    if name.startswith("load_"):  # a lazy library is called by computed names: take them all
        scope = functions_of(LIBRARIES[name.removeprefix("load_")].code)
        return [(called, body, scope) for called, body in scope.items() if "." in called]
    library = LIBRARIES.get(name.partition(".")[0])
    if library is None:
        return []
    scope = functions_of(library.code)
    return [(name, scope[name], scope)] if name in scope else []


def known_commands() -> dict[str, type[Command[Any]]]:
    """Return every command class by its script, wherever in the package it is defined."""
    found: dict[str, type[Command[Any]]] = {}
    for listed in pkgutil.iter_modules(commands.__path__):
        module = importlib.import_module(f"{commands.__name__}.{listed.name}")
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, Command) and hasattr(kind, "script"):
                assert found.setdefault(kind.script, kind) is kind, "two send the same script"
    return found


_SAMPLES: dict[Any, object] = {
    str: "x",
    int: 1,
    int | None: 1,
    bool: True,
    tuple[RefundPart, ...]: (RefundPart("g", 1, 50, 0, 0, 0),),
    QuotaName: QuotaName("user:42", "text_token"),
    Transfer: Transfer(
        transfer_id="t",
        source=QuotaName("user:42", "text_token"),
        target=QuotaName("user:43", "text_token"),
        amount=1,
    ),
    Action: Action.SET,
    Limit: Limit(of="calls", per="minute", window="sliding", amount=1),
    GrantTerms: GrantTerms(amount=1, source="purchase"),
    EventId: EventId(1, 1),
    Snapshot: Snapshot(quota=QuotaName("user:42", "text_token"), epoch=1),
    Snapshotted: Snapshotted(seen=Seen(EventId(1, 1), None, None, "")),
}


def example_of(kind: type[Command[Any]]) -> Command[Any]:
    """Return some command of a class: each required field gets a sample of its type."""
    hints = typing.get_type_hints(kind)
    given = {
        field.name: _SAMPLES[hints[field.name]]
        for field in fields(kind)  # type: ignore[arg-type]
        if field.default is MISSING and field.default_factory is MISSING
    }
    return kind(**given)
