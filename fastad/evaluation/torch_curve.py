"""The curve of pixels from tensors where they are: nothing but torch, on any device.

Only the curve comes to the host, one row a distinct value of the defect pixels.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastad.evaluation.curve import Curve


def pixel_curve(
    masks: Tensor | np.ndarray, maps: Tensor | np.ndarray, *, normal_images: bool = False
) -> Curve:
    """`fastad.evaluation.metrics.pixel_curve`, on the device of the tensors."""
    masks, maps = checked_pixels(masks, maps)
    bad = maps.numel() - int(torch.isfinite(maps).sum())
    if bad:
        raise ValueError(f"maps must be finite, but {bad} of {maps.numel()} values are NaN or inf")
    marked = masks.flatten(1).any(1)
    normal = maps[~marked].flatten() if normal_images else maps[~masks]
    regions = label_regions(masks[marked])[masks[marked]]
    sizes = torch.bincount(regions)
    ordered, order = torch.sort(maps[masks], stable=True)
    values, defects = torch.unique_consecutive(ordered, return_counts=True)
    # Sums by segments are the same on every run; sums by atomic additions are not.
    overlap = _sums(1.0 / sizes[regions[order]].double(), defects)

    # Slot 2 i counts the normal pixels below values[i], slot 2 i + 1 those equal to it.
    place = torch.searchsorted(values, normal)
    bounded = torch.cat([values, values.new_tensor([torch.inf])])
    slots = torch.bincount(2 * place + (bounded[place] == normal), minlength=2 * len(values) + 1)
    not_below = slots.flip(0).cumsum(0).flip(0)

    def highest_first(column: Tensor) -> np.ndarray:
        return column.flip(0).cpu().numpy()

    return Curve(
        values=highest_first(values.double()),
        defects=highest_first(defects),
        overlap=highest_first(overlap),
        normal_above=highest_first(not_below[2::2]),
        normal_equal=highest_first(slots[1::2]),
        normal=normal.numel(),
        regions=int((sizes > 0).sum()),
    )


def label_regions(masks: Tensor) -> Tensor:
    """The 8-connected regions of masks (N, H, W): int64 numbers, equal within a region.

    A region's number is the index of its last pixel in the stack, background is -1. Every pixel
    takes the largest number among its neighbours, then the number that the pixel of that number has
    (pointer jumping), until nothing changes: a number always is the index of a pixel of the region,
    so jumping stays inside it, and long thin regions need few rounds.
    """
    if masks.numel() == 0:
        return torch.empty(masks.shape, dtype=torch.int64, device=masks.device)
    index = torch.arange(masks.numel(), device=masks.device).view(masks.shape)
    labels = torch.where(masks, index, -1)
    while True:
        # float64 holds every index; the pooling of integers is not there on every device.
        pooled = F.max_pool2d(labels.double(), 3, stride=1, padding=1).long()
        jumped = pooled.flatten()[pooled.clamp(min=0)]
        larger = torch.where(masks, torch.maximum(pooled, jumped), -1)
        if torch.equal(larger, labels):
            return labels
        labels = larger


def image_means(masks: Tensor, maps: Tensor, values: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(N,) the mean share of the defect pixels of every image, NaN without any.

    values: (M,) distinct values of the defect pixels, descending; shares: (M,) what each counts.
    """
    ascending = torch.from_numpy(values[::-1].copy()).to(maps.device)
    share = torch.from_numpy(shares[::-1].copy()).to(maps.device)
    rows = torch.searchsorted(ascending, maps[masks].double())
    pixels = masks.flatten(1).sum(1)
    return (_sums(share[rows], pixels) / pixels).cpu().numpy()


def _sums(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums of segments that follow one another; the lengths are not checked (they may be none)."""
    return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)


def checked_pixels(masks: Tensor | np.ndarray, maps: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
    """Masks and maps (N, H, W) as tensors on one device, half precision as float32.

    ValueError says what is wrong. An array joins the tensor on its device.
    """
    on = maps.device if isinstance(maps, Tensor) else masks.device
    masks, maps = torch.as_tensor(masks, device=on), torch.as_tensor(maps, device=on)
    if masks.ndim != 3 or masks.shape != maps.shape or masks.numel() == 0:
        raise ValueError(
            "masks and maps must both be (N, H, W) and not empty, "
            f"got shapes {tuple(masks.shape)} and {tuple(maps.shape)}"
        )
    if masks.dtype != torch.bool:
        raise ValueError(f"masks must be bool, got {masks.dtype}")
    if not maps.is_floating_point():
        raise ValueError(f"maps must be floating point, got {maps.dtype}")
    return masks, maps if maps.dtype == torch.float64 else maps.float()
