"""Ground-truth masks: reading, joining and resizing."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fastad.data.images import ImageError, deep_values, open_image, rgb_array
from fastad.data.orientation import upright


def read_mask(path: str | Path) -> Tensor:
    """Read a ground-truth mask: bool (H, W), true where a value exceeds half of its range.

    Where no value does, the mask holds small label numbers and every non-zero value is true. Of a
    colour mask the largest channel counts. Errors as in ``read_image``.
    """
    with open_image(path) as image:
        image = upright(image)
        if image.mode.startswith(("I", "F")):
            values, half = deep_values(image), 32767
        else:
            values, half = rgb_array(image).max(axis=2), 127
        mask = values > half
        return torch.from_numpy(mask if mask.any() else values > 0)


def read_ground_truth(paths: Sequence[str | Path]) -> Tensor:
    """Union of an image's masks, each read by ``read_mask``: bool (H, W).

    Raises ImageError naming both files when their sizes differ, ValueError for no path at all.
    """
    if not paths:
        raise ValueError("paths: at least one mask is needed")
    union = read_mask(paths[0])
    for path in paths[1:]:
        mask = read_mask(path)
        if mask.shape != union.shape:
            raise ImageError(
                f"{path}: the mask has {mask.shape[0]}x{mask.shape[1]} pixels, but {paths[0]} of "
                f"the same image has {union.shape[0]}x{union.shape[1]}"
            )
        union |= mask
    return union


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bool masks (..., H, W) to ``size`` by nearest neighbour (pixel centres).

    A mask of which nothing would be left marks every pixel of the result that it touches: a defect
    of one pixel in a large image stays a defect.
    """
    if tuple(masks.shape[-2:]) == tuple(size):
        return masks
    flat = masks.reshape(-1, 1, *masks.shape[-2:])
    resized = F.interpolate(flat.to(torch.uint8), size=size, mode="nearest-exact").bool()
    lost = flat.flatten(1).any(1) & ~resized.flatten(1).any(1)
    if lost.any():
        resized[lost] = F.adaptive_max_pool2d(flat[lost].float(), size).bool()
    return resized.reshape(*masks.shape[:-2], *size)
