"""The detector: training, calibration, prediction, evaluation and one file, behind one class."""

import dataclasses
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fastad import inference, models
from fastad._estimator import Estimator, NotFittedError, normal_images
from fastad._values import is_number, plain
from fastad.data import Sample, test_samples
from fastad.data.depth import BitDepth, parse_range
from fastad.data.roi import read_roi
from fastad.data.sizes import is_auto
from fastad.data.training_set import (
    file_digests,
    read_training_set,
    training_size,
)
from fastad.export.verification import Verification
from fastad.inference import Artifact, PredictionResult, Predictor, conformal_threshold
from fastad.inference.artifact import BY_RATE, BY_VALUE
from fastad.inference.fitting import fit_best, nothing_yet
from fastad.inference.in_tiles import require_model
from fastad.inference.known_images import calibrated, given_to_training
from fastad.inference.min_area import share_of
from fastad.inference.roi import narrowed, what_it_promises
from fastad.inference.starting import Start
from fastad.inference.threshold import checked_rate
from fastad.training import (
    EpochProgress,
    TrainingConfig,
    check_defects,
    load_checkpoint,
    resolve_device,
    settled_options,
)
from fastad.training.config import options_of

if TYPE_CHECKING:
    from fastad.evaluation import CheckResult
    from fastad.inference.drift import DriftMonitor, DriftReport
    from fastad.inference.operating_point import OperatingPoints
    from fastad.inference.recalibration import Recalibration
    from fastad.inference.suspects import Suspects

log = logging.getLogger("fastad")


