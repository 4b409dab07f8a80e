"""
What a client asked for and was told, in a file that outlives the client.

One line when a call begins, one when it has ended, each written at once: a killed process has told
all that it began. It must not know what calls mean.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path
from typing import Any

from tests.faults.history import Call, Told

BEGUN, ENDED, FAULT = "b", "e", "f"
#: What is known of a call in its end.
TOLD = (
    *("outcome", "ended", "version", "balance", "shortfall", "amount"),
    *("is_idle", "attempts", "error", "paid_by", "ids", "told"),
)


class Chronicle:
    """Appends to one process's file. Its threads share it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def begun(self, call: Call) -> None:
        """Tell of a call before its first attempt."""
        self._write(
            BEGUN,
            *(call.operation_id, call.account, call.verb, call.amount, call.hold_id),
            *(call.started, call.quota_type, call.more, call.charge_id, call.scopes),
        )

    def ended(self, call: Call) -> None:
        """Tell what came of it."""
        told = [getattr(call, name) for name in TOLD[:-1]]
        told.append([astuple(one) for one in call.told])
        self._write(ENDED, call.operation_id, call.account, *told)

    def fault(self, text: str) -> None:
        """Tell of an answer that should never have come."""
        self._write(FAULT, text)

    def _write(self, *words: object) -> None:
        os.write(self._file, json.dumps(words).encode() + b"\n")


def read(paths: Iterable[Path]) -> tuple[list[Call], list[str]]:
    """Return all calls, and what no client should have been told."""
    calls: list[Call] = []
    faults: list[str] = []
    for path in paths:
        open_calls: dict[tuple[str, str], Call] = {}
        with path.open("rb") as lines:
            for line in lines:
                what, *words = json.loads(line)
                if what == FAULT:
                    faults.extend(words)
                elif what == BEGUN:
                    operation_id, account, verb, amount, hold_id, started, *others = words
                    call = Call(verb, account, operation_id, amount, hold_id, started)
                    call.quota_type, call.more, call.charge_id, scopes = others
                    call.scopes = None if scopes is None else tuple(scopes)
                    open_calls[account, operation_id] = call
                    calls.append(call)
                else:
                    operation_id, account, *told = words
                    _end(open_calls.pop((account, operation_id)), told)
    return calls, faults


def _end(call: Call, words: list[Any]) -> None:
    for name, value in zip(TOLD, words, strict=True):
        setattr(call, name, value)
    call.ids = tuple(call.ids)
    call.told = tuple(Told(*one) for one in words[-1])
