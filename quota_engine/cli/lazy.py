"""
A group of commands whose modules are imported only when one of them runs.

So that ``--help`` answers at once: redis, sqlalchemy, rq and alembic take most of a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


class Entry(NamedTuple):
    """One line of the list of commands."""

    target: str
    """``module:attribute`` of a Typer app; an app of a single command is that command."""
    help: str
    """The line in the list, so that the list needs no import."""


class LazyGroup(TyperGroup):
    """Lists its entries from a table, and imports the one that is called."""

    entries: ClassVar[Mapping[str, Entry]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the table."""
        return list(self.entries)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a stand-in that knows its name and its line in the list."""
        entry = self.entries.get(cmd_name)
        return entry and TyperCommand(cmd_name, help=entry.help, short_help=entry.help)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import what the first argument names."""
        name, stand_in, rest = super().resolve_command(ctx, args)
        if name is None or stand_in is None:
            return name, stand_in, rest
        entry = self.entries[name]
        module, _, attribute = entry.target.partition(":")
        command = get_command(getattr(import_module(module), attribute))
        command.name = name
        return name, command, rest


def command_group(help_text: str) -> typer.Typer:
    """
    Return an app for one noun, to hang its verbs on.

    An app with a single verb is that verb, without a noun: give it ``@app.callback()`` to keep
    the noun.
    """
    return typer.Typer(
        help=help_text, no_args_is_help=True, add_completion=False, rich_markup_mode=None
    )
