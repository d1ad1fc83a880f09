"""The size that images are resized to, where it follows from their aspect ratio."""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from fastad._values import is_number
from fastad.data.depth import FULL
from fastad.data.facts import ASPECT, common_shape
from fastad.data.images import ImageError
from fastad.data.in_memory import shape_of
from fastad.data.inputs import gathered, image_of, is_one, is_path, to_tensor

AREA = 256 * 256  # pixels that a size is near to
STEP = 32  # pixels: sides are multiples of it, as networks halve them five times
LONGEST = 2048  # pixels of a side
SHAPES_READ = 256  # headers of files that are looked at
SHAPES_NAMED = 5
LINE = 3  # pixels of a scratch, by which a resize is pictured
ITEMS_READ = 32  # other images, which are read whole


def is_auto(image_size: object) -> bool:
    """Whether an image size is to follow from the images; an array is none."""
    return isinstance(image_size, str) and image_size == "auto"


def auto_size(images: Any) -> tuple[int, int]:
    """(height, width) of about 256x256 pixels in area, with the images' median aspect ratio.

    Sides are multiples of 32 and at most 2048. Square images give 256x256. Of files the headers are
    read alone, of at most 256 spread evenly, and unreadable ones are passed over. Of a map-style
    data set or a list of other images at most 32 are read. A warning names the shapes where one is
    stretched by more than 20 %.

    Args:
        images: paths, images in any form of `fastad.data.inputs`, or a map-style data set of them.

    Raises:
        ValueError: there is no image.
        ImageError: no file that was looked at is readable.
        TypeError: the images cannot be counted and looked at twice.

    Examples:
        >>> import numpy as np
        >>> from fastad.data import auto_size
        >>> auto_size(np.zeros((10, 640, 256, 3), dtype=np.uint8))
        (416, 160)
    """
    images = gathered(images)
    if isinstance(images, np.ndarray) and images.dtype != object:
        return size_of_ratio(*(images.shape[:2] if images.ndim < 4 else images.shape[1:3]))
    if isinstance(images, Tensor):
        return size_of_ratio(*images.shape[-2:])
    if not (hasattr(images, "__getitem__") and hasattr(images, "__len__")):
        raise TypeError(
            'image_size "auto" needs images that can be counted: a folder, a list, an array or a '
            "map-style data set; give (height, width)"
        )
    if not len(images):
        raise ValueError("images: at least one image is needed")
    shapes, first_error = _shapes_of(images)
    if not shapes:
        raise ImageError(f"image size auto: no image is readable; the first error: {first_error}")
    ratios = [math.log(height / width) for height, width in shapes.elements()]
    size = size_of_ratio(math.exp(float(np.median(ratios))), 1)
    _warn_of_stretched(shapes, size)
    return size


def scaled_size(images: Any, scale: float) -> tuple[int, int]:
    """(height, width) of a share of the images' own sides. Of files the headers are read alone.

    Args:
        images: as of `auto_size`.
        scale: above 0 and at most 1; 1 leaves them as they are.

    Raises:
        ValueError: the scale is something else, or the images differ in size.

    Examples:
        >>> import numpy as np
        >>> from fastad.data.sizes import scaled_size
        >>> scaled_size(np.zeros((10, 641, 256, 3), dtype=np.uint8), 0.5)
        (320, 128)
    """
    if not is_number(scale) or not 0 < scale <= 1:
        raise ValueError(f"scale must be above 0 and at most 1; got {scale!r:.80}")
    shape = common_shape(images)
    if shape is None:
        raise ValueError("scale: the images differ in size: give image_size")
    return max(round(shape[0] * scale), 1), max(round(shape[1] * scale), 1)


