"""Images in any of the forms that people have them in, for training and for prediction.

One image is

- a path, to a folder of images, too,
- a Pillow image,
- an array (H, W, 3), or (H, W) of a grey image, of uint8, uint16, bool, or floats in [0, 1],
- a tensor (3, H, W), or (1, H, W) of a grey image, of the same dtypes,
- the bytes of an image file, or a file opened for reading: in memory, on disk, in an archive.

Many images are an array (N, H, W, 3), a tensor (N, 3, H, W), an array or a table's column of paths,
or any iterable or map-style data set of single ones, sizes and forms mixed. An alpha channel is
dropped. A set is taken of paths alone, and sorted. An item may also be a dict with the image as
"image", as those of Hugging Face's data sets, or a tuple with the image first, as torchvision's.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fastad.data.bands import read_for
from fastad.data.depth import PixelRange, as_levels
from fastad.data.finding import given_path, natural_key
from fastad.data.folder import ImageDataset, Images, iterate_batches
from fastad.data.images import read_image, resize
from fastad.data.in_memory import (
    encoded,
    from_arrays,
    from_pillow,
    from_tensors,
    is_encoded,
    with_four_axes,
)
from fastad.data.layouts import images_without_masks
from fastad.data.remote import is_address

ACCEPTED = (
    "a path, a folder, a Pillow image, a uint8 array (N, H, W, 3), a tensor (N, 3, H, W), or a "
    "list of paths, Pillow images, arrays (H, W, 3), tensors (3, H, W), and bytes of image files "
    "or files opened for reading; of grey images arrays (H, W), and one channel instead of three"
)


def is_path(item: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Whether an item names a file or a folder."""
    return isinstance(item, (str, os.PathLike))


def are_paths(items: Any) -> TypeGuard[Sequence[str | Path]]:
    """Whether a sequence holds paths alone."""
    return isinstance(items, Sequence) and not is_path(items) and all(map(is_path, items))


def gathered(images: Any) -> Any:
    """Arrays and columns of paths, and sets, as lists of paths; everything else as it is.

    Raises TypeError for a set of anything else, ValueError for a table or paths of several axes.
    """
    if isinstance(images, (set, frozenset)):
        if not all(map(is_path, images)):
            raise TypeError("images: a set has no order, give a list; only a set of paths is taken")
        return sorted(images, key=lambda path: natural_key(os.fspath(path)))
    if hasattr(type(images), "to_numpy") and hasattr(images, "columns"):  # of pandas and others
        raise ValueError("images: of a table give the column of paths")
    if hasattr(images, "__array__") and not isinstance(images, Tensor):
        is_one_array = getattr(images, "ndim", 4) < 4  # many may be too many for the memory
        if is_one_array or hasattr(type(images), "to_numpy"):
            images = np.asarray(images)
    if isinstance(images, np.ndarray) and images.dtype.kind in "OUT":
        if images.ndim > 1:
            raise ValueError(
                f"images: an array of paths must have one axis; got {images.shape}, use "
                "images.ravel()"
            )
        return images.tolist()
    return images


def image_of(item: Any) -> Any:
    """The image of a data set's item: a dict's "image", a tuple's first; anything else itself."""
    if isinstance(item, dict) and "image" in item:
        return item["image"]
    return item[0] if isinstance(item, tuple) and item and not is_encoded(item) else item


def to_tensor(item: Any, pixel_range: PixelRange | None = None) -> Tensor:
    """One image in any form -> (3, H, W), uint8 or floating; ``pixel_range`` as of `read_image`.

    Raises TypeError or ValueError that says what is accepted; `read_image`'s errors for a path.
    """
    item = image_of(item)
    if is_path(item):
        return read_image(_file_of(item), pixel_range)
    if isinstance(item, Image.Image):
        return from_pillow(item, pixel_range)
    if is_encoded(item):
        return encoded(item).read(pixel_range)
    item = as_levels(item, pixel_range)
    if isinstance(item, Tensor):
        if item.ndim != 3 or item.shape[0] > 4:
            raise ValueError(
                "images: a tensor in a list must be (3, H, W), or grey (1, H, W); "
                f"one is {tuple(item.shape)}"
            )
        return from_tensors(item[None])[0]
    if hasattr(item, "__array__"):
        array = np.asarray(item)
        if array.ndim != 2 and array.shape[2:] not in ((1,), (2,), (3,), (4,)):
            raise ValueError(
                "images: an array in a list must be (H, W, 3), or grey (H, W); "
                f"one is {array.shape}"
            )
        return from_arrays(with_four_axes(array))[0]
    raise TypeError(f"images must be {ACCEPTED}; one is {shortened(item)}")


