"""A detector in one file: weights, preprocessing, threshold and history, without pickle.

A sealed file (`fastad._safe_file`): its tensors are the model's state dict, teachers included, its
object, ``detector``, is everything else.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastad
from fastad import models
from fastad._safe_file import SafeFile
from fastad._values import plain
from fastad.data import PixelRange
from fastad.data.appearance import STATISTICS, appearance
from fastad.data.facts import ImageFacts
from fastad.data.inputs import image_batches
from fastad.evaluation.regions import pixels_of
from fastad.evaluation.shares import promised
from fastad.inference.engines import ways_of
from fastad.inference.guard import UNKNOWN, InputGuard, log_aspects_of
from fastad.inference.min_area import RegionLevels
from fastad.inference.predictor import Predictor
from fastad.inference.serving import SelfCheckingPredictor, machine, skip_refused
from fastad.models import AnomalyModel
from fastad.models.map_model import MapModel
from fastad.models.map_options import MapChoice
from fastad.training import resolve_device
from fastad.training.record import NORMAL_ONLY

FORMAT_VERSION = 1
INPUT_COLUMNS = (*STATISTICS, "log_aspect")
AT_ONCE = 32  # images whose statistics are taken
BY_RATE, BY_VALUE = "rate", "value"


class ArtifactError(ValueError):
    """A file is no detector that this version can read; the message names it and says why."""


FILE = SafeFile("detector", "fastad", FORMAT_VERSION, ArtifactError)


@dataclass
class Artifact:
    """A trained model and what is needed to use it as it was trained.

    Attributes:
        model: any of `fastad.models`, made from names (not from a backbone of your own).
        image_size: (height, width) that images are resized to.
        calibration: (n,) scores of held-out normal images; empty where none were held out.
        false_positive_rate: the rate asked for last, by which a new training would choose.
        threshold: above it an image is anomalous; None without calibration scores.
        pixel_calibration: (n,) maxima of the anomaly maps of the same held-out images.
        pixel_threshold: above it a pixel is part of the mask; None without calibration.
        threshold_set_by: "rate", or "value" where the threshold itself was given.
        training: the training record as plain JSON values.
        serving: of a `fastad.inference.serving.Examination`; None where there was none.
        pixel_range: the values of 16-bit pixels that are black and white. None where the training
            images had 8 bits, and in older files: 65535 is white.
        facts: what the training images were like; nothing is known from older files.
        inputs: (n, 6) what the held-out images look like: `fastad.data.appearance.STATISTICS`, and
            the logarithm of width by height, NaN where it is unknown. Empty from older files.
        calibrations: all calibrations, the training's first and the one in use last; empty where
            there was none after the training. See `fastad.inference.recalibration.kept`.
        region_levels: scores of the held-out images for each smallest area. None from older files.
        min_area: the share of an image below which a region does not count. None where all count.
            Threshold and pixel threshold are then one, a level of the anomaly map.
        versions: of the packages that wrote the file.
    """

    model: AnomalyModel
    image_size: tuple[int, int]
    calibration: np.ndarray
    false_positive_rate: float
    threshold: float | None
    training: dict[str, Any]
    pixel_calibration: np.ndarray = field(default_factory=lambda: np.empty(0))
    pixel_threshold: float | None = None
    threshold_set_by: str = BY_RATE
    serving: dict[str, Any] | None = None
    pixel_range: PixelRange | None = None
    facts: ImageFacts = field(default_factory=ImageFacts)
    inputs: np.ndarray = field(default_factory=lambda: np.empty((0, len(INPUT_COLUMNS))))
    calibrations: list[dict[str, Any]] = field(default_factory=list)
    region_levels: RegionLevels | None = None
    min_area: float | None = None
    versions: dict[str, str] = field(
        default_factory=lambda: {"fastad": fastad.__version__, "torch": torch.__version__}
    )

    @property
    def supervision(self) -> str:
        """What it learned from: normal images only, or real defects, too, and how many."""
        return self.training.get("supervision", NORMAL_ONLY)

    @property
    def asked_rate(self) -> float | None:
        """The rate that the threshold was chosen by; None where its value was given."""
        is_chosen = self.threshold is not None and self.threshold_set_by == BY_RATE
        return self.false_positive_rate if is_chosen else None

    @property
    def kept_rate(self) -> float | None:
        """The rate that the threshold keeps by the calibration scores (`promised`)."""
        if self.threshold is None or self.judging.size == 0:
            return None
        return promised(self.judging, self.threshold)

    @property
    def roi(self) -> np.ndarray | None:
        """(H, W) bool at ``image_size``, the pixels that count. None for all."""
        region = self.model.roi
        return None if region is None else region.mask.cpu().numpy()

    @property
    def tile(self) -> tuple[int, int] | None:
        """(height, width) of the tiles that it learned from. None for whole images."""
        found = self.training.get("tile")
        return None if found is None else (int(found[0]), int(found[1]))

    @property
    def least_pixels(self) -> int | None:
        """``min_area`` in pixels of the anomaly map."""
        return None if self.min_area is None else pixels_of(self.min_area, self.image_size)

    @property
    def judging(self) -> np.ndarray:
        """(n,) the held-out scores that images are judged by: with ``min_area`` those of maps."""
        return self._held_out(self.calibration)

    @property
    def judging_pixels(self) -> np.ndarray:
        """(n,) the held-out scores that pixels are judged by."""
        return self._held_out(self.pixel_calibration)

    def _held_out(self, scores: np.ndarray) -> np.ndarray:
        least = self.least_pixels
        if least is None or scores.size == 0:
            return scores
        if self.region_levels is None:
            raise ValueError(
                "this detector keeps no scores for a smallest area: an older version wrote it; "
                "train again"
            )
        return self.region_levels.at(least)

    def guard(self) -> InputGuard | None:
        """What tells images unlike the held-out ones; None where nothing is known of these."""
        if len(self.inputs) == 0 or len(self.inputs) != len(self.calibration):
            return None
        rate = self.false_positive_rate
        return InputGuard(self.inputs[:, :-1], self.inputs[:, -1], self.calibration, rate)

    def judge_inputs(self, images: Any, scores: np.ndarray) -> np.ndarray:
        """Whether images are like the good ones, where an exported graph gave their scores.

        The same as ``input`` of a `PredictionResult`. The model does not run.

        Args:
            images: N of them, in any form of `fastad.data.inputs`.
            scores: (N,) of the images.

        Returns:
            (N,) text: "ok", "dark", "bright", "blurred", "shape" (another aspect ratio) or
            "unlike". "unknown" where no image was held out, and of older files.

        Raises:
            ValueError: the numbers of images and scores differ.
            Other errors are those of `Predictor.predict`.

        Examples:
            >>> import numpy as np
            >>> import fastad
            >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
            >>> detector = fastad.Detector(
            ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
            ... ).fit(good, epochs=1)
            >>> detector.save("bottle.fastad")
            >>> image = good[detector.training_record_["held_out"][0]]
            >>> images = np.stack([image, image // 4])
            >>> scores = detector.predict(images).score  # or what an exported graph gives
            >>> fastad.inference.load("bottle.fastad").judge_inputs(images, scores)
            array(['ok', 'dark'], dtype='<U7')
        """
        seen, sizes = [], []
        for batch in image_batches(images, self.image_size, AT_ONCE, pixel_range=self.pixel_range):
            seen.append(appearance(batch.images).numpy())
            sizes += batch.sizes
        if len(sizes) != len(scores):
            raise ValueError(f"scores: there are {len(scores)}, but {len(sizes)} images")
        guard = self.guard()
        if guard is None or not sizes:
            return np.full(len(sizes), UNKNOWN)
        aspects = log_aspects_of(sizes, self.image_size)
        return guard.judge(np.concatenate(seen), aspects, np.asarray(scores))

    def predictor(self, **options: Any) -> Predictor:
        """A `Predictor`; options: device, precision, engine, batch_size, tile.

        By itself it takes no precision that was refused when the detector was trained. On another
        kind of machine, and in another engine than "native", it tries one first; see
        `fastad.inference.serving.SelfCheckingPredictor`. The engine "auto" is the fastest here; see
        `fastad.inference.engines`. A detector trained in a precision asked for by name is served in
        it: that one was calibrated.
        """
        options = plain(options)
        if options.get("tile") is None:
            options["tile"] = self.tile
        engine = options.pop("engine", "native")
        if engine == "auto" and options["tile"] is not None:
            engine = "native"  # no other one computes in tiles
        asked = options.get("precision", "auto")
        if asked == "auto" and self.serving is None:
            options["precision"] = self.training.get("config", {}).get("precision", "auto")
        examined = self.serving if options.get("precision", "auto") == "auto" else None
        here = machine(resolve_device(options.get("device", "auto")))
        is_new = examined is not None and examined["machine"] != here
        native = self._predictor(SelfCheckingPredictor if is_new else Predictor, **options)
        if examined is not None:
            skip_refused(native, examined["refused"])
        if engine == "native":
            return native
        if engine == "torch":
            return self._predictor(Predictor, engine=engine, **options | {"precision": asked})
        ways = ways_of(engine, native, asked)
        if ways[0][0] == "native":
            return native
        return self._predictor(SelfCheckingPredictor, ways=ways, **options)

    def _predictor(self, kind: type[Predictor], **options: Any) -> Predictor:
        return kind(
            self.model,
            self.image_size,
            threshold=self.threshold,
            pixel_threshold=self.pixel_threshold,
            calibration=self.judging,
            min_area=self.least_pixels,
            pixel_range=self.pixel_range,
            facts=self.facts,
            guard=self.guard(),
            **options,
        )


def save(path: str | Path, artifact: Artifact) -> None:
    """Write a detector to one file, atomically.

    Raises ValueError where the model's config cannot be written as JSON (a backbone that is a
    module), and OSError where the file cannot be written.
    """
    config = {}
    for option in dataclasses.fields(artifact.model.config):
        name, value = option.name, getattr(artifact.model.config, option.name)
        config[name] = value = plain(value)
        try:
            json.dumps(value)
        except TypeError:
            raise ValueError(
                f"a model whose {name} is a {type(value).__name__} cannot be saved to one file: "
                "its options must be names and numbers"
            ) from None
    range_of, levels = artifact.pixel_range, artifact.region_levels
    content = {
        "model": artifact.model.name,
        "config": config,
        "image_size": artifact.image_size,
        "calibration": np.asarray(artifact.calibration, dtype=np.float64).tolist(),
        "false_positive_rate": artifact.false_positive_rate,
        "asked_false_positive_rate": artifact.asked_rate,
        "kept_false_positive_rate": artifact.kept_rate,
        "threshold": artifact.threshold,
        "threshold_set_by": artifact.threshold_set_by,
        "pixel_calibration": np.asarray(artifact.pixel_calibration, dtype=np.float64).tolist(),
        "pixel_threshold": artifact.pixel_threshold,
        "region_levels": levels and dataclasses.asdict(levels),
        "min_area": artifact.min_area,
        "choice": _choice(artifact.model),
        "training": artifact.training,
        "serving": artifact.serving,
        "pixel_range": range_of and [range_of.low, range_of.high],
        "facts": dataclasses.asdict(artifact.facts),
        "inputs": {"columns": INPUT_COLUMNS, "values": _without_nan(artifact.inputs)},
        "calibrations": artifact.calibrations,
        "versions": artifact.versions,
    }
    FILE.write(path, plain(content), artifact.model.state_dict())


def load(path: str | Path) -> Artifact:
    """Read a detector written by `save`; the model is on the CPU, in eval mode.

    Raises FileNotFoundError when there is no such file, and ArtifactError for a file that is
    damaged, of another kind, or written by a newer version.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no detector file {path}")
    return FILE.read(path, _artifact)


def _artifact(content: dict[str, Any], tensors: dict[str, Tensor]) -> Artifact:
    height, width = content["image_size"]
    region = tensors.get("roi.mask")
    if region is not None and tuple(region.shape) != (height, width):
        raise ValueError(f"the region of interest is of {tuple(region.shape)} pixels")
    pixel_range = content.get("pixel_range")  # version 0.1.0's files have neither this nor facts
    return Artifact(
        model=_model(content["model"], content["config"], content.get("choice"), tensors),
        image_size=(int(height), int(width)),
        calibration=np.array(content["calibration"], dtype=np.float64),
        false_positive_rate=float(content["false_positive_rate"]),
        threshold=content["threshold"],
        pixel_calibration=np.array(content["pixel_calibration"], dtype=np.float64),
        pixel_threshold=content["pixel_threshold"],
        threshold_set_by=content.get("threshold_set_by", BY_RATE),  # older files do not say
        training=content["training"],
        serving=content.get("serving"),  # version 0.1.0's files have none
        facts=ImageFacts(**content.get("facts", {})),
        pixel_range=None if pixel_range is None else PixelRange(*map(int, pixel_range)),
        inputs=_inputs(content.get("inputs")),
        calibrations=content.get("calibrations", []),
        region_levels=_region_levels(content.get("region_levels")),
        min_area=content.get("min_area"),
        versions=content["versions"],
    )


def _without_nan(values: np.ndarray) -> list[list[float | None]]:
    rows = np.asarray(values, dtype=np.float64).tolist()
    return [[None if math.isnan(value) else value for value in row] for row in rows]


def _inputs(held: dict[str, Any] | None) -> np.ndarray:
    """Empty for older files, which have none, and for other statistics than these."""
    if held is None or tuple(held["columns"]) != INPUT_COLUMNS:
        return np.empty((0, len(INPUT_COLUMNS)))
    return np.array(held["values"], dtype=np.float64).reshape(-1, len(INPUT_COLUMNS))


def _region_levels(held: dict[str, Any] | None) -> RegionLevels | None:
    """None for older files, which have none."""
    if held is None:
        return None
    areas, shape = np.array(held["areas"], dtype=np.int64), held["image_shape"]
    levels = np.array(held["levels"], dtype=np.float64).reshape(-1, len(areas))
    return RegionLevels(areas, levels, None if shape is None else (int(shape[0]), int(shape[1])))


def _choice(model: AnomalyModel) -> dict[str, Any] | None:
    """What the options of a model that are "auto" came to."""
    chosen = model.chosen if isinstance(model, MapModel) else None
    return None if chosen is None else dataclasses.asdict(chosen)


def _model(
    name: str,
    config: dict[str, Any],
    choice: dict[str, Any] | None,
    tensors: dict[str, Tensor],
) -> AnomalyModel:
    # The teachers are in the file: their weights need not be found again.
    sources = models.without_weights(name)
    config = models.model_class(name).options_of_file(config)
    with torch.random.fork_rng(devices=[]):  # the random weights are replaced at once
        model = models.build(name, **{**config, **sources})
    if "roi.mask" in tensors:
        model.set_roi(tensors["roi.mask"])
    if isinstance(model, MapModel):
        # Files from before there was a choice have none, and no subspace.
        if choice is not None:
            model.choose(MapChoice(**choice))
        elif "subspace.directions" not in tensors:
            model.choose(model.choice())
    model.load_state_dict(tensors)
    for option in sources.keys() & config.keys():
        setattr(model.config, option, config[option])
    return model.eval()