def resize_in_words(images: Any, size: tuple[int, int], *, name_shapes: bool = True) -> str | None:
    """What a resize to (height, width) does to images; None where nothing changes or is known.

    Args:
        images: as of `auto_size`. Nothing is known of a data set's items, which may be costly.
        name_shapes: False where a warning has named shapes that differ much.

    Examples:
        >>> import numpy as np
        >>> from fastad.data.sizes import resize_in_words
        >>> resize_in_words(np.zeros((10, 645, 256, 3), dtype=np.uint8), (640, 256))
        'images of 645x256 become 640x256 (height x width): a line 3 px wide becomes 3.0'
    """
    shapes: Counter[tuple[int, int]] = Counter()
    if is_one(images):
        images = [images]
    if isinstance(images, Tensor):
        shapes[images.shape[-2], images.shape[-1]] = 1
    elif isinstance(images, np.ndarray) and images.dtype != object:
        height, width = images.shape[:2] if images.ndim < 4 else images.shape[1:3]
        shapes[height, width] = 1
    elif isinstance(images, Sequence) and len(images):
        shapes, _ = _shapes_of(images)
    else:
        return None
    if not shapes or set(shapes) == {size}:
        return None
    scales = sorted(min(size[0] / height, size[1] / width) for height, width in shapes)
    low, high = (f"{LINE * scale:.1f}" for scale in (scales[0], scales[-1]))
    line = f"a line {LINE} px wide becomes {low}" + (f" to {high}" if low != high else "")
    of = f" of {_named(shapes)}" if name_shapes or not _are_stretched(shapes, size) else ""
    return f"images{of} become {size[0]}x{size[1]} (height x width): {line}"


def _shapes_of(images: Any) -> tuple[Counter[tuple[int, int]], Exception | None]:
    """How often each (height, width) is among some of the images, and the first error."""
    shapes: Counter[tuple[int, int]] = Counter()
    first_error = None
    are_paths = not isinstance(images, Dataset) and is_path(images[0])
    most = SHAPES_READ if are_paths else ITEMS_READ
    for i in np.unique(np.linspace(0, len(images) - 1, most).round().astype(int)):
        try:
            shapes[_shape_of(images[int(i)])] += 1
        except (ImageError, OSError) as error:
            first_error = first_error or error
    return shapes, first_error


def _named(shapes: Counter[tuple[int, int]]) -> str:
    if len(shapes) == 1:
        return "x".join(map(str, *shapes))
    found = ", ".join(f"{h}x{w} ({number})" for (h, w), number in shapes.most_common(SHAPES_NAMED))
    return found + (", ..." if len(shapes) > SHAPES_NAMED else "")


def _are_stretched(shapes: Iterable[tuple[int, int]], size: tuple[int, int]) -> bool:
    """Whether `auto_size` warns of one of them."""
    return any(abs(math.log(h / w / (size[0] / size[1]))) > math.log(ASPECT) for h, w in shapes)


def size_of_ratio(height: float, width: float) -> tuple[int, int]:
    """The (height, width) in multiples of 32 with nearly this ratio and an area near 256x256.

    A ratio that is wrong by a tenth costs as much as an area that is wrong by four tenths.

    Examples:
        >>> from fastad.data.sizes import size_of_ratio
        >>> size_of_ratio(480, 640)
        (224, 288)
    """
    sides = np.arange(STEP, LONGEST + 1, STEP)
    heights, widths = np.meshgrid(sides, sides, indexing="ij")
    stretched = np.abs(np.log(heights / widths / (height / width)))
    area = np.abs(np.log(heights * widths / AREA))
    wrong = np.round(stretched + area / 4, 9)  # equal whichever side is the longer
    first, second = np.unravel_index(np.argmin(wrong), wrong.shape)
    return int(sides[first]), int(sides[second])


def _warn_of_stretched(shapes: Counter[tuple[int, int]], size: tuple[int, int]) -> None:
    height, width = size
    by = {shape: abs(math.log(shape[0] / shape[1] / (height / width))) for shape in shapes}
    count = sum(shapes[shape] for shape in shapes if by[shape] > math.log(ASPECT))
    if not count:
        return
    warnings.warn(
        f"the images looked at are of {_named(shapes)} (height x width): image size auto takes "
        f"{height}x{width}, and {count} of {shapes.total()} are stretched by more than "
        f"{ASPECT - 1:.0%}, up to {math.exp(max(by.values())):.1f} times. Cut them to one shape, "
        "train a detector for each, or give the size",
        stacklevel=3,
    )


def _shape_of(item: Any) -> tuple[int, int]:
    """(height, width) of one image in any form; of a data set's item as of the image in it."""
    item = image_of(item)
    shape = shape_of(item)
    if shape is None:
        height, width = to_tensor(item, FULL).shape[-2:]
        return height, width
    return shape
