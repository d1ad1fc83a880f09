"""``fastad inspect``: what a folder of images holds, and what the commands would do with it."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastad.commands.output import check_result_target, progress, write_json
from fastad.data.depth import PixelRange
from fastad.data.layouts.description import DataDescription, describe
from fastad.data.layouts.inspection import FolderRow, Inspection, inspect_files
from fastad.data.survey import choose_range

SHOWN = 5  # files named of each kind


def inspect(
    data: str,
    *,
    good: list[str],
    defects: list[str],
    masks: list[str],
    deep: bool,
    json: str | None,
) -> None:
    """Print a table of the folders, and write it as JSON where asked.

    Raises ValueError, after the table, where something must be settled first.
    """
    if json is not None:
        check_result_target(json)
    found = describe(data, good=good, defects=defects, masks=masks)
    with progress("looking") as show:
        seen = inspect_files(found, deep=deep, progress=show)
    chosen = choose_range([f.path for f in found.training]) if found.cannot_train is None else None
    if json is not None:
        write_json(json, as_dict(found, seen, chosen))
    if json != "-":
        _print(found, seen, chosen)
    if found.unclear:
        raise ValueError(_short(found.unclear[0]))
    if seen.unreadable:
        count = len(seen.unreadable)
        raise ValueError(f"{count} of {len(found.files)} files cannot be read: {_first(seen)}")


def as_dict(
    found: DataDescription, seen: Inspection, chosen: PixelRange | None = None
) -> dict[str, Any]:
    """What JSON gets."""
    return {
        "folder": str(found.folder),
        "layout": found.layout,
        "train": {
            "images": len(found.training),
            "held_out": len(found.held_out),
            "bit_depth": None if chosen is None else chosen.option,
            "problem": _short(found.cannot_train),
        },
        "evaluate": {
            "normal": sum(file.role == "normal" for file in found.test),
            "defect": sum(file.role == "defect" for file in found.test),
            "problem": _short(found.cannot_evaluate),
        },
        "folders": [
            {
                "folder": row.folder,
                "role": row.role,
                "files": row.count,
                "sizes": [{"height": h, "width": w, "files": n} for (h, w), n in _most(row.shapes)],
                "modes": dict(_most(row.modes)),
                "passed_over_because": dict(_most(row.reasons)),
            }
            for row in seen.rows
        ],
        "unlabelled": len(found.unlabelled),
        "unjudged": [str(path) for path in found.unjudged],
        "counted_already": [str(path) for path in found.repeats],
        "written_by_fastad": [str(path) for path in found.outputs],
        "duplicates": [[str(path) for path in pair] for pair in seen.duplicates],
        "masks_without_image": [str(path) for path in seen.masks_alone],
        "defects_without_mask": [str(path) for path in seen.defects_without_mask],
        "unreadable": {str(path): reason for path, reason in seen.unreadable},
    }


def intentions(found: DataDescription) -> list[str]:
    """What ``train`` and ``evaluate`` do with the folder, a sentence each."""
    apart = f"{len(found.held_out)} more are" if found.held_out else "a fifth of them is"
    train = f"takes {_count(len(found.training), 'normal image')}, {apart} held out"
    test = [file.role for file in found.test]
    normal, defect = test.count("normal"), test.count("defect")
    masked = sum(bool(file.masks) for file in found.test)
    evaluate = f"measures on {normal} normal and {defect} defective images, {masked} with masks"
    if not normal:
        evaluate += "; scores of images are undefined without normal ones"
    elif {f.path for f in found.training} & {f.path for f in found.test}:
        evaluate += "; its normal images are those of the training"
    if found.cannot_train is not None:
        train = f"refuses: {_short(found.cannot_train)}"
    if found.cannot_evaluate is not None:
        evaluate = f"refuses: {_short(found.cannot_evaluate)}"
    return [f"train     {train}", f"evaluate  {evaluate}"]


def _print(found: DataDescription, seen: Inspection, chosen: PixelRange | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for column in ("folder", "what", "files", "height x width", "pixels", "aspect"):
        table.add_column(column, justify="right" if column == "files" else "left")
    for row in seen.rows:
        reasons = f": {', '.join(row.reasons)}" if row.reasons else ""
        sizes = [f"{h}x{w}" for h, w in _keys(row.shapes)]
        cells = [_some(sizes), _some(_keys(row.modes)), _aspects(row)]
        table.add_row(row.folder, row.role + reasons, str(row.count), *cells)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.width = max(console.width, 160)
    console.print(f"{found.folder}: {found.layout}, {_count(len(found.files), 'image file')}")
    console.print(table)
    if found.unlabelled:
        count = _count(len(found.unlabelled), "image")
        console.print(f"{count} without published labels: `fastad predict` takes them")
    pairs = [f"{train.name} = {test.name}" for train, test in seen.duplicates]
    if chosen is not None:
        console.print(f"16-bit values would be read as {chosen} (--bit-depth {chosen.option})")
    for what, names in (
        ("folders that nobody has judged are passed over", _below(found, found.unjudged)),
        ("folders of what fastad wrote are passed over", _below(found, found.outputs)),
        ("links lead to what counts already", _below(found, found.repeats)),
        ("test images have the same bytes as training images", pairs),
        ("masks belong to no image of a defect", [p.name for p in seen.masks_alone]),
        ("images of defects have no mask", [p.name for p in seen.defects_without_mask]),
        ("files cannot be read", [reason for _, reason in seen.unreadable]),
    ):
        if names:
            console.print(f"{len(names)} {what}: {_some(names)}")
    for line in intentions(found):
        console.print(line)


def _below(found: DataDescription, paths: Sequence[Path]) -> list[str]:
    return [os.path.relpath(path, found.folder) for path in paths]


def _aspects(row: FolderRow) -> str:
    ratios = sorted(width / height for height, width in row.shapes)
    if not ratios:
        return "-"
    low, high = f"{ratios[0]:.2f}", f"{ratios[-1]:.2f}"
    same = math.isclose(ratios[0], ratios[-1], rel_tol=0.01)
    return low if same else f"{low} to {high}"


def _most(counts: Any) -> list[tuple[Any, int]]:
    return sorted(counts.items(), key=lambda item: -item[1])


def _keys(counts: Any) -> list[Any]:
    return [key for key, _ in _most(counts)]


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - SHOWN
    shown = ", ".join(texts[:SHOWN]) or "-"
    return f"{shown} and {more} more" if more > 0 else shown


def _first(seen: Inspection) -> str:
    return seen.unreadable[0][1]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _short(error: Exception | None) -> str:
    """Without the advice to call this command."""
    return "" if error is None else str(error).partition("; `fastad inspect")[0]
