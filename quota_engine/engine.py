"""The engine clients that applications import: calls bound to one deployment."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from quota_engine._async.calls import AsyncCalls
from quota_engine._async.spooling import AsyncSpooling
from quota_engine._async.transport import AsyncTransport, Clock
from quota_engine._sync.calls import Calls
from quota_engine._sync.spooling import Spooling
from quota_engine._sync.transport import Transport
from quota_engine.deployment import Deployment
from quota_engine.errors import InvalidArgumentError
from quota_engine.jobs.refusing import keep_writing, write_at_last
from quota_engine.jobs.respool import replay_no_more, replay_soon
from quota_engine.metering import AsyncMeteredBlock, MeteredBlock, decorating, metered_block
from quota_engine.metering.decorator import F
from quota_engine.prices.catalog import Model
from quota_engine.settings import Settings

log = logging.getLogger("quota_engine.spool")

#: Models whose longest output one client remembers, and how long: as long as prices.
LIMITS_MAX, LIMIT_AGE_SECONDS = 2_000, 60.0


def read_settings(redis_url: str | None, database_url: str | None, **others: Any) -> Settings:
    """Return the settings of the environment, with these instead of theirs."""
    given = {"redis_url": redis_url, "database_url": database_url, **others}
    unknown = sorted(given.keys() - Settings.model_fields.keys())
    if unknown:
        raise InvalidArgumentError(
            f"there is no setting {', '.join(unknown)}; known are"
            f" {', '.join(Settings.model_fields)}"
        )
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()
        )
        raise InvalidArgumentError(f"settings: {problems}") from None
    except SettingsError as error:  # a setting of the environment is no JSON
        raise InvalidArgumentError(f"settings: {error}") from None


class _Shared:
    """What both flavours of the engine have: metering, and a spool that is replayed."""

    deployment: Deployment
    _renewing: Calls | None = None
    _limits: dict[tuple[str, str], tuple[float, int | None]]

    def requires_quota(self, quota_type: str | Iterable[str], **plan: Any) -> Callable[[F], F]:
        """
        Decorate a function so that each call holds quota before and captures the real usage after.

        ``quota_type``: one, or several that are taken in one step, such as tokens and their cost.
        Functions, async functions, generators and async generators (on an async engine only the
        async ones). Keywords: see ``quota_engine.metering.Plan``; each may be a value, a
        parameter's name or a callable. Raises ``QuotaInsufficientError`` before the call.
        """
        is_async = isinstance(self, AsyncCalls)
        return decorating(lambda: self, quota_type, plan, async_only=is_async)

    def _known_limit(self, provider: str, model: str) -> tuple[int | None] | None:
        """Return a model's longest output as it was read lately; None: to be read again."""
        kept = self._limits.get((provider, model))
        if kept is None or time.monotonic() - kept[0] > LIMIT_AGE_SECONDS:
            return None
        return (kept[1],)

    def _keep_limit(self, provider: str, model: str, found: Model | None) -> int | None:
        limit = None if found is None else found.output_tokens_max
        if len(self._limits) >= LIMITS_MAX:
            self._limits.clear()
        self._limits[provider, model] = time.monotonic(), limit
        return limit

    @property
    def hold_ttl_seconds(self) -> float:
        """Life of a hold that names none."""
        return self.deployment.settings.hold_ttl_seconds

    def for_renewals(self) -> Calls:
        """Return sync calls for the thread that renews holds and replays the spool."""
        if self._renewing is None:
            settings = self.deployment.settings
            transport = Transport(self.deployment.redis_url, self.deployment, settings, None)
            if isinstance(self, AsyncCalls):
                transport.metrics = self.metrics
                transport.refusals = self._transport.refusals
            self._renewing = Calls(transport, self.deployment, settings)
            self._tend(self._renewing._spooling, transport)
        return self._renewing

    def _tend(
        self, spooling: Spooling | AsyncSpooling, transport: Transport | AsyncTransport
    ) -> None:
        """Have what waits in the spool replayed: when something is noted, when Redis is back."""

        def replay_what_waits() -> None:
            if spooling.spool.exists():
                replay_soon(self)

        keep_writing(transport.refusals, self.deployment.ledger)
        spooling.on_noted = transport.reach.on_return = replay_what_waits
        if complaint := spooling.spool.complaint():
            log.warning("while Redis is away, charges could not be spooled: %s", complaint)
        replay_what_waits()


