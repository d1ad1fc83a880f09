"""The picture of ``fastad drift``: values over time, the moment of change, and the evidence."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastad.commands.plot_file import write_figure
from fastad.evaluation.report.plots import DEFECT, INK, MUTED, NORMAL, house_style
from fastad.inference.drift import DriftReport, Watched

DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))  # of `WATCHED`, one for each


def write_plot(path: str, report: DriftReport, threshold: float | None = None) -> None:
    """The scores, what else has drifted, and below the logarithm of the capital of all."""
    shown = [one for one in report.watched if one.name == "score" or one.words is not None]
    limit = math.log10(len(report.watched) / report.false_alarm_rate)
    with house_style():
        figure = Figure(figsize=(8.6, 1.2 + 1.7 * (len(shown) + 1)), layout="constrained")
        rows = figure.subplots(len(shown) + 1, sharex=True)
        for axes, one in zip(rows, shown, strict=False):
            axes.plot(one.numbers, one.values, ".", color=NORMAL, markersize=3)
            axes.set_title(one.name if one.words is None else f"{one.name}: {one.words}")
            if one.name == "score" and threshold is not None:
                axes.axhline(threshold, color=INK, linewidth=1, linestyle=(0, (5, 2)))
            _mark(axes, one)
        evidence = rows[-1]
        for one, dashes in zip(report.watched, DASHES, strict=False):
            colour = MUTED if one.words is None else DEFECT
            evidence.plot(
                one.numbers,
                one.log10_capital,
                color=colour,
                linestyle=dashes,
                linewidth=1.3,
                label=one.name,
            )
        evidence.legend(loc="upper left", fontsize=8, ncols=len(report.watched))
        evidence.axhline(limit, color=INK, linewidth=1, linestyle=(0, (5, 2)))
        evidence.set_yscale("symlog", linthresh=limit)
        evidence.set(title="evidence, dashed where it is an alarm", xlabel="image")
        evidence.set_ylabel("log10 of capital")
        write_figure(path, figure)


def _mark(axes: Axes, one: Watched) -> None:
    if one.since is not None:
        axes.axvline(one.since + 1, color=DEFECT, linewidth=1.4)
        axes.annotate(
            f"since image {one.since + 1:,}",
            (one.since + 1, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -10),
            textcoords="offset points",
            fontsize=8,
            color=DEFECT,
        )
