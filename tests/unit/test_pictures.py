"""
A picture draws the numbers of its series, and whoever prints it can read it.

Goal: what the bars and lines of a figure are, added up, is what the series says; nothing is
clipped, colour is not needed, no name breaks a picture. Method: figures are drawn, and their
artists read back.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from quota_engine.balance_series import (
    EXPIRED,
    GRANTED,
    BalanceSeries,
    Ending,
    Mark,
    Point,
    thinned,
)
from quota_engine.errors import InvalidArgumentError
from quota_engine.pictures.balance import draw_balance
from quota_engine.pictures.drawing import draw_costs, draw_usage
from quota_engine.pictures.looks import (
    HATCHES,
    NAME_LENGTH_MAX,
    look_of,
    looks,
    short,
    tick_labels,
    write_picture,
)
from quota_engine.reporting import ReportQuery, ReportRow, UsageReport
from quota_engine.series import (
    CostSeries,
    Layer,
    UsageSeries,
    checked_usage_series,
    cost_series,
    usage_series,
)

FIRST = date(2026, 1, 30)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def reported(rows: list[ReportRow]) -> UsageReport:
    """Return a report by day and model, with its total of what is looked at here."""
    costs: dict[str, Decimal] = {}
    for row in rows:
        for unit, cost in row.costs.items():
            costs[unit] = costs.get(unit, Decimal(0)) + cost
    total = ReportRow(
        calls=sum(row.calls for row in rows),
        input_tokens=sum(row.input_tokens for row in rows),
        output_tokens=sum(row.output_tokens for row in rows),
        costs=costs,
    )
    return UsageReport(by=("day", "model"), since=None, until=None, rows=tuple(rows), total=total)


def used(
    day: int, model: str | None, tokens: int, cost: str = "0", unit: str = "USD"
) -> ReportRow:
    return ReportRow(
        day=FIRST + timedelta(days=day),
        model=model,
        calls=1,
        input_tokens=tokens,
        output_tokens=3,
        costs={unit: Decimal(cost)},
    )


def series_of(rows: list[ReportRow], layers: int = 7, **asked: date) -> UsageSeries:
    query = ReportQuery(by=("day", "model"), **asked)
    return usage_series(reported(rows), query, "tokens", layers)


def heights(figure: Figure, panel: int = 0) -> dict[str, list[float]]:
    """Return the heights of each layer's bars, as they are drawn."""
    return {
        str(bars.get_label()): [patch.get_height() for patch in bars.patches]
        for bars in figure.axes[panel].containers
    }


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


MANY = [used(day, f"model-{number}", 100 * number) for day in (0, 2) for number in range(1, 13)]


def test_bars_add_up_to_the_report_and_the_rest_is_one_layer() -> None:
    series = series_of(MANY)
    assert [one.name for one in series.layers[:2]] == ["model-12", "model-11"]
    assert series.layers[-1].rest == 5
    figure = draw_usage(series)
    drawn = heights(figure)
    assert len(drawn) == 8
    assert sum(map(sum, drawn.values())) == series.total == 2 * (7800 + 12 * 3)
    assert drawn["layer 7"] == [1515, 0, 1515], "a day without calls is a gap"
    assert texts(figure)[0].startswith("5 others")
    assert len(series_of(MANY[:9], layers=8).layers) == 9, "one other has its own name"


def test_corrections_hang_below_zero() -> None:
    rows = [used(0, "a", 100), used(0, "b", -53), used(0, "c", 40), used(0, "d", -13)]
    figure = draw_usage(series_of(rows))
    assert sum(map(sum, heights(figure).values())) == 86
    placed = sorted((bar.get_y(), bar.get_height()) for bar in figure.axes[0].patches)
    assert placed == [(-50, -10), (0, -50), (0, 103), (103, 43)]


