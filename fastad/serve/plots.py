"""The plot of drift on a detector's page."""

import io
import math
import threading

from matplotlib.figure import Figure

from fastad.evaluation.report.plots import DEFECT, INK, MUTED, NORMAL, house_style
from fastad.inference.drift import DriftReport

DRAWN = 2000  # points; more cannot be seen
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))  # of what is watched, one for each
_drawing = threading.Lock()  # matplotlib's settings belong to the process


def drift_plot(report: DriftReport, threshold: float | None, *, is_narrow: bool = False) -> bytes:
    """Scores over time and the evidence of drift below, as SVG. Narrow for a small screen."""
    limit = math.log10(len(report.watched) / report.false_alarm_rate)
    with _drawing, house_style():
        figure = Figure(figsize=(3.8, 5.2) if is_narrow else (8.6, 4.4), layout="constrained")
        above, below = figure.subplots(2, sharex=True)
        score = report.watched[0]
        numbers = score.numbers
        step = max(1, math.ceil(len(numbers) / DRAWN))
        above.plot(numbers[::step], score.values[::step], ".", color=NORMAL, markersize=3)
        above.set_title("score, dashed the threshold")
        if threshold is not None:
            above.axhline(threshold, color=INK, linewidth=1, linestyle=(0, (5, 2)))
        for one, dashes in zip(report.watched, DASHES, strict=False):
            colour = MUTED if one.words is None else DEFECT
            shown = {"color": colour, "linestyle": dashes, "linewidth": 1.3, "label": one.name}
            below.plot(numbers[::step], one.log10_capital[::step], **shown)
            if one.since is not None:
                above.axvline(one.since + 1, color=DEFECT, linewidth=1)
        below.legend(loc="upper left", fontsize=8, ncols=2 if is_narrow else len(report.watched))
        below.axhline(limit, color=INK, linewidth=1, linestyle=(0, (5, 2)))
        below.set_yscale("symlog", linthresh=limit)
        title = "evidence of drift, dashed where it is an alarm"
        below.set(title="evidence, dashed the alarm" if is_narrow else title, xlabel="image")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg")
    return buffer.getvalue()
