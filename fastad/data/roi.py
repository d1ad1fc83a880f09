"""The region of interest of a product: which pixels of its images count.

It is given as a mask, an image or an array in which white counts, or as polygons. Polygons are in
pixels of an image of known size. x goes to the right and y down from the upper left corner of the
image, so the whole of it is (0, 0), (W, 0), (W, H), (0, H). A pixel counts where its centre lies
inside. A point inside two polygons counts, one inside a loop that a polygon draws twice does not.
"""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fastad._values import is_integer, is_number, plain
from fastad.data.inputs import is_path
from fastad.data.masks import mask_of_values, read_any_mask, resize_masks

if TYPE_CHECKING:
    from fastad.data.training_set import TrainingSet

LEAST_PIXELS = 64  # that count; with fewer a warning
FORM = '{"image_size": [W, H], "polygons": [[[x, y], ...], ...]}'


@dataclass(frozen=True)
class Roi:
    """A region of interest as it was given.

    Attributes:
        name: its file, or "roi".
        mask: (h, w) bool. None where it waits for the images' size.
        polygons: (n, 2) x and y each, of polygons without a size of their own.
    """

    name: str
    mask: Tensor | None
    polygons: tuple[np.ndarray, ...] = ()

    def at(self, size: tuple[int, int], image_shape: tuple[int, int] | None) -> Tensor:
        """The pixels that count of images that are resized to ``size``: bool (H, W).

        Args:
            size: (height, width).
            image_shape: (height, width) of the images before that. None where it is not known.

        Raises:
            ValueError: another aspect ratio than the images', polygons without a known size, or no
                pixel that counts.
        """
        mask = self.mask
        if mask is None:
            if image_shape is None:
                raise ValueError(
                    f"roi: {self.name} has polygons without a size, and the size of the images is "
                    f"not known, or they differ: write {FORM}"
                )
            mask = filled(self.polygons, image_shape)
        if not mask.any():
            raise ValueError(f"roi: {self.name} marks no pixel: white is what counts")
        if image_shape is not None and not same_aspect((len(mask), mask.shape[1]), image_shape):
            (height, width), (image_height, image_width) = mask.shape, image_shape
            raise ValueError(
                f"roi: {self.name} is of {width}x{height} pixels (width x height), another aspect "
                f"ratio than that of the images, {image_width}x{image_height}"
            )
        if mask.all():
            warnings.warn(
                f"roi: {self.name} leaves nothing out: all of its pixels count. In a mask, what is "
                "black does not",
                stacklevel=3,
            )
        resized = resize_masks(mask, size)
        if (count := int(resized.sum())) < LEAST_PIXELS:
            warnings.warn(
                f"roi: only {count} of the {resized.numel()} pixels that the detector looks at "
                f"count by {self.name}. Are its polygons in pixels?",
                stacklevel=3,
            )
        return resized


