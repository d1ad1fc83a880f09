"""From an untrained model and good images to a detector: training, calibration, self-check.

Several models may be candidates. Each is trained, and the one is kept that tells more synthesised
defects from the held-out images.
"""

import dataclasses
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fastad.data.folder import Images
from fastad.data.roi import Roi
from fastad.data.training_set import TrainingSet, image_digests
from fastad.engine.fast_copy import FastCopy
from fastad.evaluation import CheckResult, Tried, check
from fastad.inference.advice import next_step
from fastad.inference.artifact import Artifact
from fastad.inference.calibration import calibration_scores
from fastad.inference.candidates import better, in_words
from fastad.inference.holding_out import copies_together
from fastad.inference.in_tiles import TileTraining
from fastad.inference.min_area import LevelRecorder
from fastad.inference.predictor import Predictor
from fastad.inference.roi import set_for_training
from fastad.inference.serving import Examination, examine
from fastad.inference.threshold import conformal_threshold
from fastad.models import AnomalyModel
from fastad.training import (
    EpochProgress,
    Trainer,
    TrainingConfig,
    TrainingDivergedError,
    TrainingRecord,
)
from fastad.training.agenda import EXAMINATION, SELF_CHECK, TRIED
from fastad.training.identity import require_resumable

log = logging.getLogger("fastad")

Listener = Callable[[EpochProgress], None]


def fit_best(
    candidates: Sequence[tuple[AnomalyModel, TrainingConfig]],
    source: TrainingSet,
    *,
    roi: Roi | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    **options: Any,
) -> tuple[Artifact, Predictor]:
    """Train the candidates one after the other, and keep the best (`better`).

    All are judged by the same synthesised defects, on images that none of them was trained on. A
    candidate whose training diverges is left out. Where Ctrl-C stops a later one, what is ready is
    kept.

    Args:
        candidates: models and how they are trained; at most one of several has epochs.
        source: the images.
        roi: which pixels count. None for all.
        checkpoint, resume: of the candidate that has epochs, or of a single one.
        **options: as errors, those of `fit_model`.
    """
    said = {} if roi is None else set_for_training(roi, source, [model for model, _ in candidates])
    artifact, predictor = _best(candidates, source, checkpoint, resume, options)
    artifact.training |= said | {"next_step": next_step(artifact.training, artifact.model)}
    return artifact, predictor


def _best(
    candidates: Sequence[tuple[AnomalyModel, TrainingConfig]],
    source: TrainingSet,
    checkpoint: str | Path | None,
    resume: bool,
    options: Mapping[str, Any],
) -> tuple[Artifact, Predictor]:
    several = len(candidates) > 1
    if several and resume and checkpoint is not None:  # before a candidate without epochs is fitted
        for model, config in candidates:
            if model.trains():
                split = copies_together(source, config)
                given = split.dataset, split.held_out, split.pixel_range
                require_resumable(checkpoint, model, config, *given)
    fitted: list[tuple[Artifact, Predictor]] = []
    for number, (model, config) in enumerate(candidates, start=1):
        if several:
            log.info(f"candidate {number} of {len(candidates)}: {model.name}")
        files: dict[str, Any] = {}
        if model.trains() or not several:
            files = {"checkpoint": checkpoint, "resume": resume}
        try:
            found = fit_model(model, config, source, **files, **options)
        except (TrainingDivergedError, KeyboardInterrupt) as error:
            if not fitted:
                raise
            is_stopped = isinstance(error, KeyboardInterrupt)
            why = str(error) or "it was stopped by the user"
            return _without(model.name, why, is_stopped, _kept(fitted, source))
        if found[0].training["interrupted"]:
            if not fitted:
                _warn_of_stop(found[0].training, len(model.stages))
                return found
            why = "it was stopped by the user"
            kept = _without(model.name, why, True, _kept(fitted, source))
            kept[0].training["stopped_candidate"] = found[0].training
            return kept
        fitted.append(found)
    return _kept(fitted, source)


