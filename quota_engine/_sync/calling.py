# Written by tools/unasync.py from quota_engine/_async/calling.py. Edit that file instead.
"""What every call of the engine begins with: its transport, its quota's name, its id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict

from quota_engine._sync.pricing import Pricing
from quota_engine._sync.spooling import Spooling
from quota_engine._sync.transport import Transport
from quota_engine.arguments import checked_quota
from quota_engine.backing import Backing
from quota_engine.corrections import CORRECTION_ID
from quota_engine.errors import InvalidArgumentError, QuotaError
from quota_engine.ids import checked_id, new_id
from quota_engine.keys import QuotaName
from quota_engine.metrics.collector import Metrics
from quota_engine.metrics.described import Sample
from quota_engine.resending import Resent
from quota_engine.settings import Settings


class Calling(Pricing):
    """An engine that can be called."""

    def __init__(self, transport: Transport, backing: Backing, settings: Settings) -> None:
        super().__init__(transport, backing, settings)
        self._transport = transport
        self._backing = backing
        self._settings = settings
        self._spooling = Spooling(transport, backing, settings)
        transport.metrics.add_source(self._resent_samples)

    @property
    def resent(self) -> Resent:
        """How much this client sent again because new epochs began, and what came of it."""
        return self._transport.resending.resent

    @property
    def metrics(self) -> Metrics:
        """What this engine decided, and how long it took: see ``quota_engine.metrics``."""
        return self._transport.metrics

    def count_refusal(
        self,
        account: str,
        quota_type: str,
        error: QuotaError,
        *,
        provider: str | None = None,
        model: str | None = None,
    ) -> None:
        """
        Count a call that was refused before this engine was asked, for ``reports.refusals``.

        Metered calls do so by themselves. Only in memory; an error that is no refusal, or a quota
        that there can't be, is not counted.
        """
        with suppress(InvalidArgumentError):
            quota = self._quota(account, quota_type)
            self._spooling.count_refusal(quota, error, (provider, model))

    def _resent_samples(self) -> Iterator[Sample]:
        for outcome, count in asdict(self.resent).items():
            yield Sample("resent_total", count, {"outcome": outcome})

    def _quota(self, account: str, quota_type: str) -> QuotaName:
        return checked_quota(account, quota_type, self._settings)

    def _id(self, given: str | None, prefix: str) -> str:
        if given is None:
            return new_id(prefix, self._transport.now_ms())
        found = checked_id(given, name=f"{prefix} id")
        if CORRECTION_ID.search(found):
            raise InvalidArgumentError(
                f"{prefix} id {found} ends as the id of a correction does: choose another"
            )
        return found
