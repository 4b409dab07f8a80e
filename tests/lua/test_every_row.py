"""Each row of each script's header is met by a test of this folder."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import tests.lua
from quota_engine.scripts import load_scripts


def rows_met_by_tests() -> dict[tuple[str, str], int]:
    """Return how many tests say that they meet a row; conftest looks whether they do."""
    found: dict[tuple[str, str], int] = {}
    for module in pkgutil.iter_modules(tests.lua.__path__):
        if module.name.startswith("test_"):
            for test in vars(importlib.import_module(f"tests.lua.{module.name}")).values():
                for row in getattr(test, "rows", ()) if callable(test) else ():
                    found[row] = found.get(row, 0) + 1
    return found


def test_every_row_of_every_header_is_met(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows_met_by_tests()
    declared = {
        (script, row)
        for script, spec in load_scripts().items()
        for row in (*spec.returns, *spec.errors)
    }
    with capsys.disabled():
        print()
        for script in load_scripts():
            rows = [
                f"{row} {found.get((script, row), 0)}"
                for _, row in sorted(declared)
                if _ == script
            ]
            print(f"  {script:20} {' '.join(rows)}")
    assert declared - found.keys() == set()
    assert found.keys() - declared == set()
