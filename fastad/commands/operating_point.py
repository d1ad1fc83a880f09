"""``fastad operating-point``: which threshold suits a line, by a few real defects."""

from pathlib import Path

from fastad.commands import UsageError
from fastad.commands.operating_point_plot import write_plot
from fastad.commands.output import (
    check_detector_target,
    check_result_target,
    note,
    refuse_overwriting,
    skipped,
    waiting,
    write_json,
)
from fastad.commands.plot_file import check_suffix
from fastad.data import find_images
from fastad.data.finding import given_path
from fastad.detector import load
from fastad.evaluation import ExactShare
from fastad.inference.operating_point import LEAST_COST, OperatingPoint, OperatingPoints


def operating_point(
    detector: str,
    defects: str,
    *,
    cost_miss: float | None,
    cost_alarm: float | None,
    defect_share: float | None,
    choice: str | None,
    output: str | None,
    json: str | None,
    plot: str | None,
    skip_bad: bool,
    device: str,
    precision: str,
    batch_size: int,
) -> None:
    """Print the thresholds, draw them where asked, and write one to the file where asked."""
    if cost_miss is None and (cost_alarm, defect_share, choice == LEAST_COST) != (
        None,
        None,
        False,
    ):
        raise UsageError("the least cost needs --cost-miss")
    if output is not None and choice is None:
        raise UsageError("--output needs --set")
    if plot is not None:
        check_suffix(plot)
    targets = [target for target in (json, plot) if target not in (None, "-")]
    path = given_path(defects)
    read = find_images(path) if path.is_dir() else [path]
    target = output or detector
    results = [Path(name) for name in targets]
    refuse_overwriting(results, [Path(detector), *read])
    refuse_overwriting([*results, *([Path(target)] if choice else [])], read)
    for name in targets:
        check_result_target(name)
    if choice:
        check_detector_target(target)
    loaded = load(detector, device=device, precision=precision, batch_size=batch_size)
    with waiting("predicting defects"), skipped() as skip:
        points = loaded.operating_points(
            path,
            cost_miss=cost_miss,
            cost_alarm=1.0 if cost_alarm is None else cost_alarm,
            defect_share=defect_share,
            skip=skip if skip_bad else None,
        )
    if json is not None:
        write_json(json, points.to_dict())
    if plot is not None:
        write_plot(plot, points)
    if json != "-":
        _show(points)
    if choice is not None:
        chosen = points[choice]
        was = "there was none" if loaded.threshold_ is None else f"it was {loaded.threshold_:.6g}"
        loaded.set_threshold(value=chosen.threshold).save(target)
        note(f"saved {target}: threshold {chosen.threshold:.6g} ({was}), {choice}")


def _show(points: OperatingPoints) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    has_costs = points.least_cost is not None
    headings = ["threshold", f"of {len(points.good)} good images stop the line"]
    headings += [f"of {len(points.defects)} defects pass", *(["cost an image"] * has_costs)]
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right")
    for point in (*points, *([points.current] if points.current else [])):
        table.add_row(*_cells(point, has_costs))
    # A log has no width of its own, and must not cut the numbers off at 80 columns.
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.width = max(console.width, 120)
    console.print(table)
    for text in points.notes:
        console.print(f"note: {text}")


def _cells(point: OperatingPoint, has_costs: bool) -> list[str]:
    cells = [point.name, f"{point.threshold:.6g}", _share(point.alarms), _share(point.missed)]
    return cells + ([f"{point.cost:.4g}"] if has_costs else [])


def _share(share: ExactShare) -> str:
    low, high = share.interval or (0.0, 1.0)
    return f"{share.hits} ({low:.1%} to {high:.1%})"
