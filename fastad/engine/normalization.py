"""Images straight to the normalised floats that a network takes, bytes or floats."""

import torch
from torch import Tensor

from fastad.models import AnomalyModel


class Normalization:
    """`AnomalyModel.normalize` for bytes as well: on a CPU in one pass, and to the same floats.

    Takes (N, 3, H, W), uint8 of any layout, or floating in [0, 1].
    """

    def __init__(self, model: AnomalyModel):
        self.plain = model.normalize
        levels = torch.arange(256, dtype=torch.float32) / 255
        levels = levels.expand(1, 3, 1, 256).to(model.mean)
        self.table = self.plain(levels)[0, :, 0].float().contiguous()
        self.mean, self.deviation = (x.flatten().float() for x in (model.mean, model.std))

    def __call__(self, images: Tensor) -> Tensor:
        if images.dtype == torch.uint8:
            return torch.ops.fastad.normalize_bytes(images, self.table)
        in_one_pass = (
            images.dtype == torch.float32
            and images.dim() == 4
            and images.shape[1] == 3
            and images.is_contiguous(memory_format=torch.channels_last)
        )
        if not in_one_pass:
            return self.plain(images)
        return torch.ops.fastad.normalize_floats(images, self.mean, self.deviation)


@torch.library.register_fake("fastad::normalize_bytes")
def _(images: Tensor, table: Tensor) -> Tensor:
    batch, channels, height, width = images.shape
    shape = (batch, height, width, channels)
    return images.new_empty(shape, dtype=torch.float32).permute(0, 3, 1, 2)


@torch.library.register_fake("fastad::normalize_floats")
def _(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    return torch.empty_like(images, memory_format=torch.channels_last)