def _file_of(path: str | os.PathLike[str]) -> Path:
    is_remote = isinstance(path, Path) and is_address(path)  # as text it may be a mistake
    return path if isinstance(path, Path) and is_remote else given_path(path)


class Batch(NamedTuple):
    """Images (n, 3, H, W), with (height, width) of each before the resize, and the paths.

    The paths are None where not all images were given as paths.
    """

    paths: list[Path] | None
    images: Tensor
    sizes: list[tuple[int, int]]


def image_batches(
    images: Any,
    size: tuple[int, int],
    batch_size: int,
    skip: Callable[[Path | int, Exception], None] | None = None,
    pixel_range: PixelRange | None = None,
    look: Callable[[Any, Tensor, tuple[int, int]], None] | None = None,
) -> Iterator[Batch]:
    """Images in any form -> batches (n, 3, H, W) at ``size``, in order. ``skip`` is called
    with the path (or the position) and the error of an unreadable image, which is then left out;
    without it the error is raised. No more than two batches are held at a time.
    ``pixel_range`` is that of `read_image`. ``look`` is called with every item, or the array of
    all, with the image (3, H, W) or the images (N, 3, H, W) that it was read as, and with its own
    (height, width): a large file is read at ``size`` (`fastad.data.bands`).

    Raises:
        TypeError, ValueError: images is something else; the message says what.
        FileNotFoundError, ImageError: a file is missing or no image; the message names it.
    """
    given = gathered(images)
    stack = _stack(as_levels(given, pixel_range))
    if stack is not None:
        if look is not None and len(stack) > 0:
            first = _part(stack, 0, batch_size)
            look(given, first, (first.shape[-2], first.shape[-1]))
        for start in range(0, len(stack), batch_size):
            part = _part(stack, start, batch_size)
            yield Batch(None, _resized(part, size), [(part.shape[-2], part.shape[-1])] * len(part))
        return
    items = _items(given)
    held: dict[int, Any] = {}
    sizes: dict[int, tuple[int, int]] = {}

    def remember() -> Iterator[tuple[int, Any]]:
        for position, item in enumerate(items):
            # A file may be closed or written anew as soon as the next item is asked for.
            held[position] = item = encoded(item) if is_encoded(item) else item
            yield position, item

    def report(position: int, error: Exception) -> None:
        item = held.pop(position)
        assert skip is not None  # it is only called where it is
        skip(Path(item) if is_path(item) else position, error)

    def read(place: tuple[int, Any]) -> Tensor:
        position, item = place
        image, shape = _read_for(item, size, pixel_range)
        sizes[position] = shape
        if look is not None:
            look(item, image, shape)
        return image

    batches = iterate_batches(
        remember(),
        size,
        batch_size,
        read,
        report if skip is not None else None,
    )
    for positions, batch in batches:
        chosen = [held.pop(position) for position in positions]
        paths = [Path(item) for item in chosen] if are_paths(chosen) else None
        yield Batch(paths, batch, [sizes.pop(position) for position in positions])


