"""Discriminators at several scales, and what they and a generator learn (least-squares GAN)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad.models.utad.impression_losses import widened

LAYERS = 4  # convolutions of stride 2
SLOPE = 0.2  # of the leaky ReLU


class Discriminators(nn.Module):
    """Which images are real: a convolutional network at each of several scales.

    Images (N, 3, H, W) in [0, 1] -> a list of (N, 1, h, w), at the full size, half of it and so
    on. Images too small for a scale are not judged there.

    Args:
        width: channels of each layer.
        scales: their number.
    """

    def __init__(self, width: int, scales: int = 3):
        super().__init__()
        self.scales = nn.ModuleList(_network(width) for _ in range(scales))

    def forward(self, images: Tensor) -> list[Tensor]:
        x = 2 * images - 1
        judged: list[Tensor] = []
        for network in self.scales:
            if judged and min(x.shape[-2:]) < 2**LAYERS:
                break
            judged.append(network(x))
            x = functional.avg_pool2d(x, 2)
        return judged


def _network(width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(LAYERS):
        layers += [
            nn.Conv2d(3 if index == 0 else width, width, 4, 2, 1, padding_mode="reflect"),
            nn.LeakyReLU(SLOPE, inplace=True),
        ]
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 1))


def generator_loss(of_generated: Sequence[Tensor]) -> Tensor:
    """How far generated images are from being judged real: the mean over the scales.

    Mao et al., "Least Squares Generative Adversarial Networks", ICCV 2017, eq. 9: real is 1.
    """
    return torch.stack([(widened(x) - 1).square().mean() for x in of_generated]).mean()


def discriminator_loss(of_real: Sequence[Tensor], of_generated: Sequence[Tensor]) -> Tensor:
    """How far real images are from 1 and generated ones from 0: the mean over the scales."""
    real = torch.stack([(widened(x) - 1).square().mean() for x in of_real]).mean()
    generated = torch.stack([widened(x).square().mean() for x in of_generated]).mean()
    return real + generated