def test_currencies_have_panels_of_their_own() -> None:
    rows = [
        used(0, "a", 1, "0.000125"),
        used(1, "a", 1, "7", "CNY"),
        used(2, "b", 1, "0.5"),
        used(2, "b", 1, "2", ""),
    ]
    series = cost_series(reported(rows), ReportQuery(by=("day",)))
    assert [one.name for one in series.currencies] == [None, "CNY", "USD"]
    figure = draw_costs(series)
    sums = [sum(map(sum, heights(figure, panel).values())) for panel in range(3)]
    assert sums == [2, 7, 0.500125]
    assert [axes.get_ylabel() for axes in figure.axes] == ["unknown currency", "CNY", "USD"]
    assert figure.axes[2].get_title(loc="left") == "USD: 0.500125 in all"
    many = tuple(Layer(f"X{number}", (Decimal(1),)) for number in range(8))
    left = draw_costs(CostSeries(step="day", starts=(FIRST,), currencies=many))
    assert left.axes[-1].get_xlabel() == "not shown: X6, X7"


@pytest.mark.parametrize(
    ("days", "step", "count"), [(100, "day", 100), (101, "week", 15), (900, "month", 31)]
)
def test_long_ranges_have_longer_steps(days: int, step: str, count: int) -> None:
    rows = [used(day, "a", 10) for day in range(days)]
    series = series_of(rows)
    assert (series.step, len(series.starts)) == (step, count)
    assert sum(series.layers[0].values) == series.total == 13 * days
    assert series.starts[0] <= FIRST
    assert sum(map(sum, heights(draw_usage(series)).values())) == 13 * days


def test_a_range_that_is_asked_for_is_shown_whole() -> None:
    series = series_of([used(3, "a", 10)], since=FIRST, until=FIRST + timedelta(days=10))
    assert (series.starts[0], len(series.starts)) == (FIRST, 10)
    with pytest.raises(InvalidArgumentError, match="too long"):
        series_of([used(3, "a", 10)], since=date(1, 1, 1), until=date(9999, 12, 31))


@pytest.mark.parametrize(
    "wrong",
    [{"by": "day"}, {"by": "colour"}, {"measure": "cost"}, {"measure": "consumed"}, {"layers": 0}],
)
def test_what_cannot_be_drawn_is_said(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError):
        checked_usage_series(**{"by": "model", "measure": "tokens", "layers": 7, **wrong})  # type: ignore[arg-type]


ODD_NAMES = ["_hidden", "$x^2$", "$", "a" * 300, "模型", "tab\tline\n", None, r"\frac", "%s{0}"]


def test_layers_are_told_apart_without_colour_and_nothing_is_clipped() -> None:
    rows = [used(0, name, 50 + number) for number, name in enumerate(ODD_NAMES)]
    figure = draw_usage(series_of(rows, layers=8))
    looked = {
        (bars.patches[0].get_hatch(), sum(bars.patches[0].get_facecolor()[:3]))
        for bars in figure.axes[0].containers
    }
    assert len({hatch for hatch, _ in looked}) == len(HATCHES)
    assert len(looked) == len(ODD_NAMES) > len(HATCHES)
    assert len({look_of(number) for number in range(64)}) == 64
    assert len(texts(figure)) == 9
    check_legible(figure)


def check_legible(figure: Figure) -> None:
    """Every text is inside of the picture, large enough, and the legend beside the data."""
    with looks():
        figure.draw_without_rendering()
        drawn, width_height = figure.get_tightbbox(), figure.get_size_inches()
        legends = [legend.get_window_extent().x0 for legend in figure.legends]
    margins = (drawn.x0, drawn.y0, width_height[0] - drawn.x1, width_height[1] - drawn.y1)
    assert min(margins) > -0.02
    assert min(text.get_fontsize() for text in figure.findobj(Text)) >= 11
    assert all(left >= figure.axes[0].get_window_extent().x1 for left in legends)
    assert all(axes.get_ylabel() for axes in figure.axes)


def balance_of(count: int = 4) -> BalanceSeries:
    points = [Point(NOON + timedelta(hours=n), 100 - 7 * n, n % 3) for n in range(count)]
    return BalanceSeries(
        account="acme/$team_7$",
        quota_type="text_token",
        since=points[0].at,
        until=points[-1].at,
        points=tuple(points),
        marks=(Mark(NOON, GRANTED, 100, 100), Mark(points[-1].at, EXPIRED, -7, 86)),
        endings=(
            Ending(points[-1].at + timedelta(hours=1), 50),
            Ending(NOON.replace(year=2030), 9),
        ),
    )