def fit_model(
    model: AnomalyModel,
    config: TrainingConfig,
    source: TrainingSet,
    *,
    rate: float,
    batch_size: int,
    progress: Listener | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    self_check: bool = True,
    tile: tuple[int, int] | None = None,
    kind: type[Trainer] = Trainer,
) -> tuple[Artifact, Predictor]:
    """Train a model, choose how it predicts and its thresholds, and try it on synthesised defects.

    Args:
        model: untrained.
        config: of its training.
        source: the images.
        rate: largest share of good images that may be called anomalous.
        batch_size: images in one step of prediction.
        progress, checkpoint, resume: as of `fastad.training.Trainer`.
        self_check: try it on synthesised defects at the end, where images were held out.
        tile: (height, width) of the tiles that it learns from and predicts in. None for whole
            images.
        kind: `fastad.training.Calibrator` for a trained model whose networks stay as they are.

    Returns:
        What a file keeps, and a predictor with its thresholds.

    Raises:
        KeyboardInterrupt: Ctrl-C before the end of the first epoch.
        Other errors are those of `fastad.training.Trainer.fit`.
    """
    source = copies_together(source, config)
    after = (EXAMINATION, SELF_CHECK) if self_check else (EXAMINATION,)
    fast = FastCopy(config.precision)
    trainer = kind(model, config, progress, followed_by=after, fast_copy=fast)
    precision = str(trainer.dtype).removeprefix("torch.")
    doing = "training" if kind is Trainer else "calibrating"
    size = "x".join(map(str, source.size))
    log.info(f"{doing} {model.name} on {trainer.device} in {precision}, {size}")
    cut = None if tile is None else TileTraining(model, config, source, tile)
    shared: dict[str, Any] = {"checkpoint": checkpoint, "resume": resume}
    shared["pixel_range"] = source.pixel_range
    if cut is None:
        record = trainer.fit(source.dataset, held_out=source.held_out, **shared)
    else:
        record = cut.fit(trainer, **shared)
    if record.interrupted and record.best_epoch is None:
        raise KeyboardInterrupt(nothing_yet(model.trains()))
    record.notes += source.notes()
    trainer.begin(EXAMINATION)
    predictor = Predictor(
        model,
        source.size,
        device=config.device,
        precision=config.precision,
        batch_size=batch_size,
        pixel_range=source.pixel_range,
        facts=source.facts,
        tile=tile,
    )
    serving = None
    if config.precision == "auto" and cut is None:
        serving = examine(predictor, source.dataset, record.held_out, rate)
    elif config.precision == "auto" and cut is not None:
        serving = cut.examine(predictor, record, rate)
    if serving is not None:
        record.notes += serving.notes
    for note in record.notes:
        if note not in trainer.said:
            log.info(f"note: {note}")
    artifact = _calibrated(predictor, source, record, serving, rate)
    if self_check and not record.interrupted:
        result = _self_check(predictor, artifact, source, trainer)
        artifact.training["self_check"] = None if result is None else result.to_dict()
    return artifact, predictor


def _kept(
    fitted: Sequence[tuple[Artifact, Predictor]], source: TrainingSet
) -> tuple[Artifact, Predictor]:
    """The best of the candidates, with the numbers of all in its record."""
    if len(fitted) == 1:
        return fitted[0]
    of_all = [set(artifact.training["held_out"]) for artifact, _ in fitted]
    common = sorted(set.intersection(*of_all))
    rows = []
    for artifact, predictor in fitted:
        training = artifact.training
        result = training["self_check"]
        try:
            if result is not None and common != training["held_out"]:
                result = tried(predictor, artifact, source.dataset, common).to_dict()
        except KeyboardInterrupt:
            log.warning("stopped by the user: candidates are compared by their self-checks")
        rows.append(
            {
                "model": training["model"],
                "image_auroc": None if result is None else result["image_auroc"],
                "aupro": None if result is None else result["aupro"],
                "defects": 0 if result is None else result["found"]["total"],
                "images": len(common),
                "seconds": training["seconds"],
            }
        )
    name = better(rows)
    artifact, predictor = next(one for one in fitted if one[0].training["model"] == name)
    artifact.training["candidates"] = rows
    log.info(f"{name} is kept: {in_words(rows)}")
    return artifact, predictor


