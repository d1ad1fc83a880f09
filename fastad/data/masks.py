"""Ground-truth masks: reading, joining and resizing."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fastad.data.formats.orientation import upright
from fastad.data.images import ImageError, deep_values, open_image, rgb_array

_END = 16  # grey levels of 255 that compression or blur add to 0, or take from 255
_MANY = 16  # values that fill no area anywhere: more than specks of classes
_SHARE = 0.02  # of the pixels inside areas: less is chance
_told_of: set[str] = set()  # folders


def read_mask(path: str | Path) -> Tensor:
    """Read a ground-truth mask: bool (H, W), true where the defect is.

    Every value but the background counts as the defect: classes, instances, a "void" border. The
    background is black, or a palette's first colour where none is black; where all that is visible
    has one colour, alpha is the mask. Soft edges, of antialiasing, blur or JPEG, are cut at half of
    the range, or of the value of the lowest class.

    A mask that marks more than half of its image may be inverted: a warning names the first one of
    each folder. Errors as in ``read_image``.
    """
    mask = read_any_mask(path)
    share = float(mask.float().mean())
    folder = os.path.dirname(os.path.abspath(path))
    if share > 0.5 and folder not in _told_of:
        _told_of.add(folder)
        warnings.warn(
            f"{path}: the mask marks {share:.0%} of its image: it may be inverted, as what is not "
            "black is the defect (said once for each folder)",
            stacklevel=2,
        )
    return mask


def read_any_mask(path: str | Path) -> Tensor:
    """As `read_mask`, of a mask that may well mark most of its image."""
    with open_image(path) as image:
        lossy = "JPEG" in (image.format, str(image.info.get("compression")).upper())
        image = upright(image)
        return torch.from_numpy(mask_of_values(_grey(image), lossy))


def _grey(image: Image.Image) -> np.ndarray:
    """Values (H, W) of a mask of any kind, 0 where the background is."""
    if image.mode.startswith(("I", "F")):
        return deep_values(image)
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))
    if image.mode in ("LA", "PA", "RGBA") or (image.mode == "P" and "transparency" in image.info):
        pixels = np.array(image.convert("RGBA"))
        alpha = pixels[..., 3]
        seen = pixels[alpha > 0, :3]
        if alpha.min() < alpha.max() and (seen == seen[0]).all():
            return alpha
    if image.mode == "P":
        return _of_palette(image)
    return rgb_array(image).max(axis=2)


def _of_palette(image: Image.Image) -> np.ndarray:
    indices = np.array(image)
    used = np.unique(indices)
    colours = np.zeros((256, 3), np.uint8)
    palette = np.array(image.getpalette() or [], np.uint8).reshape(-1, 3)
    colours[: len(palette)] = palette
    seen = colours[used]
    if (seen == seen[:, :1]).all() and len(np.unique(seen[:, 0])) == len(used):
        return colours[indices, 0]  # shades of grey
    black = used[(seen == 0).all(axis=1)]
    return (indices != (black[0] if len(black) else 0)).astype(np.uint8)


def mask_of_values(values: np.ndarray, lossy: bool = False) -> np.ndarray:
    """The rule of `read_mask` for whole numbers (H, W) of 8 or 16 bits, ``lossy`` after JPEG."""
    top = 255 if values.max() <= 255 else 65535
    end = _END * top // 255
    if values.min() <= end and values.min() < values.max():
        values = values - values.min()  # the background need not be quite black
    levels = np.flatnonzero(np.bincount(values.ravel())[1:]) + 1
    if len(levels) < 2 and not lossy:
        return values > 0
    pixels = np.bincount(_inside_areas(values), minlength=top + 1)
    stray = levels[pixels[levels] == 0]
    edges = len(stray) > 1 and levels[-1] >= top - end and not pixels[levels[:-1]].any()
    if not (lossy or edges or len(stray) >= _MANY):
        return values > 0
    pixels[: end + 1] = 0
    classes = np.flatnonzero(pixels > _SHARE * pixels.sum())
    mask = values > classes.min(initial=top) / 2
    return mask if mask.any() else values > 0


def _inside_areas(values: np.ndarray) -> np.ndarray:
    """The values of pixels whose 3x3 neighbourhood has the same value: soft edges have none."""
    same = values[:, 1:] == values[:, :-1]
    rows = same[:, 1:] & same[:, :-1]
    same = values[1:] == values[:-1]
    columns = same[1:] & same[:-1]
    inside = rows[2:] & rows[1:-1] & rows[:-2] & columns[:, 1:-1]
    return values[1:-1, 1:-1][inside]


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
