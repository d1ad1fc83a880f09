"""The table of scores, a row an image: `predict`, `evaluate` and the report write the same one."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from fastad.data import Sample
from fastad.data.remote import spelled

# Where the status is "unreadable", the error says why, and the other cells are empty.
COLUMNS = ("path", "score", "p_value", "is_anomalous", "input", "status", "error")
LABELS = ("type", "is_defect")  # after them, of labelled images


def score_row(
    path: str | Path | None,
    score: float,
    p_value: float | None,
    is_anomalous: bool | None,
    input: str | None = None,
) -> dict[str, Any]:
    """The cells of `COLUMNS` of an image that was read: str, float, float, bool, str, str, None.

    None where there is nothing to say, but an unknown ``input`` is "unknown".
    """
    return {
        "path": None if path is None else spelled(path),
        "score": float(score),
        "p_value": None if p_value is None else float(p_value),
        "is_anomalous": None if is_anomalous is None else bool(is_anomalous),
        "input": "unknown" if input is None else input,
        "status": "ok",
        "error": None,
    }


def unreadable_row(path: str | Path, error: str) -> dict[str, Any]:
    """The cells of `COLUMNS` of an image that could not be read: it was not inspected."""
    return dict.fromkeys(COLUMNS) | {"path": spelled(path), "status": "unreadable", "error": error}


def labelled_rows(
    samples: Sequence[Sample],
    scores: Sequence[float],
    threshold: float | None,
    p_values: Callable[[np.ndarray], np.ndarray] | None,
) -> list[dict[str, Any]]:
    """Of each labelled image the cells of `COLUMNS` and of `LABELS`.

    Args:
        threshold: above it an image is anomalous. None for no decision.
        p_values: scores (N,) -> their p-values (N,). None for none.
    """
    found = repeat(None, len(scores)) if p_values is None else p_values(np.array(scores))
    return [
        score_row(sample.path, score, p, None if threshold is None else score > threshold)
        | labels_of(sample)
        for sample, score, p in zip(samples, scores, found, strict=True)
    ]


def labels_of(sample: Sample) -> dict[str, Any]:
    """The cells of `LABELS` of an image, a str and a bool."""
    return {"type": sample.defect_type, "is_defect": bool(sample.label)}


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Comma-separated rows under a header. Booleans are True and False, None is an empty cell."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
