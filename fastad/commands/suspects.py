"""``fastad suspects``: the good images of a training that look least good."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from fastad._files import atomic_path
from fastad.commands.output import (
    check_result_target,
    note,
    progress,
    refuse_overwriting,
    waiting,
    write_csv,
    write_json,
    write_text,
)
from fastad.commands.pictures import list_pictures, refuse_pictures_among, written_before
from fastad.data import read_image, training_images
from fastad.detector import Detector, load
from fastad.inference.heatmaps import overlay, strip
from fastad.inference.suspects import Suspects

COLUMNS = ("rank", "path", "score", "p_value", "stands_out")
LIST, TABLE = "suspects.txt", "suspects.csv"
NUMBERS = "{:02}-"  # before the name of a picture, by its rank
OWN = re.compile(r"\d{2,}-[\w.-]*\.png")  # the names of such pictures
WRITER = "fastad suspects"


def suspects(
    detector: str,
    images: str,
    *,
    output: str | None,
    json: str | None,
    count: int,
    skip_bad: bool,
    device: str,
    batch_size: int,
) -> None:
    """Rank the good images of a folder, the most unusual first.

    The first ``count``, and all that stand out, go to stdout unless JSON does. The output folder
    gets the table of all images, pictures of the listed ones, and a text file that names them for
    ``fastad train --exclude``. It is written last. Pictures of an earlier run are removed.
    """
    if json is not None:
        check_result_target(json)
    if output is not None:
        refuse_pictures_among([images], output)
        if Path(output).exists() and not Path(output).is_dir():
            raise NotADirectoryError(f"--output {output} is a file; it must be a folder")
    found = training_images(images)
    paths = [*found.paths, *found.held_out]
    refuse_overwriting([Path(json)] if json not in (None, "-") else [], [Path(detector), *paths])
    with waiting(f"loading {detector}"):
        loaded = load(detector, device=device, precision="float32", batch_size=batch_size)
    with progress("comparing") as report:
        result = loaded.suspects(paths, progress=report, skip_bad=skip_bad)
    rows = _rows(result)
    listed = rows[: len(result.first(count))]
    if json is not None:
        facts = {"images": len(result), "standing_out": result.standing_out}
        write_json(json, facts | {"suspects": rows})
    if json != "-":
        _print(listed)
    note(verdict(result, len(listed)))
    if output is not None:
        _write(Path(output), loaded, result, rows, listed)
        note(f"written: {len(listed)} pictures, {TABLE} and {LIST} in {output}")


def verdict(result: Suspects, listed: int) -> str:
    """What a reader does next."""
    n, out = len(result), result.standing_out
    if out:
        return f"{out} of {n} images stand out: look at these first"
    return f"none of {n} images stands out: the {listed} least usual ones are listed"


def _rows(result: Suspects) -> list[dict[str, Any]]:
    assert result.paths is not None  # they were given as paths
    return [
        {
            "rank": rank,
            "path": str(result.paths[i]),
            "score": float(result.score[i]),
            "p_value": float(result.p_value[i]),
            "stands_out": rank <= result.standing_out,
        }
        for rank, i in enumerate(result.order.tolist(), start=1)
    ]


def _print(listed: list[dict[str, Any]]) -> None:
    print("rank  p-value   image")
    for row in listed:
        mark = "*" if row["stands_out"] else " "
        print(f"{row['rank']:4}{mark} {row['p_value']:<9.2g} {row['path']}")


def _write(
    folder: Path,
    detector: Detector,
    result: Suspects,
    rows: list[dict[str, Any]],
    listed: list[dict[str, Any]],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = [
        NUMBERS.format(row["rank"]) + re.sub(r"[^\w.-]", "_", Path(row["path"]).stem) + ".png"
        for row in listed
    ]
    earlier = written_before(folder, WRITER)
    gone = [name for name in earlier if OWN.fullmatch(name) and name not in names]
    for name in gone:
        (folder / name).unlink(missing_ok=True)
    list_pictures(folder, [folder / name for name in names], WRITER, gone)
    scale = float(np.quantile(result.anomaly_map, 0.999)) or 1.0  # one scale makes them comparable
    for name, row, i in zip(names, listed, result.order.tolist(), strict=False):
        image = read_image(row["path"], detector.pixel_range_).permute(1, 2, 0).numpy()
        shown = {
            f"p-value {row['p_value']:.2g}": image,
            "unlike the others": overlay(image, result.anomaly_map[i], scale),
        }
        _save(folder / name, strip(shown))
    write_csv(str(folder / TABLE), COLUMNS, rows)
    lines = [
        "# Images to leave out by `fastad train --exclude`. Delete the lines of good ones.",
        *(row["path"] for row in listed),
    ]
    write_text(str(folder / LIST), "\n".join(lines) + "\n")


def _save(path: Path, picture: np.ndarray) -> None:
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
