"""The table of scores, a row an image: `predict`, `evaluate` and the report write the same one."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from fastad.data import Sample

COLUMNS = ("path", "score", "p_value", "is_anomalous")
LABELS = ("type", "is_defect")  # after them, of labelled images


def score_row(
    path: str | Path | None, score: float, p_value: float | None, is_anomalous: bool | None
) -> dict[str, Any]:
    """The cells of `COLUMNS`: str, float, float and bool. None where there is nothing to say."""
    return {
        "path": None if path is None else str(path),
        "score": float(score),
        "p_value": None if p_value is None else float(p_value),
        "is_anomalous": None if is_anomalous is None else bool(is_anomalous),
    }


def labelled_rows(
    samples: Sequence[Sample],
    scores: Sequence[float],
    threshold: float | None,
    p_values: Callable[[np.ndarray], np.ndarray] | None,
) -> list[dict[str, Any]]:
    """Of each labelled image the cells of `COLUMNS` and of `LABELS`, a str and a bool.

    Args:
        threshold: above it an image is anomalous. None for no decision.
        p_values: scores (N,) -> their p-values (N,). None for none.
    """
    found = repeat(None, len(scores)) if p_values is None else p_values(np.array(scores))
    return [
        score_row(sample.path, score, p, None if threshold is None else score > threshold)
        | {"type": sample.defect_type, "is_defect": bool(sample.label)}
        for sample, score, p in zip(samples, scores, found, strict=True)
    ]


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Comma-separated rows under a header. Booleans are True and False, None is an empty cell."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
