"""``fastad predict``: scores, decisions and heat maps for images."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fastad._files import write_atomically
from fastad.commands.detectors import given_detectors
from fastad.commands.output import (
    check_result_target,
    log,
    note,
    progress,
    reason,
    refuse_overwriting,
    waiting,
    write_csv,
    write_json,
)
from fastad.commands.pictures import list_pictures, picture_names, refuse_pictures_among
from fastad.data import find_images, images_without_masks, read_image, resize_masks
from fastad.data.finding import given_path
from fastad.detector import Detector, load
from fastad.evaluation.regions import REGION_COLUMNS, Region
from fastad.evaluation.score_table import COLUMNS, unreadable_row
from fastad.inference import PredictionResult, colour_scale, save_heatmap
from fastad.inference.guard import OK, UNKNOWN
from fastad.inference.predictor import MANY
from fastad.inference.several import assigned, predict_several

LOWEST = 3  # images that a summary names
NAMED = 20  # unreadable images in the last line; each has a line of its own before


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
) -> Findings:
    """Predict files and folders of images.

    Several detectors judge the images by a ``rule`` of `fastad.inference.predict_several`, None for
    "best". Each is a file, or ``PATTERN=FILE``. The rows then name the detector.

    Rows go to the CSV or JSON file named, else to scores.csv in the output folder, else to stdout
    as CSV. Heat maps and masks go to the output folder, named after the images; the rows name them.
    A list of them is written, too, by which they are passed over where images are looked for.
    Beside a heat map are the image and what the model shows of it, where it shows anything.
    ``regions`` names a second CSV with a row for each region of each image. JSON has them beside
    each image, with ``rle`` as COCO's run lengths, too. ``min_area`` is as of
    `Detector.set_min_area`, for this run. ``roi`` is a file as of `Detector.set_roi`, likewise.

    A summary goes to stderr. ``needs_threshold`` makes a detector without one a ValueError.

    An image that cannot be read has a row that says so. Once all results are written, RuntimeError
    is raised for such images, but with ``skip_bad`` only where no image at all can be read.
    """
    for target in filter(None, (json, csv, regions)):
        check_result_target(target)
    if json is None and csv is None:
        csv = "-" if output is None else str(Path(output) / "scores.csv")
    if heatmaps or masks:
        assert output is not None  # the command line asks for it
        refuse_pictures_among(images, output)
    if output is not None and Path(output).exists() and not Path(output).is_dir():
        raise NotADirectoryError(f"--output {output} is a file; it must be a folder")
    paths = _paths(images)
    given = given_detectors(detectors, rule)
    patterns = {one.name: one.pattern for one in given if one.pattern is not None}
    if rule in ("folder", "name"):
        assigned(paths, [one.name for one in given], rule, patterns)  # or say what does not fit
    every: dict[str, Detector] = {}
    for one in given:
        with waiting(f"loading {one.file}"):
            loaded = load(one.file, device=device, precision=precision, batch_size=batch_size)
        if roi is not None:
            loaded.set_roi(roi)
        if min_area is not None:
            loaded.set_min_area(min_area, mm_per_pixel=mm_per_pixel)
        if false_positive_rate is not None:
            loaded.set_threshold(false_positive_rate=false_positive_rate)
            loaded.set_pixel_threshold(false_positive_rate=false_positive_rate)
        if (masks or regions or rle) and loaded.pixel_threshold_ is None:
            raise ValueError(f"{one.file} has no pixel threshold: no images were held out")
        _require_threshold(one.file, loaded, needs_threshold or len(given) > 1)
        every[one.name] = loaded
    names = picture_names(paths)
    optional = {"detector": len(given) > 1, "heatmap": heatmaps, "mask": masks}
    columns = [*COLUMNS, *(name for name, is_wanted in optional.items() if is_wanted)]
    folder = Path(output or "")
    targets = [Path(target) for target in (json, csv, regions) if target not in (None, "-")]
    for wanted, ending in ((heatmaps, ".png"), (masks, "_mask.png")):
        targets += [folder / f"{name}{ending}" for name in names.values()] if wanted else []
    read = [*paths, *(Path(one.file) for one in given), *([] if roi is None else [Path(roi)])]
    refuse_overwriting(targets, read)
    if output is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if drawn := [t for t in targets if t.suffix == ".png"]:
            list_pictures(folder, drawn)
    rows: dict[Path, dict[str, Any]] = {}
    found: dict[Path, list[Region]] = {}
    unreadable: list[Path] = []

    def leave_out(path: Path | int, error: Exception) -> None:
        path = Path(str(path))  # they were given as paths
        unreadable.append(path)
        rows[path] = dict.fromkeys(columns) | unreadable_row(path, reason(error))
        log.warning(f"not inspected: {reason(error)}")

    begin = time.monotonic()
    with progress("predicting") as report:
        options: dict[str, Any] = {"skip": leave_out, "strict": strict}
        results = (
            ((given[0].name, result) for result in loaded.stream(paths, **options))
            if len(given) == 1
            else predict_several(every, paths, rule=rule or "best", patterns=patterns, **options)
        )
        for detector, result in _results(results, unreadable, paths):
            loaded = every[detector]
            assert result.paths is not None  # they were given as paths
            explained = loaded.explain(result.paths) if heatmaps else {}
            if result.mask is not None and (heatmaps or json or regions):
                each = result.regions(mm_per_pixel=mm_per_pixel)
                found |= zip(result.paths, each, strict=True)
            for i, path in enumerate(result.paths if heatmaps or masks else ()):
                image = read_image(path, loaded.pixel_range_).permute(1, 2, 0).numpy()
                if heatmaps:
                    # Without calibration the batch at hand is all there is to scale by.
                    top = loaded.pixel_threshold_ or float(result.anomaly_map.max()) / 2
                    picture = _made(folder / f"{names[path]}.png")
                    shown = {name: pictures[i] for name, pictures in explained.items()}
                    scale, boxes = colour_scale(top), found.get(path, [])
                    save_heatmap(
                        picture, image, result.anomaly_map[i], scale, shown, boxes, loaded.roi
                    )
                if masks:
                    assert result.mask is not None  # there is a pixel threshold
                    mask = resize_masks(torch.from_numpy(result.mask[i]), image.shape[:2])
                    _save_mask(_made(folder / f"{names[path]}_mask.png"), mask.numpy())
            for row, path in zip(result.rows(), result.paths, strict=True):
                if len(given) > 1:
                    row["detector"] = detector
                if heatmaps:
                    row["heatmap"] = f"{names[path]}.png"
                if masks:
                    row["mask"] = f"{names[path]}_mask.png"
                rows[path] = row
            report(len(rows), len(paths))
    seconds = time.monotonic() - begin
    in_order = [rows[path] for path in paths]
    inspected = [row for row in in_order if row["score"] is not None]
    if json is not None:
        of_each = {one.name: _facts(every[one.name]) for one in given}
        facts = _facts(loaded) if len(given) == 1 else {"detectors": of_each}
        facts |= {"unreadable": len(unreadable)}
        listed = [rows[path] | _listed(found.get(path), rle) for path in paths]
        write_json(json, facts | {"images": listed})
    if csv is not None:
        write_csv(csv, columns, in_order)
    if regions is not None:
        lines = (
            region.row(path, number)
            for path in paths
            for number, region in enumerate(found.get(path, ()), start=1)
        )
        write_csv(regions, REGION_COLUMNS, lines)
    _say_unlike(inspected, strict)
    for line in _summary(inspected, len(unreadable), seconds, names):
        note(line)
    written = [str(target) for target in (json, csv, regions) if target not in (None, "-")]
    for wanted, what in ((heatmaps, "heat map"), (masks, "mask")):
        written += [f"{_counted(len(inspected), what)} in {output}"] if wanted else []
    if written:
        note(f"written: {', '.join(written)}")
    _say_unreadable(unreadable, len(paths), skip_bad)
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


def _listed(regions: list[Region] | None, rle: bool) -> dict[str, Any]:
    """What a row of JSON says of an image's regions; None where nothing is known of them."""
    return {"regions": regions and [region.to_dict(rle) for region in regions]}


