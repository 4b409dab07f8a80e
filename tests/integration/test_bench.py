"""
The benchmark runs from end to end.

Goal: every figure is there and none is nonsense; how fast it is, is not asked. Method: a run of a
few calls, and of the command itself on it.
"""

from __future__ import annotations

import json

import pytest
from typer.main import get_command

from quota_engine import benchmark
from quota_engine.benchmark import Plan, Report, run_benchmark
from quota_engine.cli import bench

TINY = Plan(
    script_calls=5,
    script_rounds=1,
    grant_counts=(1, 20),
    rate_seconds=0.01,
    rate_rounds=1,
    accounts=5,
    tasks=2,
    processes=1,
    persist_seconds=0.1,
    persist_entries=300,
    memory_count=200,
)


SHARES: list[float] = []


@pytest.fixture(scope="module")
def report() -> Report:
    return run_benchmark(TINY, lambda _, share: SHARES.append(share))


def test_every_figure_is_a_positive_number(report: Report) -> None:
    figures = [figure for section in report.sections for figure in section.figures]
    assert len(figures) == 8 + 2 + 8 + 4 + 4 * 6 + 6 + 6 + 4 + 3
    assert all(0 < figure.low <= figure.median <= figure.high for figure in figures)


def test_ratios_are_to_the_base_of_their_section(report: Report) -> None:
    scripts = {figure.name: figure for figure in report.sections[0].figures}
    base = scripts.pop(str(report.sections[0].base))
    assert base.ratio is None
    for figure in scripts.values():
        assert figure.ratio == pytest.approx(figure.median / base.median)


def test_the_progress_only_grows(report: Report) -> None:
    assert sorted(SHARES) == SHARES
    assert 0 <= SHARES[0] < SHARES[-1] <= 1


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_prints_the_report(
    report: Report,
    as_json: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(benchmark, "run_benchmark", lambda *_: report)
    get_command(bench.app)(["--json"] if as_json else ["--quick"], standalone_mode=False)
    printed = capsys.readouterr().out
    if as_json:
        assert json.loads(printed)["sections"][0]["figures"][1]["name"] == "debit"
    else:
        assert "bare check-and-decrement" in printed
        assert report.machine.redis in printed
