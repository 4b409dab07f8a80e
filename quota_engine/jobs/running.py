"""
Run commands from jobs: one at a time, or many of one shape at once, on a plain redis-py client.

The engine's own transports retry, hydrate and wait; jobs do none of it, and say
what went wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis

from quota_engine.commands.base import Command, Context, Reply
from quota_engine.commands.replies import error_from
from quota_engine.errors import EngineUnavailableError, QuotaError
from quota_engine.jobs.gate import Opened
from quota_engine.keys import ShardKeys, shard_of
from quota_engine.scripts import load_scripts

T = TypeVar("T")

HORIZON_MS = 900_000


def run_command(
    client: redis.Redis,
    opened: Opened,
    command: Command[T],
    *,
    now_ms: int | None = None,
    horizon_ms: int = HORIZON_MS,
) -> T:
    """
    Return what a command answers, or raise the error that its reply stands for.

    A mutation must carry its operation id, as everywhere; it is sent once.
    """
    result = run_commands(client, opened, [command], now_ms=now_ms, horizon_ms=horizon_ms)[0]
    if isinstance(result, QuotaError):
        raise result
    return result


def run_commands(
    client: redis.Redis,
    opened: Opened,
    commands: Sequence[Command[T]],
    *,
    now_ms: int | None = None,
    horizon_ms: int = HORIZON_MS,
    at_once: bool = False,
) -> list[T | QuotaError]:
    """
    Return what each command answers, in one round trip; errors are among them as values.

    ``at_once``: all in one instant, so that nobody else is served between two of them.
    """
    pipeline: Any = client.pipeline(transaction=at_once)
    for command in commands:
        shard = shard_of(command.quota.account, opened.shards)
        context = Context(ShardKeys(shard), opened.epochs[shard], now_ms, horizon_ms)
        keys, argv = command.keys(context.keys), command.argv(context)
        sha = load_scripts()[command.script].sha
        pipeline.execute_command("EVALSHA", sha, len(keys), *keys, *argv)
    try:
        replies = pipeline.execute(raise_on_error=False)
    except redis.RedisError as error:
        raise EngineUnavailableError(f"Redis does not answer: {error}") from error
    return [
        _result(command.parse, reply) for command, reply in zip(commands, replies, strict=True)
    ]


def run_on_shard(client: redis.Redis, shard: int, epoch: int, command: Command[int]) -> int:
    """
    Return what a command about a whole shard answers.

    0 when the shard is closed or of another epoch, which the gate settles.
    """
    context = Context(ShardKeys(shard), epoch)
    keys, argv = command.keys(context.keys), command.argv(context)
    caller: Any = client
    try:
        reply = caller.execute_command(
            "EVALSHA", load_scripts()[command.script].sha, len(keys), *keys, *argv
        )
    except redis.exceptions.NoScriptError:
        return 0
    except redis.ResponseError as error:
        if str(error).startswith("FENCED"):
            return 0
        raise EngineUnavailableError(f"Redis refused: {error}") from error
    except redis.RedisError as error:
        raise EngineUnavailableError(f"Redis does not answer: {error}") from error
    return command.parse(_decoded(reply))


def _result(parse: Callable[[Reply], T], reply: Any) -> T | QuotaError:
    if isinstance(reply, redis.exceptions.NoScriptError):
        return EngineUnavailableError("the server has no scripts: the gate must run")
    if isinstance(reply, redis.exceptions.OutOfMemoryError):
        return error_from(f"OOM {reply}")  # the client takes the code off
    if type(reply) is redis.ResponseError:
        return error_from(str(reply))
    if isinstance(reply, Exception):
        return EngineUnavailableError(f"Redis does not answer: {reply}")
    try:
        return parse(_decoded(reply))
    except QuotaError as error:
        return error


def _decoded(reply: Any) -> Any:
    """Return a reply with its bytes as text, however the client was made."""
    if isinstance(reply, bytes):
        return reply.decode(errors="surrogateescape")
    if isinstance(reply, list):
        return [_decoded(part) for part in reply]
    return reply
