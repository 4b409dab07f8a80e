"""``replay``: the main job. A recorded trace against the deployment, with proofs at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quota_engine.cli.opening import hush
from quota_engine.cli.output import JsonFlag, print_json
from quota_engine.cli.run_report import print_report, shown_progress
from quota_engine.errors import InvalidArgumentError

if TYPE_CHECKING:
    from quota_engine.replay.days import DaysReport
    from quota_engine.replay.running import Options, Report, Watcher
    from quota_engine.replay.trace import Call
    from quota_engine.replay.tree.running import TreeReport

app = typer.Typer(add_completion=False, rich_markup_mode=None)

DRIFT_FOUND = 3

Trace = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="The calls: CSV.")
]
OutputLimit = Annotated[int, typer.Option(min=1, max=10**9, help="Tokens held for each answer.")]
Speed = Annotated[
    str, typer.Option(help="max, or how many times as fast as recorded, such as 10.")
]
PromotionsLast = Annotated[
    float, typer.Option(min=0.1, max=86_400, help="Seconds until the last promotion ends.")
]
Prices = Annotated[
    str | None,
    typer.Option(
        help="Models that calls are dealt to, and their prices of a million tokens:"
        " MODEL=INPUT/OUTPUT,… Default: large=2.5/10,small=0.15/0.6"
    ),
]
RestartRedis = Annotated[
    int,
    typer.Option(
        min=0,
        max=1_000,
        metavar="TIMES",
        help="Kill Redis (SIGKILL) so many times meanwhile and start it again: the home's own.",
    ),
]
Days = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=400,
        help="Let the trace take so many days, by a simulated clock, with monthly plans.",
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first calls of the trace.")]
Tree = Annotated[
    bool, typer.Option("--tree", help="Users of teams of organisations, with limits on all.")
]


@app.command()
def replay(
    trace: Trace,
    *,
    users: Annotated[int, typer.Option(min=1, max=100_000, help="Accounts of the run.")] = 200,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Client processes.")] = 4,
    seed: Annotated[int, typer.Option(help="Decides who calls and what each is granted.")] = 1,
    speed: Speed = "max",
    limit: Limit = None,
    output_limit: OutputLimit = 1_000,
    promotions_last: PromotionsLast = 10.0,
    prices: Prices = None,
    restart_redis: RestartRedis = 0,
    days: Days = None,
    tree: Tree = False,
    as_json: JsonFlag = False,
) -> None:
    """
    Replay a trace of model calls, and prove that no token was lost, doubled or given away.

    TRACE is a CSV file with the columns TIMESTAMP,ContextTokens,GeneratedTokens, as in the Azure
    LLM inference traces. Each row is one call: it holds its context tokens and the output limit,
    then captures what it used. Calls are dealt to models of different prices, which are written
    into the price book for a provider "replay". Few users make most calls; each has a promotion
    that ends within seconds, a membership and a purchase; every fourth runs dry.

    With --restart-redis the calls go on through restarts, and the time without service is
    told: from each kill to the end of the first acknowledged operation that began after it.

    With --days each user has a plan that renews every month instead of those grants, the calls are
    spread over so many days, and every account's statement must add up. All time of the deployment
    is simulated, so it must have no accounts but those of replays.

    With --tree calls act on three levels: users of 8 teams of each of 3 organisations, with
    budgets that may run dry, units per minute and month, calls a minute, holds at once. A month
    ends in a simulated time, that of the trace or of --days, in which calls last.

    Exits with 0 only when every proof holds, with 3 when one does not.

    Example: quota-engine replay AzureLLMInferenceTrace_conv.csv --users 200 --processes 4

    Example: quota-engine replay AzureLLMInferenceTrace_code.csv --restart-redis 20

    Example: quota-engine replay AzureLLMInferenceTrace_conv.csv --days 40

    Example: quota-engine replay AzureLLMInferenceTrace_conv.csv --tree --processes 8
    """
    from quota_engine.replay.costs import DEMO_PRICES, parse_prices
    from quota_engine.replay.restarting import check_restarts
    from quota_engine.replay.running import Options
    from quota_engine.replay.trace import read_trace

    options = Options(
        users=users,
        processes=processes,
        seed=seed,
        speed=_speed(speed),
        output_limit=output_limit,
        promotion_seconds=promotions_last,
        prices=DEMO_PRICES if prices is None else parse_prices(prices),
        restarts=restart_redis,
    )
    calls = read_trace(trace, limit)
    check_restarts(restart_redis, calls=len(calls), processes=processes)
    if (tree or days is not None) and (restart_redis or speed != "max"):
        named = "--tree" if tree else "--days"
        raise InvalidArgumentError(f"{named} goes with neither --speed nor --restart-redis")
    hush()
    with shown_progress(len(calls)) as watch:
        report = _run(calls, options, days, watch, is_tree=tree)
    _show(report, trace.name, as_json)


def _run(
    calls: Sequence[Call], options: Options, days: int | None, watch: Watcher, *, is_tree: bool
) -> Report | DaysReport | TreeReport:
    from quota_engine.replay.days import run_days
    from quota_engine.replay.running import run
    from quota_engine.replay.tree.running import run_tree

    if is_tree:
        return run_tree(calls, options, days, watch)
    return run(calls, options, watch) if days is None else run_days(calls, options, days, watch)


def _show(report: Report | DaysReport | TreeReport, trace: str, as_json: bool) -> None:
    if as_json:
        print_json({"trace": trace, "holds": report.holds, "report": report})
    else:
        typer.echo(f"{trace}, run {report.run_id}:")
        print_report(report)
    if not report.holds:
        raise typer.Exit(DRIFT_FOUND)


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.001 <= speed <= 1e9:
        raise InvalidArgumentError(
            f"--speed must be max or a number, such as 10 for ten times as fast, not {text!r}"
        )
    return speed
