"""``prices rerate``: calls that were priced wrongly are settled anew."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from quota_engine.cli.opening import opened_engine, parse_instant
from quota_engine.cli.output import JsonFlag, print_json, print_rows
from quota_engine.errors import InvalidArgumentError

if TYPE_CHECKING:
    from quota_engine.corrections import RerateReport
    from quota_engine.engine import QuotaEngine

COLUMNS = (
    *("account", "quota_type", "calls", "cost_before", "cost_after", "cost_difference"),
    *("currency", "units_difference"),
)


def rerate(
    *,
    model: Annotated[str, typer.Option(help="The model, such as gpt-4o or openai/gpt-4o.")],
    since: Annotated[str, typer.Option("--from", help="Instant: calls admitted from then on.")],
    until: Annotated[str, typer.Option("--to", help="Instant: calls admitted before.")],
    provider: Annotated[
        str | None, typer.Option(help="Who serves it; needed if several do.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Write without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show.")] = False,
    actor: Annotated[str | None, typer.Option(help="Who does it; kept with each entry.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; kept with each entry.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Price recorded calls again, after a wrong price was set right from the same instant.

    Shows the difference per account first, then writes compensating entries; what exists stays,
    and a second run finds nothing. Without a terminal it writes only with --yes.

    Example: quota-engine prices rerate --model gpt-4o --from 2026-01-01T00:00Z --to
    2026-01-02T00:00Z --yes --reason "wrong list"
    """
    begins, ends = parse_instant(since, name="--from"), parse_instant(until, name="--to")
    assert begins is not None
    assert ends is not None
    with opened_engine() as engine:
        owner, name = _model_of(engine, provider, model)
        rerate_them = partial(
            engine.rerate, owner, name, since=begins, until=ends, actor=actor, reference=reason
        )
        with _counting("compared") as count:
            found = rerate_them(progress=count)
        if not as_json:
            _show(found)
        if found.quotas and not dry_run and (yes or _agreed(as_json)):
            with _counting("settled") as count:
                found = rerate_them(dry_run=False, progress=count)
            if not as_json:
                typer.echo(f"\n{found.changed} calls settled anew; their first entries stay")
        elif found.quotas and not as_json:
            typer.echo("\nnothing was written; --yes writes it")
    if as_json:
        print_json(found)


def _model_of(engine: QuotaEngine, provider: str | None, model: str) -> tuple[str, str]:
    """Return the provider and the model that are meant."""
    if provider is not None:
        return provider, model
    known = engine.catalog.list_models()
    owners = [one.provider for one in known if one.name == model]
    if not owners and "/" in model:
        owner, _, name = model.partition("/")
        if any((one.provider, one.name) == (owner.lower(), name) for one in known):
            return owner, name
    if len(owners) != 1:
        said = (
            f"{len(owners)} providers serve it: {', '.join(owners)}" if owners else "nobody does"
        )
        raise InvalidArgumentError(
            f"say --provider for {model}: {said} (`quota-engine models list` shows them all)"
        )
    return owners[0], model


def _agreed(as_json: bool) -> bool:
    is_watched = sys.stdin.isatty() and sys.stdout.isatty()
    return is_watched and not as_json and typer.confirm("\nwrite these entries?")


def _show(report: RerateReport) -> None:
    print_rows(
        report.quotas,
        COLUMNS,
        as_json=False,
        empty=f"{report.calls} calls of {report.provider}/{report.model} compared, none differs",
    )
    if report.unpriced:
        typer.echo(f"{report.unpriced} calls have no price now and stay as they are")


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int], None]]:
    """Yield what counts the calls beside a bar, where somebody looks."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed} calls {task.description}"))
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda count: bar.update(task, completed=count)
