"""The page that ``fastad demo`` writes: `demo_page.html` filled; no scripts, no network."""

import math
from dataclasses import dataclass
from typing import Any

import fastad
from fastad._html import template
from fastad.commands.training_summary import epochs_kept, has_stages


@dataclass(frozen=True)
class Shown:
    """A picture of a test image, and what the detector said of the image."""

    file: str
    kind: str
    score: float
    p_value: float
    is_anomalous: bool


@dataclass(frozen=True)
class Outcome:
    """What the page tells of a product.

    ``metrics`` are those of `fastad.evaluation.evaluate`, ``training`` is the training record.
    """

    product: str
    metrics: dict[str, Any]
    training: dict[str, Any]
    threshold: float
    false_positive_rate: float
    shown: list[Shown]

    def by_kind(self) -> dict[str, list[Shown]]:
        """The pictures of every kind, the defects first."""
        kinds = sorted(dict.fromkeys(s.kind for s in self.shown), key=lambda kind: kind == "good")
        return {kind: [s for s in self.shown if s.kind == kind] for kind in kinds}


def page(outcomes: list[Outcome], model: str, size: tuple[int, int], seed: int) -> str:
    """The whole page; ``model`` is in words, files are named relative to the page."""
    return template("fastad.commands", "demo_page.html").render(
        outcomes=outcomes,
        # Where the teachers' weights came from: not every result can be had with all of them.
        origins=list(dict.fromkeys(v for o in outcomes for v in o.training["teachers"].values())),
        model=model,
        in_stages=any(has_stages(o.training) for o in outcomes),
        trained=any(o.training.get("epochs") != 0 for o in outcomes),
        size=size,
        seed=seed,
        version=fastad.__version__,
        epochs_kept=epochs_kept,
        number=lambda value: "-" if math.isnan(value) else f"{value:.3f}",
        share=lambda rate, number: f"{round(rate * number)} of {number}",
    )
