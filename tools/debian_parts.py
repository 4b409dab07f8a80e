"""
Fetch programs that only Debian packages, into .cache/debian. Nothing is installed system-wide.

    python tools/debian_parts.py                    all of them
    python tools/debian_parts.py redis-server       the oldest Redis that is supported, for tests
    python tools/debian_parts.py luacheck           the linter for the Lua scripts
    python tools/debian_parts.py faketime           runs a program by another clock, for tests

apt-get downloads, dpkg-deb unpacks, a wrapper in .cache/debian/bin sets the paths. It needs no
root; the machine's package lists are used where it has some, else the tool fetches its own.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "debian"


@dataclass(frozen=True)
class Part:
    """A program, the packages that it consists of, and how its wrapper runs it."""

    packages: tuple[str, ...]
    command: str
    """With {root} for the unpacked tree and {libraries} for its library folders."""


PARTS = {
    "redis-server": Part(
        ("redis-server", "redis-tools", "libjemalloc2", "liblzf1", "libssl3"),
        'LD_LIBRARY_PATH={libraries} exec {root}/usr/bin/redis-server "$@"',
    ),
    "luacheck": Part(
        ("lua-check", "lua-argparse", "lua-filesystem", "lua5.1", "libreadline8", "libtinfo6"),
        "LD_LIBRARY_PATH={libraries} "
        "LUA_PATH='{root}/usr/share/lua/5.1/?.lua;{root}/usr/share/lua/5.1/?/init.lua' "
        "LUA_CPATH='{library}/lua/5.1/?.so' "
        'exec {root}/usr/bin/lua5.1 {root}/usr/bin/luacheck "$@"',
    ),
    "faketime": Part(
        ("faketime", "libfaketime"),
        'case "$1" in --version) exec {root}/usr/bin/faketime --version ;; esac; '
        'LD_PRELOAD={library}/faketime/libfaketime.so.1 exec "$@"',
    ),
}


class MissingError(Exception):
    """A part can not be had on this machine; the text says why."""


def program(name: str) -> Path:
    """Return the path of a part's program, fetched if need be."""
    wrapper = CACHE / "bin" / name
    if not os.access(wrapper, os.X_OK):
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise MissingError(f"{name}: this machine has no apt-get to fetch it with")
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as workshop:
            fetch(name, wrapper, Path(workshop))
    return wrapper


def fetch(name: str, wrapper: Path, workshop: Path) -> None:
    """Download, unpack, try, and only then publish the wrapper."""
    part = PARTS[name]
    download(part.packages, workshop)
    root = CACHE / f"root-{name}"
    shutil.rmtree(root, ignore_errors=True)
    for archive in sorted(workshop.glob("*.deb")):
        run("dpkg-deb", "--extract", str(archive), str(root), cwd=workshop)
    folders = sorted(root.glob("usr/lib/*-linux-*")) + sorted(root.glob("lib/*-linux-*"))
    draft = workshop / name
    line = part.command.format(
        root=shlex.quote(str(root)),
        library=folders[0] if folders else root / "usr/lib",
        libraries=shlex.quote(":".join(map(str, folders))),
    )
    draft.write_text(f"#!/bin/sh\n# Written by tools/debian_parts.py.\n{line}\n")
    draft.chmod(0o755)
    run(str(draft), "--version", cwd=workshop)
    wrapper.parent.mkdir(exist_ok=True)
    draft.replace(wrapper)


def download(packages: tuple[str, ...], workshop: Path) -> None:
    """Download with the machine's package lists, or else with lists of one's own."""
    try:
        run("apt-get", "download", *packages, cwd=workshop)
    except MissingError:
        lists = CACHE / "lists"
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        own = ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={workshop}"]
        own += ["-o", "APT::Sandbox::User="] if os.geteuid() == 0 else []
        run("apt-get", *own, "update", cwd=workshop)
        run("apt-get", *own, "download", *packages, cwd=workshop)


def run(*command: str, cwd: Path) -> None:
    """Run a program quietly; its last line explains a failure."""
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise MissingError(f"{Path(command[0]).name} {command[1]} failed: {said[-1]}")


def main() -> int:
    """Fetch the parts that the command line names."""
    unknown = [name for name in sys.argv[1:] if name not in PARTS]
    if unknown:
        print(f"no such part: {', '.join(unknown)} (there are {', '.join(PARTS)})")
        return 2
    missing = 0
    for name in sys.argv[1:] or PARTS:
        try:
            print(program(name).relative_to(CACHE.parent.parent))
        except (MissingError, OSError) as error:
            print(f"{name} can not be fetched: {error}", file=sys.stderr)
            missing = 1
    return missing


if __name__ == "__main__":
    sys.exit(main())
