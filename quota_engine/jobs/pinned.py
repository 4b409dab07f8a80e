"""
One Redis connection that is never renewed: when it is lost, what was begun on it is over.

The recovery gate decides about one server process. A client that reconnects by itself could finish
on another process what was begun on this one. It must not know what the connection is used for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from quota_engine.errors import EngineUnavailableError, RedisAwayError

#: A page of a stream or a batch of scripts takes longer than one small call.
ANSWER_TIMEOUT_S = 15.0

Word = str | bytes | int
#: One reply: bytes, int, None, nested lists, or the error that the server answered.
Reply = Any


class PinnedConnection:
    """Commands on one connection. Replies are raw: texts are bytes, as the server sent them."""

    def __init__(self, client: redis.Redis) -> None:
        """Connect, with the client's address and credentials but none of its retries."""
        options = _options(client) | {
            "protocol": 2,
            "health_check_interval": 0,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
        }
        self._connection = client.connection_pool.connection_class(**options)
        self._is_open = True
        with self._ending_when_lost():
            self._connection.connect()

    def __enter__(self) -> PinnedConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection. It is not opened again."""
        self._is_open = False
        self._connection.disconnect()

    def execute(self, *words: Word) -> Reply:
        """Return the reply to one command; raise the error that it answered, if it did."""
        return checked(self.execute_all([words])[0])

    def execute_all(self, commands: Sequence[Sequence[Word]]) -> list[Reply]:
        """Return the replies to many commands, sent at once. Errors are among them as values."""
        if not commands:
            return []
        with self._ending_when_lost():
            packed = self._connection.pack_commands(commands)
            self._connection.send_packed_command(packed, check_health=False)
            return [self._read() for _ in commands]

    def transaction(self, commands: Sequence[Sequence[Word]]) -> list[Reply] | None:
        """
        Run commands in one MULTI/EXEC; None when a watched key changed, and nothing was run.

        An error of any of them is raised. Redis does not undo the others.
        """
        replies = self.execute_all([("MULTI",), *commands, ("EXEC",)])
        for reply in replies[:-1]:
            checked(reply)
        done = checked(replies[-1])
        return None if done is None else [checked(reply) for reply in done]

    def _read(self) -> Reply:
        try:
            return self._connection.read_response(disable_decoding=True)
        except redis.ResponseError as error:
            return error

    @contextmanager
    def _ending_when_lost(self) -> Iterator[None]:
        if not self._is_open:
            raise EngineUnavailableError("the connection to Redis was lost; try again")
        try:
            yield
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            self.close()
            raise RedisAwayError(f"Redis does not answer: {error}") from error
        except BaseException:
            self.close()
            raise


@contextmanager
def undecoded(client: redis.Redis) -> Iterator[redis.Redis]:
    """Yield a client of the same server whose replies stay bytes: ``client`` itself if it can."""
    if not client.get_encoder().decode_responses:
        yield client
        return
    connection_class = client.connection_pool.connection_class
    pool = redis.ConnectionPool(connection_class=connection_class, **_options(client))
    with redis.Redis.from_pool(pool) as other:
        yield other


def _options(client: redis.Redis) -> dict[str, Any]:
    """Return how the client connects, for connections of another kind to the same server."""
    options = {
        name: value
        for name, value in client.connection_pool.connection_kwargs.items()
        if not name.startswith(("maint_", "orig_", "oss_"))
    }
    return options | {"decode_responses": False, "socket_timeout": ANSWER_TIMEOUT_S}


def checked(reply: Reply) -> Reply:
    """Return the reply, or raise it if it is an error."""
    if isinstance(reply, redis.ResponseError):
        raise EngineUnavailableError(f"Redis refused: {reply}") from reply
    return reply


def text_of(reply: Reply) -> str | None:
    """Return a bulk reply as text; None stays None."""
    return None if reply is None else bytes(reply).decode(errors="surrogateescape")


def pairs(reply: Reply) -> dict[str, Reply]:
    """Return a flat reply of names and values as a dict."""
    return {str(text_of(name)): value for name, value in zip(reply[::2], reply[1::2], strict=True)}
