"""What is said of accounts, as the engine's callers see and change it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from quota_engine import flows
from quota_engine._async.account_moving import AsyncAccountMover, persisted
from quota_engine._async.transport import AsyncTransport
from quota_engine.account_moves import AccountMove, checked_move_id, checked_target
from quota_engine.arguments import checked_text, checked_type
from quota_engine.backing import AccountStore, Backing
from quota_engine.errors import EngineUnavailableError, InvalidArgumentError, QuotaError
from quota_engine.ids import checked_account, checked_id, new_id
from quota_engine.instants import from_ms
from quota_engine.policies import (
    ACTIVATE,
    CLOSE,
    ENFORCE,
    INHERIT,
    MOVE,
    SET_ENFORCEMENT,
    SET_PAYERS,
    SHADOW,
    STATES,
    SUSPEND,
    AccountChange,
    AccountPolicy,
    AccountStanding,
    WantedPolicy,
    checked_payers,
    standing_of,
)
from quota_engine.settings import Settings
from quota_engine.waiting import in_thread


class AsyncAccounts:
    """
    The state of accounts: it counts for all quotas of an account, and for every account below it.

    A change is recorded in PostgreSQL, then told to Redis: no call that begins after it returned
    is admitted otherwise. After an ``EngineUnavailableError`` that says so it is recorded, and the
    workers tell Redis. Idempotent by ``operation_id``: the same one again changes nothing and
    returns the account as it is, ``.replayed``. ``operator`` and ``reason`` stay in the history.
    """

    def __init__(self, transport: AsyncTransport, backing: Backing, settings: Settings) -> None:
        self._transport = transport
        self._backing = backing
        self._settings = settings
        self._mover = AsyncAccountMover(transport, backing, settings)

    async def suspend(
        self,
        account: str,
        *,
        reason: str,
        operator: str | None = None,
        operation_id: str | None = None,
    ) -> AccountPolicy:
        """
        Refuse new holds, debits and growth of holds of an account and of all below it.

        They raise ``AccountSuspendedError``. Captures, releases, refunds, debits of what was used
        already, and grants pass.
        """
        return await self._change(SUSPEND, account, _required(reason), operator, operation_id)

    async def close(
        self,
        account: str,
        *,
        reason: str,
        operator: str | None = None,
        operation_id: str | None = None,
    ) -> AccountPolicy:
        """
        As ``suspend``, and refuse grants, transfers to it, purchases and subscriptions as well.

        They raise ``AccountClosedError``. Its subscriptions are not renewed meanwhile.
        """
        return await self._change(CLOSE, account, _required(reason), operator, operation_id)

    async def activate(
        self,
        account: str,
        *,
        reason: str | None = None,
        operator: str | None = None,
        operation_id: str | None = None,
    ) -> AccountPolicy:
        """End a suspension, or open a closed account again. One above it may bar it still."""
        return await self._change(ACTIVATE, account, reason, operator, operation_id)

    async def set_enforcement(
        self,
        account: str,
        enforcement: str,
        quota_types: Iterable[str] | None = None,
        *,
        reason: str | None = None,
        operator: str | None = None,
        operation_id: str | None = None,
    ) -> AccountPolicy:
        """
        Say whether quotas of an account, and of all below it, refuse: ``enforce`` or ``shadow``.

        In the shadow a call is decided as ever; what would have been refused is let through, told
        (``.shadowed``) and counted. ``inherit``: as the account above says, or the deployment's
        ``shadow_quota_types``. Of some quota types, or of all. Who is nearest to a quota on its
        path decides, each quota of a call for itself. Suspended and closed accounts, frozen quotas
        and backpressure refuse as ever.
        """
        if enforcement not in (ENFORCE, SHADOW, INHERIT):
            raise InvalidArgumentError(
                f"enforcement must be enforce, shadow or inherit, not {enforcement!r:.80}"
            )
        wanted = WantedPolicy(
            account=checked_account(account),
            action=SET_ENFORCEMENT,
            operation_id=self._operation_id(operation_id),
            operator=checked_text(operator, name="operator"),
            reason=checked_text(reason, name="reason"),
            enforcement=enforcement,
            quota_types=self._types(quota_types),
        )
        return await self._changed(wanted)

    async def set_pays_after(
        self,
        account: str,
        payers: str | Iterable[str] | None,
        quota_types: Iterable[str] | None = None,
        *,
        reason: str | None = None,
        operator: str | None = None,
        operation_id: str | None = None,
    ) -> AccountPolicy:
        """
        Say who pays for calls of an account, and of all below it, when its own quota cannot.

        Up to three accounts of the same root, in order; empty: nobody; None: as the account above
        says. Of some quota types, or of all. A call is paid whole, by its own quota or else by the
        first payer that can: see ``.paid_by``. Who is nearest on the path decides.
        """
        names = (payers,) if isinstance(payers, str) else payers
        own = checked_account(account)
        wanted = WantedPolicy(
            account=own,
            action=SET_PAYERS,
            operation_id=self._operation_id(operation_id),
            operator=checked_text(operator, name="operator"),
            reason=checked_text(reason, name="reason"),
            payers=None
            if names is None
            else checked_payers(own, [checked_account(name) for name in names]),
            quota_types=self._types(quota_types),
        )
        return await self._changed(wanted)

    async def move(
        self,
        account: str,
        to: str | None = None,
        *,
        parent: str | None = None,
        reason: str,
        operator: str | None = None,
        operation_id: str | None = None,
    ) -> AccountMove:
        """
        Give an account and all below it another place: ``to``, or its own name below ``parent``.

        Of the same root or another one, in use by nobody. Grants keep their terms; those that have
        yet to start, and those of subscriptions and orders, their ids too. Overdraft limits,
        subscriptions, orders and policies go with them. The old account is closed, and its
        callers are told where it went; open holds are settled there, and what they leave over
        follows, by the workers. Raises ``MoveRefusedError`` for what cannot move: a quota that is
        frozen or in debt, a place that is in use. Takes a few round trips for each quota.
        """
        name = checked_account(account)
        if operation_id is None:
            operation_id = new_id("move", self._transport.now_ms())
        wanted = WantedPolicy(
            account=name,
            action=MOVE,
            operation_id=checked_move_id(operation_id),
            operator=checked_text(operator, name="operator"),
            reason=_required(reason),
            target=checked_target(name, to, parent),
        )
        for place in (name, wanted.target or ""):
            await self._transport.drive(persisted(place))
        move = await in_thread(self._backing.move_store.begin, wanted, self._now())
        if move.finished_at is not None:
            return move
        try:
            return replace(await self._mover.advance(move), replayed=move.replayed)
        except QuotaError as error:
            raise EngineUnavailableError(
                f"that {account} moves to {move.target} is recorded, but it is not done yet; the"
                f" workers go on, or the same call with the same operation id: {error}"
            ) from error

    async def get(self, account: str) -> AccountStanding:
        """Return an account's own policy, what counts for its calls, and which account decides."""
        name = checked_account(account)
        return standing_of(name, await in_thread(self._store.read_path, name))

    async def list(self, *, state: str | None = None) -> Sequence[AccountPolicy]:
        """Return the accounts that were ever changed, or those in a state of their own."""
        if state is not None and state not in STATES:
            raise InvalidArgumentError(f"state must be one of {', '.join(STATES)}, not {state!r}")
        return await in_thread(self._store.list_policies, state)

    async def history(self, account: str) -> Sequence[AccountChange]:
        """Return who did what to an account, when and why, oldest first."""
        return await in_thread(self._store.history, checked_account(account))

    @property
    def _store(self) -> AccountStore:
        return self._backing.account_store

    async def _change(
        self,
        action: str,
        account: str,
        reason: str | None,
        operator: str | None,
        operation_id: str | None,
    ) -> AccountPolicy:
        wanted = WantedPolicy(
            account=checked_account(account),
            action=action,
            operation_id=self._operation_id(operation_id),
            operator=checked_text(operator, name="operator"),
            reason=checked_text(reason, name="reason"),
        )
        return await self._changed(wanted)

    async def _changed(self, wanted: WantedPolicy) -> AccountPolicy:
        """Change a policy, then tell Redis."""
        changed = await in_thread(self._store.change, wanted, self._now())
        try:
            await self._transport.drive(flows.told(wanted.account))
        except EngineUnavailableError as error:
            raise EngineUnavailableError(
                f"that {wanted.account} is {changed.words} is recorded, but Redis could not be"
                f" told yet; the workers will, or the same call with its operation id: {error}"
            ) from error
        return changed

    def _types(self, quota_types: Iterable[str] | None) -> tuple[str, ...]:
        names = () if quota_types is None else tuple(quota_types)
        if quota_types is not None and (isinstance(quota_types, str) or not names):
            raise InvalidArgumentError("quota_types must be several names, or None for all")
        return tuple(sorted({checked_type(name, self._settings) for name in names}))

    def _operation_id(self, given: str | None) -> str:
        if given is None:
            return new_id("change", self._transport.now_ms())
        return checked_id(given, name="operation id")

    def _now(self) -> datetime | None:
        now_ms = self._transport.now_ms()
        return None if now_ms is None else from_ms(now_ms)


def _required(reason: object) -> str | None:
    if not isinstance(reason, str) or not reason.strip():
        raise InvalidArgumentError("say why: reason must be a text that is not empty")
    return reason
