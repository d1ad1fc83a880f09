"""Hand-made descriptors of images: the strength of edges and lines by direction and size."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

DIRECTIONS, SIZES = 6, 4  # of filters; sizes are octaves
ENERGIES = DIRECTIONS * SIZES + 3  # and three colours
FLOOR = 0.01  # contrast below which all is the same


def energies(images: Tensor, cell: int) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] -> (N, ENERGIES, H / cell, W / cell), each of about unit range.

    Of every cell the logarithms of the mean energies of quadrature pairs of Gabor filters (Daugman
    1985) of `DIRECTIONS` directions at `SIZES` octaves, and its mean colour. H and W are multiples
    of ``cell``, which is a multiple of 4.
    """
    height, width = images.shape[-2] // cell, images.shape[-1] // cell
    grey, found = images.mean(1, keepdim=True), []
    for _ in range(SIZES):
        even, odd = F.conv2d(F.pad(grey, (4, 4, 4, 4), "replicate"), _filters()).chunk(2, 1)
        energy = (even.square() + odd.square() + 1e-12).sqrt()
        found.append(F.adaptive_avg_pool2d(energy, (height, width)))
        grey = F.avg_pool2d(grey, 2, ceil_mode=True, count_include_pad=False)
    logarithms = torch.log1p(torch.cat(found, 1) / FLOOR) / 2
    colours = F.avg_pool2d(images, cell) * 4 - 2
    return torch.cat([logarithms, colours], 1)


@functools.cache
def _filters() -> Tensor:
    """(2 DIRECTIONS, 1, 9, 9): even filters of mean 0, then odd ones; wavelength 5 pixels."""
    line = torch.arange(-4.0, 5.0)
    y, x = torch.meshgrid(line, line, indexing="ij")
    angle = (torch.arange(DIRECTIONS) * math.pi / DIRECTIONS).view(-1, 1, 1)
    window = torch.exp(-(x.square() + y.square()) / (2 * 1.8**2))
    phase = (x * angle.cos() + y * angle.sin()) * (2 * math.pi / 5)
    even, odd = window * phase.cos(), window * phase.sin()
    even = even - window * even.sum((1, 2), keepdim=True) / window.sum()
    filters = torch.cat([even, odd])[:, None]
    return filters / filters.abs().sum((2, 3), keepdim=True)
