"""Prototypes of normal feature maps, and the residuals of new ones to them.

Zhang et al., "Prototypical Residual Networks for Anomaly Detection and Localization", CVPR 2023,
arXiv 2212.02031, section 3.1: whole feature maps are clustered, level by level.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad.models.roi import RegionOfInterest

LEAST_SCALE = 0.1  # of a level's mean residual: differences below it are noise
FIT_BYTES = 2**29  # of a level's feature maps that are clustered; of more images every n-th


class Prototypes(nn.Module):
    """Cluster centres of whole feature maps, of each level on its own.

    None at first: the residual of a feature map is then its square. Images of another size than
    the training's are compared with prototypes resized to their feature maps.

    Args:
        channels: of every level.
        scaled: log(1 + r / s) of a squared difference r that is s for normal images, at each
            channel and position; False for r itself (the paper).

    Attributes:
        level0, level1, ...: (K, C_l, H_l, W_l). Empty in a new model, and as large in a loaded one
            as in its file, for the training images decide on their size.
        squares0, squares1, ...: (K,) their squared norms.
        scales0, scales1, ...: (1, C_l, H_l, W_l), what the residuals of normal images are like;
            empty, too, in a new model, without ``scaled``, and where each training image is a
            prototype: s is then 1.
    """

    def __init__(self, channels: Sequence[int], scaled: bool = True):
        super().__init__()
        self.levels, self.scaled = len(channels), scaled
        for index, number in enumerate(channels):
            self.register_buffer(f"level{index}", torch.empty(0, number, 1, 1))
            self.register_buffer(f"squares{index}", torch.empty(0))
            self.register_buffer(f"scales{index}", torch.empty(0, number, 1, 1))

    def forward(
        self, features: Sequence[Tensor], roi: RegionOfInterest | None = None
    ) -> list[Tensor]:
        """Levels (N, C_l, H_l, W_l) -> residuals to the nearest prototype, of the same shapes.

        Places outside a region of interest do not count in what is nearest. Their residual is 0.
        """
        found = []
        for index, level in enumerate(features):
            scales = getattr(self, f"scales{index}")
            residual = self._residual(index, level.to(scales.dtype), roi)
            if len(scales) > 0:
                if scales.shape[2:] != level.shape[2:]:
                    scales = functional.interpolate(scales, level.shape[2:], mode="bilinear")
                residual = residual / scales
            found.append((residual.log1p() if self.scaled else residual).to(level.dtype))
        return found

    def _residual(self, index: int, level: Tensor, roi: RegionOfInterest | None) -> Tensor:
        level = _inside(level, roi)
        centres, squares = getattr(self, f"level{index}"), getattr(self, f"squares{index}")
        if len(centres) == 0:
            return level.square()
        if centres.shape[2:] != level.shape[2:]:
            centres = functional.interpolate(centres, level.shape[2:], mode="bilinear")
            squares = _rows(centres).square().sum(dim=1)
        with torch.no_grad(), torch.autocast(level.device.type, enabled=False):
            nearest = (squares - 2 * _rows(level) @ _rows(centres).T).argmin(dim=1)
        return (level - centres[nearest]).square()

    def fit(
        self,
        batches: Callable[[], Iterable[Mapping[str, Any]]],
        key: str,
        share: float,
        most: int,
        seed: int = 0,
        roi: RegionOfInterest | None = None,
    ) -> None:
        """Cluster the feature maps of normal images by mini-batch k-means (scikit-learn).

        Goes through the images once a level, as those of all levels may not fit into memory, once
        before to count them, and once after for the residuals' scales. Of a level's feature maps
        512 MiB at most are held at a time (or as many maps as clusters, where those take more),
        and one batch.

        Args:
            batches: iterates anew every time; of each batch the levels are the first of
                ``batch[key]``.
            share: clusters for each image, at least one in all.
            most: clusters at most.
            roi: places outside count as zeros.
        """
        shapes, images = [], 0
        for batch in batches():
            shapes = [level.shape[1:] for level in batch[key][: self.levels]]
            images += len(batch[key][0])
        clusters = min(max(1, round(share * images)), most)
        for index, shape in enumerate(shapes):
            room = max(FIT_BYTES // (4 * shape.numel()), clusters)
            step = -(-images // room)
            maps = (_inside(batch[key][index], roi) for batch in batches())
            points = np.empty((-(-images // step), shape.numel()), np.float32)
            end = 0
            for rows in _every(maps, step):
                points[end : end + len(rows)] = rows
                end += len(rows)
            self._set(index, _cluster(points, clusters, seed), shape)
        if self.scaled:
            self._fit_scales(batches, key, images, roi)

    def _fit_scales(
        self,
        batches: Callable[[], Iterable[Mapping[str, Any]]],
        key: str,
        images: int,
        roi: RegionOfInterest | None,
    ) -> None:
        means = [torch.zeros_like(getattr(self, f"level{i}")[:1]) for i in range(self.levels)]
        for batch in batches():
            for index, mean in enumerate(means):
                level = batch[key][index].to(mean.dtype)
                mean += self._residual(index, level, roi).sum(dim=0, keepdim=True) / images
        for index, mean in enumerate(means):
            # Images that are their own prototypes say nothing of what others are like.
            known = mean.mean() > 1e-6 * getattr(self, f"level{index}").square().mean()
            counted = mean if roi is None else roi.places(mean)
            scales = mean + LEAST_SCALE * counted.mean() if known else mean[:0]
            setattr(self, f"scales{index}", scales)

    def narrow(self, roi: RegionOfInterest) -> None:
        """Let places outside a region count as zeros in prototypes that were fitted without it."""
        for index in range(self.levels):
            centres = _inside(getattr(self, f"level{index}"), roi)
            setattr(self, f"level{index}", centres)
            setattr(self, f"squares{index}", _rows(centres).square().sum(dim=1))

    def _set(self, index: int, centres: np.ndarray, shape: torch.Size) -> None:
        old = getattr(self, f"level{index}")
        rows = torch.from_numpy(centres).to(old.device, old.dtype)
        channels, height, width = shape
        maps = rows.view(len(rows), height, width, channels).permute(0, 3, 1, 2)
        setattr(self, f"level{index}", maps)
        setattr(self, f"squares{index}", rows.square().sum(dim=1))

    def _load_from_state_dict(self, state: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
        for name, own in list(self.named_buffers(recurse=False)):
            found = state.get(prefix + name)
            if found is not None and found.shape[1:2] == own.shape[1:2]:
                self.register_buffer(name, own.new_empty(found.shape))
        super()._load_from_state_dict(state, prefix, *rest)


def _rows(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H * W * C), without a copy where it is channels_last."""
    return maps.permute(0, 2, 3, 1).flatten(1)


def _inside(level: Tensor, roi: RegionOfInterest | None) -> Tensor:
    """A level (N, C, h, w), 0 at places that do not count."""
    if roi is None:
        return level
    counts = roi.weights((level.shape[-2], level.shape[-1])) > 0
    return torch.where(counts, level, level.new_zeros(()))


def _every(maps: Iterable[Tensor], step: int) -> Iterator[np.ndarray]:
    """Every ``step``-th feature map, as rows of float32."""
    count = 0
    for batch in maps:
        chosen = batch[-count % step :: step]
        count += len(batch)
        yield _rows(chosen).float().cpu().numpy()


def _cluster(points: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    from sklearn.cluster import MiniBatchKMeans  # takes longer to import than a model to build

    clusters = min(clusters, len(points))
    means = MiniBatchKMeans(clusters, random_state=seed, n_init=1, batch_size=max(64, clusters))
    return means.fit(points).cluster_centers_
