"""Scores, anomaly maps and decisions for images of any origin."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastad.data.folder import iterate_batches
from fastad.data.images import find_images, parse_size, read_image, resize, rgb_array
from fastad.inference.threshold import p_values
from fastad.models import AnomalyModel
from fastad.training import resolve_device, resolve_precision


@dataclass
class PredictionResult:
    """What a detector says about N images.

    Attributes:
        score: (N,) float32, higher is more anomalous.
        anomaly_map: (N, H, W) float32 at the detector's image size.
        is_anomalous: (N,) bool, score above the threshold; None without a threshold.
        p_value: (N,) float64, the share of normal images that look at least as anomalous; None
            without calibration scores.
    """

    score: np.ndarray
    anomaly_map: np.ndarray
    is_anomalous: np.ndarray | None = None
    p_value: np.ndarray | None = None


class Predictor:
    """Runs a model over images: decoding ahead in threads, one resize, batches, one device.

    Args:
        model: put into eval mode and moved to the device, in place.
        image_size: what images are resized to; see `fastad.data.parse_size`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "auto", "float32", "bfloat16" or "float16", by the rule of training.
        batch_size: images a step.
        threshold: above it an image is anomalous; None for no decision.
        calibration: (n,) scores of held-out normal images for p-values; None or empty for none.

    Raises:
        ValueError: the message names the argument.
    """

    def __init__(
        self,
        model: AnomalyModel,
        image_size: int | str | tuple[int, int],
        *,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 32,
        threshold: float | None = None,
        calibration: np.ndarray | None = None,
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be an integer of at least 1; got {batch_size!r}")
        self.image_size = parse_size(image_size)
        self.device = resolve_device(device)
        self.dtype = resolve_precision(precision, self.device)
        self.batch_size = batch_size
        self.threshold = threshold
        self.calibration = np.asarray(() if calibration is None else calibration, dtype=np.float64)
        self.model = model.eval().to(self.device, memory_format=torch.channels_last)

    def predict(self, images: Any) -> PredictionResult:
        """Predict all images at once.

        images: a path to an image or a folder, a Pillow image, a list of paths and Pillow images,
        a uint8 array (N, H, W, 3), or a tensor (N, 3, H, W), uint8 or floating in [0, 1].

        The result holds N * H * W floats: use `stream` where that is too much.

        Raises:
            TypeError, ValueError: images is something else, or empty; the message says what.
            FileNotFoundError, ImageError: a file is missing or no image; the message names it.
        """
        results = list(self.stream(images))

        def join(name: str) -> np.ndarray | None:
            values = [getattr(result, name) for result in results]
            return None if values[0] is None else np.concatenate(values)

        return PredictionResult(
            join("score"), join("anomaly_map"), join("is_anomalous"), join("p_value")
        )

    def stream(self, images: Any) -> Iterator[PredictionResult]:
        """As `predict`, one result a batch; any iterable of paths and Pillow images will do.

        Memory does not grow with the number of images.
        """
        empty = True
        for batch in self._batches(images):
            empty = False
            yield self.predict_batch(batch)
        if empty:
            raise ValueError(f"images: there are no images in {_short(images)}")

    @torch.inference_mode()
    def predict_batch(self, images: Tensor) -> PredictionResult:
        """One step on a tensor (N, 3, H, W) of image_size, uint8 or floating in [0, 1]."""
        is_bytes = images.dtype == torch.uint8
        images = images.to(self.device, non_blocking=True)
        images = images.to(torch.float32, memory_format=torch.channels_last)
        if is_bytes:
            images = images.div_(255)
        with torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32):
            prediction = self.model(images)
        score = prediction.score.float().cpu().numpy()
        anomaly_map = prediction.anomaly_map.float().cpu().numpy()
        wide = score.astype(np.float64)
        return PredictionResult(
            score,
            anomaly_map,
            None if self.threshold is None else wide > self.threshold,
            p_values(wide, self.calibration) if self.calibration.size else None,
        )

    def _batches(self, images: Any) -> Iterator[Tensor]:
        if isinstance(images, np.ndarray):
            if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
                raise ValueError(
                    "images: an array must be uint8 of shape (N, H, W, 3); "
                    f"got {images.dtype} {images.shape}"
                )
            images = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        if isinstance(images, Tensor):
            _check_tensor(images)
            for start in range(0, len(images), self.batch_size):
                part = images[start : start + self.batch_size]
                # Resizing gives back its input's dtype; half precision would lose digits there.
                yield resize(part if part.dtype == torch.uint8 else part.float(), self.image_size)
            return
        if isinstance(images, (str, Path)):
            images = find_images(images) if Path(images).is_dir() else [images]
        elif isinstance(images, Image.Image):
            images = [images]
        elif not isinstance(images, Iterable):
            raise TypeError(
                "images must be a path, a folder, paths, Pillow images, a uint8 array "
                f"(N, H, W, 3) or a tensor (N, 3, H, W); got {_short(images)}"
            )
        yield from iterate_batches(images, self.image_size, self.batch_size, _read)


def _read(item: Any) -> Tensor:
    if isinstance(item, (str, Path)):
        return read_image(item)
    if isinstance(item, Image.Image):
        return torch.from_numpy(rgb_array(item)).permute(2, 0, 1)
    raise TypeError(f"images must be paths or Pillow images; one is {_short(item)}")


def _check_tensor(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images: a tensor must have shape (N, 3, H, W); got {tuple(images.shape)}"
        )
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise TypeError(f"images: a tensor must be uint8 or floating point; got {images.dtype}")
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):  # false for NaN too
        raise ValueError(
            "images: a floating tensor must be in [0, 1]; "
            f"got {images.min().item():g} to {images.max().item():g}"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text[:80]}{'...' if len(text) > 80 else ''}"
