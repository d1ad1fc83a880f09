"""Bytes of images straight to the normalised floats that a network takes."""

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

    def __call__(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            return self.plain(images)
        return torch.ops.fastad.normalize_bytes(images, self.table)


@torch.library.register_fake("fastad::normalize_bytes")
def _(images: Tensor, table: Tensor) -> Tensor:
    batch, channels, height, width = images.shape
    shape = (batch, height, width, channels)
    return images.new_empty(shape, dtype=torch.float32).permute(0, 3, 1, 2)
