"""The network of UTAD's first stage, which makes a coarse impression of an image.

Liu et al., arXiv 2103.11671, IE-Net: an auto-encoder of inception blocks whose narrow middle holds
no defect, and a head that says where in a latent space the image lies.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPS = 1e-3
SLOPE = 0.1  # of the leaky ReLU
ENCODER = ((1, 4), (1, 2), (2, 2), (4, 2))  # multiple of the width, pooling after it
DECODER = ((4, 2), (2, 4), (2, 2), (1, 2))  # multiple of the width, upsampling after it
STRIDE = 32  # pixels of the image a step of the middle
HIDDEN = 64  # channels inside the information head


class Inception(nn.Module):
    """1x1, 3x3, 5x5 and pooled 1x1 convolutions beside each other, then batch norm and leaky ReLU.

    (N, inputs, H, W) -> (N, 4 * channels, H, W). One batch norm over all four is that of each.
    """

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(inputs, channels, size, padding=size // 2, bias=False) for size in (1, 3, 5)
        )
        self.pooled = nn.Conv2d(inputs, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(4 * channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        branches = [branch(x) for branch in self.branches]
        branches.append(self.pooled(functional.max_pool2d(x, 3, stride=1, padding=1)))
        return functional.leaky_relu(self.norm(torch.cat(branches, dim=1)), SLOPE)


class InformationHead(nn.Module):
    """The middle's features (N, C, h, w) -> mean and log variance of a latent code, (N, L) each.

    Means are batch-normalised (Zhu et al., "A Batch Normalized Inference Network Keeps the KL
    Vanishing Away", ACL 2020): otherwise the codes of images so alike become the same.
    """

    def __init__(self, channels: int, latents: int):
        super().__init__()
        self.inner = nn.Conv2d(channels, HIDDEN, 3, padding=1)
        self.outer = nn.Conv2d(HIDDEN, 4 * latents, 3, padding=1)
        self.projection = nn.Linear(4 * latents, 2 * latents)
        self.norm = nn.BatchNorm1d(latents, affine=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # A side of one stays as it is (some runtimes refuse a pool that is larger than its input).
        x = functional.max_pool2d(x, [min(side, 2) for side in x.shape[-2:]])
        x = self.outer(functional.relu(self.inner(x)))
        # Of 256x256 pixels this is the average over 4x4 positions of the authors' code.
        mean, log_variance = self.projection(x.mean(dim=(2, 3))).chunk(2, dim=1)
        # Half precision under autocast is too coarse for differences between images so alike.
        moving_mean, variance = self.norm.running_mean, self.norm.running_var
        assert moving_mean is not None
        assert variance is not None
        wide = moving_mean.dtype
        mean = mean.to(wide)
        if self.training and len(mean) == 1:  # which says nothing of a batch
            mean = mean - moving_mean
            return mean / (variance + self.norm.eps).sqrt(), log_variance.to(wide)
        return self.norm(mean), log_variance.to(wide)


class ImpressionNet(nn.Module):
    """IE-Net: images (N, 3, H, W) in [0, 1], sides multiples of `STRIDE` -> impressions alike.

    Args:
        width: channels of each branch of the first block; 32 in the paper.
        latents: numbers of the latent code.
    """

    def __init__(self, width: int, latents: int):
        super().__init__()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        channels = 3
        for blocks, plan in ((self.encoder, ENCODER), (self.decoder, DECODER)):
            for multiple, _ in plan:
                blocks.append(Inception(channels, multiple * width))
                channels = 4 * multiple * width
        self.head = InformationHead(4 * ENCODER[-1][0] * width, latents)
        self.output = nn.Conv2d(channels, 3, 1)

    def encode(self, images: Tensor) -> Tensor:
        """Images -> the middle's features (N, 16 * width, H / 32, W / 32)."""
        x = images
        for block, (_, pooling) in zip(self.encoder, ENCODER, strict=True):
            x = functional.max_pool2d(block(x), pooling)
        return x

    def decode(self, features: Tensor) -> Tensor:
        """The middle's features -> impressions (N, 3, H, W) in [0, 1], before rounding."""
        x = features
        for block, (_, scale) in zip(self.decoder, DECODER, strict=True):
            # Nearest neighbours: on CUDA the bilinear backward adds in an order that varies.
            x = functional.interpolate(block(x), scale_factor=scale)
        return self.output(x).sigmoid()

    def latents(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The middle's features -> mean and log variance of the latent code, (N, L) each."""
        return self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))
