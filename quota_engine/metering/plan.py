"""
What a metered function says of itself: whose quota its calls take, and how they are counted.

A field may be a value, the name of one of the function's parameters, or a callable that gets the
call's arguments (``usage``: the response).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Literal

from quota_engine.errors import InvalidArgumentError
from quota_engine.ids import checked_quota_type
from quota_engine.tokens import Tokenizer
from quota_engine.units import is_credit
from quota_engine.usage import Usage, checked_used

ACCOUNT_NAMES = ("account", "user_id")
REQUEST_NAMES = ("request", "payload", "body", "params")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the calls of one function are metered."""

    #: What is taken: a quota type, or several in one step, of which one may be credit.
    quota_type: str | Iterable[str]
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
    #: The quota types; the usage record of a call is kept with the first.
    quota_types: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "quota_types", _checked_types(self.quota_type))
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

    @property
    def first_type(self) -> str:
        """The quota type that the usage record of a call is kept with."""
        return self.quota_types[0]

    @property
    def credit_type(self) -> str | None:
        """The quota type that is taken by cost, if there is one."""
        return next(filter(is_credit, self.quota_types), None)

    def checked_used(self, used: Any, *, name: str) -> Usage | int:
        """Return what somebody says was used; plain units are of one quota type."""
        checked = checked_used(used, name=name)
        if isinstance(checked, int) and len(self.quota_types) > 1:
            raise InvalidArgumentError(
                f"{name} must be a Usage, not {checked} units: the call takes"
                f" {' and '.join(self.quota_types)}"
            )
        return checked


def _checked_types(said: object) -> tuple[str, ...]:
    if isinstance(said, Mapping | Set):
        raise InvalidArgumentError(f"quota types must be a sequence, the record's first: {said!r}")
    types = (said,) if isinstance(said, str) or not isinstance(said, Iterable) else tuple(said)
    if not types:
        raise InvalidArgumentError("a call takes one quota type at least")
    for name in types:
        checked_quota_type(name)
    if len(set(types)) < len(types):
        raise InvalidArgumentError(f"{' and '.join(types)}: a quota type is named twice")
    if len(credits := [name for name in types if is_credit(name)]) > 1:
        raise InvalidArgumentError(
            f"{' and '.join(credits)}: a call has one cost, in one currency"
        )
    return types


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
