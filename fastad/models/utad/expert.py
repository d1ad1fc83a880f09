"""The networks of UTAD's second stage, which translate between images and impressions.

Liu et al., arXiv 2103.11671, Expert-Net, after MUNIT (Huang et al., ECCV 2018, arXiv 1804.04732):
what an image shows (content, a map) and how its surface looks (detail, a few numbers for the whole
image) are encoded apart, and a decoder joins them by adaptive instance norm.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCKS = 2  # residual blocks of encoder and decoder
STRIDE = 4  # pixels of the image a step of the content
DETAIL_STRIDES = 4  # downsamplings of the detail encoder
HIDDEN = 256  # units of the layers that turn a detail code into a decoder's norms


class Convolution(nn.Sequential):
    """A convolution over a mirrored border, then instance norm (``norm``) and ReLU (``relu``)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int = 1,
        *,
        norm: bool = False,
        relu: bool = True,
    ):
        padding = (size - 1) // 2
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, size, stride, padding, padding_mode="reflect")
        ]
        layers += [nn.InstanceNorm2d(outputs)] if norm else []
        layers += [nn.ReLU(inplace=True)] if relu else []
        super().__init__(*layers)


class ContentEncoder(nn.Module):
    """Images (N, 3, H, W) in [-1, 1] -> content (N, 4 * width, H / 4, W / 4)."""

    def __init__(self, width: int):
        super().__init__()
        self.stem = nn.Sequential(
            Convolution(3, width, 7, norm=True),
            Convolution(width, 2 * width, 4, 2, norm=True),
            Convolution(2 * width, 4 * width, 4, 2, norm=True),
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                Convolution(4 * width, 4 * width, 3, norm=True),
                Convolution(4 * width, 4 * width, 3, norm=True, relu=False),
            )
            for _ in range(BLOCKS)
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for block in self.blocks:
            x = x + block(x)
        return x


class DetailEncoder(nn.Sequential):
    """Images (N, 3, H, W) in [-1, 1] -> detail codes (N, details); norms would take them away."""

    def __init__(self, width: int, details: int):
        layers: list[nn.Module] = [Convolution(3, width, 7)]
        channels = width
        for level in range(DETAIL_STRIDES):
            wider = channels * 2 if level < 2 else channels
            layers.append(Convolution(channels, wider, 4, 2))
            channels = wider
        layers += [nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, details, 1), nn.Flatten()]
        super().__init__(*layers)


class LayerNorm(nn.Module):
    """Layer norm over channels and positions of (N, C, H, W), with a scale and shift a channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        # All channels as one: the backward of torch's group norm takes ten times as long.
        normalized = functional.instance_norm(x.flatten(1, 2)[:, None]).view_as(x)
        return normalized * self.weight.to(x.dtype) + self.bias.to(x.dtype)


class Decoder(nn.Module):
    """Content (N, 4 * width, h, w) and norms (N, `norms`) -> images (N, 3, 4 * h, 4 * w), [-1, 1].

    Attributes:
        norms: how many numbers make its adaptive norms: a deviation and a mean for each channel.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norms = BLOCKS * 2 * 2 * 4 * width
        self.convolutions = nn.ModuleList(
            nn.Conv2d(4 * width, 4 * width, 3, padding=1, padding_mode="reflect")
            for _ in range(2 * BLOCKS)
        )
        self.upward = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, inputs // 2, 5, padding=2, padding_mode="reflect"),
                LayerNorm(inputs // 2),
                nn.ReLU(inplace=True),
            )
            for inputs in (4 * width, 2 * width)
        )
        self.output = nn.Conv2d(width, 3, 7, padding=3, padding_mode="reflect")

    def forward(self, content: Tensor, norms: Tensor) -> Tensor:
        x = content
        pairs = norms.unflatten(1, (2 * BLOCKS, 2, -1))
        for index in range(BLOCKS):
            first, second = self.convolutions[2 * index : 2 * index + 2]
            y = adaptive_norm(first(x), *pairs[:, 2 * index].unbind(1)).relu()
            x = x + adaptive_norm(second(y), *pairs[:, 2 * index + 1].unbind(1))
        for block in self.upward:
            x = block(functional.interpolate(x, scale_factor=2))
        return self.output(x).tanh()


def adaptive_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-5) -> Tensor:
    """AdaIN (Huang and Belongie, ICCV 2017, eq. 8): instance norm, scaled and shifted by image.

    ``x`` (N, C, H, W); ``scale`` and ``shift`` (N, C), the former as what is added to 1.
    """
    x = functional.instance_norm(x, eps=eps)
    return x * (1 + scale)[..., None, None].to(x.dtype) + shift[..., None, None].to(x.dtype)


class ExpertNet(nn.Module):
    """Translates impressions to images with details, and images to impressions.

    Images in [0, 1], sides multiples of 4 and at least 32 pixels; inside, networks work in [-1, 1].
    An impression has no details: what the norms of its decoder are is learned, the same for all.

    Args:
        width: channels of the first layers; 64 in the paper.
        details: numbers of a detail code; 8 in the paper.
    """

    def __init__(self, width: int, details: int):
        super().__init__()
        self.image_content, self.impression_content = (ContentEncoder(width) for _ in range(2))
        self.detail = DetailEncoder(width, details)
        self.image_decoder, self.impression_decoder = (Decoder(width) for _ in range(2))
        norms = self.image_decoder.norms
        self.norms = nn.Sequential(
            nn.Linear(details, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN, norms),
        )
        self.impression_norms = nn.Parameter(torch.zeros(norms))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(cast(Tensor, module.bias))

    def to_image(self, impression_content: Tensor, detail: Tensor) -> Tensor:
        """Content of impressions and detail codes of images -> images (N, 3, H, W) in [0, 1]."""
        return _unit(self.image_decoder(impression_content, self.norms(detail)))

    def to_impression(self, image_content: Tensor) -> Tensor:
        """Content of images -> impressions (N, 3, H, W) in [0, 1]."""
        norms = self.impression_norms.expand(image_content.shape[0], -1)
        return _unit(self.impression_decoder(image_content, norms))

    def encode(self, images: Tensor, impressions: Tensor) -> Sequence[Tensor]:
        """(N, 3, H, W) in [0, 1] -> content and detail of images, content of impressions."""
        images, impressions = 2 * images - 1, 2 * impressions - 1
        return self.image_content(images), self.detail(images), self.impression_content(impressions)

    def forward(self, images: Tensor, impressions: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) in [0, 1] -> the impressions with details, and the images without."""
        content, detail, coarse = self.encode(images, impressions)
        return self.to_image(coarse, detail), self.to_impression(content)


def _unit(images: Tensor) -> Tensor:
    return (images + 1) / 2
