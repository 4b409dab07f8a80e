"""What pictures share: fonts, greys and hatches, ticks, legends, and how they are written."""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, num2date
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ticker import FuncFormatter, MaxNLocator

from quota_engine.errors import InvalidArgumentError

FORMATS = (".png", ".svg", ".pdf")
NAME_LENGTH_MAX = 34
INCHES = (10.0, 5.6)
DOTS_PER_INCH = 100
#: Light and dark by turns, and a hatch each: neighbours differ without any colour.
FACES = ("#1b4f72", "#f5c77e", "#6a9fb5", "#f2f2f2", "#a04000", "#cfe2c8", "#5b5b7a", "#d98880")
HATCHES = ("", "///", "...", "\\\\\\", "xx", "---", "++", "oo")
REST_FACE, REST_HATCH = "#ffffff", "|||"
EDGE = "#222222"
TICKS_MAX = 9
#: Where a name is written in a script that the first font lacks.
FALLBACKS = ("Noto Sans CJK SC", "Source Han Sans SC", "PingFang SC", "WenQuanYi Zen Hei")
_STYLE: dict[str, Any] = {
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#d0d0d0",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.7,
    "legend.frameon": False,
    "legend.handleheight": 1.4,
    "legend.handlelength": 2.2,
    "text.parse_math": False,
    "svg.hashsalt": "quota-engine",
    "figure.dpi": DOTS_PER_INCH,
}


def look_of(number: int) -> tuple[str, str]:
    """Return the face and hatch of a layer; no two of the first 64 have both in common."""
    faces, hatches = len(FACES), len(HATCHES)
    return FACES[number % faces], HATCHES[(number + 3 * (number // faces)) % hatches]


@contextmanager
def looks() -> Iterator[None]:
    """Let what is drawn within look alike, whatever this machine's own style is."""
    known = {font.name for font in fontManager.ttflist}
    fonts = ["DejaVu Sans", *(name for name in FALLBACKS if name in known)]
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update({**_STYLE, "font.family": fonts})
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        yield


def new_figure(height: float = 0.0) -> Figure:
    """Return an empty figure of at least so many inches, whose parts make room for each other."""
    height = max(height, INCHES[1])
    return Figure(figsize=(INCHES[0], height), layout="constrained", facecolor="white")


def shown_name(name: str | None, nothing: str = "(not named)") -> str:
    """Return a name as a legend has it: long ones without their middle."""
    if not name:
        return nothing
    plain = "".join(letter if letter.isprintable() else "?" for letter in name)
    if len(plain) > NAME_LENGTH_MAX:
        half = (NAME_LENGTH_MAX - 1) // 2
        plain = f"{plain[:half]}…{plain[-half:]}"
    return f" {plain}" if plain.startswith("_") else plain  # else a legend leaves it out


def short(value: float, _: object = None) -> str:
    """Return a number for an axis or a legend: 950, 12.5k, 3.2M; money below 1 with its digits."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:,.2f}".rstrip("0").rstrip(".") + letter
    return f"{value:.6f}".rstrip("0").rstrip(".") if abs(value) < 1 else f"{value:.6g}"


def time_axis(axes: Axes, first: datetime, last: datetime) -> None:
    """Give an axis few ticks: at times, days, months or years, each year named once."""
    axes.set_xlim(first, last)
    ticks = even_ticks(first, last)
    axes.set_xticks(ticks, tick_labels(ticks))


def bar_axis(axes: Axes, starts: Sequence[date], ends: Sequence[date]) -> None:
    """Give an axis few ticks, each in the middle of a bar and named by the bar's first day."""
    first, last = midnight(starts[0]), midnight(ends[-1])
    axes.set_xlim(first, last)
    places = list(range(len(starts)))
    if len(starts) > TICKS_MAX:
        wanted = {bisect_left(starts, at.date()) for at in even_ticks(first, last)}
        places = sorted(place for place in wanted if place < len(starts))
    middles = [
        midnight(starts[place]) + (midnight(ends[place]) - midnight(starts[place])) / 2
        for place in places
    ]
    axes.set_xticks(middles, tick_labels([midnight(starts[place]) for place in places]))


def even_ticks(first: datetime, last: datetime) -> list[datetime]:
    """Return instants between two that people would name: full hours, days, first of months."""
    locator = AutoDateLocator(minticks=3, maxticks=TICKS_MAX, tz=UTC)
    found = (num2date(tick, tz=UTC) for tick in locator.tick_values(first, last))
    return [at for at in found if first <= at < last]


def tick_labels(ticks: Sequence[datetime]) -> list[str]:
    """Return what stands below ticks: the day, and below it the year, once; or time and day."""
    gap = min((after - at for at, after in pairwise(ticks)), default=timedelta(days=1))
    if gap >= timedelta(days=1):
        said = "{0.day} {0:%b}" if gap < timedelta(days=28) else "{0:%b}"
        below = "{0:%Y}"
    else:
        said = "{0:%H:%M}" if gap >= timedelta(minutes=1) else "{0:%H:%M:%S}"
        below = "{0.day} {0:%b} {0:%Y}"
    labels, known = [], ""
    for at in ticks:
        line, second = said.format(at), below.format(at)
        labels.append(line if second == known else f"{line}\n{second}")
        known = second
    return labels


def number_axis(axes: Axes, label: str) -> None:
    """Give an axis few ticks with short numbers, and say what it counts."""
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.yaxis.set_major_formatter(FuncFormatter(short))
    axes.set_ylabel(label)


def legend_beside(
    figure: Figure, handles: Sequence[Any], labels: Sequence[str], title: str
) -> None:
    """Put a legend to the right of all axes, outside of the data."""
    figure.legend(handles, labels, loc="outside right upper", title=title, alignment="left")


def nothing_to_show(axes: Axes, said: str) -> None:
    """Say so where there is nothing."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, said, ha="center", va="center", transform=axes.transAxes)


def midnight(day: date) -> datetime:
    """Return the first instant of a day in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def checked_picture_path(path: Path) -> Path:
    """Return a path that a picture can be written to, by its ending."""
    if path.suffix.lower() not in FORMATS:
        raise InvalidArgumentError(
            f"a picture is written as {', '.join(FORMATS)}: {path} ends otherwise"
        )
    return path


def write_picture(figure: Figure, path: Path) -> None:
    """Write a figure to a file: PNG, SVG or PDF by its ending. The same figure, the same bytes."""
    checked_picture_path(path)
    told: dict[str, Any] = {"metadata": {"CreationDate": None}}
    if path.suffix.lower() == ".png":
        told = {"metadata": {"Software": None}, "pil_kwargs": {"optimize": True}}
    elif path.suffix.lower() == ".svg":
        told = {"metadata": {"Date": None}}
    try:
        with looks():
            figure.savefig(path, **told)
    except OSError as error:
        raise InvalidArgumentError(f"{path} can not be written: {error.strerror}") from None
