"""``prices calculate``: how many users a budget serves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from quota_engine.cli.opening import opened_engine, parse_instant
from quota_engine.cli.output import JsonFlag, print_facts, print_json, print_rows
from quota_engine.errors import InvalidArgumentError

if TYPE_CHECKING:
    from quota_engine.distribution import Allotment

FACTS = ("budget", "currency", "users", "cost_per_user", "spent", "left")
SHARES = ("provider", "model", "quota_type", "amount", "cost_per_user", "cost")
#: openai/gpt-4o=100000, openai/dall-e-3:image=20
_GIVE = re.compile(
    r"(?P<provider>[^/=]+)/(?P<model>[^=]+?)(?::(?P<type>[a-z_]+))?=(?P<amount>\d{1,16})\Z"
)


def calculate(
    budget: Annotated[str, typer.Argument(help="Money, such as 1000.")],
    give: Annotated[
        list[str],
        typer.Option(
            help="What each user gets: PROVIDER/MODEL=TOKENS, or PROVIDER/MODEL:image=IMAGES"
            " (audio, video: seconds). Several times for several models."
        ),
    ],
    *,
    currency: Annotated[str | None, typer.Option(help="Default: the deployment's.")] = None,
    input_share: Annotated[str, typer.Option(help="Of the tokens, how many go in.")] = "0.75",
    cached_share: Annotated[
        str, typer.Option(help="Of those that go in, how many are cached.")
    ] = "0",
    call_tokens: Annotated[int, typer.Option(help="Tokens of a typical call.")] = 2_000,
    resolution: Annotated[str | None, typer.Option(help="Of images and video: 1080p.")] = None,
    at: Annotated[str | None, typer.Option(help="Instant, or +7d. Default: now.")] = None,
    service_tier: Annotated[str | None, typer.Option(help="Such as batch.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Tell how many users a budget serves, with so much of each model for each user.

    Example: quota-engine prices calculate 1000 --give openai/gpt-4o=100000 --input-share 0.8
    """
    allotments = [_allotment(text, resolution) for text in give]
    with opened_engine() as engine:
        found = engine.calculate_distribution(
            budget,
            allotments,
            currency=currency,
            input_share=input_share,
            cached_share=cached_share,
            call_tokens=call_tokens,
            at=parse_instant(at, name="--at"),
            service_tier=service_tier,
        )
    if as_json:
        print_json(found)
        return
    print_facts(found, as_json=False, fields=FACTS)
    typer.echo("\nby model:")
    print_rows(found.shares, SHARES, as_json=False)


def _allotment(text: str, resolution: str | None) -> Allotment:
    from quota_engine.distribution import Allotment

    match = _GIVE.match(text)
    if match is None:
        raise InvalidArgumentError(
            f"--give {text!r:.80} must be PROVIDER/MODEL=TOKENS, or PROVIDER/MODEL:image=IMAGES"
        )
    return Allotment(
        provider=match["provider"],
        model=match["model"],
        quota_type=match["type"] or "text_token",
        amount=int(match["amount"]),
        resolution=resolution,
    )
