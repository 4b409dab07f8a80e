"""
The checkout keeps the shape that the design promises.

Goal: sizes, names and floors stay true without anyone watching. Method: read the files, run none.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = (
    "benchmarks",
    "examples",
    "lua",
    "migrations",
    "quota_engine",
    "tests",
    "tools",
    "workers",
)
LINES_MAX = 400
FUNCTION_LINES_MAX = 70
NAMES_THAT_SAY_NOTHING = {
    *("utils", "util", "common", "helpers", "core", "manager", "service", "models", "types"),
    *("misc", "base_utils", "services", "managers"),
}
IO_MODULES = {
    *("alembic", "asyncio", "concurrent", "fcntl", "http", "multiprocessing", "os", "psycopg"),
    *("redis", "requests", "rq", "select", "selectors", "signal", "socket", "sqlalchemy"),
    *("sqlite3", "ssl", "subprocess", "threading", "time", "urllib"),
}
ALLOWED_IO = {"ids": {"os", "time", "threading"}}  # an id carries its time


def sources(*suffixes: str) -> list[Path]:
    """Every source file, each once: the symbolic links inside the package are not followed."""
    return sorted(
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in suffixes
        and "__pycache__" not in path.parts
        and path.resolve() == path.absolute()
    )


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_a_file_fits_in_a_head() -> None:
    lengths = {
        name_of(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources(".py", ".lua")
    }
    assert {name: lines for name, lines in lengths.items() if lines > LINES_MAX} == {}


def test_a_function_fits_on_a_page() -> None:
    lengths = {
        f"{name_of(path)}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in sources(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES_MAX} == {}


def test_a_module_is_named_after_what_it_is_responsible_for() -> None:
    assert [
        name_of(path)
        for path in sources(".py", ".lua")
        if {path.stem, path.parent.name} & NAMES_THAT_SAY_NOTHING
    ] == []


def test_every_folder_of_the_package_is_listed_for_the_wheel() -> None:
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    folders = {
        path.relative_to(ROOT).parent
        for path in sources(".py", ".lua")
        if path.relative_to(ROOT).parts[0] in {"quota_engine", "workers", "lua", "migrations"}
    }
    mapped = PROJECT["tool"]["setuptools"]["package-dir"]
    named = {folder: name for name, folder in mapped.items()}
    assert listed == {named.get(str(path), str(path).replace("/", ".")) for path in folders}


def test_every_folder_with_python_in_it_is_a_package() -> None:
    folders = {path.parent for path in sources(".py")} - {ROOT / "examples", ROOT / "benchmarks"}
    assert [name_of(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("name", ["lua", "migrations", "workers"])
def test_root_folders_are_seen_inside_the_package(name: str) -> None:
    link = ROOT / "quota_engine" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"


def pure_modules() -> Iterator[str]:
    """The modules of every floor below the carriers, as the floors' contract names them."""
    (contract,) = PROJECT["tool"]["importlinter"]["contracts"]
    floors = [re.findall(r"\w+", floor) for floor in contract["layers"]]
    carriers = next(n for n, names in enumerate(floors) if "ledger" in names)
    for names in floors[carriers + 1 :]:
        yield from names


def pure_files() -> list[Path]:
    return [
        path
        for name in pure_modules()
        for pattern in (f"{name}.py", f"{name}/**/*.py")
        for path in sorted((ROOT / "quota_engine").glob(pattern))
    ]


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0]


def test_nothing_below_the_carriers_does_io() -> None:
    assert {
        f"{name_of(path)} imports {module}"
        for path in pure_files()
        for module in imports_of(path)
        if module in IO_MODULES - ALLOWED_IO.get(path.stem, set())
    } == set()


def test_migrations_follow_each_other_in_one_line() -> None:
    texts = [
        path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "migrations" / "versions").glob("0*.py"))
    ]
    steps = [
        (
            re.search(r'^down_revision = "?(\w+)', text, re.M),
            re.search(r'^revision = "(\w+)', text, re.M),
        )
        for text in texts
    ]
    found = [(before[1], after[1]) for before, after in steps if before and after]
    numbers = [f"{number:04}" for number in range(1, len(texts) + 1)]
    assert found == list(zip(["None", *numbers], numbers, strict=False))
