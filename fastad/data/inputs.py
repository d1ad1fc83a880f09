"""Images in any of the forms that people have them in, for training and for prediction.

Accepted: a path to an image or a folder, a Pillow image, one uint8 array (H, W, 3), arrays
(N, H, W, 3) or tensors (N, 3, H, W) of many, and iterables of single ones: paths, Pillow images,
uint8 arrays (H, W, 3) and tensors (3, H, W), sizes mixed. Tensors are uint8, or floating in [0, 1].
Images may be grey: arrays (H, W), arrays and tensors with one channel; all three get its values.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fastad.data.folder import ImageDataset, Images, iterate_batches
from fastad.data.images import read_image, resize, rgb_array
from fastad.data.layouts import images_without_masks

ACCEPTED = (
    "a path, a folder, a Pillow image, a uint8 array (N, H, W, 3), a tensor (N, 3, H, W), or a "
    "list of paths, Pillow images, arrays (H, W, 3) and tensors (3, H, W); of grey images arrays "
    "(H, W), and one channel instead of three"
)


def to_tensor(item: Any) -> Tensor:
    """One image in any form -> (3, H, W), uint8 or floating.

    Raises TypeError or ValueError that says what is accepted; `read_image`'s errors for a path.
    """
    if isinstance(item, (str, Path)):
        return read_image(item)
    if isinstance(item, Image.Image):
        return torch.from_numpy(rgb_array(item)).permute(2, 0, 1)
    if isinstance(item, np.ndarray) and item.ndim != 2 and item.shape[2:] not in ((1,), (3,)):
        raise ValueError(
            f"images: an array in a list must be (H, W, 3), or grey (H, W); one is {item.shape}"
        )
    if isinstance(item, Tensor) and (item.ndim != 3 or item.shape[0] not in (1, 3)):
        raise ValueError(
            "images: a tensor in a list must be (3, H, W), or grey (1, H, W); "
            f"one is {tuple(item.shape)}"
        )
    if isinstance(item, np.ndarray):
        return _from_array(item)[0]
    if isinstance(item, Tensor):
        return _checked(item)[0]
    raise TypeError(f"images must be {ACCEPTED}; one is {shortened(item)}")


def image_batches(
    images: Any,
    size: tuple[int, int],
    batch_size: int,
    skip: Callable[[Path | int, Exception], None] | None = None,
) -> Iterator[tuple[list[Path] | None, Tensor]]:
    """Images in any form -> batches (n, 3, H, W) at ``size`` in order, with their paths.

    The paths are None where not all images of the batch were given as paths. ``skip`` is called
    with the path (or the position) and the error of an unreadable image, which is then left out;
    without it the error is raised. No more than two batches are held at a time.

    Raises:
        TypeError, ValueError: images is something else; the message says what.
        FileNotFoundError, ImageError: a file is missing or no image; the message names it.
    """
    if isinstance(images, np.ndarray):
        images = _from_array(images)
    if isinstance(images, Tensor):
        images = _checked(images)
        for start in range(0, len(images), batch_size):
            yield None, _resized(images[start : start + batch_size], size)
        return
    items = _items(images)
    held: dict[int, Any] = {}

    def remember() -> Iterator[Any]:
        for position, item in enumerate(items):
            held[position] = item
            yield item

    def report(position: int, error: Exception) -> None:
        item = held.pop(position)
        assert skip is not None  # it is only called where it is
        skip(Path(item) if isinstance(item, (str, Path)) else position, error)

    batches = iterate_batches(
        remember(),
        size,
        batch_size,
        lambda item: _as_bytes(to_tensor(item)),
        report if skip is not None else None,
    )
    for positions, batch in batches:
        chosen = [held.pop(position) for position in positions]
        are_paths = all(isinstance(item, (str, Path)) for item in chosen)
        yield [Path(item) for item in chosen] if are_paths else None, batch


def image_dataset(
    images: Any, size: tuple[int, int], *, in_memory: bool = True, skip_bad: bool = False
) -> Images:
    """Images in any form, or a map-style data set of them -> what a trainer reads, at ``size``.

    Raises as `image_batches`.
    """
    if isinstance(images, np.ndarray):
        images = _from_array(images)
    if isinstance(images, Tensor):
        return torch.cat([_resized(part, size) for part in _checked(images).split(64)])
    if isinstance(images, (str, Path, Image.Image)):
        images = list(_items(images))
    if isinstance(images, Sequence) and not isinstance(images, Dataset):
        if images and all(isinstance(item, (str, Path)) for item in images):
            return ImageDataset(images, size, in_memory, skip_bad)
        if not images:
            raise ValueError("images: there are none")
        return torch.stack([_resized(_as_bytes(to_tensor(item))[None], size)[0] for item in images])
    is_map_style = hasattr(images, "__getitem__") and hasattr(images, "__len__")
    if is_map_style and not isinstance(images, (bytes, dict)):
        return ResizedDataset(images, size)
    raise TypeError(f"images must be {ACCEPTED}, or a map-style data set; got {shortened(images)}")


class ResizedDataset(Dataset):
    """A map-style data set whose images are brought to ``size``.

    Its items are images in any form, or dicts with one as "image".
    """

    def __init__(self, dataset: Any, size: tuple[int, int]):
        self.dataset, self.size = dataset, size
        self.is_fixed = getattr(dataset, "is_fixed", False) is True
        if hasattr(dataset, "fingerprint"):
            self.fingerprint = dataset.fingerprint

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        item = self.dataset[index]
        if isinstance(item, dict) and "image" in item:
            return item | {"image": _resized(to_tensor(item["image"])[None], self.size)[0]}
        if isinstance(item, (tuple, list)) and item:  # (image, label), as torchvision's have
            item = item[0]
        return _resized(to_tensor(item)[None], self.size)[0]


def _items(images: Any) -> Iterable[Any]:
    if isinstance(images, (str, Path)):
        return images_without_masks(images) if Path(images).is_dir() else [images]
    if isinstance(images, Image.Image):
        return [images]
    if not isinstance(images, Iterable) or isinstance(images, (bytes, dict)):
        raise TypeError(f"images must be {ACCEPTED}; got {shortened(images)}")
    return images


def _from_array(images: np.ndarray) -> Tensor:
    """One image or many -> (N, 3, H, W)."""
    given = images
    if 0 in images.shape[images.ndim == 4 :]:
        raise ValueError(f"images: there are no pixels in shape {given.shape}")
    if images.ndim == 2:
        images = images[..., None]
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or images.dtype != np.uint8:
        raise ValueError(
            "images: an array must be uint8 of shape (N, H, W, 3), or (H, W, 3) for one, or of "
            f"grey images (N, H, W, 1), or (H, W); got {given.dtype} {given.shape}"
        )
    # Torch takes no negative strides, not even of axes of one element, and warns of arrays that
    # cannot be written to, as Pillow's are.
    if any(stride < 0 for stride in images.strides) or not images.flags.writeable:
        images = images.copy()
    return _checked(torch.from_numpy(images).permute(0, 3, 1, 2))


def _checked(images: Tensor) -> Tensor:
    """(N, 3, H, W) of that, or (3, H, W), or of grey images with one channel."""
    given = tuple(images.shape)
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            "images: a tensor must have shape (N, 3, H, W), or (3, H, W) for one, with one channel "
            f"for grey images; got {given}"
        )
    if images.shape[1] == 1:
        images = images.repeat(1, 3, 1, 1)
    if 0 in images.shape[2:]:
        raise ValueError(f"images: there are no pixels in shape {given}")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise TypeError(f"images: a tensor must be uint8 or floating point; got {images.dtype}")
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):  # false for NaN too
        raise ValueError(
            "images: a floating tensor must be in [0, 1]; "
            f"got {images.min().item():g} to {images.max().item():g}"
        )
    return images


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
