"""``demo``: the main job in small, for who sees the engine for the first time."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import typer

from quota_engine.cli.opening import hush
from quota_engine.cli.output import JsonFlag, print_json
from quota_engine.cli.run_report import print_report, shown_progress

app = typer.Typer(add_completion=False, rich_markup_mode=None)

DRIFT_FOUND = 3
CALLS, USERS, PROCESSES, PROMOTION_SECONDS = 2_000, 20, 2, 3.0
TRACES = "https://github.com/Azure/AzurePublicDataset"


@app.command()
def demo(as_json: JsonFlag = False) -> None:
    """
    See the engine at work in under a minute: servers, clients, a worker, and the proofs.

    The workload is made up: 2,000 calls of 20 users, by two client processes.

    Example: quota-engine demo
    """
    from quota_engine.replay.running import Options, run
    from quota_engine.replay.synthetic import synthetic_calls

    options = Options(users=USERS, processes=PROCESSES, promotion_seconds=PROMOTION_SECONDS)
    calls = synthetic_calls(CALLS, options.seed)
    hush()
    with shown_progress(len(calls)) as watch:
        report = run(calls, options, watch)
    if as_json:
        print_json({"trace": "synthetic", "holds": report.holds, "report": report})
    else:
        typer.echo("A synthetic workload: calls and tokens are made up, everything else is real.")
        print_report(report)
        _print_next(report.example_account)
    if not report.holds:
        raise typer.Exit(DRIFT_FOUND)


def _print_next(account: str) -> None:
    name = _program()
    who = shlex.quote(account)
    typer.echo(
        f"\nNext, look at a user who ran dry, and replay real calls (traces: {TRACES}):\n"
        f"  {name} accounts show {who}\n"
        f"  {name} accounts history {who} text_token --last 10\n"
        f"  {name} replay AzureLLMInferenceTrace_conv.csv --users 200 --processes 4"
    )


def _program() -> str:
    """Return how a person here calls this program."""
    if shutil.which("quota-engine") is None and Path("run").is_file():
        return "./run"
    return "quota-engine"
