"""``fastad drift``: whether images are still like those that a detector was calibrated on."""

from pathlib import Path

from fastad.commands.drift_plot import write_plot
from fastad.commands.output import (
    check_result_target,
    note,
    progress,
    refuse_overwriting,
    skipped,
    write_json,
)
from fastad.commands.plot_file import check_suffix
from fastad.data import images_without_masks
from fastad.data.finding import given_path
from fastad.detector import load
from fastad.inference.drift import DriftReport


def drift(
    detector: str,
    images: list[str],
    *,
    json: str | None,
    plot: str | None,
    false_alarm_rate: float,
    skip_bad: bool,
    device: str,
    precision: str,
    batch_size: int,
) -> bool:
    """Whether there is drift. Print the report unless JSON goes to stdout, and draw it where asked.

    Images are taken in the order of their names, folder after folder.
    """
    if plot is not None:
        check_suffix(plot)
    targets = [target for target in (json, plot) if target not in (None, "-")]
    paths: list[Path] = []
    for name in map(given_path, images):
        paths += images_without_masks(name) if name.is_dir() else [name]
    if not paths:
        raise ValueError(f"there are no images in {', '.join(images)}")
    refuse_overwriting([Path(target) for target in targets], [Path(detector), *paths])
    for target in targets:
        check_result_target(target)
    loaded = load(detector, device=device, precision=precision, batch_size=batch_size)
    monitor, done = loaded.watch(false_alarm_rate=false_alarm_rate), 0
    names: list[Path] = []
    with progress("looking for drift") as show, skipped() as skip:
        for result in loaded.stream(paths, skip=skip if skip_bad else None):
            monitor.add(result)
            names += result.paths or []
            done += len(result)
            show(done, len(paths))
    report = monitor.report()
    if json is not None:
        since = None if report.since is None else str(names[report.since])
        write_json(json, report.to_dict() | {"first_image": since})
    if plot is not None:
        write_plot(plot, report, loaded.threshold_)
    if json != "-":
        _show(report)
    if report.since is not None:
        note(f"it begins with {names[report.since]}")
    if report.is_drift and not loaded._artifact.calibrations:
        note(
            "the images of the calibration were held out of the training, which chose by them: "
            "`fastad calibrate` with fresh good images makes the comparison fair"
        )
    return report.is_drift


def _show(report: DriftReport) -> None:
    print(report.message)
    for one in report.watched:
        said = "no drift"
        if one.alarm_at is not None and one.since is not None:
            said = f"{one.words} since image {one.since + 1:,}, known at {one.alarm_at + 1:,}"
        print(f"  {one.name:<11} p = {one.p_value:<8.2g} {said}")
    low, high = report.alarms.interval or (0.0, 1.0)
    print(
        f"alarms {report.alarms.hits} of {report.alarms.total}, 95% interval {low:.1%} to "
        f"{high:.1%}; promised: at most {report.alarms_promised:.1%} "
        f"(p = {report.alarms_p_value:.2g} for one look)"
    )
    print(f"Kolmogorov-Smirnov test of the scores: p = {report.ks_p_value:.2g} for one look")
