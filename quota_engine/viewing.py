"""
Who sees what of reports: a viewer sees its own account and those below it in the path. Pure.

``acme`` sees ``acme`` and ``acme/team-7/user-42``, neither ``acme2`` nor ``acme-2/x``. No name is
a pattern: ``%`` and ``_`` are letters. Whoever asks for an account beyond gets the same answer
whether it exists or not.
"""

from __future__ import annotations

from quota_engine.errors import NotSeenError
from quota_engine.ids import checked_account


def checked_viewer(viewer: object) -> str | None:
    """Return a viewer, an account id; None: an operator, who sees all."""
    return None if viewer is None else checked_account(viewer)


def sees(viewer: str | None, account: str) -> bool:
    """Return whether an account is the viewer's or below it."""
    return viewer is None or account == viewer or account.startswith(f"{viewer}/")


def check_seen(account: str, viewer: str | None) -> None:
    """Raise ``NotSeenError`` for an account, or a path of them, that a viewer does not see."""
    if not sees(viewer, account):
        raise NotSeenError(f"{viewer} sees itself and the accounts below it, not {account}")


def bounds_below(path: str) -> tuple[str, str]:
    """
    Return the first text, and the one after the last, that accounts below a path can be.

    In the order of code points (``COLLATE "C"``): what begins with ``acme/`` stands from ``acme/``
    to before ``acme0``, for ``0`` is the letter after ``/``. So an index finds them, and no
    pattern has to be escaped.
    """
    return f"{path}/", f"{path}0"
