"""
The command line: nouns, then verbs. It decides nothing; every command calls the engine.

Exit codes: 0 done, 1 refused, 2 misused, 3 drift found. An error is one sentence on stderr;
``QUOTA_ENGINE_DEBUG=1`` adds where it came from.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Annotated, ClassVar

import typer
from typer.main import get_command

from quota_engine.cli.lazy import Entry, LazyGroup
from quota_engine.errors import InvalidArgumentError, QuotaError

REFUSED, MISUSED, DRIFT_FOUND = 1, 2, 3
#: How the drivers say that they did not reach a server.
UNREACHED = ("connection failed", "connecting to", "does not answer", "could not be resolved")


class Commands(LazyGroup):
    """Every noun, in the order in which a newcomer meets them."""

    entries: ClassVar[Mapping[str, Entry]] = {
        "demo": Entry("quota_engine.cli.demo:app", "See it all at work in under a minute."),
        "replay": Entry(
            "quota_engine.cli.replay:app", "Replay a trace of model calls, and prove the outcome."
        ),
        "grants": Entry("quota_engine.cli.grants:app", "Put quota in, and take it back."),
        "accounts": Entry("quota_engine.cli.accounts:app", "See what an account has, and why."),
        "limits": Entry("quota_engine.cli.limits:app", "Limit what calls use in a time."),
        "holds": Entry("quota_engine.cli.holds:app", "See and release what is set aside."),
        "prices": Entry("quota_engine.cli.prices:app", "Set, import and try what calls cost."),
        "models": Entry(
            "quota_engine.cli.catalog:app", "See which models are known, and change them."
        ),
        "packages": Entry("quota_engine.cli.packages:packages", "Define and list what is sold."),
        "purchases": Entry(
            "quota_engine.cli.packages:purchases",
            "Record orders and payments, and give them back.",
        ),
        "plans": Entry("quota_engine.cli.plans:app", "Define and list what may be subscribed to."),
        "subscriptions": Entry(
            "quota_engine.cli.subscriptions:app", "Give accounts plans, change and end them."
        ),
        "codes": Entry("quota_engine.cli.codes:app", "Make redemption codes, and redeem them."),
        "pools": Entry(
            "quota_engine.cli.pools:app", "See what is left at providers, and check their bills."
        ),
        "reports": Entry(
            "quota_engine.cli.reports:app", "See what calls used and cost, and what is to come."
        ),
        "alerts": Entry(
            "quota_engine.cli.alerts:app", "See what is wrong now; say who is told, and when."
        ),
        "ledger": Entry("quota_engine.cli.ledger:app", "Make, fill and prove the SQL log."),
        "reconcile": Entry(
            "quota_engine.cli.reconcile:app", "Prove that Redis and the ledger agree."
        ),
        "quarantine": Entry(
            "quota_engine.cli.quarantine:app", "See what did not fit, and thaw frozen quotas."
        ),
        "recovery": Entry(
            "quota_engine.cli.recovery:app", "See and run the opening of Redis after a loss."
        ),
        "spool": Entry(
            "quota_engine.cli.spool:app", "See and replay what waits since Redis was away."
        ),
        "worker": Entry(
            "quota_engine.cli.worker:app", "Persist what waits; do what is due by the clock."
        ),
        "doctor": Entry("quota_engine.cli.doctor:app", "See all health on one screen."),
        "servers": Entry(
            "quota_engine.cli.servers:app", "Start, stop and see the home's servers."
        ),
        "bench": Entry("quota_engine.cli.bench:app", "Measure what a call costs here."),
    }


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("quota-engine"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """
    Real-time quotas for large-model APIs: Redis decides, PostgreSQL remembers.

    Without QUOTA_ENGINE_REDIS_URL and QUOTA_ENGINE_DATABASE_URL, every command starts the
    servers of QUOTA_ENGINE_HOME (~/.quota-engine) and leaves them running. Every command that
    prints something knows --json.
    """


def main() -> None:
    """Run the command line, and end the process."""
    try:
        get_command(app)(prog_name="quota-engine")
    except QuotaError as error:
        code = MISUSED if isinstance(error, InvalidArgumentError) else REFUSED
        _end(_with_remedy(str(error)), code)
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        _end(*_explained(error))


def _with_remedy(sentence: str) -> str:
    """Return the sentence; where a server was not reached, with what to look at."""
    if not any(words in sentence for words in UNREACHED):
        return sentence
    return (
        f"{sentence}; see that it runs, and that QUOTA_ENGINE_REDIS_URL and"
        " QUOTA_ENGINE_DATABASE_URL are right (`quota-engine doctor` looks at both)"
    )


def _explained(error: Exception) -> tuple[str, int]:
    """Return a sentence and an exit code for an error that is not the engine's own."""
    if type(error).__name__ == "ValidationError" and hasattr(error, "errors"):  # pydantic's
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"the setting {where} can not be used: {first['msg']}", MISUSED
    said = " ".join(str(error).split()) or "it says no more"
    return f"unexpected {type(error).__name__}: {said} (QUOTA_ENGINE_DEBUG=1 tells where)", REFUSED


def _end(sentence: str, code: int) -> None:
    """Print the sentence and end the process; while debugging, show where the error came from."""
    if os.environ.get("QUOTA_ENGINE_DEBUG") == "1":
        import traceback

        traceback.print_exc()
    typer.echo(f"quota-engine: {sentence}", err=True)
    sys.exit(code)
