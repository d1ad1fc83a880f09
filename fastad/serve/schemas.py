"""What the API takes and gives, for OpenAPI."""

import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fastad.serve.tables import Result

PICTURES = ("image", "shown", "thumbnail", "heatmap", "mask")
EXAMPLE: dict[str, Any] = {
    "id": 1842,
    "time": "2026-11-30T07:15:00.250000+00:00",
    "detector": "bottle",
    "version": 1,
    "camera": "left",
    "name": "0017.png",
    "score": 0.731,
    "p_value": 0.004,
    "threshold": 0.62,
    "verdict": "defect",
    "input": "ok",
    "label": None,
    "size": [900, 900],
    "regions": [
        {
            "box": [412.0, 288.0, 84.0, 60.0],
            "centroid": [455.1, 317.9],
            "area": 3712.0,
            "share": 0.0046,
            "peak": 0.9,
            "mean": 0.7,
            "length": 91.0,
            "width": 48.0,
            "angle": 34.0,
        }
    ],
    "links": {
        "self": "/api/v1/results/1842",
        "image": "/api/v1/results/1842/image?at=1796022900.250000",
        "shown": "/api/v1/results/1842/shown?at=1796022900.250000",
        "thumbnail": "/api/v1/results/1842/thumbnail?at=1796022900.250000",
        "heatmap": "/api/v1/results/1842/heatmap?at=1796022900.250000",
        "mask": "/api/v1/results/1842/mask?at=1796022900.250000",
        "page": "/results/1842",
    },
}

Verdict = Literal["good", "defect"]


class ResultOut(BaseModel):
    """What a detector said of one image.

    ``verdict`` is null for a detector without a threshold, and ``p_value`` without calibration
    scores. Places and lengths of ``regions`` are in pixels of the image.
    """

    model_config = ConfigDict(json_schema_extra={"example": EXAMPLE})
    id: int
    time: datetime.datetime
    detector: str
    version: int
    camera: str
    name: str
    score: float
    p_value: float | None
    threshold: float | None
    verdict: Verdict | None
    input: str
    label: Verdict | None
    size: tuple[int, int]
    regions: list[dict[str, Any]]
    links: dict[str, str]


class Unread(BaseModel):
    """An image that cannot be read."""

    name: str
    error: str


class Predicted(BaseModel):
    """The answers to a request, in the order of its images."""

    results: list[ResultOut | Unread]


class Results(BaseModel):
    """A page of results, the newest first. ``next`` is the address of older ones."""

    total: int
    results: list[ResultOut]
    next: str | None


class Label(BaseModel):
    """A label, or null to take it away."""

    model_config = ConfigDict(json_schema_extra={"example": {"label": "good"}})
    label: Verdict | None


class DetectorOut(BaseModel):
    """A detector in use."""

    name: str
    model: str
    version: int
    note: str
    image_size: tuple[int, int]
    threshold: float | None
    false_positive_rate: float | None
    calibration_images: int
    labelled_good: int
    labelled_defect: int


class Calibrate(BaseModel):
    """A calibration on the images labelled good."""

    model_config = ConfigDict(json_schema_extra={"example": {"false_positive_rate": 0.02}})
    false_positive_rate: Annotated[float | None, Field(gt=0, lt=1)] = None


class Threshold(BaseModel):
    """A threshold to judge by."""

    model_config = ConfigDict(json_schema_extra={"example": {"value": 0.62}})
    value: Annotated[float, Field(allow_inf_nan=False)]


class Changed(BaseModel):
    """What is in use now, and what is to be said of it."""

    detector: DetectorOut
    message: str


class Problem(BaseModel):
    """Why a request was refused."""

    detail: Any


def result_out(result: Result) -> dict[str, Any]:
    """A stored result as JSON has it."""
    address = f"/api/v1/results/{result.id}"
    verdict = {True: "defect", False: "good", None: None}[result.is_anomalous]
    same = ("id", "detector", "version", "camera", "name", "score", "p_value", "threshold")
    # A store that begins anew gives the same numbers to others, and browsers keep pictures.
    stamp = f"?at={result.time:.6f}"
    return {name: getattr(result, name) for name in same} | {
        "time": iso(result.time),
        "verdict": verdict,
        "input": result.input,
        "label": result.label,
        "size": [result.height, result.width],
        "regions": result.regions,
        "links": {"self": address}
        | {kind: f"{address}/{kind}{stamp}" for kind in PICTURES}
        | {"page": f"/results/{result.id}"},
    }


def iso(seconds: float) -> str:
    """A time as ISO 8601 writes it, UTC."""
    when = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return when.isoformat(timespec="microseconds")
