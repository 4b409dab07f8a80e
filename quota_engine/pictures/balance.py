"""The balance of one quota over time, with its grants' begins and ends."""

from __future__ import annotations

from datetime import datetime, timedelta

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from quota_engine.balance_series import EXPIRED, GRANTED, VOIDED, BalanceSeries
from quota_engine.pictures import looks

#: How each kind of mark is drawn, and what the legend calls it.
MARKS = {
    GRANTED: ("^", "#2e7d32", "grant began"),
    EXPIRED: ("v", "#b03a2e", "grant expired"),
    VOIDED: ("X", "#5b5b7a", "grant voided"),
}
LINE = "balance"
#: Endings further ahead than this part of what is shown are told, not drawn.
AHEAD = 0.6


def draw_balance(series: BalanceSeries) -> Figure:
    """
    Draw a balance as a line that steps from entry to entry, with what open holds set aside of it.

    Triangles mark grants that began or expired, at the balance that came of it; dotted lines are
    grants that end soon. Below zero is debt. Times are UTC.
    """
    with looks.looks():
        figure = looks.new_figure()
        axes = figure.add_subplot()
        axes.set_title(f"Balance of {looks.shown_name(series.account)}, {series.quota_type}")
        times = [point.at for point in series.points]
        balances = [point.balance for point in series.points]
        held = [point.held for point in series.points]
        (line,) = axes.step(
            times,
            balances,
            where="post",
            color=looks.FACES[0],
            linewidth=1.8,
            label=LINE,
        )
        handles: list[Line2D | Patch] = [line]
        labels = [f"balance\nnow {looks.short(balances[-1])}"]
        axes.fill_between(
            times,
            balances,
            step="post",
            color=looks.FACES[2],
            alpha=0.25,
            linewidth=0,
        )
        if any(held):
            axes.fill_between(
                times,
                balances,
                [has - kept for has, kept in zip(balances, held, strict=True)],
                step="post",
                facecolor="none",
                edgecolor=looks.EDGE,
                hatch="////",
                linewidth=0,
            )
            patch = Patch(facecolor="white", edgecolor=looks.EDGE, hatch="////")
            handles.append(patch)
            labels.append(f"of it in open holds\nnow {looks.short(held[-1])}")
        _mark(axes, series, handles, labels)
        last = _endings(axes, series, handles, labels)
        axes.axhline(0, color=looks.EDGE, linewidth=1)
        first = series.since
        least = timedelta(minutes=1)
        looks.time_axis(axes, first, max(last, first + least))
        looks.number_axis(axes, f"units of {series.quota_type}")
        axes.set_xlabel("UTC")
        axes.margins(y=0.08)
        looks.legend_beside(figure, handles, labels, "")
        return figure


def _mark(
    axes: Axes, series: BalanceSeries, handles: list[Line2D | Patch], labels: list[str]
) -> None:
    for what, (marker, color, called) in MARKS.items():
        found = [mark for mark in series.marks if mark.what == what]
        if not found:
            continue
        (drawn,) = axes.plot(
            [mark.at for mark in found],
            [mark.balance for mark in found],
            linestyle="none",
            marker=marker,
            markersize=10,
            markerfacecolor=color,
            markeredgecolor="white",
            label=what,
            clip_on=False,
            zorder=4,
        )
        units = sum(mark.units for mark in found)
        handles.append(drawn)
        labels.append(f"{called}: {len(found)}\n{'+' if units > 0 else ''}{looks.short(units)}")


def _endings(
    axes: Axes, series: BalanceSeries, handles: list[Line2D | Patch], labels: list[str]
) -> datetime:
    """Draw the grants that end soon; return where the axis ends."""
    last = series.until + AHEAD * (series.until - series.since)
    near = [one for one in series.endings if series.until < one.at <= last]
    for ending in near:
        drawn = axes.axvline(
            ending.at,
            color=looks.EDGE,
            linestyle=":",
            linewidth=1.6,
            label="ending",
        )
    if near:
        handles.append(drawn)
        units = sum(one.units for one in near)
        labels.append(f"will expire: {len(near)}\n{looks.short(units)} left now")
    if len(near) < len(series.endings):
        handles.append(Line2D([], [], linestyle="none"))
        far = series.endings[len(near) :]
        units = sum(one.units for one in far)
        labels.append(f"expires later: {len(far)}\n{looks.short(units)} left now")
    end = max((one.at for one in near), default=series.until)
    return end + (end - series.since) / 50