def _results(
    results: Iterator[tuple[str, PredictionResult]], unreadable: list[Path], paths: list[Path]
) -> Iterator[tuple[str, PredictionResult]]:
    """The results, none where no image can be read."""
    try:
        yield from results
    except ValueError:
        if len(unreadable) < len(paths):
            raise


def _say_unlike(rows: list[dict[str, Any]], strict: bool) -> None:
    found = Counter(row["input"] for row in rows if row["input"] not in (OK, UNKNOWN))
    if found:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
        judged = "called anomalous" if strict else "--strict calls these anomalous"
        log.warning(
            f"{found.total()} of {len(rows)} images are unlike the good images of the training "
            f"({kinds}; {judged}): their scores mean little"
        )


def _say_unreadable(unreadable: list[Path], count: int, skip_bad: bool) -> None:
    if len(unreadable) == count:
        raise RuntimeError(f"none of the {count} images can be read")
    if not unreadable:
        return
    text = f"{len(unreadable)} of {count} images cannot be read and were not inspected"
    if not skip_bad:
        names = ", ".join(map(str, unreadable[:NAMED])) + ", ..." * (len(unreadable) > NAMED)
        raise RuntimeError(f"{text}; the results of the others are written: {names}")
    log.warning(text)


def _summary(
    rows: list[dict[str, Any]], unreadable: int, seconds: float, names: Mapping[Path, Path]
) -> list[str]:
    """How many images were inspected, and which are the least normal. Nothing of no images."""
    if not rows:
        return []
    facts = [_counted(len(rows), "image")]
    decisions = [row["is_anomalous"] for row in rows]
    facts.append("none judged" if None in decisions else f"{sum(decisions)} anomalous")
    if unreadable:
        facts.append(f"{unreadable} unreadable")
    if len(rows) < MANY:  # of more the predictor has said it
        facts.append(f"{len(rows) / max(seconds, 1e-9):.3g} images/s")
    has_p_values = all(row["p_value"] is not None for row in rows)
    # Scores of several detectors have no common scale.
    by_p_value = has_p_values and len({row.get("detector") for row in rows}) > 1
    first = sorted(rows, key=lambda row: (by_p_value and row["p_value"], -row["score"]))[:LOWEST]
    kind = "p_value" if has_p_values else "score"
    least = ", ".join(f"{names[Path(row['path'])]} {row[kind]:.3g}" for row in first)
    return [", ".join(facts), f"{'lowest p-values' if has_p_values else 'highest scores'}: {least}"]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _save_mask(path: Path, mask: np.ndarray) -> None:
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    write_atomically(path, lambda temporary: picture.save(temporary, "PNG"))


def _paths(images: list[str]) -> list[Path]:
    paths = []
    for name in images:
        found = [given_path(name)]
        if found[0].is_dir():
            found = images_without_masks(name)
            if masks := len(find_images(name)) - len(found):
                note(f"{masks} masks in {name} are no images and are left out")
        if not found:
            raise ValueError(f"there are no images in the folder {name}")
        if not found[0].exists():
            raise FileNotFoundError(f"there is no image {name}")
        paths += found
    return list({path.resolve(): path for path in reversed(paths)}.values())[::-1]
