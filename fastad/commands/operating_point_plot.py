"""The picture of ``fastad operating-point``: scores of good images and defects, and thresholds."""

from collections.abc import Iterable

import numpy as np
from matplotlib.figure import Figure

from fastad.commands.plot_file import write_figure
from fastad.evaluation.report.plots import DEFECT, INK, MUTED, NORMAL, house_style
from fastad.inference.operating_point import OperatingPoint, OperatingPoints

DASHES = ("-", "--", ":", "-.")


def write_plot(path: str, points: OperatingPoints) -> None:
    """A dot for each image, a line for each threshold."""
    shown: list[OperatingPoint] = [*points, *([points.current] if points.current else [])]
    with house_style():
        figure = Figure(figsize=(8.6, 3.2), layout="constrained")
        axes = figure.subplots()
        for height, (scores, colour) in enumerate(
            ((points.good, NORMAL), (points.defects, DEFECT))
        ):
            axes.plot(scores, height + _spread(scores), ".", color=colour, alpha=0.7)
        for point, dashes in zip(shown, DASHES, strict=False):
            counts = f"{point.alarms.hits} alarms, {point.missed.hits} missed"
            axes.axvline(
                point.threshold,
                color=MUTED if point is points.current else INK,
                linestyle=dashes,
                linewidth=1.3,
                label=f"{point.name}: {counts}",
            )
        names = [f"{len(points.good)} good images", f"{len(points.defects)} defects"]
        axes.set_yticks([0, 1], names)
        axes.set(xlabel="score of an image", ylim=(-0.5, 1.5))
        figure.legend(loc="outside upper left", ncols=2, fontsize=8)
        write_figure(path, figure)


def _spread(scores: Iterable[float]) -> np.ndarray:
    """Heights that keep dots of like scores apart; the same ones each time."""
    return np.random.default_rng(0).uniform(-0.25, 0.25, len(list(scores)))
