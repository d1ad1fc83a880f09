"""Plots in one house style: vector graphics, colours of Okabe and Ito (safe for colour-blind eyes).

What a colour tells, a line style or a place tells too, so that a grey print can be read.
"""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from fastad.evaluation.report.curves import Curve

INK, MUTED, LINE = "#1a1f26", "#5b6672", "#d5dae0"
NORMAL, DEFECT, HELD_OUT = "#0072b2", "#d55e00", "#7d8893"
PIXEL = "#009e73"
LINES = (INK, DEFECT, NORMAL, PIXEL)  # of several in one plot, each with a dash of its own
DASHES = ("-", (0, (4, 1.6)), (0, (1, 1)), (0, (6, 2, 1, 2)))
FEW_EPOCHS = 30  # with fewer each is a point on the line
BINS = 40
DRAWN_STEPS = 400  # along an axis; finer differences cannot be seen
COLOUR_MAP = "inferno"  # of anomaly maps: perceptually uniform, also in grey

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the reader's own font
    "svg.hashsalt": "fastad",  # the same plot gives the same file
    "font.family": ["sans-serif"],
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Line:
    """A curve with its name in the legend; ``point`` is where the threshold puts the detector."""

    name: str
    curve: Curve
    of_pixels: bool
    point: tuple[float, float] | None = None


