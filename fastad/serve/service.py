"""The parts of a server, which its routes share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from fastad.serve.detectors import Detectors, Live
from fastad.serve.folder import WatchedFolder
from fastad.serve.inspection import Inspection
from fastad.serve.metrics import Metrics
from fastad.serve.settings import Settings
from fastad.serve.store import DEFECT, GOOD, Store


@dataclass(frozen=True)
class Service:
    """Everything behind the routes."""

    settings: Settings
    store: Store
    detectors: Detectors
    metrics: Metrics
    inspection: Inspection
    folders: list[WatchedFolder] = field(default_factory=list)

    @property
    def is_ready(self) -> bool:
        """Whether images are judged and results can be kept. Raises the database's error."""
        is_running = self.inspection.is_running and all(one.is_alive() for one in self.folders)
        return is_running and self.store.is_alive()

    def labelled(self, live: Live) -> dict[str, list[float]]:
        """Sorted scores of the labelled images, by label, that the thresholds go for."""
        found = self.store.of_scale(live.name, live.version.scale)
        return {
            label: sorted(score for score, own in found if own == label) for label in (GOOD, DEFECT)
        }

    def summary(self, live: Live) -> dict[str, Any]:
        """A detector as JSON has it."""
        labelled, detector = self.labelled(live), live.detector
        return {
            "name": live.name,
            "model": detector.model,
            "version": live.version.id,
            "note": live.version.note,
            "image_size": detector.image_size_,
            "threshold": detector.threshold_,
            "false_positive_rate": detector.false_positive_rate_,
            "calibration_images": len(detector.calibration_scores_),
            "labelled_good": len(labelled[GOOD]),
            "labelled_defect": len(labelled[DEFECT]),
        }


def service(
    files: dict[str, str],
    store: Store,
    settings: Settings,
    *,
    folders: Mapping[str, str] | None = None,
    waiting: int = 64,
    batch_size: int = 32,
    device: str = "auto",
    precision: Literal["auto", "float32", "bfloat16", "float16", "int16"] = "auto",
) -> Service:
    """Load the detectors and put the parts together.

    ``folders`` are watched, each with the name of the detector that judges its images.
    """
    options = {"device": device, "precision": precision, "batch_size": batch_size}
    detectors, metrics = Detectors(files, store, **options), Metrics()
    for live in detectors:  # what a first request would wait for
        shape = (1, *live.detector.image_size_, 3)
        live.detector.predict(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    inspection = Inspection(detectors, store, metrics, batch_size=batch_size, waiting=waiting)
    watched = [
        WatchedFolder(folder, name, inspection, settings)
        for folder, name in (folders or {}).items()
    ]
    return Service(settings, store, detectors, metrics, inspection, watched)
