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
TAIL = 0.001  # of an image's pixels may be brighter: hot ones, and what mirrors the lamp
COLOURED = 2.0  # grey levels between the channels on average; compression makes fewer of grey


@dataclass(frozen=True)
class ImageFacts:
    """Of training images; None where it is not known, or where they differ.

    Attributes:
        aspect: width by height.
        is_grey: whether red, green and blue were equal in every pixel.
        is_deep: whether values had 16 bits.
        brightest: of values of 16 bits, the grey level that nine images in ten have or exceed in
            more than a thousandth of their pixels.
    """

    aspect: float | None = None
    is_grey: bool | None = None
    is_deep: bool | None = None
    brightest: int | None = None


def facts_of(images: Any, dataset: Images) -> ImageFacts:
    """Facts of images in any form, and of the data set (N, 3, H, W) that was made of them.

    Of at most `LOOKED_AT` of them headers are read. What cannot be read is passed over.
    """
    if isinstance(images, (np.ndarray, Tensor)):
        images = images if images.ndim == 4 else [images]
    items = images if isinstance(images, (Sequence, np.ndarray, Tensor)) else []
    seen = [shape_and_depth(items[i]) for i in _spread(len(items))]
    shapes = [shape for shape, _ in seen if shape is not None]
    aspect = None
    if shapes:
        logs = np.log([width / height for height, width in shapes])
        median = float(np.median(logs))
        if np.mean(np.abs(logs - median) <= math.log(ASPECT)) >= ALIKE:
            aspect = math.exp(median)
    depths = {deep for _, deep in seen if deep is not None}
    is_deep = depths.pop() if len(depths) == 1 else None
    read = _read_images(dataset)
    return ImageFacts(aspect, _are_grey(read), is_deep, _brightest(read) if is_deep else None)


def common_shape(images: Any) -> tuple[int, int] | None:
    """(height, width) of images in any form; None where they differ, or where it is not known.

    Of at most `LOOKED_AT` of them headers are read.
    """
    if isinstance(images, (np.ndarray, Tensor)):
        images = images if images.ndim == 4 else [images]
    items = images if isinstance(images, (Sequence, np.ndarray, Tensor)) else []
    shapes = {shape_and_depth(items[i])[0] for i in _spread(len(items))}
    return shapes.pop() if len(shapes) == 1 else None


def warn_of_constant_images(dataset: Images) -> None:
    """Say how many images have one colour everywhere, as of a covered lens.

    Of images on disk `LOOKED_AT` are read. Of a data set, whose items may be costly, none.
    """
    in_memory = isinstance(dataset, Tensor) or getattr(dataset, "images", None) is not None
    read = _read_images(dataset, len(dataset) if in_memory else LOOKED_AT)
    found = [i for i, image in read.items() if _is_constant(image)]
    if not found:
        return
    paths = getattr(dataset, "paths", None)
    example = paths[found[0]] if paths else f"image {found[0]}"
    warnings.warn(
        f"{len(found)} of {len(read)} images looked at have one colour everywhere, for example "
        f"{example}: the lens may have been covered, the lamp off, or bit_depth may clip them. "
        "Leave them out, or mend the cause",
        stacklevel=3,
    )


