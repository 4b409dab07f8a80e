"""
The headers of the Lua scripts tell the truth.

Goal: a reader may trust a header without reading the script. Method: parse each header, then
compare it with the script's own locals and calls (those of the libraries it calls included), with
the Python command that sends it, and with the error classes.
"""

from __future__ import annotations

import re
from itertools import takewhile
from typing import Any

import pytest

from quota_engine.commands import Context
from quota_engine.commands.replies import BY_CODE
from quota_engine.keys import ShardKeys
from quota_engine.scripts import ScriptSpec, load_scripts
from tests.lua_texts import (
    LIBRARIES,
    WRITES,
    Happening,
    code_of,
    example_of,
    happenings,
    included_names,
    known_commands,
    names_used,
    script_code,
)

SCRIPTS = load_scripts()
COMMANDS = known_commands()
CONTEXT = Context(ShardKeys(7), epoch=1)
MARKER = "-- Point of no return"
LOCALS_MAX = 200
#: Keys as scripts and libraries name them; "key" is one of operations' two.
KEY_NAME = re.compile(
    r"(?:state\.)?keys\.(?:versions|outbox|due|quota|holds|changes|ops0|ops1)|\w+_key|key"
)

#: A library that is loaded when it is needed: a function of its own.
LAZY = re.compile(r"^local function load_(\w+)\(\)\n.*?^return \1\nend\n", re.M | re.S)

every_script = pytest.mark.parametrize("spec", SCRIPTS.values(), ids=SCRIPTS.keys())
every_library = pytest.mark.parametrize("name", sorted(LIBRARIES))


def errors_of(happened: list[Happening]) -> list[str]:
    return [word for what, word in happened if what == "error"]


def writes_of(happened: list[Happening]) -> list[str]:
    return [word for what, word in happened if what == "command" and word in WRITES]


def test_each_script_has_one_command_of_the_same_name() -> None:
    assert SCRIPTS.keys() == COMMANDS.keys()
    for script, command in COMMANDS.items():
        assert script == re.sub(r"(?<!^)(?=[A-Z])", "_", command.__name__).lower()


@every_script
def test_the_header_opens_with_the_script_s_name(spec: ScriptSpec) -> None:
    assert re.match(rf"#!lua(?: flags=[a-z-]+)?\n--\[\[\n{spec.name}: \S", spec.text)


@every_script
def test_keys_are_bound_in_header_order(spec: ScriptSpec) -> None:
    bound: list[tuple[int, str]] = []
    more = re.findall(r"^local more_keys = \{ unpack\(KEYS, (\d+)\) \}$", code_of(spec.text), re.M)
    assert more == [str(len(spec.keys) + 1)] * spec.takes_more
    for names, values in re.findall(r"^local ([\w, ]+) = (KEYS.*)$", code_of(spec.text), re.M):
        slots = [int(slot) for slot in re.findall(r"KEYS\[(\d+)\]", values)]
        bound += zip(slots, names.split(", "), strict=True)
    assert bound == [(place, f"{name}_key") for place, name in enumerate(spec.keys, start=1)]


@every_script
def test_arguments_are_bound_in_header_order(spec: ScriptSpec) -> None:
    bound: list[tuple[int, str]] = []
    for names, values in re.findall(r"^local ([\w, ]+) = (.*ARGV.*)$", code_of(spec.text), re.M):
        slots = [int(slot) for slot in re.findall(r"ARGV\[(\d+)\]", values)]
        bound += zip(slots, names.split(", "), strict=True)
    assert bound == list(enumerate(spec.argv, start=1))


@every_script
def test_rows_are_numbered_from_one(spec: ScriptSpec) -> None:
    header = spec.text.partition("]]")[0]
    for section, rows in (("KEYS", spec.keys), ("ARGV", spec.argv)):
        body = re.search(rf"^{section}\n((?:  .*\n)+)", header, re.M)
        numbers = re.findall(r"^ +(\d+) ", body[1] if body else "", re.M)
        assert numbers == [str(place) for place in range(1, len(rows) + 1)]
        assert not re.search(r"^ +\d+\+ ", body[1] if body else "", re.M) or section == "KEYS"


@every_script
def test_every_key_and_argument_is_used(spec: ScriptSpec) -> None:
    code = script_code(spec.name)
    for name in (*(f"{key}_key" for key in spec.keys), *spec.argv):
        assert len(re.findall(rf"\b{name}\b", code)) > 1, f"{name} is bound and never read"


@every_script
def test_slots_are_only_read_where_they_are_bound(spec: ScriptSpec) -> None:
    for line in code_of(spec.text).splitlines():
        if re.search(r"\b(KEYS|ARGV)\b", line):
            assert re.match(r"local [\w, ]+ = ", line), line


@every_library
def test_a_library_knows_neither_keys_nor_arguments(name: str) -> None:
    assert not re.search(r"\b(KEYS|ARGV)\b", LIBRARIES[name].code)


