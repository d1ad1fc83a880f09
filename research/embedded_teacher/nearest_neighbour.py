"""A nearest-neighbour detector on a backbone's feature maps: it trains nothing, so it is quick.

After PatchCore (Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022):
local means of two levels' features, joined at the finer level; the anomaly of a place is its
distance to the nearest place of the good images. Simpler than it: a random part of the memory
instead of a coreset, the maximum of the map as the image's score, no smoothing of the map.

Every level's feature vector is brought to length 1 at every place, as STPM does it: how long it is
is an accident of the network's training and follows the contrast of the image, and neither level
rules the distance because the network happens to be louder there. So the measure is the same for
every teacher, and that of both detectors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastad.models.base import IMAGENET_MEAN, IMAGENET_STD

IMAGES = 8  # at a time through the backbone
PATCHES = 2048  # at a time compared with the memory: 82 MB of distances


class NearestNeighbour:
    """Anomaly maps by the distance to remembered features of good images.

    Args:
        backbone: returns a list of feature maps of falling size, as those of layer2 and layer3. It
            is put into eval mode, and gets images of ImageNet's mean and deviation.
        memory: places remembered, drawn at random from those of all images.
        seed: of that draw.
    """

    def __init__(self, backbone: nn.Module, memory: int = 10_000, seed: int = 0):
        if memory < 1:
            raise ValueError(f"memory must be at least 1; got {memory}")
        self.backbone = backbone.eval()
        self.memory = memory
        self.seed = seed

    @torch.inference_mode()
    def fit(self, images: Tensor) -> "NearestNeighbour":
        """Remember good images (N, 3, H, W) uint8. Only what is remembered is held in memory."""
        chosen, kept = None, []
        for start in range(0, len(images), IMAGES):
            features = self._patches(images[start : start + IMAGES])
            n, height, width, channels = features.shape
            first = start * height * width
            if chosen is None:
                generator = torch.Generator().manual_seed(self.seed)
                order = torch.randperm(len(images) * height * width, generator=generator)
                chosen = order[: self.memory].sort().values
            here = chosen[(chosen >= first) & (chosen < first + n * height * width)]
            kept.append(features.view(-1, channels)[here - first])
        memory = torch.cat(kept)
        # Distances are differences of squares, which are exact for short vectors: an untrained
        # network's features are nearly the same everywhere, their differences small beside them.
        self._mean = memory.mean(dim=0)
        self._memory = memory.sub_(self._mean)
        self._squares = self._memory.square().sum(dim=1)
        return self

    @torch.inference_mode()
    def predict(self, images: Tensor) -> Tensor:
        """Anomaly maps (N, H, W) of images (N, 3, H, W) uint8; an image's score is the maximum."""
        maps = []
        for start in range(0, len(images), IMAGES):
            features = self._patches(images[start : start + IMAGES])
            n, height, width, channels = features.shape
            patches = features.view(-1, channels).sub_(self._mean)
            distances = torch.cat([self._distances(part) for part in patches.split(PATCHES)])
            distances = distances.view(n, 1, height, width)
            size = (images.shape[-2], images.shape[-1])
            maps.append(F.interpolate(distances, size, mode="bilinear", align_corners=False)[:, 0])
        return torch.cat(maps)

    def _distances(self, patches: Tensor) -> Tensor:
        """(P,) Euclidean distances of patches (P, C) to the nearest in the memory."""
        products = torch.addmm(self._squares, patches, self._memory.T, alpha=-2)
        nearest = products.amin(dim=1) + patches.square().sum(dim=1)
        return nearest.clamp_(min=0).sqrt_()

    def _patches(self, images: Tensor) -> Tensor:
        """(N, h, w, C) local means of every level, at length 1 and at the first level's size."""
        if images.dtype != torch.uint8:
            raise TypeError(f"images must be uint8, not normalised; got {images.dtype}")
        mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in (IMAGENET_MEAN, IMAGENET_STD))
        levels = []
        for level in self.backbone((images - mean) / std):
            # Of the places there are: zeros beyond the edge would make every edge unlike the rest.
            level = F.avg_pool2d(level, 3, stride=1, padding=1, count_include_pad=False)
            level = F.normalize(level, dim=1)
            size = (levels[0] if levels else level).shape[-2:]
            levels.append(F.interpolate(level, size, mode="bilinear", align_corners=False))
        return torch.cat(levels, dim=1).permute(0, 2, 3, 1).contiguous()
