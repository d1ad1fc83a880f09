"""A detector on good images with synthesised defects: which images may be used, and the result."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fastad.data.depth import FULL
from fastad.data.inputs import are_paths
from fastad.data.synthesis.conditions import DISTURBANCES
from fastad.data.training_set import TrainingSet, file_digests, read_training_set
from fastad.evaluation import CheckResult, check
from fastad.evaluation.shares import promised
from fastad.inference.artifact import Artifact
from fastad.inference.known_images import listed, trained_and_apart
from fastad.inference.predictor import Predictor

LOOKED_AT = 8  # images whose files are compared with what the detector expects
FEW = 20  # held-out or new images: with fewer a rate of false alarms says little


def check_detector(
    artifact: Artifact, predictor: Predictor, images: Any, **options: Any
) -> CheckResult:
    """Synthesised defects on good images, judged at the detector's threshold.

    Images that the detector was trained on are left out, and those held out from its training are
    counted apart: their files are known by their content (`file_digests`).

    Args:
        artifact: the detector.
        predictor: its own, with the threshold to try.
        images: a folder of good images, or images in any form of `fastad.data.inputs`.
        **options: ``count``, ``seed``, ``progress`` and ``observe`` of `fastad.evaluation.check`.

    Raises:
        ValueError: there is no threshold, or no image that the detector was not trained on.
    """
    if predictor.threshold is None:
        raise ValueError("there is no threshold: no images were held out; use set_threshold")
    given = listed(images)
    trained, held_out = trained_and_apart(artifact)
    digests = file_digests(given) if are_paths(given) else []
    left_out = {n for n, digest in enumerate(digests) if digest in trained}
    if digests and len(left_out) == len(digests):
        raise ValueError(
            f"images: the detector was trained on all {len(digests)} of them, which proves "
            "nothing: give other good images, or the whole folder of its training, of which the "
            "held-out ones are taken"
        )
    if left_out:
        given = [path for n, path in enumerate(given) if n not in left_out]
        digests = [digest for n, digest in enumerate(digests) if n not in left_out]
    source = _read(given, predictor)
    own = {n for n, digest in enumerate(digests) if digest in held_out}

    def predict(batch: Tensor) -> tuple[np.ndarray, np.ndarray]:
        result = predictor.predict_batch(batch)
        return result.score, result.anomaly_map

    calibration = artifact.judging
    result = check(
        predict,
        source.dataset,
        threshold=predictor.threshold,
        promised=promised(calibration, predictor.threshold) if len(calibration) else None,
        held_out=own,
        batch_size=predictor.batch_size,
        inside=artifact.roi,
        disturbances=tuple(DISTURBANCES),
        **options,
    )
    is_known = bool(digests) and bool(trained or held_out)
    notes = _notes(result, len(left_out), is_known)
    return dataclasses.replace(result, trained_on=len(left_out), notes=notes)


def _read(images: Any, predictor: Predictor) -> TrainingSet:
    depth = (predictor.pixel_range or FULL).option
    source = read_training_set(images, predictor.image_size, bit_depth=depth)
    paths: Sequence[Path] = getattr(source.dataset, "paths", ())
    for path in paths[:: max(1, len(paths) // LOOKED_AT)]:
        predictor.read(path)  # warns of an image that is unlike the training's
    return source


def _notes(result: CheckResult, left_out: int, is_known: bool) -> list[str]:
    notes = ["synthesised defects are no real ones: a detector that finds them may miss real ones"]
    if left_out:
        notes.append(f"{left_out} images that the detector was trained on are left out")
    if not is_known:
        notes.append(
            "whether the detector was trained on these images is not known: if it was, the numbers "
            "are too good"
        )
    if result.held_out_alarms.total:
        notes.append(
            f"{result.held_out_alarms.total} of the good images set the threshold: their false "
            "alarms say nothing about new images"
        )
    if 0 < result.alarms.total < FEW:
        notes.append(
            f"{result.alarms.total} good images are few: the rate of false alarms is uncertain"
        )
    if result.breaks_promise:
        limit = "half of them" if result.promised is None else f"the {result.promised:.1%} promised"
        notes.append(
            f"there are more false alarms on new images than {limit}: a threshold of few held-out "
            "images may be off, hold out more of them or set another rate"
        )
    return notes
