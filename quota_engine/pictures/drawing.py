"""Usage in layers over time, and cost over time with a panel for each currency."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from quota_engine.pictures import looks
from quota_engine.series import CostSeries, Layer, UsageSeries, ends_of

#: More currencies than these need a picture each.
PANELS_MAX = 6
BAR_PART = 0.88


def draw_usage(series: UsageSeries) -> Figure:
    """
    Draw usage as stacked bars, the greatest layer below. A bar is a day, week or month (UTC).

    What corrections gave back in a step beyond what it used hangs below zero. Each layer's bars
    are a container with the layer's number as its label, so the numbers can be read back.
    """
    with looks.looks():
        figure = looks.new_figure(1.0 + 0.5 * len(series.layers))
        axes = figure.add_subplot()
        axes.set_title(_title(f"Usage by {series.by.replace('_', ' ')}", series))
        if not series.layers:
            looks.nothing_to_show(axes, "nothing was used in this period")
            return figure
        above, below = [0.0] * len(series.starts), [0.0] * len(series.starts)
        handles, labels = [], []
        for number, layer in enumerate(series.layers):
            bars = _bars(axes, layer, number, (series.starts, series.step), (above, below))
            handles.append(bars)
            labels.append(f"{_name(layer)}\n{looks.short(float(layer.total))}")
        looks.number_axis(axes, f"{series.unit} per {series.step}")
        looks.bar_axis(axes, series.starts, ends_of(series.starts, series.step))
        total = f"All: {looks.short(float(series.total))} {series.unit}"
        looks.legend_beside(figure, handles[::-1], labels[::-1], total)
        return figure


def draw_costs(series: CostSeries) -> Figure:
    """
    Draw cost over time, a panel with an axis of its own for each currency: none are added.

    At most six panels; the last title says which currencies are left out.
    """
    shown = series.currencies[:PANELS_MAX]
    with looks.looks():
        figure = looks.new_figure(1.2 + 2.3 * len(shown))
        figure.suptitle(
            _title(f"Cost per {series.step}", series),
            x=0.01,
            ha="left",
            fontsize=13,
            fontweight="bold",
        )
        if not shown:
            looks.nothing_to_show(figure.add_subplot(), "nothing was paid for in this period")
            return figure
        panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for number, (axes, layer) in enumerate(zip(panels, shown, strict=True)):
            nothing = ([0.0] * len(series.starts), [0.0] * len(series.starts))
            _bars(axes, layer, number, (series.starts, series.step), nothing)
            currency = looks.shown_name(layer.name, "unknown currency")
            axes.set_title(f"{currency}: {layer.total:,} in all", fontsize=12, fontweight="normal")
            looks.number_axis(axes, currency)
            looks.bar_axis(axes, series.starts, ends_of(series.starts, series.step))
        if left := series.currencies[PANELS_MAX:]:
            names = ", ".join(looks.shown_name(one.name, "unknown") for one in left)
            panels[-1].set_xlabel(f"not shown: {names}")
        return figure


def _bars(
    axes: Axes,
    layer: Layer,
    number: int,
    when: tuple[Sequence[date], str],
    stacked: tuple[list[float], list[float]],
) -> BarContainer:
    """Draw a layer on what is stacked above and below zero, and add it to that."""
    (starts, step), (above, below) = when, stacked
    heights = [float(value) for value in layer.values]
    bottoms = [
        below[place] if height < 0 else above[place] for place, height in enumerate(heights)
    ]
    spans = [
        (looks.midnight(start), looks.midnight(end) - looks.midnight(start))
        for start, end in zip(starts, ends_of(starts, step), strict=True)
    ]
    face, hatch = looks.look_of(number)
    bars = axes.bar(
        [start + span / 2 for start, span in spans],
        heights,
        [span * BAR_PART for _, span in spans],
        bottoms,
        color=looks.REST_FACE if layer.rest else face,
        hatch=looks.REST_HATCH if layer.rest else hatch,
        edgecolor=looks.EDGE,
        linewidth=0.5,
        label=f"layer {number}",
    )
    for place, height in enumerate(heights):
        if height < 0:
            below[place] += height
        else:
            above[place] += height
    return bars


def _name(layer: Layer) -> str:
    return f"{layer.rest} others" if layer.rest else looks.shown_name(layer.name)


def _title(what: str, series: UsageSeries | CostSeries) -> str:
    """Return what is shown, of whom, and its first and last day."""
    if series.viewer is not None:
        what += f", {looks.shown_name(series.viewer)} and below"
    if series.starts:
        last = ends_of(series.starts, series.step)[-1] - timedelta(days=1)
        what += f", {series.starts[0]}"
        what += f" to {last}" if last > series.starts[0] else ""
    return what
