"""
Batches of grants from a table: what a table must say, and what became of each of its lines.

A whole table is read and checked before anything happens, and all that is wrong is told with its
line. A batch has an id; a grant's id is made of it and of the line, so a second run of the same
table does only what the first one did not. Pure: no file, no clock, no store.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from quota_engine.arguments import checked_terms
from quota_engine.commands.grants import GrantTerms
from quota_engine.errors import BatchRefusedError, InvalidArgumentError
from quota_engine.ids import checked_account, checked_id
from quota_engine.keys import QuotaName

GRANTS, OPENING = "grants", "opening"
#: Ids of grants are made of a batch's, so it is shorter than others.
BATCH_ID_LENGTH_MAX = 80
LINES_MAX = 1_000_000
PROBLEMS_TOLD = 20

REQUIRED = ("account", "quota_type", "amount")
OPTIONAL = ("priority", "starts_at", "expires_at", "reference", "description")

_WHOLE = re.compile(r"-?\d{1,16}\Z", re.ASCII)

#: One line of a table: its number in the file, and its words by column.
Row = tuple[int, Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGrant:
    """A grant that a line of a table asks for."""

    line: int
    quota: QuotaName
    grant_id: str
    terms: GrantTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A checked table. ``digest``: the hash of what it says, whatever its encoding."""

    batch_id: str
    kind: str
    digest: str
    lines: int
    grants: tuple[PlannedGrant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """
    What became of one grant of a batch, in units of the quota type.

    ``outcome``: issued; ``there`` (an earlier run issued it); refused; ``waits`` (nothing is known
    to have happened: run the batch again); ``planned`` of a dry run. ``reason`` tells why not.
    """

    line: int
    account: str
    quota_type: str
    amount: int
    grant_id: str
    outcome: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport:
    """What became of a batch. ``is_done``: every grant was issued, by this run or before."""

    batch_id: str
    lines: int
    is_dry_run: bool
    grants: tuple[BatchLine, ...]

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return all(one.outcome in {"issued", "there"} for one in self.grants)

    @property
    def counts(self) -> dict[str, int]:
        """How many grants came to which outcome."""
        found: dict[str, int] = {}
        for one in self.grants:
            found[one.outcome] = found.get(one.outcome, 0) + 1
        return found

    @property
    def units(self) -> dict[str, int]:
        """Units of the grants that are issued, or planned, by quota type."""
        found: dict[str, int] = {}
        for one in self.grants:
            if one.outcome in {"issued", "there", "planned"}:
                found[one.quota_type] = found.get(one.quota_type, 0) + one.amount
        return found


class Problems:
    """What is wrong with a table, line by line."""

    def __init__(self) -> None:
        self._found: list[tuple[int, str]] = []

    def add(self, line: int, what: object) -> None:
        """Note what is wrong with a line."""
        self._found.append((line, str(what)))

    def refuse(self) -> None:
        """Raise ``BatchRefusedError`` if anything was wrong."""
        if self._found:
            found = sorted(self._found)
            told = "; ".join(f"line {line}: {what}" for line, what in found[:PROBLEMS_TOLD])
            more = len(found) - PROBLEMS_TOLD
            rest = f"; and {more} more" if more > 0 else ""
            raise BatchRefusedError(f"nothing was changed: {told}{rest}", problems=tuple(found))


def checked_batch_id(batch_id: object) -> str:
    """Return a batch's id."""
    text = checked_id(batch_id, name="batch id")
    if len(text) > BATCH_ID_LENGTH_MAX:
        raise InvalidArgumentError(
            f"batch id must have at most {BATCH_ID_LENGTH_MAX} characters, not {len(text)}"
        )
    return text


def read_rows(table: bytes, required: Sequence[str], optional: Sequence[str] = ()) -> list[Row]:
    """
    Return the lines of a CSV table in UTF-8, with or without a byte order mark, under a heading.

    Raises ``BatchRefusedError`` for another encoding, another heading, or a line of other length.
    """
    problems = Problems()
    rows: list[Row] = []
    reader = csv.reader(io.StringIO(_text(table), newline=""), strict=True)
    try:
        heading = [name.strip() for name in next(reader, [])]
        _check_heading(heading, required, optional)
        for words in reader:
            if not any(word.strip() for word in words):
                continue
            if len(words) != len(heading):
                problems.add(reader.line_num, f"{len(words)} columns instead of {len(heading)}")
            elif len(rows) >= LINES_MAX:
                raise BatchRefusedError(f"nothing was changed: more than {LINES_MAX} lines")
            else:
                plain = dict(zip(heading, (word.strip() for word in words), strict=True))
                rows.append((reader.line_num, plain))
    except csv.Error as error:
        problems.add(reader.line_num, f"it is no CSV: {error}")
    problems.refuse()
    if not rows:
        raise BatchRefusedError("nothing was changed: the table has no lines under its heading")
    return rows


def _text(table: bytes) -> str:
    if table.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BatchRefusedError("nothing was changed: the table is UTF-16; save it as UTF-8")
    try:
        text = table.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = table[: error.start].count(b"\n") + 1
        raise BatchRefusedError(
            f"nothing was changed: line {line}: it is not UTF-8 (byte {error.start + 1}); save the"
            " table as UTF-8",
            problems=((line, "it is not UTF-8"),),
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise BatchRefusedError(f"nothing was changed: line {line}: it holds a NUL character")
    return text


def _check_heading(heading: list[str], required: Sequence[str], optional: Sequence[str]) -> None:
    missing = [name for name in required if name not in heading]
    unknown = [name for name in heading if name not in {*required, *optional}]
    twice = sorted({name for name in heading if heading.count(name) > 1})
    wrong = [
        f"{what} {', '.join(map(repr, names))}"
        for what, names in (("missing", missing), ("unknown", unknown), ("twice", twice))
        if names
    ]
    if wrong:
        may = f", and may be {', '.join(optional)}" if optional else ""
        raise BatchRefusedError(
            f"nothing was changed: line 1: the columns must be {', '.join(required)}{may}:"
            f" {'; '.join(wrong)}",
            problems=((1, "; ".join(wrong)),),
        )


def read_grants(table: bytes, batch_id: str, check_type: Callable[[str], str]) -> Batch:
    """Return the grants that a table asks for, one a line; raise ``BatchRefusedError``."""
    problems, grants = Problems(), []
    seen: dict[tuple[object, ...], int] = {}
    rows = read_rows(table, REQUIRED, OPTIONAL)
    for line, words in rows:
        try:
            quota = QuotaName(checked_account(words["account"]), check_type(words["quota_type"]))
            grant = PlannedGrant(
                line=line, quota=quota, grant_id=f"batch:{batch_id}:{line}", terms=_terms(words)
            )
        except InvalidArgumentError as error:
            problems.add(line, error)
            continue
        first = seen.setdefault((grant.quota, grant.terms), line)
        if first != line:
            problems.add(line, f"it says the same as line {first}")
        grants.append(grant)
    problems.refuse()
    return Batch(
        batch_id=batch_id,
        kind=GRANTS,
        digest=digest_of(rows),
        lines=len(rows),
        grants=tuple(grants),
    )


def digest_of(rows: Iterable[Row], *told: object) -> str:
    """Return the hash of what a table says, and of what was told beside it."""
    plain = [[line, sorted(words.items())] for line, words in rows]
    text = json.dumps([plain, [str(one) for one in told]], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def whole(words: Mapping[str, str], name: str, default: int | None = None) -> int:
    """Return the whole number that a column says; an empty one says the default, if any."""
    text = words.get(name, "")
    if not text and default is not None:
        return default
    if not _WHOLE.match(text):
        raise InvalidArgumentError(f"{name} must be a whole number, not {text!r:.40}")
    return int(text)


def _terms(words: Mapping[str, str]) -> GrantTerms:
    return checked_terms(
        whole(words, "amount"),
        source="batch_admin_grant",
        reference=words.get("reference") or None,
        description=words.get("description") or None,
        priority=whole(words, "priority", 50),
        starts_at=instant(words, "starts_at"),
        expires_at=instant(words, "expires_at"),
    )


def instant(words: Mapping[str, str], name: str) -> datetime | None:
    """Return the instant that a column says, with its time zone; None for an empty one."""
    text = words.get(name, "")
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.utcoffset() is None:
        raise InvalidArgumentError(
            f"{name} {text!r:.40} is no instant with a time zone: write 2026-12-31T00:00:00+08:00"
        )
    return found