def image_dataset(
    images: Any,
    size: tuple[int, int],
    *,
    in_memory: bool = True,
    skip_bad: bool = False,
    pixel_range: PixelRange | None = None,
) -> Images:
    """Images in any form, or a map-style data set of them -> what a trainer reads, at ``size``.

    Raises as `image_batches`.
    """
    images = as_levels(gathered(images), pixel_range)
    stack = _stack(images)
    if stack is not None:
        starts = range(0, max(len(stack), 1), 64)
        return torch.cat([_resized(_part(stack, start, 64), size) for start in starts])
    is_map_style = hasattr(images, "__getitem__") and hasattr(images, "__len__")
    is_list = isinstance(images, (Sequence, dict)) or is_one(images)
    if is_map_style and (isinstance(images, Dataset) or not is_list):
        return ResizedDataset(images, size, pixel_range)
    try:
        items = _items(images)
    except TypeError:
        raise TypeError(
            f"images must be {ACCEPTED}, or a map-style data set; got {shortened(images)}"
        ) from None
    # One by one, so that of a generator no more than one image is held at its full size.
    read: list[Any] = [
        given_path(item) if is_path(item) else _read(item, size, pixel_range) for item in items
    ]
    if not read:
        raise ValueError("images: there are none")
    if are_paths(read):
        return ImageDataset(read, size, in_memory, skip_bad, pixel_range)
    return torch.stack([_read(item, size, pixel_range) if is_path(item) else item for item in read])


class ResizedDataset(Dataset):
    """A map-style data set whose images are brought to ``size``.

    Its items are images in any form, or dicts with one as "image".
    """

    def __init__(
        self, dataset: Any, size: tuple[int, int], pixel_range: PixelRange | None = None
    ) -> None:
        self.dataset, self.size, self.pixel_range = dataset, size, pixel_range
        self.is_fixed = getattr(dataset, "is_fixed", False) is True
        if hasattr(dataset, "fingerprint"):
            self.fingerprint = dataset.fingerprint

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        item = self.dataset[index]
        if isinstance(item, dict) and "image" in item:
            return item | {"image": self._resized(item["image"])}
        if isinstance(item, list) and item:  # [image, label], as collated
            item = item[0]
        return self._resized(item)

    def _resized(self, image: Any) -> Tensor:
        return _resized(to_tensor(image, self.pixel_range)[None], self.size)[0]


def is_one(images: Any) -> bool:
    """Whether something is one image, or a folder, rather than many images."""
    return is_path(images) or isinstance(images, Image.Image) or is_encoded(images)


def _items(images: Any) -> Iterable[Any]:
    if is_path(images) and given_path(images).is_dir():
        return images_without_masks(given_path(images))
    if is_one(images):
        return [images]
    if isinstance(images, Dataset) and not isinstance(images, Iterable):
        return (images[i] for i in range(len(images)))  # type: ignore[arg-type]
    if not isinstance(images, Iterable) or isinstance(images, dict):
        raise TypeError(f"images must be {ACCEPTED}; got {shortened(images)}")
    return images


def _stack(images: Any) -> np.ndarray | Tensor | None:
    """One array or tensor of images with four axes; None for anything else."""
    if isinstance(images, np.ndarray):
        return with_four_axes(images)
    return from_tensors(images) if isinstance(images, Tensor) else None


def _part(stack: np.ndarray | Tensor, start: int, count: int) -> Tensor:
    part = stack[start : start + count]
    return from_arrays(part) if isinstance(part, np.ndarray) else part


def _read_for(
    item: Any, size: tuple[int, int], pixel_range: PixelRange | None
) -> tuple[Tensor, tuple[int, int]]:
    """One image in any form, a file as `read_for` gives it, and its own (height, width)."""
    item = image_of(item)
    if is_path(item):
        return read_for(_file_of(item), size, pixel_range)
    if is_encoded(item):
        return read_for(encoded(item).file(), size, pixel_range)
    image = _as_bytes(to_tensor(item, pixel_range))
    return image, (image.shape[-2], image.shape[-1])


def _read(item: Any, size: tuple[int, int], pixel_range: PixelRange | None) -> Tensor:
    return _resized(_as_bytes(to_tensor(item, pixel_range))[None], size)[0]


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    # Resizing gives back its input's dtype; half precision would lose digits there.
    return resize(images if images.dtype == torch.uint8 else images.float(), size)


def _as_bytes(image: Tensor) -> Tensor:
    """A batch has one dtype: floating images among others are rounded to grey levels."""
    return image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)


def shortened(value: Any) -> str:
    """Type and beginning of a value, for an error message."""
    text = repr(value)
    return f"{type(value).__name__} {text[:80]}{'...' if len(text) > 80 else ''}"
