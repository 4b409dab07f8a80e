"""
Where a server's files lie, and as whom it runs. It must not know which server it is.

PostgreSQL refuses to run as root. Started by root it runs as an unprivileged user who already
exists; its files lie where that user can reach them, and no folder's mode is ever changed to make
it so. Why, and what else was weighed: ``docs/decisions/0020-servers-in-a-folder.md``.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from quota_engine.errors import EngineUnavailableError

SHARED_ROOT = Path("/var/lib/quota-engine")
"""Root's servers and program copies, where the home is closed to unprivileged users."""

SOCKET_PATH_BYTES_MAX = 100
"""Unix socket paths longer than 103 (macOS) or 107 (Linux) bytes can not be bound."""

UNPRIVILEGED_USERS = ("nobody", "daemon", "postgres")


@dataclass(frozen=True, slots=True)
class Owner:
    """The user a server runs as."""

    name: str
    uid: int
    gid: int

    @property
    def is_me(self) -> bool:
        """Whether this process already runs as that user."""
        return self.uid == os.geteuid()


def current_owner() -> Owner:
    """Return the user of this process."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return Owner(name, uid, os.getegid())


def unprivileged_owner() -> Owner:
    """Return an existing user who may do nothing, for a server that refuses to run as root."""
    for name in UNPRIVILEGED_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Owner(name, entry.pw_uid, entry.pw_gid)
    raise EngineUnavailableError(
        "PostgreSQL does not run as root, and this machine has no user nobody to run it as: "
        "run the engine as an ordinary user, or set QUOTA_ENGINE_DATABASE_URL"
    )


def can_reach(path: Path, owner: Owner) -> bool:
    """Whether ``owner`` may enter every folder above ``path``, and ``path`` if it is a folder."""
    path = path.resolve()
    folders = [*reversed(path.parents)] + ([path] if path.is_dir() else [])
    return all(_may_enter(folder, owner) for folder in folders)


def _may_enter(folder: Path, owner: Owner) -> bool:
    try:
        status = folder.stat()
    except FileNotFoundError:
        return True  # a folder still to be made is made reachable
    except PermissionError:
        return False
    if status.st_uid == owner.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == owner.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def make_folder(path: Path, owner: Owner | None = None, *, mode: int = 0o700) -> Path:
    """Make a folder, and hand a new one to ``owner``. One that exists keeps its mode."""
    try:
        path.mkdir(mode=mode)
    except FileExistsError:
        return path
    if owner is not None and not owner.is_me:
        os.chown(path, owner.uid, owner.gid)
    path.chmod(mode)  # whatever the umask took away
    return path


def make_home(home: Path) -> Path:
    """
    Make the folder that holds the servers' folders.

    A new one is closed to others. Root's lets them pass through, so that PostgreSQL's
    unprivileged user can: what lies inside is closed by itself.
    """
    home = Path(os.path.abspath(home.expanduser()))
    if not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        make_folder(home, mode=0o711 if os.geteuid() == 0 else 0o700)
    return home


def place_for(directory: Path, owner: Owner) -> Path:
    """
    Return the folder that really holds the server of ``directory``: itself, wherever possible.

    Where ``owner`` can not reach it, a folder below ``/var/lib/quota-engine`` takes its place and
    ``directory/place`` names it from then on. Its name is random: a deleted home's data must not
    come back in a new home of the same path.
    """
    pointer = directory / "place"
    if not pointer.exists():
        if can_reach(directory, owner) or (directory / "data").exists():
            return directory
        _point(pointer, SHARED_ROOT / secrets.token_hex(8))
    place = Path(pointer.read_text().strip())
    try:
        SHARED_ROOT.mkdir(mode=0o755, parents=True, exist_ok=True)
        make_folder(place, mode=0o711)
        note = place / "home"
        if not note.exists():
            note.write_text(f"{directory}\n")
    except OSError as error:
        raise EngineUnavailableError(
            f"the user {owner.name} can not reach {directory}, and {place} can not be made "
            f"({error.strerror}): set QUOTA_ENGINE_HOME to a folder that {owner.name} can reach"
        ) from error
    return place


def _point(pointer: Path, place: Path) -> None:
    """Write the pointer once: of two processes that do it at the same time, the first counts."""
    draft = pointer.with_name(f"place.{os.getpid()}.{secrets.token_hex(4)}")
    draft.write_text(f"{place}\n")
    try:
        os.link(draft, pointer)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def socket_folder(place: Path, socket_name: str) -> Path:
    """Return the folder for a server's socket: ``place/run``, or a short one for a long path."""
    folder = place / "run"
    if len(os.fsencode(folder / socket_name)) < SOCKET_PATH_BYTES_MAX:
        return folder
    digest = hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
    return Path("/tmp") / f"quota-engine-{digest}"


def make_socket_folder(folder: Path, owner: Owner) -> None:
    """Make the socket's folder, and refuse one that somebody else prepared."""
    make_folder(folder, owner)
    status = folder.lstat()
    is_private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    if status.st_uid != owner.uid or not is_private:
        raise EngineUnavailableError(
            f"{folder} is not a private folder of the user {owner.name}: remove it"
        )
