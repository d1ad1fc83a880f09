"""What a detector's training images were like, and a word on images that are not.

A detector reads what it is given. An image of another shape, in colour where all were grey, or of
another depth gets a score, too, but one that says little.
"""

import math
import os
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastad.data.depth import is_deep
from fastad.data.folder import ImageDataset, Images
from fastad.data.images import ImageError, is_deep_image, open_image
from fastad.data.in_memory import Encoded, encoded, is_encoded, shape_of

LOOKED_AT = 64  # images of a training, spread evenly over all
ASPECT = 1.2  # by this factor a ratio of sides may differ
ALIKE = 0.9  # of the training images must have about one aspect ratio for it to be expected
COLOURED = 2.0  # grey levels between the channels on average; compression makes fewer of grey


@dataclass(frozen=True)
class ImageFacts:
    """Of training images; None where it is not known, or where they differ.

    Attributes:
        aspect: width by height.
        is_grey: whether red, green and blue were equal in every pixel.
        is_deep: whether values had 16 bits.
    """

    aspect: float | None = None
    is_grey: bool | None = None
    is_deep: bool | None = None


def facts_of(images: Any, dataset: Images) -> ImageFacts:
    """Facts of images in any form, and of the data set (N, 3, H, W) that was made of them.

    Of at most `LOOKED_AT` of them headers are read. What cannot be read is passed over.
    """
    if isinstance(images, (np.ndarray, Tensor)):
        images = images if images.ndim == 4 else [images]
    items = images if isinstance(images, (Sequence, np.ndarray, Tensor)) else []
    seen = [_shape_and_depth(items[i]) for i in _spread(len(items))]
    shapes = [shape for shape, _ in seen if shape is not None]
    aspect = None
    if shapes:
        logs = np.log([width / height for height, width in shapes])
        median = float(np.median(logs))
        if np.mean(np.abs(logs - median) <= math.log(ASPECT)) >= ALIKE:
            aspect = math.exp(median)
    depths = {deep for _, deep in seen if deep is not None}
    return ImageFacts(aspect, _is_grey(dataset), depths.pop() if len(depths) == 1 else None)


class Expectation:
    """Warns of the first image that differs from `ImageFacts`, once for each way.

    Several threads may share one. An image that has ``size`` (height, width) already was resized
    by its user.
    """

    def __init__(self, facts: ImageFacts, size: tuple[int, int]) -> None:
        self._facts, self._size = facts, size
        self._open = {name for name, value in vars(facts).items() if value is not None}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"facts": self._facts, "size": self._size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # a lock cannot be pickled

    def look(self, item: Any, image: Tensor) -> None:
        """Compare one image in any form, or an array or tensor of many, read as (..., 3, H, W)."""
        facts, name = self._facts, _name(item)
        if "aspect" in self._open and facts.aspect is not None:
            height, width = image.shape[-2:]
            is_resized = (height, width) == tuple(self._size)
            if not is_resized and abs(math.log(width / height / facts.aspect)) > math.log(ASPECT):
                self._say(
                    "aspect",
                    f"{name} is {height}x{width} (height x width), width by height "
                    f"{width / height:.2f}, but {facts.aspect:.2f} in training: it is stretched, "
                    "and its score means little. Give images of the same view, or train with such",
                )
        if "is_grey" in self._open and facts.is_grey and _colour(image) > COLOURED:
            self._say(
                "is_grey",
                f"{name} has colours, but all training images were grey: its score means little. "
                "Convert it to grey, or train with colour images",
            )
        if "is_deep" in self._open and not facts.is_deep and _is_deep(item):
            self._say(
                "is_deep",
                f"{name} has 16 bits a value, but the training images 8: 65535 is taken for white. "
                "Convert it as the training images were, or train with images of 16 bits",
            )
        if "is_deep" in self._open and facts.is_deep and _is_deep(item) is False:
            self._say(
                "is_deep",
                f"{name} has 8 bits a value, but the training images 16: its 255 is taken for "
                "white. Give images as the camera makes them, or train with images of 8 bits",
            )

    def _say(self, kind: str, text: str) -> None:
        with self._lock:
            if kind not in self._open:
                return
            self._open.discard(kind)
        warnings.warn(f"{text} (said once)", stacklevel=4)


def _name(item: Any) -> str:
    if isinstance(item, Encoded):
        return item.name
    return str(item) if isinstance(item, (str, os.PathLike)) else "an image"


def _spread(count: int) -> list[int]:
    if count == 0:
        return []
    return np.unique(np.linspace(0, count - 1, LOOKED_AT).round().astype(int)).tolist()


def _shape_and_depth(item: Any) -> tuple[tuple[int, int] | None, bool | None]:
    """((height, width), whether it has 16 bits) of one image."""
    if is_encoded(item):
        item = encoded(item)
    try:
        return shape_of(item), _is_deep(item)
    except (ImageError, OSError):
        return None, None


def _is_deep(item: Any) -> bool | None:
    if isinstance(item, Image.Image):
        return is_deep_image(item)
    if isinstance(item, (np.ndarray, Tensor)):
        return is_deep(item) if is_deep(item) or item.dtype in (np.uint8, torch.uint8) else None
    try:
        if isinstance(item, Encoded):
            with open_image(item.file()) as image:
                return is_deep_image(image)
        return _file_is_deep(item)
    except (ImageError, OSError, TypeError):
        return None


def _file_is_deep(path: str | Path) -> bool:
    # Every image of a prediction is asked. Decoders take as long for a header as a tenth of all.
    with open(path, "rb") as file:
        start = file.read(25)
    if start.startswith(b"\x89PNG"):
        return start[24:] == b"\x10"
    if start.startswith((b"\xff\xd8\xff", b"BM", b"RIFF", b"GIF8")):
        return False
    with open_image(path) as image:
        return is_deep_image(image)


def _is_grey(dataset: Images) -> bool | None:
    if not isinstance(dataset, (ImageDataset, Tensor)):
        return None  # an item may be costly, or another one each time
    images = (dataset[i] for i in _spread(len(dataset)))
    return all(bool((image == image[:1]).all()) for image in images)


def _colour(images: Tensor) -> float:
    """Grey levels by which the channels of (..., 3, H, W) differ on average."""
    part = images[..., ::4, ::4].float() * (1 if images.dtype == torch.uint8 else 255)
    return float((part.amax(-3) - part.amin(-3)).mean()) if part.numel() else 0.0
