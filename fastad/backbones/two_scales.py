"""A network at two scales of an image: the image itself, and an overview of it.

A scratch shows at a high resolution, a missing part at a low one.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

FACTORS = (2, 4)  # powers of two: tiles of an image begin at multiples of all strides


def reduced(images: Tensor, factor: int) -> Tensor:
    """Images (N, C, H, W) -> (N, C, ⌈H / factor⌉, ⌈W / factor⌉): means of squares of pixels.

    Where a side is no multiple, its last row or column is repeated. So every pixel of the result
    depends on its own square alone, in a tile as in the whole image.
    """
    below, right = (-side % factor for side in images.shape[-2:])
    if below or right:
        images = functional.pad(images, (0, right, 0, below), mode="replicate")
    return functional.avg_pool2d(images, factor)


class TwoScales(nn.Module):
    """The feature maps of an image, and behind them those of its overview, by the same network.

    Input (N, 3, H, W), or image and overview where a tile's overview sees more than the tile.
    Output: twice as many maps as the network has layers.

    Args:
        backbone: returns a list of feature maps.
        factor: how many times smaller the overview is, of `FACTORS`.

    Examples:
        >>> import torch
        >>> from fastad import backbones
        >>> backbone = backbones.build("resnet18", layers=("layer1", "layer3"))
        >>> both = backbones.TwoScales(backbone, factor=2)
        >>> [tuple(features.shape) for features in both(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 256, 4, 6), (1, 64, 8, 12), (1, 256, 2, 3)]
    """

    def __init__(self, backbone: nn.Module, factor: int):
        super().__init__()
        self.backbone, self.factor = backbone, factor

    @property
    def origin(self) -> str | None:
        """Where the weights came from; see `Backbone`."""
        return getattr(self.backbone, "origin", type(self.backbone).__name__)

    @origin.setter
    def origin(self, origin: str | None) -> None:
        backbone: Any = self.backbone
        backbone.origin = origin

    def forward(self, images: Tensor | tuple[Tensor, Tensor]) -> list[Tensor]:
        return [features for seen in self.both(images) for features in self.backbone(seen)]

    def both(self, images: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Image and overview of what `forward` takes."""
        if isinstance(images, Tensor):
            return images, reduced(images, self.factor)
        return images