@contextmanager
def house_style() -> Iterator[None]:
    """All of matplotlib's settings are the house's inside the block, and the caller's after it."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own configuration must not change a report
        matplotlib.rcParams.update(STYLE)
        yield


def curve_plot(
    title: str,
    x_label: str,
    y_label: str,
    lines: list[Line],
    *,
    x_limit: float = 1.0,
    steps: bool = False,
    legend: Literal["lower left", "lower right"] = "lower right",
) -> bytes:
    """Curves from 0 to 1 as an SVG document.

    x_limit: where the axis ends, the area up to it being shaded; steps: the value of a point holds
    from the point before it.
    """
    with house_style():
        figure = Figure(figsize=(4.2, 3.9), layout="constrained")
        axes = figure.subplots()
        axes.set(title=title, xlabel=x_label, ylabel=y_label, xlim=(0, x_limit), ylim=(0, 1))
        axes.grid(True)
        axes.set_axisbelow(True)
        for line in lines:
            x, y = _thinned(*_until(*line.curve, x_limit), x_limit)
            axes.plot(
                x,
                y,
                color=PIXEL if line.of_pixels else INK,
                linestyle=(0, (4, 1.6)) if line.of_pixels else "-",
                drawstyle="steps-pre" if steps else "default",
                label=line.name,
                clip_on=False,  # a perfect curve runs along the edge
                zorder=3,
            )
            if x_limit < 1:
                axes.fill_between(x, y, color=PIXEL, alpha=0.12, linewidth=0)
            if line.point is not None:
                axes.plot(
                    *line.point,
                    "o",
                    color=INK,
                    markersize=8,
                    markerfacecolor="white",
                    markeredgewidth=1.8,
                    label="at the threshold",
                    clip_on=False,
                    zorder=4,
                )
        axes.legend(loc=legend, handlelength=2.4, frameon=True, framealpha=0.85, edgecolor="none")
        return _svg(figure)


def score_plot(
    normal: np.ndarray,
    defective: np.ndarray,
    held_out: np.ndarray,
    threshold: float | None,
    *,
    width: float = 8.6,
    defects: str = "defective test images",
) -> bytes:
    """Histograms of scores over one axis, one below the other, as an SVG document.

    normal, defective: (n,), (m,) scores of test images; held_out: (k,) of the calibration images;
    width: in inches; defects: what the defective ones are.
    The axis is logarithmic where the scores are positive and spread over more than a factor 30.
    """
    rows = [
        ("held-out good images", held_out, HELD_OUT),
        ("good test images", normal, NORMAL),
        (defects, defective, DEFECT),
    ]
    rows = [row for row in rows if len(row[1])]
    every = np.concatenate([values for _, values, _ in rows])
    marked = every if threshold is None else np.append(every, threshold)
    logarithmic = bool(marked.min() > 0 and marked.max() > 30 * marked.min())
    edges = _edges(marked, threshold, logarithmic)
    with house_style():
        figure = Figure(figsize=(width, 1.0 + 1.15 * len(rows)), layout="constrained")
        below = figure.subplots(len(rows), sharex=True, squeeze=False)[:, 0]
        for axes, (name, values, colour) in zip(below, rows, strict=True):
            counts = np.histogram(values, edges)[0]
            axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colour, linewidth=0)
            axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            axes.set_ylim(0, max(1, counts.max()) * 1.12)
            _note(axes, name, values, colour, threshold)
        if logarithmic:
            axis = below[-1].xaxis
            below[-1].set_xscale("log")
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        below[-1].set_xlabel("score of an image" + (", logarithmic" if logarithmic else ""))
        return _svg(figure)


def epochs_plot(
    losses: Sequence[Mapping[str, float]],
    validation_scores: Sequence[float],
    qualities: Sequence[float],
    kept: int | None,
) -> bytes:
    """What a stage of a training came to in each epoch, side by side, as an SVG document.

    losses: of each epoch by their names; validation_scores, qualities: of each epoch, see
    `fastad.training.StageRecord`; kept: the epoch whose weights were kept, from 1.
    """
    names = list(losses[0]) if losses else []
    panels: list[tuple[str, dict[str, Sequence[float]]]] = [
        ("losses", {name: [epoch[name] for epoch in losses] for name in names}),
        ("error on held-out good images", {"held out": validation_scores}),
        ("AUROC on synthesised defects", {"defects": qualities}),
    ]
    panels = [(title, lines) for title, lines in panels if any(map(len, lines.values()))]
    with house_style():
        figure = Figure(figsize=(10.8, 2.9), layout="constrained")
        beside = figure.subplots(1, 3)
        for axes in beside[len(panels) :]:
            axes.set_visible(False)  # the others are as wide as in the plots of other stages
        for axes, (title, lines) in zip(beside, panels, strict=False):
            axes.set(title=title, xlabel="epoch")
            axes.grid(True)
            axes.set_axisbelow(True)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            for number, (name, values) in enumerate(lines.items()):
                axes.plot(
                    range(1, len(values) + 1),
                    values,
                    color=LINES[number % len(LINES)],
                    linestyle=DASHES[number % len(DASHES)],
                    marker="o" if len(values) < FEW_EPOCHS else "",
                    markersize=3.5,
                    label=name,
                )
            if kept is not None:
                axes.axvline(kept, color=MUTED, linewidth=1.2, linestyle=(0, (1, 1.5)))
            if len(lines) > 1:
                axes.legend(frameon=True, framealpha=0.85, edgecolor="none")
        return _svg(figure)


def _edges(values: np.ndarray, threshold: float | None, logarithmic: bool) -> np.ndarray:
    """Edges of some forty bins over all values; the threshold ends one, so that no bar is on both
    sides of it."""
    values = np.log(values) if logarithmic else values
    low, high = float(values.min()), float(values.max())
    width = (high - low) / BINS or 1.0
    fixed = low if threshold is None else float(np.log(threshold) if logarithmic else threshold)
    first, last = math.floor((low - fixed) / width) - 1, math.ceil((high - fixed) / width) + 1
    edges = fixed + width * np.arange(first, last + 1)
    edges = np.exp(edges) if logarithmic else edges
    if threshold is not None:  # a score equal to it is not above it
        edges[-first] = np.nextafter(threshold, np.inf)
    return edges


def _note(axes: Axes, name: str, values: np.ndarray, colour: str, threshold: float | None) -> None:
    """What a row shows, above it, and the threshold through it."""
    axes.set_title(f"{name}: {len(values)}", fontsize=10, color=colour)
    if threshold is None:
        return
    axes.axvline(threshold, color=INK, linewidth=1.4, linestyle=(0, (5, 2)))
    above = int((values > threshold).sum())
    axes.set_title(f"{above} above the threshold", loc="right", fontsize=10, fontweight="normal")


def colour_table() -> np.ndarray:
    """The colours of anomaly maps, lowest first: (256, 3) uint8."""
    return matplotlib.colormaps[COLOUR_MAP](np.arange(256), bytes=True)[:, :3]


def _until(x: np.ndarray, y: np.ndarray, limit: float) -> Curve:
    """The part of a curve up to a limit of x, with the point interpolated there."""
    if limit >= 1:
        return x, y
    inside = x < limit
    return np.append(x[inside], limit), np.append(y[inside], np.interp(limit, x, y))


def _thinned(x: np.ndarray, y: np.ndarray, limit: float) -> Curve:
    """A curve without the points that would be drawn on the one before them."""
    place = np.rint(np.stack([x / limit, y]) * DRAWN_STEPS)
    moved = (np.diff(place) != 0).any(axis=0)
    # Both ends of a jump stay: a step must be as steep as it is.
    kept = np.append(True, moved) | np.append(moved, True)
    return x[kept], y[kept]


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    # The fonts of this machine say nothing about the reader's.
    text = buffer.getvalue().decode("utf-8")
    return re.sub(r"font-family: [^;]*;", f"font-family: {FONTS};", text).encode("utf-8")