@every_script
def test_the_command_sends_what_the_header_declares(spec: ScriptSpec) -> None:
    command: Any = example_of(COMMANDS[spec.name])
    assert len(command.keys(CONTEXT.keys)) == len(spec.keys)
    assert len(command.argv(CONTEXT)) == len(spec.argv)
    keys = dict(zip(spec.keys, command.keys(CONTEXT.keys), strict=True))
    for name, key in keys.items():
        place = name.removeprefix("to_")  # of a second quota
        assert key.startswith(f"{{qe:07}}:{place}"), f"{name} is sent as {key}"


@every_script
def test_outcomes_are_the_declared_ones(spec: ScriptSpec) -> None:
    code = script_code(spec.name)
    outcomes = set(re.findall(r'\{\s*"([A-Z_]+)"', code))
    outcomes |= set(re.findall(r'quotas\.answer(?:_all)?\("([A-Z_]+)"', code))
    if re.search(r"return operations\.replay\(", code):
        outcomes.add("REPLAYED")
    if re.search(r"states, refused = quotas\.gather\(", code):
        outcomes.add("REPLAYED")
    if "quotas.denied(" in code:
        outcomes.add("DENIED")
    if re.search(r"(?:accounts|policies)\.barred\(", code):
        outcomes.add("BARRED")
    if "limits.exceeded(" in code:
        outcomes.add("EXCEEDED")
    assert outcomes == set(spec.returns)


@every_script
def test_errors_are_declared_in_the_order_they_are_checked(spec: ScriptSpec) -> None:
    raised = list(dict.fromkeys(errors_of(happenings(spec.name))))
    if spec.name == "catch_up":  # what is more than due_max is its answer, not its refusal
        raised.remove("CATCH_UP")
    assert tuple(raised) == spec.errors


@every_script
def test_every_error_has_its_exception(spec: ScriptSpec) -> None:
    assert set(spec.errors) <= BY_CODE.keys()


def test_every_exception_has_its_error() -> None:
    declared = {error for spec in SCRIPTS.values() for error in spec.errors}
    the_servers_own = {"OOM", "BUSY", "MASTERDOWN", "MISCONF", "NOREPLICAS"}
    assert BY_CODE.keys() - declared == the_servers_own


@every_script
def test_errors_that_scripts_share_come_from_libraries(spec: ScriptSpec) -> None:
    if '"lib/quotas"' in spec.text:
        own = set(re.findall(r'error_reply\("(\w+)', code_of(spec.text)))
        assert not own & {"QUOTA_NOT_LOADED", "CATCH_UP"}


@every_script
def test_nothing_is_written_before_the_point_of_no_return(spec: ScriptSpec) -> None:
    before, marker, _ = spec.text.partition(MARKER)
    written = writes_of(happenings(spec.name))
    assert bool(marker) == bool(written), "who writes says where its checks end"
    assert ("flags=no-writes" in spec.text.splitlines()[0]) == (not written)
    assert writes_of(happenings(spec.name, code_of(before))) == []


@every_script
def test_nothing_fails_after_the_point_of_no_return(spec: ScriptSpec) -> None:
    """The outbox's own refusal comes before any other write, and then there is none."""
    after = happenings(spec.name, code_of(spec.text.partition(MARKER)[2]))
    unwritten = list(takewhile(lambda it: it[1] not in WRITES - {"XADD"}, after))
    assert errors_of(after[len(unwritten) :]) == []
    assert set(errors_of(unwritten)) <= {"FENCED"}


@every_script
def test_numbers_keep_their_digits(spec: ScriptSpec) -> None:
    assert not re.search(r"\btostring\b|\bcjson\b", spec.source)
    for layout in re.findall(r'string\.format\("([^"]*)",', spec.source):
        assert set(re.findall(r"%[^a-zA-Z]*[a-zA-Z]", layout)) <= {"%d", "%s"}, layout


@every_script
def test_no_key_is_built_inside_a_script(spec: ScriptSpec) -> None:
    calls = re.findall(
        r'redis\.p?call\(\s*"(\w+)"(?:\s*,\s*(?:"STREAM",\s*)?([^,)]+))?', spec.source
    )
    assert calls
    for command, key in calls:
        assert (command == "TIME") if not key else KEY_NAME.fullmatch(key.strip()), (command, key)


@every_script
def test_a_script_includes_what_it_names(spec: ScriptSpec) -> None:
    assert names_used(code_of(spec.text)) == included_names(spec.text)


@every_library
def test_a_library_includes_what_it_names(name: str) -> None:
    library = LIBRARIES[name]
    assert names_used(library.code) - {name} == included_names(library.text)


@every_library
def test_a_library_defines_its_own_name_only(name: str) -> None:
    code = LIBRARIES[name].code
    assert re.findall(r"^local (\w+) = \{\}$", code, re.M) == [name]
    assert set(re.findall(r"^function (\w+)\.", code, re.M)) <= {name}


@every_script
def test_a_chunk_stays_far_below_the_limit_of_locals(spec: ScriptSpec) -> None:
    chunk = LAZY.sub("", spec.source)
    names = [
        name
        for declared in re.findall(r"^local (?!function)([\w, ]+)", chunk, re.M)
        for name in declared.split(",")
    ]
    functions = re.findall(r"^local function ", chunk, re.M)
    assert len(names) + len(functions) < LOCALS_MAX / 2