class Expectation:
    """Warns of the first image that differs from `ImageFacts`, once for each way.

    Several threads may share one. An image that has ``size`` (height, width) already was resized
    by its user.
    """

    def __init__(self, facts: ImageFacts, size: tuple[int, int]) -> None:
        self._facts, self._size = facts, size
        self._open = {name for name, value in vars(facts).items() if value is not None}
        self._open.add("constant")
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"facts": self._facts, "size": self._size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # a lock cannot be pickled

    def look(self, item: Any, image: Tensor, shape: tuple[int, int] | None = None) -> None:
        """Compare one image in any form, or an array or tensor of many.

        Read as (..., 3, H, W). ``shape`` is its own (height, width), where it was resized already.
        """
        facts, name = self._facts, _name(item)
        if "aspect" in self._open and facts.aspect is not None:
            height, width = shape or image.shape[-2:]
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
        if "constant" in self._open and _is_constant(image):
            self._say(
                "constant",
                f"{name} has one colour everywhere: its score means little. See whether the lens "
                "was covered, the lamp off, or its values are outside of the detector's bit_depth",
            )
        if self._open.isdisjoint(("is_deep", "brightest")):
            return
        is_deep = holds_16_bits(item)
        if is_deep and facts.is_deep is False:
            self._say(
                "is_deep",
                f"{name} has 16 bits a value, but the training images 8: 65535 is taken for white. "
                "Convert it as the training images were, or train with images of 16 bits",
            )
        if is_deep is False and facts.is_deep:
            self._say(
                "is_deep",
                f"{name} has 8 bits a value, but the training images 16: its 255 is taken for "
                "white. Give images as the camera makes them, or train with images of 8 bits",
            )
        if (
            is_deep
            and "brightest" in self._open
            and facts.brightest is not None
            and _is_dark(image, facts.brightest)
        ):
            self._say(
                "brightest",
                f"{name} is less than half as bright as the training images: nearly all its grey "
                f"levels are below {facts.brightest // 2} of 255, theirs reach {facts.brightest}. "
                "If it has fewer bits than they had, make it with as many, or scale its values",
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


def _spread(count: int, most: int = LOOKED_AT) -> list[int]:
    if count == 0:
        return []
    return np.unique(np.linspace(0, count - 1, most).round().astype(int)).tolist()


def shape_and_depth(item: Any) -> tuple[tuple[int, int] | None, bool | None]:
    """((height, width), whether it has 16 bits) of one image."""
    if is_encoded(item):
        item = encoded(item)  # read once
    try:
        return shape_of(item), holds_16_bits(item)
    except (ImageError, OSError):
        return None, None


def holds_16_bits(item: Any) -> bool | None:
    """Of one image in any form, by its header or dtype; None where neither says so."""
    if isinstance(item, Image.Image):
        return is_deep_image(item)
    if isinstance(item, (np.ndarray, Tensor)):
        return is_deep(item) if is_deep(item) or item.dtype in (np.uint8, torch.uint8) else None
    try:
        if is_encoded(item):
            with open_image(encoded(item).file()) as image:
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


def _read_images(dataset: Images, most: int = LOOKED_AT) -> dict[int, Tensor]:
    """Images by their position. Empty where an item may be costly, or another one each time."""
    is_read = isinstance(dataset, (ImageDataset, Tensor))
    return {i: dataset[i] for i in _spread(len(dataset), most)} if is_read else {}


def _are_grey(images: dict[int, Tensor]) -> bool | None:
    return all(bool((i == i[:1]).all()) for i in images.values()) if images else None


def _brightest(images: dict[int, Tensor]) -> int | None:
    levels = [np.quantile(image.numpy(), 1 - TAIL) for image in images.values()]
    return int(np.quantile(levels, 1 - ALIKE)) if levels else None


def _is_dark(images: Tensor, brightest: int) -> bool:
    """Whether one of (..., 3, H, W) is less than half as bright as training images are."""
    bright = (images >= brightest / 2).flatten(-3)
    return bool((bright.count_nonzero(dim=-1) <= TAIL * bright.shape[-1]).any())


def _is_constant(images: Tensor) -> bool:
    """Whether (..., 3, H, W) holds an image of one colour."""
    for part in (images[..., ::16, ::16], images):  # the first settles nearly all
        if not (part == part[..., :1, :1]).flatten(-3).all(-1).any():
            return False
    return images.numel() > 0


def _colour(images: Tensor) -> float:
    """Grey levels by which the channels of (..., 3, H, W) differ on average."""
    part = images[..., ::4, ::4].float() * (1 if images.dtype == torch.uint8 else 255)
    return float((part.amax(-3) - part.amin(-3)).mean()) if part.numel() else 0.0
