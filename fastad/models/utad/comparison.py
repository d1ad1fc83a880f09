"""How UTAD compares an image, its impression and what the expert makes of both."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
WINDOW, SIGMA = 11, 1.5  # of SSIM: Wang et al., IEEE TIP 2004, section III.B
C1, C2 = 0.01**2, 0.03**2


def grey(images: Tensor) -> Tensor:
    """RGB images (N, 3, H, W) -> their brightness (N, H, W)."""
    red, green, blue = images.unbind(1)
    return GREY[0] * red + GREY[1] * green + GREY[2] * blue


def grey_difference(images: Tensor, others: Tensor) -> Tensor:
    """Squared difference of brightness of images (N, 3, H, W) in [0, 1]: (N, H, W)."""
    return (grey(images) - grey(others)).square()


def dissimilarity(images: Tensor, others: Tensor) -> Tensor:
    """1 - SSIM of the brightness of images (N, 3, H, W) in [0, 1]: (N, H, W), from 0 to 2.

    Wang et al., "Image Quality Assessment", IEEE TIP 2004, eq. 13, in Gaussian windows of 11x11;
    at the borders pixels are repeated.
    """
    a, b = grey(images), grey(others)
    means = _windowed(torch.stack([a, b, a * a, b * b, a * b], dim=1))
    mean_a, mean_b, square_a, square_b, product = means.unbind(1)
    both, squares = mean_a * mean_b, mean_a.square() + mean_b.square()
    similar = (2 * both + C1) * (2 * (product - both) + C2)
    return 1 - similar / ((squares + C1) * (square_a + square_b - squares + C2))


def combined(difference: Callable[[Tensor, Tensor], Tensor], images: list[Tensor]) -> Tensor:
    """clip(r(x, x^) + r(x, m^) - r(x^, m), 0) of the authors' code: (N, H, W).

    ``images``: x, m, x^ (the impression with details), m^ (the image without), (N, 3, H, W) each;
    ``difference``: r, of two batches.
    """
    image, impression, detailed, naive = images
    found = difference(image, detailed) + difference(image, naive)
    return (found - difference(detailed, impression)).clamp_min(0)


def _windowed(maps: Tensor) -> Tensor:
    """Gaussian means around each position of maps (N, C, H, W), in their own precision."""
    radius = WINDOW // 2
    steps = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-0.5 * (steps / SIGMA) ** 2)
    kernel = kernel / kernel.sum()
    count = maps.shape[1]
    rows, columns = (
        kernel.view(shape).expand(count, *shape[1:]) for shape in ((1, 1, 1, -1), (1, 1, -1, 1))
    )
    maps = functional.pad(maps, (radius,) * 4, mode="replicate")
    with torch.autocast(maps.device.type, enabled=False):
        maps = functional.conv2d(maps, rows, groups=count)
        return functional.conv2d(maps, columns, groups=count)
