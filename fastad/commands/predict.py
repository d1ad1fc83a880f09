"""``fastad predict``: scores, decisions and heat maps for images."""

import os
from pathlib import Path
from typing import Any

from fastad.commands.output import (
    check_writable,
    progress,
    refuse_overwriting,
    write_csv,
    write_json,
)
from fastad.data import find_images, read_image
from fastad.inference import PredictionResult, colour_scale, load, save_heatmap

COLUMNS = ("path", "score", "p_value", "is_anomalous")


def predict(
    detector: str,
    images: list[str],
    *,
    output: str | None,
    json: str | None,
    csv: str | None,
    heatmaps: bool,
    device: str,
    precision: str,
    batch_size: int,
) -> None:
    """Predict files and folders of images.

    Rows go to the CSV or JSON file named, else to scores.csv in the output folder, else to stdout
    as CSV. Heat maps go to the output folder, named after the images.
    """
    if output is not None:
        Path(output).mkdir(parents=True, exist_ok=True)
    if json is None and csv is None:
        csv = "-" if output is None else str(Path(output) / "scores.csv")
    for target in filter(None, (json, csv)):
        check_writable(target)
    paths = _paths(images)
    artifact = load(detector)
    predictor = artifact.predictor(device=device, precision=precision, batch_size=batch_size)

    names = _picture_names(paths)
    targets = [Path(target) for target in (json, csv) if target not in (None, "-")]
    if heatmaps:
        targets += [Path(output) / name for name in names.values()]
    refuse_overwriting(targets, [*paths, Path(detector)])
    rows: list[dict[str, Any]] = []
    with progress("predicting") as report:
        for result in predictor.stream(paths):
            batch = paths[len(rows) : len(rows) + len(result.score)]
            if heatmaps:
                # Without calibration the batch at hand is all there is to scale by.
                scale = colour_scale(artifact.threshold or float(result.anomaly_map.max()) / 2)
                for path, anomaly_map in zip(batch, result.anomaly_map, strict=True):
                    picture = Path(output) / names[path]
                    picture.parent.mkdir(parents=True, exist_ok=True)
                    image = read_image(path).permute(1, 2, 0).numpy()
                    save_heatmap(picture, image, anomaly_map, scale)
            rows += _rows(batch, result)
            report(len(rows), len(paths))
    if json is not None:
        write_json(json, {"threshold": artifact.threshold, "images": rows})
    if csv is not None:
        write_csv(csv, COLUMNS, [[row[column] for column in COLUMNS] for row in rows])


def _paths(images: list[str]) -> list[Path]:
    paths = []
    for name in images:
        found = find_images(name) if Path(name).is_dir() else [Path(name)]
        if not found:
            raise ValueError(f"there are no images in the folder {name}")
        if not found[0].exists():
            raise FileNotFoundError(f"there is no image {name}")
        paths += found
    return list(dict.fromkeys(paths))


def _picture_names(paths: list[Path]) -> dict[Path, Path]:
    """Image -> name of its heat map: below the folder that all images share, ending in .png."""
    root = os.path.commonpath([path.resolve().parent for path in paths])
    whole = {path: Path(os.path.relpath(path.resolve(), root)) for path in paths}
    short = [name.with_suffix("") for name in whole.values()]
    return {
        path: Path(f"{name}.png")
        if short.count(name.with_suffix("")) > 1
        else name.with_suffix(".png")
        for path, name in whole.items()
    }


def _rows(paths: list[Path], result: PredictionResult) -> list[dict[str, Any]]:
    return [
        {
            "path": str(path),
            "score": float(result.score[i]),
            "p_value": None if result.p_value is None else float(result.p_value[i]),
            "is_anomalous": None if result.is_anomalous is None else bool(result.is_anomalous[i]),
        }
        for i, path in enumerate(paths)
    ]