def test_a_balance_steps_from_entry_to_entry() -> None:
    figure = draw_balance(balance_of())
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert list(lines["balance"].get_ydata()) == [100, 93, 86, 79]
    assert lines["balance"].get_drawstyle() == "steps-post"
    assert list(lines[GRANTED].get_ydata()) == [100]
    assert lines[GRANTED].get_marker() != lines[EXPIRED].get_marker()
    told = " ".join(texts(figure))
    for said in ("now 79", "grant began: 1\n+100", "will expire: 1\n50", "expires later: 1\n9"):
        assert said in told
    check_legible(figure)


def test_a_long_line_keeps_its_outline() -> None:
    points = [Point(NOON + timedelta(seconds=n), (n * 7919) % 1000, 0) for n in range(50_000)]
    kept = thinned(points, 2_000)
    assert len(kept) <= 2_005
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert {point.balance for point in kept} >= {0, 999}
    assert thinned(points[:5], 2_000) == points[:5]
    at_once = [Point(NOON, n, 0) for n in range(5_000)]
    assert [one.balance for one in thinned(at_once, 2_000)] == [0, 4_999]


def test_ticks_name_each_day_and_year_once() -> None:
    weeks = [datetime(2026, 12, 22, tzinfo=UTC) + timedelta(days=7 * n) for n in range(3)]
    assert tick_labels(weeks) == ["22 Dec\n2026", "29 Dec", "5 Jan\n2027"]
    hours = [datetime(2026, 12, 31, 18, tzinfo=UTC) + timedelta(hours=6 * n) for n in range(2)]
    assert tick_labels(hours) == ["18:00\n31 Dec 2026", "00:00\n1 Jan 2027"]
    assert tick_labels([]) == []
    numbers = {0: "0", 950: "950", 12_500: "12.5k", 3_200_000: "3.2M", 0.000125: "0.000125"}
    assert {value: short(value) for value in numbers} == numbers


def test_ticks_of_bars_are_few_and_name_a_bar_that_is_there() -> None:
    for days in (1, 5, 9, 10, 100, 101, 700, 3_000):
        figure = draw_usage(series_of([used(0, "a", 10), used(days - 1, "a", 10)]))
        [axes] = figure.axes
        told = [label.get_text() for label in axes.get_xticklabels()]
        assert min(days, 3) <= len(told) <= 10, (days, told)
        assert "2026" in told[0]
        bars = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
        assert all(min(abs(at - bar) for bar in bars) < 0.01 for at in axes.get_xticks())


def test_nothing_is_drawn_as_nothing(tmp_path: Path) -> None:
    for figure in (
        draw_usage(series_of([])),
        draw_costs(cost_series(reported([]), ReportQuery(by=("day",)))),
        draw_balance(balance_of(1)),
    ):
        write_picture(figure, tmp_path / "nothing.svg")


@pytest.mark.parametrize("ending", ["png", "svg", "PDF"])
def test_the_same_figure_gives_the_same_bytes(tmp_path: Path, ending: str) -> None:
    written = []
    for number in range(2):
        path = tmp_path / f"{number}.{ending}"
        write_picture(draw_usage(series_of(MANY[:3])), path)
        written.append(path.read_bytes())
    assert written[0] == written[1]
    with pytest.raises(InvalidArgumentError, match="can not be written"):
        write_picture(draw_usage(series_of(MANY)), tmp_path / "no" / f"x.{ending}")


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="png"):
        write_picture(draw_usage(series_of(MANY)), tmp_path / "usage.gif")
    assert NAME_LENGTH_MAX < 40


WITHOUT = """
import sys
sys.modules["matplotlib"] = None
from quota_engine.cli import main
sys.argv = ["quota-engine", "reports", "plot", "usage", "--out", "never.png"]
main()
"""


def test_without_the_extra_its_name_is_told() -> None:
    asked = [sys.executable, "-c", WITHOUT]
    done = subprocess.run(asked, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "quota-engine[plots]" in done.stderr
    assert done.stderr.count("\n") == 1
