"""
What a metered function says of itself: whose quota its calls take, and how they are counted.

A field may be a value, the name of one of the function's parameters, or a callable that gets the
call's arguments (``usage``: the response).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from quota_engine.errors import InvalidArgumentError
from quota_engine.tokens import Tokenizer

ACCOUNT_NAMES = ("account", "user_id")
REQUEST_NAMES = ("request", "payload", "body", "params")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the calls of one function are metered."""

    quota_type: str
    usage_type: str = "text_generation"
    #: Who spends; default: the parameter ``account`` or ``user_id``.
    account: Any = None
    #: Default: an argument of that name, then the request, then the response.
    provider: Any = None
    model: Any = None
    #: Units or a ``Usage`` to hold; default: estimated from the request.
    estimate: Any = None
    #: Units or a ``Usage``; a callable gets the response, or a stream's last chunk, and may return
    #: None. Default: extracted from the response.
    usage: Any = None
    service_tier: Any = None
    #: Kept with the usage record: a mapping, a parameter's name, or a callable.
    metadata: Any = None
    #: Seconds that a hold lives without renewal; None: the engine's setting.
    ttl: float | None = None
    #: A model without configuration or price: run it unbilled, or refuse it before the call.
    unconfigured: Literal["allow", "deny"] = "allow"
    #: Nothing is left at the provider: let the provider say so, or refuse before the call.
    pool: Literal["ignore", "enforce"] = "ignore"
    #: A stream that outgrows what can be held: let it end, or cut it.
    on_exhausted: Literal["finish", "cut"] = "finish"
    #: Whether a metered call inside another of the same account and type is billed as well.
    nested: bool = False
    tokenizer: Tokenizer | None = None
    #: Output tokens to hold when the request sets no limit; None: the model's limit, if known.
    output_default: int | None = None

    def __post_init__(self) -> None:
        if self.unconfigured not in ("allow", "deny"):
            raise InvalidArgumentError(
                f"unconfigured must be 'allow' or 'deny', not {self.unconfigured!r}"
            )
        if self.pool not in ("ignore", "enforce"):
            raise InvalidArgumentError(f"pool must be 'ignore' or 'enforce', not {self.pool!r}")
        if self.on_exhausted not in ("finish", "cut"):
            raise InvalidArgumentError(
                f"on_exhausted must be 'finish' or 'cut', not {self.on_exhausted!r}"
            )


class Arguments:
    """The arguments of one call, by the names of the function's parameters."""

    def __init__(
        self,
        values: dict[str, Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.values = values
        self._args = args
        self._kwargs = kwargs or {}

    @classmethod
    def bind(
        cls,
        name: str,
        signature: inspect.Signature,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Arguments:
        """Bind the arguments of ``name``; raises ``TypeError`` where the call itself would."""
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}() {error}") from None
        bound.apply_defaults()
        values: dict[str, Any] = {}
        for parameter, value in bound.arguments.items():
            if signature.parameters[parameter].kind is inspect.Parameter.VAR_KEYWORD:
                values.update(value)
            else:
                values[parameter] = value
        return cls(values, args, kwargs)

    def resolve(self, said: Any) -> Any:
        """Return what a field of a plan means in this call."""
        if isinstance(said, str) and said in self.values:
            return self.values[said]
        return said(*self._args, **self._kwargs) if callable(said) else said

    def account(self, said: Any) -> str:
        """Return who spends."""
        value = self.resolve(said)
        if said is None:
            value = next(
                (self.values[name] for name in ACCOUNT_NAMES if name in self.values), None
            )
        if value is None:
            raise InvalidArgumentError(
                "requires_quota cannot tell who spends: give account=, or call a parameter"
                " 'account' or 'user_id'"
            )
        return str(value)

    def request(self) -> Any:
        """Return what is asked of the model: a parameter that is the request, or all of them."""
        for name in REQUEST_NAMES:
            value = self.values.get(name)
            if isinstance(value, str):
                return {"prompt": value, **self.values}
            if value is not None and not isinstance(value, int | float):
                return value
        return self.values

    def named(self, said: Any, name: str) -> str | None:
        """Return provider, model ...: as said, else the argument's or the request's own text."""
        if said is not None:
            value = self.resolve(said)
            return None if value is None else str(value)
        for source in (self.values, self.request()):
            found = (
                source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)
            )
            if isinstance(found, str) and found:
                return str(found)
        return None
