"""A nearest-neighbour detector on a backbone's feature maps: it trains nothing, so it is quick.

After PatchCore (Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022):
local means of two levels' features, joined at the finer level; the anomaly of a place is its
distance to the nearest place of the good images. Simpler than it: a random part of the memory
instead of a coreset, the maximum of the map as the image's score, no smoothing of the map.

How long features are is an accident of their training, so the levels are brought to the same total
variance over the memory, by one factor a level: neither then rules the distance because its network
happens to be louder there. The mean, which may be large (an untrained network's is), does not count
for that, and within a level nothing changes: how the channels compare is what the network has learnt.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastad.models.base import IMAGENET_MEAN, IMAGENET_STD

IMAGES = 8  # at a time through the backbone
PATCHES = 2048  # at a time compared with the memory: their distances take 82 MB at most of them


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
        chosen, kept, levels = None, [], []
        for start in range(0, len(images), IMAGES):
            features, levels = self._patches(images[start : start + IMAGES])
            n, height, width, channels = features.shape
            first = start * height * width
            if chosen is None:
                generator = torch.Generator().manual_seed(self.seed)
                order = torch.randperm(len(images) * height * width, generator=generator)
                chosen = order[: self.memory].sort().values
            here = chosen[(chosen >= first) & (chosen < first + n * height * width)]
            kept.append(features.view(-1, channels)[here - first])
        remembered = torch.cat(kept)
        # Centred, because the distances below are differences of squares, exact for short vectors.
        self._mean = remembered.mean(dim=0)
        remembered -= self._mean
        factors = [
            level.square().sum(dim=1).mean().clamp_min(1e-30).rsqrt().expand(level.shape[1])
            for level in remembered.split(levels, dim=1)
        ]
        self._scale = torch.cat(factors)
        self._memory = remembered.mul_(self._scale)
        self._squares = self._memory.square().sum(dim=1)
        return self

    @torch.inference_mode()
    def predict(self, images: Tensor) -> Tensor:
        """Anomaly maps (N, H, W) of images (N, 3, H, W) uint8; an image's score is the maximum."""
        maps = []
        for start in range(0, len(images), IMAGES):
            features, _ = self._patches(images[start : start + IMAGES])
            n, height, width, channels = features.shape
            patches = features.view(-1, channels).sub_(self._mean).mul_(self._scale)
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

    def _patches(self, images: Tensor) -> tuple[Tensor, list[int]]:
        """(N, h, w, C) local means of every level at the size of the first, and levels' channels."""
        if images.dtype != torch.uint8:
            raise TypeError(f"images must be uint8, not normalised; got {images.dtype}")
        mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in (IMAGENET_MEAN, IMAGENET_STD))
        levels = [
            # Of the places there are: zeros beyond the edge would make every edge unlike the rest.
            F.avg_pool2d(level, 3, stride=1, padding=1, count_include_pad=False)
            for level in self.backbone((images - mean) / std)
        ]
        size = levels[0].shape[-2:]
        levels = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in levels]
        joined = torch.cat(levels, dim=1).permute(0, 2, 3, 1).contiguous()
        return joined, [level.shape[1] for level in levels]