def read_roi(roi: Any) -> Roi:
    """Read a region of interest, but for what needs the images' size.

    Args:
        roi: the path of a mask, in any form of `fastad.data.read_mask`, or of a JSON file of
            polygons. Or an array or tensor (H, W), bool, of whole numbers as in the image of a
            mask, or of floats from 0 to 1. Or polygons as in JSON: `FORM`, or the list of polygons
            alone, which is in pixels of the training images.

    Raises:
        ValueError: it is none of these. The message names the file and what is wrong.
        FileNotFoundError: there is no such file.
        ImageError: a file is no image.
    """
    if isinstance(roi, Roi):
        return roi
    if is_path(roi):
        path = Path(roi)
        if path.suffix.lower() != ".json":
            return _settled(str(path), read_any_mask(path))
        try:
            found = json.loads(path.read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise ValueError(f"roi: {path} is no JSON: {error}") from error
        return _of_polygons(str(path), found)
    if isinstance(roi, (np.ndarray, Tensor)):
        return _settled("roi", _of_array(np.asarray(roi.cpu() if isinstance(roi, Tensor) else roi)))
    return _of_polygons("roi", roi)


def same_aspect(mask: tuple[int, int], image: tuple[int, int]) -> bool:
    """Whether (height, width) of a mask are the image's at another scale, each side within a pixel.

    The pixel is one of the smaller picture, whose sides were rounded.
    """
    (height, width), (image_height, image_width) = mask, image
    difference = abs(height * image_width - width * image_height)
    return difference <= max(height + width, image_height + image_width)


def filled(polygons: Sequence[np.ndarray], size: tuple[int, int]) -> Tensor:
    """Pixels of an image of (height, width) whose centres are inside a polygon: bool (H, W).

    Each polygon is (n, 2) with x and y of its corners, and filled by the even-odd rule.
    """
    height, width = size
    found = np.zeros(size, dtype=bool)
    centres = np.arange(height) + 0.5
    for polygon in polygons:
        # How many times the outline is crossed on the way to a pixel from the left.
        crossings = np.zeros((height, width + 1), dtype=np.int32)
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            rows = np.flatnonzero((centres >= min(y0, y1)) & (centres < max(y0, y1)))
            if len(rows):
                x = x0 + (centres[rows] - y0) * ((x1 - x0) / (y1 - y0))
                columns = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
                np.add.at(crossings, (rows, columns), 1)
        found |= crossings[:, :width].cumsum(axis=1) % 2 == 1
    return torch.from_numpy(found)


def _settled(name: str, mask: Tensor) -> Roi:
    if not mask.any():
        raise ValueError(f"roi: {name} marks no pixel: white is what counts")
    return Roi(name, mask)


def _of_array(values: np.ndarray) -> Tensor:
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"roi: a mask must be (H, W); got shape {values.shape}")
    if values.dtype == bool:
        return torch.from_numpy(values.copy())
    if values.dtype.kind == "f" and ((values >= 0) & (values <= 1)).all():
        return torch.from_numpy(values > 0.5)
    if values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 65535:
        return torch.from_numpy(mask_of_values(values.astype(np.int64)))
    raise ValueError(
        f"roi: a mask must be bool, whole numbers from 0 to 65535, or floats from 0 to 1; got "
        f"{values.dtype}, {values.min()} to {values.max()}"
    )


def _of_polygons(name: str, given: Any) -> Roi:
    given = plain(given)
    size = None
    if isinstance(given, Mapping):
        size, given = given.get("image_size"), given.get("polygons")
        if not _is_size(size):
            raise ValueError(
                f'roi: "image_size" of {name} must be [W, H] in pixels; got {size!r:.80}'
            )
    if not isinstance(given, (list, tuple)) or not given or not all(map(_is_polygon, given)):
        raise ValueError(
            f"roi: {name} must be a mask or polygons, {FORM}, of at least three points each; got "
            f"{given!r:.80}"
        )
    polygons = tuple(np.array(polygon, dtype=np.float64) for polygon in given)
    if size is None:
        return Roi(name, None, polygons)
    return _settled(name, filled(polygons, (int(size[1]), int(size[0]))))


def _is_size(size: Any) -> bool:
    is_pair = isinstance(size, (list, tuple)) and len(size) == 2
    return is_pair and all(is_integer(side, 1) for side in size) and math.prod(size) <= 2**31


def _is_polygon(points: Any) -> bool:
    return (
        isinstance(points, (list, tuple))
        and len(points) >= 3
        and all(
            isinstance(point, (list, tuple)) and len(point) == 2 and all(map(is_number, point))
            for point in points
        )
    )


def roi_of(roi: Roi, source: "TrainingSet") -> Tensor:
    """The pixels that count of training images at their size: bool (H, W). Errors as `Roi.at`."""
    mask = roi.at(source.size, source.shape)
    if source.shape is None and roi.mask is not None:  # they differ, or nothing is known of them
        height, width = roi.mask.shape
        for index, aspect in enumerate(np.exp(source.aspects_of(range(len(source.dataset))))):
            # Written so that an unknown aspect, NaN, passes.
            if abs(height * aspect - width) > 1 + aspect:
                paths = getattr(source.dataset, "paths", None)
                raise ValueError(
                    f"roi: {roi.name} is of {width}x{height} pixels (width x height), another "
                    f"aspect ratio than that of {paths[index] if paths else f'image {index}'}, "
                    f"{aspect:.4g} times as wide as high"
                )
    return mask
