"""``fastad predict``: scores, decisions and heat maps for images."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastad.commands import UsageError
from fastad.commands.detectors import given_detectors, load_to_predict
from fastad.commands.given_images import given_images
from fastad.commands.output import (
    log,
    note,
    one_voice,
    progress,
    reason,
    refuse_overwriting,
    waiting,
    write_json,
)
from fastad.commands.parquet import check_targets, write_scores, write_table
from fastad.commands.pictures import (
    list_pictures,
    made,
    picture_names,
    refuse_pictures_among,
    save_mask,
)
from fastad.commands.predict_results import (
    Inspected,
    counted,
    say_unlike,
    say_unreadable,
    summary,
)
from fastad.data import read_image, resize_masks
from fastad.data.remote import spelled
from fastad.detector import Detector
from fastad.distributed import Parts, request, this_rank
from fastad.evaluation.regions import REGION_COLUMNS, Region
from fastad.evaluation.score_table import COLUMNS, unreadable_row
from fastad.inference import PredictionResult, colour_scale, save_heatmap
from fastad.inference.several import assigned, predict_several
from fastad.inference.throughput import Throughput

SHARED = 4  # batches in a part of the work that several processes share
KEPT = 256  # images after which one process alone keeps its results


@dataclass(frozen=True)
class Findings:
    """What the exit code of the command goes by.

    Attributes:
        unreadable: how many images could not be read, and were not inspected.
        is_anomalous: whether any image is anomalous.
    """

    unreadable: int
    is_anomalous: bool


def predict(
    detectors: Sequence[str],
    images: list[str],
    *,
    rule: str | None = None,
    output: str | None,
    json: str | None,
    csv: str | None,
    parquet: str | None = None,
    heatmaps: bool,
    masks: bool,
    false_positive_rate: float | None,
    skip_bad: bool,
    strict: bool,
    needs_threshold: bool,
    min_area: str | None,
    mm_per_pixel: float | None,
    roi: str | None,
    regions: str | None,
    rle: bool,
    device: str,
    precision: str,
    batch_size: int,
    tile: str | None = None,
    listed_in: str | None = None,
) -> Findings:
    """Predict files and folders of images.

    Several detectors judge the images by a ``rule`` of `fastad.inference.predict_several`, None for
    "best". Each is a file, or ``PATTERN=FILE``. The rows then name the detector.

    Rows go to the CSV, JSON or Parquet files named, else to scores.csv in the output folder, else
    to stdout as CSV. Heat maps and masks go to the output folder, named after the images; the rows
    name them. A list of them is written, too, by which they are passed over where images are looked
    for. Beside a heat map are the image and what the model shows of it, where it shows anything.
    ``regions`` names a second CSV, or Parquet by its ending, with a row for each region of each
    image. JSON has them beside each image, with ``rle`` as COCO's run lengths, too. ``min_area`` is
    as of `Detector.set_min_area`, for this run. ``roi`` is a file as of `Detector.set_roi`,
    likewise. ``tile`` is as of `fastad.load`. ``listed_in`` named the images: no
    result may replace it.

    A summary goes to stderr. ``needs_threshold`` makes a detector without one a ValueError.

    An image that cannot be read has a row that says so. Once all results are written, RuntimeError
    is raised for such images, but with ``skip_bad`` only where no image at all can be read.
    """
    asked_for = {name: value for name, value in locals().items() if name != "images"}
    check_targets(json=json, csv=csv, parquet=parquet, regions=regions, output=output)
    if json is None and csv is None and parquet is None:
        csv = "-" if output is None else str(Path(output) / "scores.csv")
    if heatmaps or masks:
        assert output is not None  # the command line asks for it
        refuse_pictures_among(images, output)
    if output is not None and Path(output).exists() and not Path(output).is_dir():
        raise NotADirectoryError(f"--output {output} is a file; it must be a folder")
    paths = given_images(images)
    given = given_detectors(detectors, rule)
    patterns = {one.name: one.pattern for one in given if one.pattern is not None}
    if rule in ("folder", "name"):
        assigned(paths, [one.name for one in given], rule, patterns)  # or say what does not fit
    every: dict[str, Detector] = {}
    for one in given:
        with one_voice(), waiting(f"loading {one.file}"):
            loaded = load_to_predict(
                one.file,
                roi=roi,
                min_area=min_area,
                mm_per_pixel=mm_per_pixel,
                false_positive_rate=false_positive_rate,
                device=device,
                precision=precision,
                batch_size=batch_size,
                tile=tile,
            )
            if (masks or regions or rle) and loaded.pixel_threshold_ is None:
                raise ValueError(f"{one.file} has no pixel threshold: no images were held out")
            _require_threshold(one.file, loaded, needs_threshold or len(given) > 1)
        every[one.name] = loaded
    names = picture_names(paths)
    optional = {"detector": len(given) > 1, "heatmap": heatmaps, "mask": masks}
    columns = [*COLUMNS, *(name for name, is_wanted in optional.items() if is_wanted)]
    folder = Path(output or "")
    tables = (json, csv, parquet, regions)
    targets = [Path(target) for target in tables if target not in (None, "-")]
    for wanted, ending in ((heatmaps, ".png"), (masks, "_mask.png")):
        targets += [folder / f"{name}{ending}" for name in names.values()] if wanted else []
    read = [
        *paths,
        *(Path(one.file) for one in given),
        *(Path(f) for f in (roi, listed_in) if f is not None),
    ]
    refuse_overwriting(targets, read)
    if output is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if drawn := [t for t in targets if t.suffix == ".png"]:
            list_pictures(folder, drawn)
    parts, are_several = None, this_rank().count > 1
    files = [Path(target) for target in (csv, json, parquet) if target not in (None, "-")]
    if are_several and (not files or len(given) > 1):
        named = "--output DIR, --csv FILE, --json FILE or --parquet FILE"
        raise UsageError(f"several processes need {'one detector' if files else named}")
    size = SHARED * batch_size if are_several else max(KEPT, batch_size)
    if are_several or (len(paths) > size and files and len(given) == 1):
        asked = request(asked_for, [given[0].file, *([] if roi is None else [roi])], paths)
        parts = Parts(files[0], asked, len(paths), size, ".json")
    done = 0 if parts is None or are_several else parts.done
    if done:
        note(f"going on after {done} of {len(paths)} images")

    def inspect(paths: Sequence[Path], report: Callable[[int, int], None]) -> Inspected:
        """What is known of some images; their pictures are drawn."""
        nonlocal done
        rows: dict[Path, dict[str, Any]] = {}
        found: dict[Path, list[Region]] = {}
        unreadable: list[Path] = []

        def leave_out(path: Path | int, error: Exception) -> None:
            path = Path(str(path))  # they were given as paths
            unreadable.append(path)
            rows[path] = dict.fromkeys(columns) | unreadable_row(path, reason(error))
            log.warning(f"not inspected: {reason(error)}")

        options: dict[str, Any] = {"skip": leave_out, "strict": strict}
        results = (
            ((given[0].name, result) for result in loaded.stream(paths, **options))
            if len(given) == 1
            else predict_several(every, paths, rule=rule or "best", patterns=patterns, **options)
        )
        for detector, result in _results(results, unreadable, paths):
            own = every[detector]
            assert result.paths is not None  # they were given as paths
            explained = own.explain(result.paths) if heatmaps else {}
            if result.mask is not None and (heatmaps or json or regions):
                each = result.regions(mm_per_pixel=mm_per_pixel)
                found |= zip(result.paths, each, strict=True)
            for i, path in enumerate(result.paths if heatmaps or masks else ()):
                image = read_image(path, own.pixel_range_).permute(1, 2, 0).numpy()
                if heatmaps:
                    # Without calibration the batch at hand is all there is to scale by.
                    top = own.pixel_threshold_ or float(result.anomaly_map.max()) / 2
                    picture = made(folder / f"{names[path]}.png")
                    shows = {name: pictures[i] for name, pictures in explained.items()}
                    scale, boxes = colour_scale(top), found.get(path, [])
                    save_heatmap(
                        picture, image, result.anomaly_map[i], scale, shows, boxes, own.roi
                    )
                if masks:
                    assert result.mask is not None  # there is a pixel threshold
                    mask = resize_masks(torch.from_numpy(result.mask[i]), image.shape[:2])
                    save_mask(made(folder / f"{names[path]}_mask.png"), mask.numpy())
            for row, path in zip(result.rows(), result.paths, strict=True):
                if len(given) > 1:
                    row["detector"] = detector
                if heatmaps:
                    row["heatmap"] = f"{names[path]}.png"
                if masks:
                    row["mask"] = f"{names[path]}_mask.png"
                rows[path] = row
            report(done + len(rows), len(names))
        done += len(paths)
        bad = set(unreadable)
        listed = [found.get(path) for path in paths]
        return Inspected(
            [rows[path] for path in paths],
            [None if one is None else [r.to_dict(rle) for r in one] for one in listed],
            [
                region.row(spelled(path), number)
                for path, one in zip(paths, listed, strict=True)
                for number, region in enumerate(one or (), start=1)
            ],
            [spelled(path) for path in paths if path in bad],
        )

    begin, throughput = time.monotonic(), Throughput()
    with progress("predicting") as report:
        if parts is None:
            all_of_it = inspect(paths, report)
        else:
            loaded._fitted().throughput = throughput
            try:
                is_first = parts.work(
                    lambda part, path: inspect(paths[part.start : part.stop], report).write(path)
                )
            except KeyboardInterrupt:
                if (kept := parts.done) == 0:
                    raise
                again = f"the same command goes on after {kept} of {len(paths)} images"
                raise RuntimeError(f"stopped by the user: {again}") from None
            if not is_first:
                return Findings(0, False)
            all_of_it = Inspected.joined(parts)
            if throughput.images > 0:
                log.info(str(throughput))
    seconds = time.monotonic() - begin
    in_order, unreadable = all_of_it.rows, all_of_it.unreadable
    inspected = [row for row in in_order if row["score"] is not None]
    if json is not None:
        of_each = {one.name: _facts(every[one.name]) for one in given}
        facts = _facts(loaded) if len(given) == 1 else {"detectors": of_each}
        facts |= {"unreadable": len(unreadable)}
        listed = zip(in_order, all_of_it.regions, strict=True)
        write_json(json, facts | {"images": [row | {"regions": own} for row, own in listed]})
    write_scores(csv, parquet, columns, in_order)
    if regions is not None:
        write_table(regions, REGION_COLUMNS, all_of_it.region_rows)
    say_unlike(inspected, strict)
    for line in summary(inspected, len(unreadable), seconds, names):
        note(line)
    written = [str(target) for target in tables if target not in (None, "-")]
    for wanted, what in ((heatmaps, "heat map"), (masks, "mask")):
        written += [f"{counted(len(inspected), what)} in {output}"] if wanted else []
    if written:
        note(f"written: {', '.join(written)}")
    if parts is not None:
        parts.remove(targets)
    say_unreadable(unreadable, len(paths), skip_bad)
    return Findings(len(unreadable), any(row["is_anomalous"] for row in inspected))


def _require_threshold(file: str, detector: Detector, is_needed: bool) -> None:
    if detector.threshold_ is not None:
        return
    if is_needed:
        raise ValueError(f"{file} has no threshold, as no images were held out: none can fail")
    log.warning(f"{file} has no threshold, as no images were held out: nothing is decided")


def _facts(detector: Detector) -> dict[str, Any]:
    """What JSON says of a detector."""
    return {
        "threshold": detector.threshold_,
        "supervision": detector.supervision_,
        "min_area": detector.min_area_,
        "roi_share": None if detector.roi is None else float(detector.roi.mean()),
    }


def _results(
    results: Iterator[tuple[str, PredictionResult]], unreadable: list[Path], paths: Sequence[Path]
) -> Iterator[tuple[str, PredictionResult]]:
    """The results, none where no image can be read."""
    try:
        yield from results
    except ValueError:
        if len(unreadable) < len(paths):
            raise
