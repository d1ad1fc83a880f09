"""The region of interest: a mask of the pixels that count, and what follows for the levels.

A pixel of an anomaly map is interpolated from places of coarser levels. A place counts as much as
the pixels inside take of it. So the mean over places, weighted in this way, is the mean over the
pixels inside of the map in full size. Places that no pixel inside depends on do not count.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad import ops


class RegionOfInterest(nn.Module):
    """Which pixels of an image count.

    Args:
        mask: (H, W) bool. Maps of another size are taken for resized ones.

    Attributes:
        mask: the same.
        pixels: how many count.
    """

    mask: Tensor

    def __init__(self, mask: Tensor):
        super().__init__()
        self.register_buffer("mask", mask.detach().bool().clone())
        self.pixels = int(self.mask.sum())
        self._weights: dict[Any, Tensor] = {}

    def at(self, size: tuple[int, int]) -> Tensor:
        """The mask for maps of a size: (*size,) bool."""
        if tuple(self.mask.shape) == tuple(size):
            return self.mask
        own = self.mask[None, None].float()
        return functional.interpolate(own, size, mode="nearest-exact")[0, 0] > 0

    def pixels_of(self, size: tuple[int, int]) -> int:
        """How many pixels of a map of a size count."""
        return self.pixels if tuple(self.mask.shape) == tuple(size) else int(self.at(size).sum())

    def weights(self, size: tuple[int, int]) -> Tensor:
        """How much each place of a level counts: (*size,) float32, what the pixels inside take of
        it. The level is taken for interpolated to the mask's size as `fastad.ops.aggregate_maps`
        does it."""
        if tuple(self.mask.shape) == tuple(size):
            return self.mask.float()
        if torch.compiler.is_compiling():
            return self._taken(size)
        key = (tuple(size), self.mask.device)
        if key not in self._weights:
            # A tensor of inference mode could not be used in a training later.
            with torch.inference_mode(False), torch.no_grad():
                self._weights[key] = self._taken(size)
        return self._weights[key]

    def _taken(self, size: tuple[int, int]) -> Tensor:
        (height, width), device = self.mask.shape, self.mask.device
        with torch.autocast(device.type, enabled=False):
            rows, columns = _taps(height, size[0], device), _taps(width, size[1], device)
            return rows.mT @ self.mask.float() @ columns

    def holds(self, size: tuple[int, int]) -> Tensor:
        """The places of a level that lie inside: (*size,) bool, at least one.

        Those that count at least half as much as the one that counts most.
        """
        weights = self.weights(size)
        return weights >= weights.max() / 2

    def places(self, features: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, 1, n), the n places that count. For training, not for a graph."""
        used = self.weights((features.shape[-2], features.shape[-1])) > 0
        return features.flatten(2)[:, :, used.flatten()][:, :, None]

    def keep(self, maps: Tensor) -> Tensor:
        """Maps (N, H, W), 0 outside."""
        inside = self.at((maps.shape[-2], maps.shape[-1]))
        return torch.where(inside, maps, maps.new_zeros(()))

    def fill(self, images: Tensor, value: float) -> Tensor:
        """Images (N, C, H, W), of one value outside."""
        inside = self.at((images.shape[-2], images.shape[-1]))
        return torch.where(inside, images, images.new_full((), value))

    def without_outside(self, maps: Tensor) -> Tensor:
        """Maps (N, h, w), outside the mean of each over the places that count."""
        weights = self.weights((maps.shape[-2], maps.shape[-1])).to(maps.dtype)
        mean = (maps * weights).sum(dim=(-2, -1), keepdim=True) / weights.sum()
        return torch.where(weights > 0, maps, mean)


def _taps(pixels: int, places: int, device: torch.device) -> Tensor:
    """What each pixel of an axis takes of each place: (pixels, places), rows add up to 1."""
    steps = torch.arange(places, dtype=torch.float32, device=device)
    centres = (torch.arange(pixels, dtype=torch.float32, device=device) + 0.5) * (places / pixels)
    centres = (centres - 0.5).clamp(0, places - 1)
    return (1 - (centres[:, None] - steps).abs()).clamp_min(0)


def mean_inside(maps: Tensor, roi: RegionOfInterest | None) -> Tensor:
    """The mean of each map (N, h, w) over what counts, over all without a region: (N,)."""
    if roi is None:
        return maps.flatten(1).mean(dim=1)
    weights = roi.weights((maps.shape[-2], maps.shape[-1])).to(maps.dtype)
    return (maps * weights).sum(dim=(1, 2)) / weights.sum()


def distillation_loss(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    roi: RegionOfInterest | None,
    *,
    level_weights: Sequence[float],
    reduction: str = "mean",
    hard: float = 0.0,
    deviation: Sequence[Tensor] | None = None,
    eps: float = 1e-12,
) -> Tensor:
    """`fastad.ops.distillation_loss` over the places that count, over all without a region.

    ``hard`` of 0 lets all distances count. ``deviation`` (C_l,) of each level is what the teacher's
    channels are divided by.
    """
    weights = None
    if roi is not None:
        weights = [roi.weights((level.shape[-2], level.shape[-1])) for level in teacher]
    return ops.distillation_loss(
        teacher,
        student,
        level_weights=level_weights,
        weights=weights,
        reduction=reduction,
        hard=hard or None,
        deviation=deviation,
        eps=eps,
    )
