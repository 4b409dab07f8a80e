"""The catalog: which providers and models there are. A model may be in it without a price."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from quota_engine.amounts import checked_amount
from quota_engine.errors import InvalidArgumentError
from quota_engine.prices.price import NAME_LENGTH_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Who serves models. ``name`` in small letters."""

    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """
    A model as one provider serves it.

    ``usage_type``: what it is for, such as text_generation. Limits in tokens, None where not
    known. ``is_enabled``: whether new calls may use it; calls that were made are priced anyway.
    """

    provider: str
    name: str
    usage_type: str | None
    context_tokens_max: int | None
    output_tokens_max: int | None
    is_enabled: bool
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is told about a model; None: not told, so what is known stays."""

    usage_type: str | None = None
    context_tokens_max: int | None = None
    output_tokens_max: int | None = None
    is_enabled: bool | None = None

    def told(self) -> dict[str, object]:
        """Return only what is told."""
        facts = {
            "usage_type": self.usage_type,
            "context_tokens_max": self.context_tokens_max,
            "output_tokens_max": self.output_tokens_max,
            "is_enabled": self.is_enabled,
        }
        return {name: value for name, value in facts.items() if value is not None}


def checked_facts(
    *,
    usage_type: object = None,
    context_tokens_max: object = None,
    output_tokens_max: object = None,
    is_enabled: object = None,
) -> ModelFacts:
    """Return facts about a model; raise ``InvalidArgumentError`` for what none can be."""
    if is_enabled is not None and not isinstance(is_enabled, bool):
        raise InvalidArgumentError(f"is_enabled must be a bool, not {is_enabled!r:.80}")
    return ModelFacts(
        usage_type=checked_usage_type(usage_type),
        context_tokens_max=_checked_limit(context_tokens_max, name="context_tokens_max"),
        output_tokens_max=_checked_limit(output_tokens_max, name="output_tokens_max"),
        is_enabled=is_enabled,
    )


def checked_usage_type(usage_type: object) -> str | None:
    """Return a usage type; own ones are legal."""
    if usage_type is None:
        return None
    legal = isinstance(usage_type, str) and usage_type.replace("_", "a").isalnum()
    if not legal or len(str(usage_type)) > NAME_LENGTH_MAX:
        raise InvalidArgumentError(
            f"usage type must be letters, digits and _, not {usage_type!r:.80}"
        )
    return str(usage_type)


def _checked_limit(tokens: object, *, name: str) -> int | None:
    return None if tokens is None else checked_amount(tokens, name=name)
