"""``fastad bench --compare OLD NEW``: two saved runs side by side."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FACTS = ("detector", "device", "threads", "torch", "image_size", "model_precision")


def compare(old: str, new: str) -> None:
    """Print what both runs measured: old and new milliseconds, and how many times as fast.

    Raises ValueError for a file that is no record of ``fastad bench --json``, FileNotFoundError for
    one that is missing.
    """
    first, second = _read(Path(old)), _read(Path(new))
    for name in FACTS:
        if first.get(name) != second.get(name):
            print(f"{name} differs: {first.get(name)} and {second.get(name)}")
    times = [dict(_times(run)) for run in (first, second)]
    shared = [key for key in times[0] if key in times[1]]
    if not shared:
        raise ValueError(f"{old} and {new} have measured nothing alike")
    width = max(len(_name(key)) for key in shared)
    print(f"{'':{width}}{'old':>13}{'new':>13}   new is")
    for key in shared:
        before, after = times[0][key], times[1][key]
        ratio = before / after if after else float("nan")
        print(f"{_name(key):{width}}{before:10.3f} ms{after:10.3f} ms   {ratio:.2f} x as fast")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        list(_times(content))
    except (UnicodeDecodeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is no record of fastad bench --json") from error
    return content


def _times(run: dict[str, Any]) -> Iterator[tuple[tuple[str, int], float]]:
    for row in run["results"]:
        yield (str(row["work"]), int(row["batch_size"])), float(row["ms"])


def _name(key: tuple[str, int]) -> str:
    return f"{key[0]}, batch {key[1]}"
