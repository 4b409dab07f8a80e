"""
When a server may be used as it is, when it must be recovered first, and when it is refused.

Pure rules over what the ledger has recorded and what the server shows; no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quota_engine.errors import EngineUnavailableError
from quota_engine.events import GENESIS, EventId
from quota_engine.instants import from_ms
from quota_engine.ledger.epochs import Recorded
from quota_engine.ledger.history import QuotaHead
from quota_engine.ledger.shards import ShardState

#: How the persister's word about missing entries begins.
GAP = "gap"
ADOPT = "`quota-engine recovery run --adopt`"


@dataclass(frozen=True, slots=True)
class ShardOnServer:
    """One shard as a server has it. None: absent."""

    #: What the shard's ``@epoch`` says.
    epoch: int | None
    #: The id that the outbox generated last, also when that entry is gone.
    top: EventId | None
    #: Whether any of the shard's own keys exists.
    exists: bool


@dataclass(frozen=True, slots=True)
class ServerState:
    """One server as it shows itself in one moment."""

    incarnation: str
    role: str
    #: ``<deployment id> <shards>``, or None.
    deployment: str | None
    shards: tuple[ShardOnServer, ...]
    missing_scripts: frozenset[str]

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing of any deployment's."""
        return self.deployment is None and not any(shard.exists for shard in self.shards)


def deployment_text(recorded: Recorded) -> str:
    """Return what ``qe:deployment`` must say."""
    return f"{recorded.deployment.deployment_id} {recorded.deployment.shards}"


def why_to_recover(recorded: Recorded, server: ServerState) -> str:
    """Return why the server must be recovered before it is used; empty when it is fresh."""
    if not recorded.was_opened:
        return "first start"
    if server.deployment != deployment_text(recorded):
        return "the deployment's id is gone"
    if server.role != "master":
        return f"the server is a {server.role}"
    for row, found in zip(recorded.shards, server.shards, strict=True):
        if row.incarnation != server.incarnation:
            return "another incarnation of the server: restarted or promoted"
        if found.epoch is None:
            return f"shard {row.shard} has no epoch"
        if found.top is None:
            return f"shard {row.shard} has no outbox"
        if not row.epoch == found.epoch == found.top.epoch:
            return (
                f"shard {row.shard}: the ledger is at epoch {row.epoch}, the server at"
                f" {found.epoch}, its outbox at {found.top.epoch}"
            )
        if found.top < row.cursor:
            return f"shard {row.shard}: the outbox ends at {found.top}, before {row.cursor}"
    return ""


def what_is_missing(recorded: Recorded, server: ServerState) -> list[str]:
    """
    Return, of each shard whose outbox is gone or older than the ledger, what nobody has any more.

    Which operations those were only their callers know; named is from where on they are missing.
    """
    told = (
        _missing_after(row, found)
        for row, found in zip(recorded.shards, server.shards, strict=True)
        if row.epoch
    )
    return [words for words in told if words]


def _missing_after(row: ShardState, found: ShardOnServer) -> str:
    if found.top is None:
        how = "the outbox was gone"
    elif found.top < row.cursor:
        how = f"the outbox ended at {found.top}: an older copy, or of a replica that lagged behind"
    elif found.top < row.seen:
        return (
            f"shard {row.shard}: the outbox ended at {found.top}, and had been seen up to"
            f" {row.seen}: the {row.seen.n - found.top.n} entries in between are lost, and"
            " anything written after them"
        )
    else:
        return ""
    since = row.opened_at
    if row.cursor.n and row.entry_at_ms is not None:
        since = from_ms(row.entry_at_ms)
    seen = row.seen.n - row.cursor.n
    return (
        f"shard {row.shard}: {how}; the ledger has all up to {row.cursor}"
        f"{f', of {since:%Y-%m-%d %H:%M:%S.%f %Z}' if since else ''}. Anything written after that"
        " is lost" + (f", among it {seen} entries up to {row.seen}" if seen > 0 else "")
    )


def accepted_gap(accepted_by: str, recorded: Recorded) -> str:
    """Return why a gap that somebody accepts must be recovered from; empty when there is none."""
    if not accepted_by:
        return ""
    gaps = [
        f"shard {row.shard}: {row.stopped}"
        for row in recorded.shards
        if (row.stopped or "").startswith(GAP)
    ]
    return f"{accepted_by}: {'; '.join(gaps)}" if gaps else ""


def may_stay(head: QuotaHead | None, shard: int, version: str | None, chain: str | None) -> bool:
    """Return whether a loaded quota is as the ledger has it, or is frozen and not behind it."""
    if head is None:
        return version == "0" and chain == GENESIS
    if head.shard != shard or version is None or not version.isdecimal():
        return False
    is_equal = int(version) == head.version and chain == head.chain
    return is_equal or (bool(head.frozen) and int(version) >= head.version)


def check_ours(recorded: Recorded, server: ServerState) -> None:
    """Raise ``EngineUnavailableError`` if the server belongs to another deployment."""
    wanted = deployment_text(recorded)
    if server.deployment is not None and server.deployment != wanted:
        raise EngineUnavailableError(
            f"this Redis belongs to deployment {server.deployment!r}, the database to {wanted!r}:"
            " check the Redis URL and the database URL"
        )


def check_admissible(
    recorded: Recorded,
    server: ServerState,
    *,
    is_superseded: bool,
    adopt: bool,
    allow_wiped: bool,
) -> None:
    """
    Raise ``EngineUnavailableError`` unless the server may be recovered for this deployment.

    ``adopt``: its operator means this very server. ``allow_wiped``: an empty server can only be
    ours, because nobody else could have been named (embedded servers).
    """
    check_ours(recorded, server)
    if adopt or not recorded.was_opened:
        return
    if is_superseded:
        raise EngineUnavailableError(
            "this Redis was replaced by another one, and what it holds is an older history: check"
            f" the Redis URL; if it is meant, run {ADOPT}"
        )
    is_same = all(row.incarnation == server.incarnation for row in recorded.shards)
    if server.deployment is None and not is_same and not allow_wiped:
        state = "is empty" if server.is_empty else "does not say whose it is"
        raise EngineUnavailableError(
            f"this Redis {state}, and is not the server that the balances were in: check the Redis"
            " URL; if that server is gone and this one is to be filled from the ledger, run"
            f" {ADOPT}"
        )


def check_unclaimed(server: ServerState) -> None:
    """Raise ``EngineUnavailableError`` unless a new deployment may begin on this server."""
    if server.deployment is not None:
        raise EngineUnavailableError(
            f"this Redis belongs to deployment {server.deployment!r}, but the database knows none:"
            " check the database URL, or restore the database; to begin anew, empty this Redis"
        )
    if not server.is_empty:
        raise EngineUnavailableError(
            "this Redis holds a quota engine's keys, but neither it nor the database says of which"
            " deployment: check both URLs; to begin anew, empty this Redis"
        )


def next_epochs(recorded: Recorded, server: ServerState) -> Mapping[int, int]:
    """Return each shard's next epoch: above all that ledger, ``@epoch`` and outbox have seen."""
    epochs = {}
    for row, found in zip(recorded.shards, server.shards, strict=True):
        seen = (row.epoch, found.epoch or 0, found.top.epoch if found.top else 0)
        epochs[row.shard] = max(seen) + 1
    return epochs
