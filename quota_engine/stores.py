"""Which Redis and PostgreSQL the settings mean, and how jobs reach that Redis."""

from __future__ import annotations

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from quota_engine.embedded import ensure_servers
from quota_engine.errors import InvalidArgumentError
from quota_engine.settings import Settings


def server_urls(settings: Settings) -> tuple[str, str]:
    """Return the URLs of Redis and PostgreSQL; start the home's own where none are set."""
    if settings.redis_url and settings.database_url:
        return settings.redis_url, settings.database_url
    if settings.redis_url or settings.database_url:
        missing = "QUOTA_ENGINE_DATABASE_URL" if settings.redis_url else "QUOTA_ENGINE_REDIS_URL"
        raise InvalidArgumentError(
            f"set both URLs or none: {missing} is missing (with none, the engine starts its own"
            " servers)"
        )
    urls = ensure_servers(settings.home.expanduser())
    return urls.redis_url, urls.database_url


def redis_client(url: str, settings: Settings) -> redis.Redis:
    """Return a client for jobs: no retries of its own, replies as bytes."""
    try:
        return redis.Redis.from_url(
            url,
            protocol=2,
            socket_timeout=settings.socket_timeout_seconds,
            socket_connect_timeout=settings.connect_timeout_seconds,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
        )
    except ValueError as error:
        raise InvalidArgumentError(f"the Redis URL is no URL: {error}") from error
