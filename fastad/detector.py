"""The detector: training, calibration, prediction, evaluation and one file, behind one class."""

import dataclasses
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastad import inference, models
from fastad._estimator import Estimator, NotFittedError
from fastad.data import Sample, test_samples
from fastad.data.training_set import file_digests, read_training_set, training_size
from fastad.export.verification import Verification
from fastad.inference import Artifact, PredictionResult, Predictor, conformal_threshold
from fastad.inference.calibration import calibration_scores
from fastad.inference.serving import examine
from fastad.training import (
    EpochProgress,
    Trainer,
    TrainingConfig,
    check_defects,
    load_checkpoint,
    resolve_device,
    settled_options,
)

log = logging.getLogger("fastad")

SKIPPED_NAMES = 20  # how many of the skipped files a record names


class Detector(Estimator):
    """Finds anomalies in images after seeing normal ones only.

    Follows scikit-learn's conventions: the constructor only stores its arguments, `fit` returns
    self, fitted attributes end in an underscore, `sklearn.base.clone` works.

    Args:
        model: one of `fastad.models.MODELS`.
        image_size: what images are resized to: 256, (height, width), "640x256", or "auto" for the
            aspect ratio of the training images.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "auto", "float32", "bfloat16" or "float16"; of `load` also "int16", see
            `fastad.engine.precision.resolve`.
        batch_size: images a step of prediction; training has its own, see `fit`.
        false_positive_rate: share of normal images that the threshold may call anomalous.
        seed: of initialisation, hold-out split and order.
        **options: fields of the model's config dataclass.

    Attributes:
        model_: the trained `fastad.models.AnomalyModel`.
        image_size_: (height, width).
        threshold_, pixel_threshold_: above them an image is anomalous, a pixel part of the mask;
            None where no image was held out to calibrate on.
        calibration_scores_: (n,) scores of the held-out normal images.
        pixel_calibration_: (n,) maxima of their anomaly maps.
        supervision_: what it learned from: "normal images only", or by how many images of real
            defects it was supervised.
        training_record_: what the training did; see `fastad.training.TrainingRecord`.

    Raises:
        TypeError: an option that the model does not have.

    >>> detector = Detector("stpm", image_size=(256, 512), backbone="resnet34")
    >>> detector
    Detector('stpm', image_size=(256, 512), backbone='resnet34')
    """

    def __init__(
        self,
        model: str = "rstpm",
        *,
        image_size: int | str | tuple[int, int] = 256,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 32,
        false_positive_rate: float = 0.01,
        seed: int = 0,
        **options: Any,
    ):
        self.model = model
        self.image_size = image_size
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.false_positive_rate = false_positive_rate
        self.seed = seed
        self._set_options(options)

    def fit(
        self,
        images: Any,
        y: object = None,
        *,
        epochs: int | None = None,
        progress: Callable[[EpochProgress], None] | None = None,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        skip_bad: bool = False,
        **training: Any,
    ) -> "Detector":
        """Train on normal images, then choose the thresholds on those held out.

        Args:
            images: a folder (see `fastad.data.training_images` for the layouts), images in any of
                the forms of `fastad.data.inputs`, or a map-style data set of them.
            y: ignored; scikit-learn passes it.
            epochs: passes over the images; None for the model's own. Those of a model's stages are
                scaled with it.
            progress: called after every step and epoch; `fastad.training.ConsoleProgress` shows a
                bar.
            checkpoint: file written after every epoch, from which ``resume=True`` goes on.
            skip_bad: leave unreadable files out (and say so) instead of stopping at the first.
            **training: other fields of `fastad.training.TrainingConfig`, such as ``textures`` or
                ``stages={"NAME": {"epochs": 30}}``.

        Ctrl-C ends the training early and keeps the best epoch so far; later stages are missing.

        Raises:
            ValueError, TypeError: the message names the argument, file or shape.
            WeightsNotFoundError: no weights for a teacher.
            KeyboardInterrupt: Ctrl-C before the first epoch was over.
        """
        kind = models.model_class(self.model)
        given = {
            "seed": self.seed,
            "device": str(self.device),
            "precision": self.precision,
            **training,
        } | ({} if epochs is None else {"epochs": epochs})
        config = TrainingConfig.for_model(kind, **given)
        resolve_device(config.device)
        _check_rate(self.false_positive_rate)
        if self.image_size != "auto":
            training_size(self.image_size)
        options = self._options()
        if resume and checkpoint is not None:
            options |= settled_options(load_checkpoint(checkpoint).identity, self.model, options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = models.build(self.model, **options)
        check_defects(kind, config)
        source = read_training_set(images, self.image_size, skip_bad)
        size, dataset = source.size, source.dataset
        trainer = Trainer(model, config, progress)
        precision = str(trainer.dtype).removeprefix("torch.")
        log.info(f"training {self.model} on {trainer.device} in {precision}, {size[0]}x{size[1]}")
        record = trainer.fit(
            dataset, held_out=source.held_out, checkpoint=checkpoint, resume=resume
        )
        if record.best_epoch is None:
            raise KeyboardInterrupt("stopped before the end of the first epoch")
        if record.interrupted:
            stage = record.stages[-1]
            of_stage = f" of stage {stage.name}" if len(model.stages) > 1 else ""
            warnings.warn(
                f"stopped after epoch {stage.epochs} of {stage.config['epochs']}{of_stage}: epoch "
                f"{stage.best_epoch} is kept",
                stacklevel=2,
            )
        if source.skipped:
            names = ", ".join(path.name for path, _ in source.skipped[:SKIPPED_NAMES])
            more = ", ..." if len(source.skipped) > SKIPPED_NAMES else ""
            record.notes.append(f"{len(source.skipped)} unreadable images skipped: {names}{more}")

        predictor = Predictor(
            model,
            size,
            device=config.device,
            precision=config.precision,
            batch_size=self.batch_size,
        )
        rate, serving = self.false_positive_rate, None
        if config.precision == "auto":
            serving = examine(predictor, dataset, record.held_out, rate)
            record.notes += serving.notes
        for note in record.notes:
            log.info(f"note: {note}")
        scores, maxima = calibration_scores(predictor, dataset, record.held_out)
        threshold = pixel_threshold = None
        if len(scores):
            threshold = conformal_threshold(scores, rate)
            pixel_threshold = conformal_threshold(maxima, rate, warn=False)  # it was said already
        self._set_artifact(
            Artifact(
                model=model,
                image_size=size,
                calibration=scores,
                false_positive_rate=rate,
                threshold=threshold,
                training=record.to_dict()
                | {
                    "data": source.name,
                    "images": len(dataset),
                    "image_digests": file_digests(getattr(dataset, "paths", ())),
                },
                pixel_calibration=maxima,
                pixel_threshold=pixel_threshold,
                serving=None if serving is None else dataclasses.asdict(serving),
            ),
            predictor,
        )
        return self

    def predict(self, images: Any, **options: Any) -> PredictionResult:
        """Score, map, decision, p-value and mask of images; threads may share a detector.

        images: a path, a folder, a Pillow image, a list of them, a uint8 array (N, H, W, 3), or a
        tensor (N, 3, H, W). Options and errors are those of `fastad.inference.Predictor.predict`.
        """
        return self._fitted().predict(images, **options)

    def stream(self, images: Any, **options: Any) -> Iterator[PredictionResult]:
        """As `predict`, a result a batch, with memory that does not grow with their number."""
        return self._fitted().stream(images, **options)

    def explain(self, images: Any) -> dict[str, np.ndarray]:
        """Pictures that tell why images are scored as they are, by name: (N, H, W, 3) uint8.

        What they are is the model's to say (`fastad.models.AnomalyModel.explain`); empty for one
        that makes none. ``images`` as of `predict`.
        """
        return self._fitted().explain(images)

    def score_samples(self, images: Any) -> np.ndarray:
        """(N,) the opposite of the anomaly score: scikit-learn's higher is more normal."""
        predictor = self._fitted()
        return -np.concatenate([result.score for result in predictor.stream(images)])

    def decision_function(self, images: Any) -> np.ndarray:
        """(N,) `score_samples` shifted by the threshold: negative is anomalous.

        Raises ValueError where there is no threshold.
        """
        self._fitted()
        if self.threshold_ is None:
            raise ValueError("there is no threshold: no images were held out; use set_threshold")
        return self.score_samples(images).astype(np.float64) + self.threshold_

    def predict_labels(self, images: Any) -> np.ndarray:
        """(N,) +1 for normal, -1 for anomalous images. Errors as `decision_function`."""
        return np.where(self.decision_function(images) < 0, -1, 1)

    def evaluate(self, data: str | Path, **options: Any) -> dict[str, Any]:
        """Measure on the labelled test images of a folder; nothing is chosen on them.

        Returns and options (progress, skip) as `fastad.evaluation.evaluate`, and "supervision":
        "normal images only", or by how many images of real defects the training was supervised.
        Those are left out, and counted as "trained_on" in "counts". The layouts are those of
        `fastad.data.test_samples`. A warning says how many normal test images were among the images
        that the detector was trained on.
        """
        from fastad.evaluation import evaluate

        predictor = self._fitted()

        def predict(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
            result = predictor.predict_batch(images)
            return result.score, result.anomaly_map

        found = test_samples(data)
        self._warn_of_known_images([sample.path for sample in found if sample.label == 0])
        samples = self._without_training_defects(found)
        metrics = evaluate(
            predict,
            samples,
            self.image_size_,
            threshold=self.threshold_,
            batch_size=self.batch_size,
            **options,
        )
        metrics["supervision"] = self.supervision_
        metrics["counts"]["trained_on"] = len(found) - len(samples)
        return metrics

    def set_threshold(
        self, false_positive_rate: float | None = None, *, value: float | None = None
    ) -> "Detector":
        """Choose another threshold: by rate, from the scores kept of held-out images, or by value.

        Raises ValueError for a rate outside (0, 1), both or neither, or no scores to choose from.
        """
        self.threshold_: float | None = self._threshold(
            "calibration_scores_", false_positive_rate, value
        )
        if false_positive_rate is not None:
            self.false_positive_rate = self._artifact.false_positive_rate = false_positive_rate
        self._artifact.threshold = self._predictor.threshold = self.threshold_
        return self

    def set_pixel_threshold(
        self, false_positive_rate: float | None = None, *, value: float | None = None
    ) -> "Detector":
        """Choose another threshold of the masks; the rate is that of normal images with a mask.

        At most this share of normal images gets any pixel marked. Errors as `set_threshold`.
        """
        self.pixel_threshold_: float | None = self._threshold(
            "pixel_calibration_", false_positive_rate, value
        )
        self._artifact.pixel_threshold = self._predictor.pixel_threshold = self.pixel_threshold_
        return self

    def save(self, path: str | Path) -> None:
        """Write the detector to one file, atomically; see `fastad.inference.artifact`.

        Raises ValueError for a model with a module among its options, OSError where the file cannot
        be written.
        """
        self._fitted()
        inference.save(path, self._artifact)

    def export(self, path: str | Path, format: str = "onnx", **options: Any) -> Verification:
        """Write the detector for another runtime, compared with it there first.

        format: "onnx", "openvino", "torch-export" or "aotinductor"; options and errors are those
        of `fastad.export.export.export_detector`.
        """
        from fastad.export.export import export_detector

        self._fitted()
        return export_detector(self._artifact, path, format, **options)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_predictor")

    def _warn_of_known_images(self, normal: list[Path]) -> None:
        seen = set(self.training_record_.get("image_digests", ()))
        known = sum(digest in seen for digest in file_digests(normal)) if seen else 0
        if known:
            warnings.warn(
                f"{known} of {len(normal)} normal test images were given to the training: "
                "the scores are better than they would be on new images",
                stacklevel=3,
            )

    def _without_training_defects(self, samples: list[Sample]) -> list[Sample]:
        seen = set(self.training_record_.get("defects", ()))
        if not seen:
            return samples
        defects = [sample for sample in samples if sample.label]
        digests = file_digests([sample.path for sample in defects])
        known = {s.path for s, digest in zip(defects, digests, strict=True) if digest in seen}
        if known:
            log.info(
                f"{len(known)} of {len(defects)} defect images are left out of the evaluation: the "
                "detector was trained on them"
            )
        return [sample for sample in samples if sample.path not in known]

    def _fitted(self) -> Predictor:
        if not hasattr(self, "_predictor"):
            raise NotFittedError(
                "this Detector is not trained yet: call fit, or fastad.load a file"
            )
        return self._predictor

    def _threshold(self, kept: str, rate: float | None, value: float | None) -> float:
        self._fitted()
        if (rate is None) == (value is None):
            raise ValueError("give either false_positive_rate or value")
        if value is not None:
            if not isinstance(value, (int, float, np.number)) or not np.isfinite(value):
                raise ValueError(f"value must be a finite number; got {value!r}")
            return float(value)
        assert rate is not None
        _check_rate(rate)
        scores = getattr(self, kept)
        if len(scores) == 0:
            raise ValueError(
                "there are no scores of held-out normal images to choose a threshold by: "
                "train with validation_fraction above 0 (from Python a value can be given)"
            )
        return conformal_threshold(scores, rate)

    def _set_artifact(self, artifact: Artifact, predictor: Predictor) -> None:
        predictor.threshold = artifact.threshold
        predictor.pixel_threshold = artifact.pixel_threshold
        predictor.calibration = artifact.calibration
        self._artifact, self._predictor = artifact, predictor
        self.model_ = artifact.model
        self.image_size_ = artifact.image_size
        self.threshold_ = artifact.threshold
        self.pixel_threshold_ = artifact.pixel_threshold
        self.calibration_scores_ = artifact.calibration
        self.pixel_calibration_ = artifact.pixel_calibration
        self.supervision_ = artifact.supervision
        self.training_record_ = artifact.training


def load(
    path: str | Path, *, device: str = "auto", precision: str = "auto", batch_size: int = 32
) -> Detector:
    """Read a detector that `Detector.save` or ``fastad train`` wrote.

    Raises FileNotFoundError where there is no such file, `fastad.inference.ArtifactError` for one
    that is damaged, of another kind, or newer than this package; ValueError for the options.
    """
    artifact = inference.load(path)
    config = artifact.model.config
    options = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != field.default
    }
    detector = Detector(
        artifact.model.name,
        image_size=artifact.image_size,
        device=device,
        precision=precision,
        batch_size=batch_size,
        false_positive_rate=artifact.false_positive_rate,
        seed=artifact.training.get("seed", 0),
        **options,
    )
    predictor = artifact.predictor(device=device, precision=precision, batch_size=batch_size)
    kind = str(predictor.dtype).removeprefix("torch.")
    log.debug(f"{path}: {artifact.model.name} on {predictor.device} in {kind}")
    detector._set_artifact(artifact, predictor)
    return detector


def _check_rate(rate: Any) -> None:
    if not isinstance(rate, (int, float)) or isinstance(rate, bool) or not 0 < rate < 1:
        raise ValueError(f"false_positive_rate must be between 0 and 1; got {rate!r}")