class QuotaEngine(_Shared, Calls):
    """
    The engine for threads: see ``Calls`` for what it does, ``open`` for how to get one.

    Safe to share between threads, and to keep over a fork.
    """

    def __init__(self, deployment: Deployment, *, clock: Clock | None = None) -> None:
        self.deployment = deployment
        transport = Transport(deployment.redis_url, deployment, deployment.settings, clock)
        super().__init__(transport, deployment, deployment.settings)
        self._limits = {}

    @classmethod
    def open(
        cls,
        redis_url: str | None = None,
        database_url: str | None = None,
        *,
        clock: Clock | None = None,
        home: str | Path | None = None,
        **settings: Any,
    ) -> QuotaEngine:
        """
        Reach a deployment, or start one's own.

        URLs come from the arguments, else from ``QUOTA_ENGINE_*``; with none, the engine starts
        its own servers under ``home``. ``clock`` returns aware datetimes and then decides every
        time that this client sends; by default the server's does. Other keywords are settings.
        Raises ``EngineUnavailableError`` with what to do.
        """
        deployment = Deployment(read_settings(redis_url, database_url, home=home, **settings))
        try:
            engine = cls(deployment, clock=clock)
            engine._transport.begin()
            engine._tend(engine._spooling, engine._transport)
        except BaseException:
            deployment.close()
            raise
        return engine

    def meter(
        self,
        account: str,
        quota_type: str | Iterable[str],
        *,
        request: Any = None,
        **plan: Any,
    ) -> MeteredBlock:
        """Return a block that holds quota at its start and settles the call at its end."""
        return MeteredBlock(*metered_block(self, account, quota_type, request=request, **plan))

    def output_limit(self, provider: str, model: str) -> int | None:
        """Return a model's longest output in tokens by the catalog, None where unknown. Cached."""
        known = self._known_limit(provider, model)
        if known is not None:
            return known[0]
        return self._keep_limit(provider, model, self.catalog.find_model(provider, model))

    def for_renewals(self) -> Calls:
        """Return sync calls for the thread that renews holds and replays the spool: these."""
        return self

    def close(self) -> None:
        """Close every connection. Servers that the engine started keep running."""
        replay_no_more(self)
        self.alerts.stop_listening()
        write_at_last(self._transport.refusals, self.deployment.ledger)
        self._transport.close()
        self._spooling.close()
        self.deployment.close()

    def __enter__(self) -> QuotaEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncQuotaEngine(_Shared, AsyncCalls):
    """
    The engine for asyncio: the same methods, awaited.

    ``await AsyncQuotaEngine.open(…)``, or ``async with AsyncQuotaEngine.open(…) as engine``.
    """

    def __init__(self, deployment: Deployment, *, clock: Clock | None = None) -> None:
        self.deployment = deployment
        transport = AsyncTransport(deployment.redis_url, deployment, deployment.settings, clock)
        super().__init__(transport, deployment, deployment.settings)
        self._limits = {}

    @classmethod
    def open(
        cls,
        redis_url: str | None = None,
        database_url: str | None = None,
        *,
        clock: Clock | None = None,
        home: str | Path | None = None,
        **settings: Any,
    ) -> AsyncOpening:
        """Return what opens an engine when awaited or entered: see ``QuotaEngine.open``."""
        given = {"redis_url": redis_url, "database_url": database_url, "home": home, **settings}
        return AsyncOpening(cls, given, clock)

    def meter(
        self,
        account: str,
        quota_type: str | Iterable[str],
        *,
        request: Any = None,
        **plan: Any,
    ) -> AsyncMeteredBlock:
        """Return a block that holds quota at its start and settles the call at its end."""
        block = metered_block(self, account, quota_type, request=request, **plan)
        return AsyncMeteredBlock(*block)

    async def output_limit(self, provider: str, model: str) -> int | None:
        """Return a model's longest output in tokens by the catalog, None where unknown. Cached."""
        known = self._known_limit(provider, model)
        if known is not None:
            return known[0]
        return self._keep_limit(provider, model, await self.catalog.find_model(provider, model))

    async def aclose(self) -> None:
        """Close every connection. Servers that the engine started keep running."""
        replay_no_more(self)
        await self.alerts.stop_listening()
        refusals = self._transport.refusals
        await asyncio.to_thread(write_at_last, refusals, self.deployment.ledger)
        await self._transport.close()
        self._spooling.close()
        if self._renewing is not None:
            await asyncio.to_thread(self._renewing._transport.close)
            self._renewing._spooling.close()
        await asyncio.to_thread(self.deployment.close)

    async def close(self) -> None:
        """Close every connection: the same as ``aclose``."""
        await self.aclose()

    async def __aenter__(self) -> AsyncQuotaEngine:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


class AsyncOpening:
    """An engine about to be opened: await it, or enter it."""

    def __init__(
        self, kind: type[AsyncQuotaEngine], given: dict[str, Any], clock: Clock | None
    ) -> None:
        self._kind = kind
        self._given = given
        self._clock = clock
        self._engine: AsyncQuotaEngine | None = None

    def __await__(self) -> Generator[Any, None, AsyncQuotaEngine]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncQuotaEngine:
        self._engine = await self._open()
        return self._engine

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._engine is not None:
            await self._engine.aclose()

    async def _open(self) -> AsyncQuotaEngine:
        settings = read_settings(**self._given)
        deployment = await asyncio.to_thread(Deployment, settings)
        try:
            engine = self._kind(deployment, clock=self._clock)
            await engine._transport.begin()
            await asyncio.to_thread(engine._tend, engine._spooling, engine._transport)
        except BaseException:
            deployment.close()
            raise
        return engine
