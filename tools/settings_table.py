"""
Write README's table of settings from ``quota_engine/settings.py``, between its two markers.

    python -m tools.settings_table           rewrite it
    python -m tools.settings_table --check   only say whether it is the one that would be written
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from quota_engine.settings import Settings

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN = "<!-- settings: written by `python -m tools.settings_table` -->"
END = "<!-- /settings -->"


def table() -> Iterator[str]:
    """Yield the table's lines: one per field, in the order of the class."""
    prefix = Settings.model_config["env_prefix"]
    yield "| Setting | Default | Meaning |"
    yield "|---|---|---|"
    for name, field in Settings.model_fields.items():
        words = (field.description or "").replace("|", "\\|")
        if bounds := _bounds(field):
            words = f"{words.removesuffix('.')}. {bounds}."
        yield f"| `{prefix}{name.upper()}` | {_default(field.default)} | {words} |"


def _default(value: Any) -> str:
    if value is None or value in ((), {}):
        return "–"
    if isinstance(value, float):
        return f"{value:g}" if value < 100_000 else f"{value:.0f}"
    return f"`{value}`" if isinstance(value, Path | str) else str(value)


def _bounds(field: FieldInfo) -> str:
    """Return which numbers are legal, in words, where the class limits them at both ends."""
    least, most = "", ""
    for rule in field.metadata:
        match rule:
            case Ge(ge):
                least = f"{ge}"
            case Gt(gt):
                least = f"above {gt}"
            case Le(le):
                most = f"{le:,}"
            case Lt(lt):
                most = f"below {lt:,}"
    return f"{least} to {most}".capitalize() if least and most else ""


def with_table(text: str) -> str:
    """Return README's ``text`` with the table of now between the markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{README.name} lacks the marker {BEGIN if not begin else END}")
    return "\n".join([before + begin, "", *table(), "", end + after])


def main() -> int:
    """Rewrite the table, or with ``--check`` return 1 when it is another."""
    parser = argparse.ArgumentParser(description="Write README's table of settings.")
    parser.add_argument("--check", action="store_true", help="change nothing, only compare")
    is_check = parser.parse_args().check
    text = README.read_text(encoding="utf-8")
    wanted = with_table(text)
    if is_check and text != wanted:
        print("README's settings are not those of the code: run python -m tools.settings_table")
        return 1
    if text != wanted:
        README.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