class Detector(Estimator):
    """Finds anomalies in images after training on normal images only.

    It follows scikit-learn's conventions: the constructor only stores its arguments, `fit` returns
    the detector, fitted attributes end in an underscore, and `sklearn.base.clone` works. One name
    differs. `predict_labels` is scikit-learn's ``predict``: +1 for normal, -1 for anomalous
    images. `predict` returns scores, anomaly maps and decisions. Numbers and sequences may also be
    numpy's or torch's. They are kept as given, and written as Python's own.

    Args:
        model: name of the model, one of `fastad.models.MODELS`. "auto" trains several
            (`fastad.models.auto`), and keeps the one that finds more synthesised defects.
        image_size: what images are resized to, in pixels: "auto" for about 256x256 pixels in area
            and the aspect ratio of the training images (`fastad.data.auto_size`), 256 for a square,
            (height, width), or "640x256" (height x width).
        bit_depth: which values of 16-bit pixels become black and white: a number of bits from 8 to
            16, a window like "30000-34000", or "auto" for the smallest of 8, 10, 12, 14 and 16 bits
            that holds the training images' values. Images of 8 bits need none.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "auto", "float32", "bfloat16" or "float16". `load` also takes "int16". See
            `fastad.engine.precision.resolve`.
        batch_size: images in one step of prediction. Training has its own batch size. See `fit`.
        false_positive_rate: largest share of normal images that may be called anomalous. It is
            what is asked for. `false_positive_rate_` is what the threshold keeps.
        seed: of the initialisation, the split into training and held-out images, and their order.
        **options: fields of the model's config dataclass, such as ``backbone``.

    Attributes:
        model_: the trained `fastad.models.AnomalyModel`.
        image_size_: (height, width) in pixels.
        pixel_range_: the `fastad.data.PixelRange` of 16-bit pixels. None where the training images
            have 8 bits: 65535 is white then.
        threshold_: an image with a higher score is anomalous. None where no image was held out.
        false_positive_rate_: the rate that ``threshold_`` keeps by the held-out images, as
            `fastad.evaluation.shares.promised` counts it. With few of them it is larger than the
            rate asked for. None where no image was held out.
        pixel_threshold_: a pixel with a higher value belongs to the mask. None where no image was
            held out.
        min_area_: the share of an image below which a region does not count. None where all count.
            See `set_min_area`.
        calibration_scores_: (n,) scores of the held-out normal images.
        pixel_calibration_: (n,) maxima of their anomaly maps.
        supervision_: "normal images only", or how many images of real defects supervised the
            training.
        training_record_: what the training did; see `fastad.training.TrainingRecord`.

    Raises:
        TypeError: the model has no such option.

    Examples:
        Train on 24 normal images, then judge two images. The second has a black square.

        >>> import numpy as np
        >>> from fastad import Detector
        >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
        >>> images = good[:2].copy()
        >>> images[1, 8:24, 8:24] = 0
        >>> detector = Detector("stpm", image_size=32, teacher_weights="embedded")
        >>> detector.set_params(false_positive_rate=0.2).fit(good, epochs=1)
        Detector('stpm', image_size=32, false_positive_rate=0.2, teacher_weights='embedded')
        >>> detector.predict(images).is_anomalous
        array([False,  True])
    """

    def __init__(
        self,
        model: str = "auto",
        *,
        image_size: int | str | tuple[int, int] = "auto",
        bit_depth: BitDepth = "auto",
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 32,
        false_positive_rate: float = 0.01,
        seed: int = 0,
        **options: Any,
    ):
        self.model = model
        self.image_size = image_size
        self.bit_depth = bit_depth
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
        start_from: "Detector | str | Path | None" = None,
        skip_bad: bool = False,
        self_check: bool = True,
        roi: Any = None,
        tile: int | str | tuple[int, int] | None = None,
        **training: Any,
    ) -> "Detector":
        """Train on normal images, then choose the thresholds on held-out ones.

        Synthesised defects on the held-out images then show what the detector finds.

        With ``start_from`` the students go on learning from another detector's weights, on old and
        new images, where `calibrate` is not enough. What any training before was trained on is
        never held out. Files are known by their content, arrays and tensors by their pixels at the
        image size.

        Ctrl-C ends the training early and keeps the best epoch so far. Later stages are then
        missing.

        Args:
            images: a folder, images in any form of `fastad.data.inputs`, or a map-style data set of
                images. `fastad.data.layouts` lists what a folder may look like. Where names of
                folders are not enough, give what `fastad.data.training_images` finds by its
                ``good``.
            y: None, or one label for each image, as scikit-learn passes them. Of 1 and -1, for
                anomalies, the latter are left out with a warning. Others must all mark normal
                images: 0, False, 1, or words like "good".
            epochs: passes over the images. None takes the model's own number. A model with several
                stages scales the epochs of each stage by the same factor. A model that trains
                nothing takes none.
            progress: called after every step and every epoch. `fastad.training.ConsoleProgress`
                shows a bar.
            checkpoint: file that is written after every epoch.
            resume: go on from ``checkpoint``.
            start_from: a detector, or its file. Model, image size, bit depth and options are its
                own. The number of epochs is a quarter of the model's own, where it is not given.
                Give the old images as well as the new ones, or what they showed is forgotten.
            skip_bad: leave unreadable files out and report them, instead of stopping at the first.
            self_check: try the detector on synthesised defects at the end. What it finds of them is
                in ``training_record_["self_check"]``, as `check` counts it on the held-out images.
                It takes about as long as predicting 200 images. The model "auto" needs it.
            roi: the region of interest: a mask whose white pixels count, of the aspect ratio of the
                images, or polygons, in any form of `fastad.data.roi.read_roi`. Outside nothing
                counts. None for whole images.
            tile: train on tiles of so many pixels, which cover all images at ``image_size``, and
                predict in such. Of ``stpm``, ``rstpm``, ``patchcore`` and ``subspace``. None for
                whole images.
            **training: other fields of `fastad.training.TrainingConfig`, such as ``textures`` or
                ``stages={"NAME": {"epochs": 30}}``.

        Returns:
            The detector itself.

        Raises:
            ValueError: a wrong value. The message names the argument, file or shape. Also, with
                ``start_from``, an option that contradicts it, a model without training, or fewer
                than five images that may be held out.
            TypeError: a wrong type. The message names the argument.
            WeightsNotFoundError: there are no weights for a teacher.
            KeyboardInterrupt: Ctrl-C before the end of the first epoch.

        Examples:
            >>> import numpy as np
            >>> from fastad import Detector
            >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
            >>> detector = Detector(
            ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).fit(good, epochs=2, batch_size=8)
            >>> record = detector.training_record_
            >>> record["n_train"], record["n_validation"], record["epochs"]
            (19, 5, 2)
        """
        region = None if roi is None else read_roi(roi)
        sides = None if tile is None else training_size(plain(tile))
        start = None if start_from is None else self._start(start_from)
        names = models.candidates(self.model) if start is None else (start.artifact.model.name,)
        if start is not None and sides is None:
            sides = start.artifact.tile
        if sides is not None:
            require_model(plain(self.model) if start is None else names[0])
        prepared = [
            self._prepared(name, epochs, training, checkpoint if resume else None, start)
            for name in names
        ]
        if len(prepared) > 1 and not self_check:
            raise ValueError("self_check: without it nothing says which candidate of auto is best")
        images, labels = normal_images(images, y)
        try:
            if callable(progress):  # what it is else the trainer refuses
                progress(EpochProgress(0, 0, 0, 0, 0.0, math.nan, phase="reading images"))
            size = self.image_size if start is None else start.artifact.image_size
            depth = self.bit_depth if start is None else start.pixel_range.option
            source = read_training_set(images, size, skip_bad, depth)
        except KeyboardInterrupt as error:
            trains = any(model.trains() for model, _ in prepared)
            raise KeyboardInterrupt(nothing_yet(trains)) from error
        given = len(source.dataset) + len(source.skipped)
        if labels is not None and labels != given:
            raise ValueError(f"y has {labels} labels, but there are {given} images")
        notes: list[str] = []
        if start is not None:
            source, notes = start.prepared(source, prepared[0][1])
            for note in notes:
                log.info(note)
        artifact, predictor = fit_best(
            prepared,
            source,
            roi=region,
            rate=checked_rate(self.false_positive_rate),
            batch_size=self.batch_size,
            progress=progress,
            checkpoint=checkpoint,
            resume=resume,
            self_check=self_check,
            tile=sides,
        )
        if start is not None:
            start.enter(artifact.training, notes)
        self._set_artifact(artifact, predictor)
        return self

    def for_product(
        self,
        images: Any,
        *,
        progress: Callable[[EpochProgress], None] | None = None,
        skip_bad: bool = False,
        self_check: bool = True,
    ) -> "Detector":
        """A detector for one of the products that this one was trained on. No network is trained.

        Whatever a detector takes from good images beside its networks is taken anew, from those of
        the product: position means, memory, how maps are scaled and pooled, thresholds, p-values,
        and what images look like. This detector stays as it is. Of ``stpm`` and ``gtrans``.

        Args:
            images: the good images of the product, in any form that `fit` takes: those that this
                detector was given, and new ones. Those that it held out are held out again, and a
                share of the new ones.
            progress, skip_bad, self_check: as of `fit`.

        Returns:
            A new detector, with the same options.

        Raises:
            ValueError: another model, or fewer than five images of the product may be held out.

        Examples:
            >>> import numpy as np
            >>> from fastad import Detector
            >>> rng = np.random.default_rng(0)
            >>> caps = rng.integers(100, 156, (40, 32, 32, 3), dtype=np.uint8)
            >>> nuts = rng.integers(40, 96, (40, 32, 32, 3), dtype=np.uint8)
            >>> both = Detector(
            ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).fit(np.concatenate([caps, nuts]), epochs=1)
            >>> detectors = [both.for_product(images) for images in (caps, nuts)]
            >>> [len(detector.calibration_scores_) for detector in detectors]
            [7, 9]
        """
        self._fitted()
        from fastad.inference.per_product import fit_product

        artifact, predictor = fit_product(
            Start(self._artifact),
            images,
            device=str(self.device),
            precision=self.precision,
            skip_bad=skip_bad,
            rate=checked_rate(self.false_positive_rate),
            batch_size=self.batch_size,
            progress=progress,
            self_check=self_check,
        )
        detector = type(self)(**self.get_params())
        detector._set_artifact(artifact, predictor)
        return detector

    def _start(self, given: Any) -> Start:
        """What a training goes on from; ValueError where it contradicts this detector's options."""
        if isinstance(given, Detector):
            given._fitted()
            start = Start(given._artifact)
        elif isinstance(given, (str, os.PathLike)):
            start = Start.read(Path(given))
        else:
            raise TypeError(f"start_from must be a Detector or its file; got {given!r:.200}")
        chosen = {name: getattr(self, name) for name in ("model", "image_size", "bit_depth")}
        start.require_same(chosen | self._options())
        return start

    def _prepared(
        self,
        name: str,
        epochs: int | None,
        training: dict[str, Any],
        checkpoint: Any,
        start: Start | None,
    ) -> tuple[models.AnomalyModel, TrainingConfig]:
        """An untrained model and what it is trained by; all that can be wrong of them is refused.

        Of several candidates each takes the options of a training that it has a use for.
        """
        kind = models.model_class(name)
        if epochs is not None:
            training = training | {"epochs": epochs}
        if start is not None:
            model, training = start.model(), start.training | training
        elif plain(self.model) == models.AUTO:
            training = options_of(kind, training)
        config = self._training_config(kind, training)
        if start is None:
            model = self._new_model(name, config.seed, checkpoint if kind.trains() else None)
        config = self._training_config(model, training)  # some defaults follow its options
        check_defects(type(model), config)
        return model, config

    def _training_config(
        self,
        model: models.AnomalyModel | type[models.AnomalyModel],
        training: dict[str, Any],
    ) -> TrainingConfig:
        """What `fit` trains by; whatever can be refused before any image is read is."""
        given = {"seed": self.seed, "device": str(self.device), "precision": self.precision}
        config = TrainingConfig.for_model(model, **given | training)
        resolve_device(config.device)
        checked_rate(self.false_positive_rate)
        size = plain(self.image_size)
        if not is_auto(size):
            training_size(size)
        parse_range(self.bit_depth)
        return config

    def _new_model(
        self, name: str, seed: int, checkpoint: str | Path | None
    ) -> models.AnomalyModel:
        """The untrained model, with what "auto" was resolved to in the ``checkpoint``, if any."""
        options = plain(self._options())
        if checkpoint is not None:
            options |= settled_options(load_checkpoint(checkpoint).identity, name, options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return models.build(name, **options)

    def predict(self, images: Any, **options: Any) -> PredictionResult:
        """Score images and mark what is anomalous. Several threads may share one detector.

        Args:
            images: a path, a folder, a Pillow image, a list of them, an array (N, H, W, 3), a
                tensor (N, 3, H, W), or the bytes of a file. `fastad.data.inputs` lists all forms.
            **options: those of `fastad.inference.Predictor.predict`, which also lists the errors.

        Returns:
            Score, anomaly map, decision, p-value and mask of each image.

        Examples:
            >>> import numpy as np
            >>> from fastad import Detector
            >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
            >>> detector = Detector(
            ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).fit(good, epochs=1)
            >>> result = detector.predict(good[:2] // 8)  # two dark images
            >>> result.score.shape, result.anomaly_map.shape, result.mask.dtype
            ((2,), (2, 32, 32), dtype('bool'))
            >>> result.is_anomalous, result.p_value.round(3)
            (array([ True,  True]), array([0.167, 0.167]))
        """
        return self._fitted().predict(images, **options)

    def stream(self, images: Any, **options: Any) -> Iterator[PredictionResult]:
        """Predict batch by batch. Memory does not grow with the number of images.

        Images are read one batch ahead. For a camera whose next image waits for the last result,
        call `predict` for each image.

        Args:
            images: as of `predict`, or any iterable of single images.
            **options: as of `predict`.

        Yields:
            The result of one batch of up to ``batch_size`` images.

        Examples:
            >>> import numpy as np
            >>> from fastad import Detector
            >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
            >>> detector = Detector(
            ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).set_params(batch_size=10).fit(good, epochs=1)
            >>> [len(result.score) for result in detector.stream(good)]
            [10, 10, 4]
        """
        return self._fitted().stream(images, **options)

    def explain(self, images: Any) -> dict[str, np.ndarray]:
        """Pictures that show why the images got their scores.

        Each model decides what it shows. See `fastad.models.AnomalyModel.explain`.

        Args:
            images: as of `predict`.

        Returns:
            Pictures by name, each (N, H, W, 3) uint8. Empty for a model that makes none.

        Examples:
            >>> import numpy as np
            >>> from fastad import Detector
            >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
            >>> detector = Detector(
            ...     "utad", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).fit(good, epochs=1)
            >>> for name, pictures in detector.explain(good[:2]).items():
            ...     print(name, pictures.shape)
            impression (2, 32, 32, 3)
            naive impression (2, 32, 32, 3)
            expert reconstruction (2, 32, 32, 3)
        """
        return self._fitted().explain(images)

    def score_samples(self, images: Any) -> np.ndarray:
        """The opposite of the anomaly score. As in scikit-learn, higher is more normal.

        Args:
            images: as of `predict`.

        Returns:
            (N,) floats.

        Examples:
            >>> import numpy as np
            >>> from fastad import Detector
            >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
            >>> detector = Detector(
            ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).fit(good, epochs=1)
            >>> np.array_equal(detector.score_samples(good), -detector.predict(good).score)
            True
        """
        predictor = self._fitted()
        return -np.concatenate([result.score for result in predictor.stream(images)])

    def decision_function(self, images: Any) -> np.ndarray:
        """`score_samples` plus the threshold. Negative values are anomalous.

        Args:
            images: as of `predict`.

        Returns:
            (N,) float64.

        Raises:
            ValueError: there is no threshold.

        Examples:
            >>> import numpy as np
            >>> from fastad import Detector
            >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
            >>> detector = Detector(
            ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).fit(good, epochs=1)
            >>> dark = good[0] // 8
            >>> detector.decision_function([good[0], dark]) < 0
            array([False,  True])
        """
        self._fitted()
        if self.threshold_ is None:
            raise ValueError("there is no threshold: no images were held out; use set_threshold")
        return self.score_samples(images).astype(np.float64) + self.threshold_

    def predict_labels(self, images: Any) -> np.ndarray:
        """+1 for normal images, -1 for anomalous ones: scikit-learn's ``predict``.

        Args:
            images: as of `predict`.

        Returns:
            (N,) integers.

        Raises:
            ValueError: there is no threshold.

        Examples:
            >>> import numpy as np
            >>> from fastad import Detector
            >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
            >>> detector = Detector(
            ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).fit(good, epochs=1)
            >>> dark = good[0] // 8
            >>> detector.predict_labels([good[0], dark])
            array([ 1, -1])
        """
        return np.where(self.decision_function(images) < 0, -1, 1)

    def evaluate(
        self,
        data: str | Path,
        *,
        good: Iterable[str | Path] = (),
        defects: Iterable[str | Path] = (),
        masks: Iterable[str | Path] = (),
        **options: Any,
    ) -> dict[str, Any]:
        """Measure the detector on the labelled test images of a folder.

        Nothing is chosen on the test images. Images of real defects that the training learned from
        are left out. A warning says how many normal test images were among the training images.

        Args:
            data: a folder in one of the layouts of `fastad.data.layouts`.
            good, defects, masks: names of folders in it, of normal images, of defects and of masks,
                where their names do not say so. See `fastad.data.describe`.
            **options: of `fastad.evaluation.evaluate`, such as ``progress`` and ``skip``.

        Returns:
            The scores of `fastad.evaluation.evaluate` and two more entries. "supervision" is
            "normal images only", or how many images of real defects supervised the training.
            "trained_on" in "counts" is the number of images left out.

        Examples:
            Render images of denim, train on the good ones, and measure on the others.

            >>> from fastad import Detector
            >>> from fastad.data.rendered.products import Counts, write_dataset
            >>> write_dataset("denim", "denim", Counts(train=16, test_good=4, test_defect=1))
            >>> detector = Detector(
            ...     "stpm", image_size=64, teacher_weights="embedded", false_positive_rate=0.25
            ... ).fit("denim", epochs=4, batch_size=4)
            >>> metrics = detector.evaluate("denim")
            >>> metrics["image_auroc"], metrics["pixel_auroc"] > 0.9
            (1.0, True)
        """
        self._fitted()
        found = test_samples(data, good=good, defects=defects, masks=masks)
        self._warn_of_known_images([sample.path for sample in found if sample.label == 0])
        samples = self._without_training_defects(found)
        metrics = self._measured(samples, **options)
        metrics["supervision"] = self.supervision_
        metrics["counts"]["trained_on"] = len(found) - len(samples)
        return metrics

    def _measured(self, samples: list[Sample], **options: Any) -> dict[str, Any]:
        """The metrics of labelled images, as `fastad.evaluation.evaluate` gives them."""
        from fastad.evaluation import evaluate

        predictor = self._fitted()

        def predict(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
            result = predictor.predict_batch(images)
            return result.score, result.anomaly_map

        return evaluate(
            predict,
            samples,
            self.image_size_,
            threshold=self.threshold_,
            promised=self.false_positive_rate_,
            batch_size=self.batch_size if predictor.tile is None else 1,
            read=predictor.read,
            inside=self._artifact.roi,
            **options,
        )

    def check(self, images: Any, **options: Any) -> "CheckResult":
        """What the detector finds of synthesised defects on good images: no real ones are needed.

        Defects of five kinds and three sizes are drawn on the images. No model learns from these
        kinds. A defect is found where the score of its image is above the threshold. Images that
        the detector was trained on are left out. Files are known by their content.

        Args:
            images: good images: a folder, or any form of `fastad.data.inputs`. The folder of the
                training will do. Its held-out images are taken.
            **options: of `fastad.evaluation.check`. ``count`` defects are tried, 150 by default,
                as ``seed`` draws them. ``progress`` and ``observe`` are functions.

        Returns:
            Counts by kind and size with their intervals, false alarms, and scores.

        Raises:
            ValueError: there is no threshold, or the detector was trained on all images.

        Examples:
            >>> import numpy as np
            >>> from fastad import Detector
            >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
            >>> detector = Detector(
            ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).fit(good[:20], epochs=1)
            >>> result = detector.check(good[20:], count=30)
            >>> result.total.total, result.new_alarms.total, list(result.by_size)
            (30, 4, ['small', 'medium', 'large'])
        """
        from fastad.inference.check import check_detector

        predictor = self._fitted()
        return check_detector(self._artifact, predictor, images, **options)

    def calibrate(
        self,
        images: Any,
        *,
        false_positive_rate: float | None = None,
        roi: Any = None,
        **options: Any,
    ) -> "Recalibration":
        """Take both thresholds from fresh good images; no network is trained.

        It serves a detector whose parts, lamp or camera have changed a little. What the thresholds
        promise then holds for images like the new ones. p-values and `PredictionResult.input` go
        by the new images, too. These must be new: what the training read, held-out images too, is
        refused. Files are known by their content.

        A model that divides its maps by position means gets new ones where there are enough images.
        Half of them then give the means and the others the thresholds, so that the promise holds.
        `fastad.inference.recalibration` has the rule. `save` keeps all calibrations.

        Args:
            images: good images: a folder, or any form of `fastad.data.inputs`.
            false_positive_rate: another rate to ask for. None keeps the one before.
            roi: a region of interest as of `set_roi`, for which the thresholds then hold.
            **options: ``skip`` as of `predict`, and ``seed`` of the split, 0 by default.

        Returns:
            The new thresholds, and how the old promise did on these images.

        Raises:
            ValueError: the training read some of the images, or there are too few for the rate.

        Examples:
            >>> import numpy as np
            >>> from fastad import Detector
            >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
            >>> detector = Detector(
            ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).fit(good, epochs=1)
            >>> darker = good - 40  # another lamp
            >>> before = detector.threshold_
            >>> result = detector.calibrate(darker)
            >>> result.images, round(result.kept_rate, 3), result.old_threshold == before
            (24, 0.2, True)
            >>> detector.threshold_ == result.threshold, len(detector.calibration_scores_)
            (True, 24)
        """
        from fastad.inference.recalibration import recalibrate

        predictor = self._fitted()
        if false_positive_rate is not None:
            false_positive_rate = checked_rate(false_positive_rate)
        artifact = self._artifact
        if roi is not None:
            artifact = narrowed(artifact, roi)
            predictor = self._predictor_of(artifact, predictor)
            options["tries_old"] = False
        artifact, result = recalibrate(
            artifact, predictor, images, false_positive_rate=false_positive_rate, **options
        )
        self._set_artifact(artifact, predictor)
        self.false_positive_rate = artifact.false_positive_rate
        return result

    def watch(self, *, false_alarm_rate: float = 0.01, seed: int = 0) -> "DriftMonitor":
        """Watch whether the images that come are still like those of the calibration.

        Give the monitor's ``add`` each result of `predict` or `stream`. It says whether there has
        been drift. Its ``report`` says which and since when, as that of `drift`. Both may be asked
        after every image.

        Args:
            false_alarm_rate: at most this share of undrifted lines ever has an alarm.
            seed: of what breaks ties between equal values.

        Returns:
            A `fastad.inference.drift.DriftMonitor`.

        Raises:
            ValueError: the detector has no calibration scores, or the rate is not between 0 and 1.

        Examples:
            >>> import numpy as np
            >>> from fastad import Detector
            >>> good = np.random.default_rng(0).integers(100, 156, (60, 32, 32, 3), dtype=np.uint8)
            >>> detector = Detector(
            ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).fit(good, epochs=1, validation_fraction=0.5)
            >>> monitor = detector.watch()
            >>> for image in good // 2:  # half as bright
            ...     if monitor.add(detector.predict(image)):
            ...         break
            >>> report = monitor.report()
            >>> report.is_drift, report.images < 40, report.since
            (True, True, 0)
        """
        from fastad.inference.drift import DriftMonitor

        predictor = self._fitted()
        looks = self._artifact.inputs[:, :-1]
        rate = self._artifact.false_positive_rate
        return DriftMonitor(
            predictor.calibration, looks, rate, false_alarm_rate=false_alarm_rate, seed=seed
        )

    def drift(
        self, results: PredictionResult | Iterable[PredictionResult], **options: Any
    ) -> "DriftReport":
        """Whether images have drifted from those of the calibration, in which way, since when.

        Scores, brightness, contrast, sharpness and colour are compared. The order of the images
        counts. `calibrate` helps where a detector was calibrated on other images than the line's.

        Args:
            results: what `predict` or `stream` gave, in the order in which the images were taken.
            **options: of `watch`.

        Returns:
            The verdict with its p-value, what changed, and two tests for one look.

        Raises:
            ValueError: there are no images, or as `watch`.

        Examples:
            >>> import numpy as np
            >>> from fastad import Detector
            >>> good = np.random.default_rng(0).integers(100, 156, (60, 32, 32, 3), dtype=np.uint8)
            >>> detector = Detector(
            ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).fit(good, epochs=1, validation_fraction=0.5)
            >>> report = detector.drift(detector.stream(good // 2))  # half as bright
            >>> [one.words for one in report.watched if one.name == "brightness"]
            ['darker by 50 %']
        """
        from fastad.inference.drift import drift

        return drift(self.watch(**options), results)

    def operating_points(self, defects: Any, **options: Any) -> "OperatingPoints":
        """Thresholds for zero missed defects, least cost and zero alarms, by a few real defects.

        Five images of defects are enough to begin with. Good images are those of the calibration.
        Nothing is trained on the defects, and the threshold stays as it is:
        `set_threshold` with ``value`` takes one.

        Args:
            defects: images of defects: a folder, where good images and masks in it are passed over,
                or any form of `fastad.data.inputs`.
            **options: ``cost_miss`` and ``cost_alarm``, 1 by default, of a defect that passes and
                of a good image that stops the line, for the least cost. ``defect_share`` of the
                images on the line, by default that among the known images. ``skip`` as of
                `predict`.

        Returns:
            The thresholds, each with counts of the known images and their exact intervals.

        Raises:
            ValueError: there are no scores of good images, no defects, or a wrong cost, or the
                detector was made from some of the images.

        Examples:
            >>> import numpy as np
            >>> from fastad import Detector
            >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
            >>> detector = Detector(
            ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).fit(good, epochs=1)
            >>> defects = good[:5].copy()
            >>> defects[:, 8:24, 8:24] = 0
            >>> points = detector.operating_points(defects, cost_miss=50, defect_share=0.01)
            >>> for point in points:
            ...     print(point.name, point.alarms.hits, point.missed.hits)
            zero-missed 0 0
            least-cost 0 0
            zero-alarms 0 0
            >>> detector.set_threshold(value=points.least_cost.threshold).predict(defects[0])
            PredictionResult(1 image, 1 anomalous, scores ... to ..., maps 32x32)
        """
        from fastad.inference.operating_point import find_points

        predictor = self._fitted()
        return find_points(self._artifact, predictor, defects, **options)

    def suspects(self, images: Any, **options: Any) -> "Suspects":
        """Which good images look least good: defects among them are learned as normal.

        Each image is compared with others that it was not among. The features are those of the
        detector's teacher. Two passes over the images are made. See `fastad.inference.suspects`.

        Args:
            images: the good images, of the training or others: a folder, or any form of
                `fastad.data.inputs`.
            **options: ``progress(done, total)``, ``seed`` of the parts, and ``skip_bad``, to leave
                unreadable files out.

        Returns:
            Scores, p-values and maps of all images, and in which order to look at them.

        Raises:
            ValueError: there are fewer than ten images.

        Examples:
            >>> import numpy as np
            >>> from fastad import Detector
            >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
            >>> good[7, 10:20, 10:20] = 0  # not so good
            >>> detector = Detector(
            ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).fit(good, epochs=1)
            >>> found = detector.suspects(good)
            >>> int(found.order[0]), bool(found.p_value[7] < 0.001), found.first(3).shape[0] >= 3
            (7, True, True)
        """
        from fastad.inference.suspects import detector_suspects

        return detector_suspects(self._fitted(), images, **options)

    def set_threshold(
        self,
        *unnamed: object,
        false_positive_rate: float | None = None,
        value: float | None = None,
    ) -> "Detector":
        """Choose another threshold for the scores of images, by a rate or by its value.

        After a value no rate is asked for any more. ``false_positive_rate_`` is what the held-out
        images say of it. A new `fit` goes by ``false_positive_rate`` as before.

        Args:
            false_positive_rate: largest share of normal images that may be called anomalous. The
                threshold comes from the scores of held-out images, which a saved detector keeps.
            value: the threshold itself, instead of a rate.

        Returns:
            The detector itself.

        Raises:
            TypeError: a number is given without its name.
            ValueError: both or neither are given, the rate is not between 0 and 1, or there are no
                scores to choose from.

        Examples:
            >>> import numpy as np
            >>> from fastad import Detector
            >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
            >>> detector = Detector(
            ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).fit(good, epochs=1)
            >>> before = detector.threshold_
            >>> detector.set_threshold(false_positive_rate=0.5).threshold_ < before
            True
            >>> detector.set_threshold(value=before).threshold_ == before
            True
            >>> round(detector.false_positive_rate_, 3)  # by five held-out images
            0.167
        """
        _require_names("set_threshold", unnamed)
        self.threshold_: float | None = self._threshold(
            "calibration_scores_", false_positive_rate, value
        )
        self._artifact.threshold_set_by = BY_VALUE
        if false_positive_rate is not None:
            rate = checked_rate(false_positive_rate)
            self.false_positive_rate = self._artifact.false_positive_rate = rate
            self._artifact.threshold_set_by = BY_RATE
            self._predictor.guard = self._artifact.guard()
        self._artifact.threshold = self._predictor.threshold = self.threshold_
        self.false_positive_rate_ = self._artifact.kept_rate
        if self._artifact.min_area is not None:
            self._set_pixel_level(self.threshold_)
        return self

    def set_pixel_threshold(
        self,
        *unnamed: object,
        false_positive_rate: float | None = None,
        value: float | None = None,
    ) -> "Detector":
        """Choose another threshold for the masks.

        Args:
            false_positive_rate: largest share of normal images with any pixel marked.
            value: the threshold itself, instead of a rate.

        Returns:
            The detector itself.

        Raises:
            TypeError, ValueError: as `set_threshold`.

        Examples:
            >>> import numpy as np
            >>> from fastad import Detector
            >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
            >>> detector = Detector(
            ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).fit(good, epochs=1)
            >>> before = detector.pixel_threshold_
            >>> detector.set_pixel_threshold(false_positive_rate=0.5).pixel_threshold_ < before
            True
            >>> result = detector.set_pixel_threshold(value=0.25).predict(good)
            >>> np.array_equal(result.mask, result.anomaly_map > 0.25)
            True
        """
        _require_names("set_pixel_threshold", unnamed)
        self._fitted()
        if self._artifact.min_area is not None:
            return self.set_threshold(false_positive_rate=false_positive_rate, value=value)
        self._set_pixel_level(self._threshold("pixel_calibration_", false_positive_rate, value))
        return self

    def _set_pixel_level(self, level: float | None) -> None:
        self.pixel_threshold_: float | None = level
        self._artifact.pixel_threshold = self._predictor.pixel_threshold = level

    def set_min_area(
        self, area: float | str | None, *, mm_per_pixel: float | None = None
    ) -> "Detector":
        """Let regions below an area not count, and choose the thresholds anew by the rate.

        The score of an image is then the highest level at which its anomaly map has a region of
        this area. An image is anomalous exactly where a region that counts is above the threshold.
        The held-out images give the threshold by the same scores, so the rate holds as before. See
        `fastad.inference.min_area`.

        Args:
            area: pixels of the original images, or text: "25px", "0.1%" of the image, or "1.5mm2".
                None or 0 lets every region count, and gives images the model's own scores again.
                It is kept as a share of the image.
            mm_per_pixel: of the original images, for an area in mm2.

        Returns:
            The detector itself.

        Raises:
            ValueError: a wrong area, an area in pixels where the training images differ in size, a
                file of an older version, which keeps no scores for a smallest area, or a threshold
                that was set by its value.

        Examples:
            >>> import numpy as np
            >>> from fastad import Detector
            >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
            >>> detector = Detector(
            ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).fit(good, epochs=1)
            >>> result = detector.set_min_area("2%").predict(good // 8)
            >>> least = min(region.area for regions in result.regions() for region in regions)
            >>> least >= 0.02 * 32 * 32, detector.threshold_ == detector.pixel_threshold_
            (True, True)
        """
        self._fitted()
        artifact, levels = self._artifact, self._artifact.region_levels
        shape = None if levels is None else levels.image_shape
        counts = 1.0 if self.roi is None else float(self.roi.mean())
        share = share_of(area, shape, mm_per_pixel, counts)
        if share == artifact.min_area:
            return self
        if artifact.threshold is not None and artifact.threshold_set_by == BY_VALUE:
            raise ValueError(
                "min_area: the threshold was set by its value, and with another smallest area "
                "scores are others: set it by a rate first, by set_threshold or --rate"
            )
        changed = dataclasses.replace(artifact, min_area=share)
        changed.threshold = changed.pixel_threshold = None
        if changed.judging.size:
            rate = changed.false_positive_rate
            changed.threshold = conformal_threshold(changed.judging, rate)
            changed.pixel_threshold = conformal_threshold(changed.judging_pixels, rate, warn=False)
        changed.threshold_set_by = BY_RATE
        self._set_artifact(changed, self._predictor)
        return self

    @property
    def roi(self) -> np.ndarray | None:
        """The region of interest: (H, W) bool at ``image_size_``, True where pixels count.

        None where all count.
        """
        self._fitted()
        return self._artifact.roi

    def set_roi(self, roi: Any) -> "Detector":
        """Let only a region of the images count, without another training.

        The anomaly map becomes 0 outside, and scores are of the pixels inside. The thresholds stay
        as they are. Where the score is the maximum of the map they promise no less than before, as
        no score rises. A warning says what they promise. `calibrate` with ``roi`` chooses new ones.
        A region that was there before is narrowed: what is in both counts.

        Args:
            roi: as of `fit`. Polygons alone are in pixels of the training images.

        Returns:
            The detector itself.

        Raises:
            ValueError: as `fit`, the two regions have no pixel in common, or a model that must know
                its region from the training on.

        Examples:
            >>> import warnings
            >>> import numpy as np
            >>> from fastad import Detector
            >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
            >>> detector = Detector(
            ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).fit(good, epochs=1)
            >>> left = np.zeros((32, 32), dtype=bool)
            >>> left[:, :16] = True
            >>> with warnings.catch_warnings():
            ...     warnings.simplefilter("ignore")  # the threshold was chosen without the region
            ...     result = detector.set_roi(left).predict(good[:2])
            >>> bool(result.anomaly_map[:, ~left].any()), float(detector.roi.mean())
            (False, 0.5)
        """
        predictor = self._fitted()
        artifact = narrowed(self._artifact, roi)
        warnings.warn(what_it_promises(artifact), stacklevel=2)
        self._set_artifact(artifact, self._predictor_of(artifact, predictor))
        return self

    def _predictor_of(self, artifact: Artifact, like: Predictor) -> Predictor:
        return artifact.predictor(
            device=str(like.device),
            precision=self.precision,
            engine=like.engine,
            batch_size=like.batch_size,
            tile=like.tile,
        )

    def save(self, path: str | Path) -> None:
        """Write the detector to one file, without pickle. See `fastad.inference.artifact`.

        The file replaces an older one only when it is complete.

        Args:
            path: of the file, such as "bottle.fastad".

        Raises:
            ValueError: an option of the model is a module, which cannot be written.
            OSError: the file cannot be written.

        Examples:
            >>> import numpy as np
            >>> import fastad
            >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
            >>> detector = fastad.Detector(
            ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).fit(good, epochs=1)
            >>> detector.save("bottle.fastad")
            >>> fastad.load("bottle.fastad").threshold_ == detector.threshold_
            True
        """
        self._fitted()
        inference.save(path, self._artifact)

    def export(self, path: str | Path, format: str = "onnx", **options: Any) -> Verification:
        """Write the detector for another runtime.

        The file is kept only if it gives the detector's results in that runtime.

        Args:
            path: of the file, with the suffix of the format.
            format: "onnx", "openvino", "torch-export" or "aotinductor".
            **options: those of `fastad.export.export_detector`, which also lists the errors.

        Returns:
            How far the file's results are from the detector's.

        Examples:
            >>> import numpy as np
            >>> from fastad import Detector
            >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
            >>> detector = Detector(
            ...     "stpm", image_size=32, layers=("layer1",), teacher_weights="embedded"
            ... ).set_params(false_positive_rate=0.2).fit(good, epochs=1)
            >>> verification = detector.export("bottle.pt2", format="torch-export")
            >>> verification.images, verification.map_error < 0.005
            (7, True)
        """
        from fastad.export.export import export_detector

        self._fitted()
        return export_detector(self._artifact, path, format, **options)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_predictor")

    def _warn_of_known_images(self, normal: list[Path]) -> None:
        seen = given_to_training(self._artifact) | calibrated(self._artifact)
        known = sum(digest in seen for digest in file_digests(normal)) if seen else 0
        if known:
            warnings.warn(
                f"{known} of {len(normal)} normal test images were given to the training"
                f"{' or to a calibration' * bool(self._artifact.calibrations)}: "
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
            value = plain(value)
            if not is_number(value):
                raise ValueError(f"value must be a finite number; got {value!r:.200}")
            return float(value)
        rate = checked_rate(rate)
        scores = getattr(self, kept)
        if len(scores) == 0:
            raise ValueError(
                "there are no scores of held-out normal images to choose a threshold by: "
                "train with validation_fraction above 0, or give the threshold's value"
            )
        return conformal_threshold(scores, rate)

    def _set_artifact(self, artifact: Artifact, predictor: Predictor) -> None:
        predictor.threshold = artifact.threshold
        predictor.pixel_threshold = artifact.pixel_threshold
        predictor.calibration, predictor.min_area = artifact.judging, artifact.least_pixels
        predictor.guard = artifact.guard()
        self._artifact, self._predictor = artifact, predictor
        self.model_ = artifact.model
        self.image_size_ = artifact.image_size
        self.pixel_range_ = artifact.pixel_range
        self.threshold_ = artifact.threshold
        self.false_positive_rate_ = artifact.kept_rate
        self.pixel_threshold_ = artifact.pixel_threshold
        self.calibration_scores_ = artifact.judging
        self.pixel_calibration_ = artifact.judging_pixels
        self.min_area_ = artifact.min_area
        self.supervision_ = artifact.supervision
        self.training_record_ = artifact.training


def load(
    path: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 32,
    tile: int | str | tuple[int, int] | None = None,
    engine: str = "native",
) -> Detector:
    """Read a detector from a file of `Detector.save` or ``fastad train``.

    Args:
        path: of the file.
        device: as of `Detector`.
        precision: as of `Detector`, or "int16".
        batch_size: images in one step of prediction.
        tile: predict in tiles of about so many pixels, as ``image_size`` is given. Results are
            those of whole images, in less memory. See `fastad.inference.Predictor`. None for the
            tiles that it was trained on, or whole images.
        engine: what computes on a CPU: "native", this package's convolutions, "openvino",
            "onnxruntime", or "torch", PyTorch's own operations in float32. "auto" is the fastest
            that is installed. It is measured once, in seconds, and kept
            (`fastad.inference.engines`). The first images go through plain float32, too: an engine
            that scores or decides otherwise is not taken.

    Returns:
        A detector that predicts as the saved one did.

    Raises:
        FileNotFoundError: there is no such file.
        ArtifactError: the file is damaged, of another kind, or newer than this package.
        ValueError: an option is wrong.
        ImportError: a package that the engine needs is missing. The message names it.

    Examples:
        >>> import numpy as np
        >>> import fastad
        >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
        >>> fastad.Detector(
        ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
        ... ).fit(good, epochs=1).save("bottle.fastad")
        >>> detector = fastad.load("bottle.fastad")
        >>> detector.model, detector.image_size_, len(detector.calibration_scores_)
        ('stpm', (32, 32), 5)
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
        bit_depth="auto" if artifact.pixel_range is None else artifact.pixel_range.option,
        device=device,
        precision=precision,
        batch_size=batch_size,
        false_positive_rate=artifact.false_positive_rate,
        seed=artifact.training.get("seed", 0),
        **options,
    )
    predictor = artifact.predictor(
        device=device, precision=precision, batch_size=batch_size, engine=engine, tile=tile
    )
    predictor.tiling()  # or say why there can be no tiles
    kind = str(predictor.dtype).removeprefix("torch.")
    log.debug(f"{path}: {artifact.model.name} on {predictor.device} in {kind}, {predictor.engine}")
    detector._set_artifact(artifact, predictor)
    return detector


def _require_names(method: str, unnamed: tuple[object, ...]) -> None:
    """A bare number could be a rate or a score, and both look alike."""
    if unnamed:
        number = f"{unnamed[0]!r:.80}"
        raise TypeError(
            f"{method} takes a named number: {method}(false_positive_rate={number}) or "
            f"{method}(value={number})"
        )