def _without(
    name: str, why: str, is_stopped: bool, kept: tuple[Artifact, Predictor]
) -> tuple[Artifact, Predictor]:
    """What is kept without the candidate ``name``."""
    training, note = kept[0].training, f"candidate {name} is missing: {why}"
    training["notes"].append(note)
    training["interrupted"] = is_stopped
    warnings.warn(f"{training['model']} is kept; {note}", stacklevel=4)
    return kept


def _self_check(
    predictor: Predictor, artifact: Artifact, source: TrainingSet, trainer: Trainer
) -> CheckResult | None:
    """What the detector finds of synthesised defects on its held-out images; None without such."""
    if artifact.threshold is None:
        return None
    held_out = artifact.training["held_out"]
    try:
        progress = trainer.follow(SELF_CHECK)
        result = tried(predictor, artifact, source.dataset, held_out, progress)
    except KeyboardInterrupt:  # all is trained: nothing else is missing
        log.warning("the self-check was stopped by the user")
        return None
    log.info(f"self-check: {result.summary}")
    return result


def tried(
    predictor: Predictor,
    artifact: Artifact,
    dataset: Images,
    indices: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
    observe: Callable[[Tried], None] | None = None,
) -> CheckResult:
    """The self-check: synthesised defects on held-out images of a data set, by their indices.

    ``progress`` and ``observe`` are those of `fastad.evaluation.check`.
    """

    def predict(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        result = predictor.predict_batch(images)
        return result.score, result.anomaly_map

    assert artifact.threshold is not None  # images were held out
    return check(
        predict,
        dataset,
        indices,
        threshold=artifact.threshold,
        promised=artifact.kept_rate,
        held_out=indices,
        count=TRIED if predictor.tile is None else TRIED // 5,  # whole images take long
        batch_size=predictor.batch_size,
        inside=artifact.roi,
        seed=artifact.training["seed"],
        progress=progress,
        observe=observe,
    )


def _calibrated(
    predictor: Predictor,
    source: TrainingSet,
    record: TrainingRecord,
    serving: Examination | None,
    rate: float,
) -> Artifact:
    """What is kept of a training: the model, with thresholds from the held-out images."""
    levels = LevelRecorder(source.size)
    scores, maxima, seen = calibration_scores(
        predictor, source.dataset, record.held_out, levels.add
    )
    aspects = source.aspects_of(record.held_out)
    threshold = pixel_threshold = None
    if len(scores):
        threshold = conformal_threshold(scores, rate)
        pixel_threshold = conformal_threshold(maxima, rate, warn=False)  # it was said already
    of_images = {
        "data": source.name,
        "images": len(source.dataset),
        "image_digests": image_digests(source.dataset),
        "tile": predictor.tile,
    }
    return Artifact(
        model=predictor.model,
        image_size=source.size,
        calibration=scores,
        false_positive_rate=rate,
        threshold=threshold,
        training=record.to_dict() | of_images,
        pixel_calibration=maxima,
        pixel_threshold=pixel_threshold,
        serving=None if serving is None else dataclasses.asdict(serving),
        pixel_range=source.pixel_range,
        facts=source.facts,
        inputs=np.concatenate([seen, aspects[:, None]], axis=1),
        region_levels=levels.result(source.shape),
    )


def _warn_of_stop(training: Mapping[str, Any], stages: int) -> None:
    stage = training["stages"][-1]
    of_stage = f" of stage {stage['name']}" if stages > 1 else ""
    warnings.warn(
        f"stopped after epoch {stage['epochs']} of {stage['config']['epochs']}{of_stage}: epoch "
        f"{stage['best_epoch']} is kept",
        stacklevel=4,
    )


def nothing_yet(trains: bool) -> str:
    """What is said where Ctrl-C comes before there is anything to keep."""
    return f"stopped before {'the end of the first epoch' if trains else 'anything was learnt'}"
