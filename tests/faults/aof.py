"""
Surgery on a stopped server's append-only file: what a power cut leaves of it.

Killing a process loses nothing that it wrote: the page cache survives it. So a test kills the
server and then cuts its file where the disk would have ended. It must not know a key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the file: where it begins and ends, in bytes, and its words."""

    begins: int
    ends: int
    words: tuple[bytes, ...]

    @property
    def name(self) -> bytes:
        return self.words[0].upper()


def last_file(data: Path) -> Path:
    """Return the file that the server appends to, as its manifest says."""
    folder = data / "appendonlydir"
    manifest = next(folder.glob("*.manifest")).read_text()
    names = re.findall(r"^file (\S+) seq \d+ type i", manifest, re.MULTILINE)
    return folder / names[-1]


def commands(path: Path) -> Iterator[Command]:
    """Yield the whole commands of a file."""
    content, at = path.read_bytes(), 0
    while at < len(content):
        begins = at
        if content[at : at + 1] == b"#":  # an annotation
            at = content.index(b"\r\n", at) + 2
            continue
        count, at = _number(content, at, b"*")
        words = []
        for _ in range(count):
            length, at = _number(content, at, b"$")
            words.append(content[at : at + length])
            at += length + 2
        if at > len(content):
            return
        yield Command(begins, at, tuple(words))


def _number(content: bytes, at: int, sign: bytes) -> tuple[int, int]:
    end = content.index(b"\r\n", at)
    assert content[at : at + 1] == sign, f"no {sign!r} at {at}"
    return int(content[at + 1 : end]), end + 2


def transactions(path: Path) -> list[list[Command]]:
    """Return what stands between MULTI and EXEC, both included: what one script wrote."""
    found: list[list[Command]] = []
    for command in commands(path):
        if command.name == b"MULTI":
            found.append([])
        if found and (command.name == b"MULTI" or found[-1][-1].name != b"EXEC"):
            found[-1].append(command)
    return [transaction for transaction in found if transaction[-1].name == b"EXEC"]


def cut(path: Path, size: int) -> int:
    """Let the file end after ``size`` bytes; return how many are gone."""
    gone = path.stat().st_size - size
    with path.open("r+b") as stream:
        stream.truncate(size)
    return gone


def boundary_before(path: Path, size: int) -> int:
    """Return where the last whole script or single command ends within the first bytes."""
    boundary, is_open = 0, False
    for command in commands(path):
        if command.ends > size:
            break
        is_open = command.name == b"MULTI" or (is_open and command.name != b"EXEC")
        if not is_open:
            boundary = command.ends
    return boundary
