"""How a scene is photographed: small moves, light, colour, blur, noise."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from research.embedded_teacher.fields import blobs, chosen, moved_grid, uniform


@dataclass
class Rendering:
    """A photograph (N, 3, S, S) in [0, 1] and fields (N, K, S, S) moved along with it."""

    image: Tensor
    known: Tensor


def photograph(
    scene: Tensor, known: Tensor, size: int, strength: float, generator: torch.Generator
) -> Rendering:
    """The middle of a scene, moved by up to 2 pixels, 2 degrees and 2 %, lit and noisy."""
    n, side = len(scene), scene.shape[-1]
    angle = uniform(generator, (n,), -1, 1) * math.radians(2)
    zoom = size / side * (1 + uniform(generator, (n,), -0.02, 0.02))
    shift = uniform(generator, (n, 2), -4 / side, 4 / side)
    grid = moved_grid(angle, zoom, shift, size)
    moved = F.grid_sample(
        torch.cat([scene, known], 1), grid, padding_mode="reflection", align_corners=False
    )
    return Rendering(_lit(moved[:, :3], strength, generator), moved[:, 3:])


def _lit(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Uneven light, exposure, colour, blur and noise; strength 1 is about that of a steady line."""
    n, size = len(image), image.shape[-1]
    one = (n, 1, 1, 1)
    uneven = chosen(0.5, n, generator) * uniform(generator, one, 0, 0.1 * strength)
    image = image * (1 + uneven * blobs(n, size, generator, cells=3))
    gain = torch.exp(uniform(generator, one, -0.14, 0.14) * strength)
    tint = 1 + uniform(generator, (n, 3, 1, 1), -0.03, 0.03) * strength
    image = image * gain * tint + uniform(generator, one, -0.04, 0.04) * strength
    gamma = torch.exp(uniform(generator, one, -0.15, 0.15) * strength)
    image = image.clamp(1e-3, 1) ** gamma
    sigma = chosen(0.45, n, generator) * uniform(generator, one, 0, 0.6 * strength)
    image = blurred(image, sigma)
    noise = torch.randn(image.shape, generator=generator)
    grey = chosen(0.6, n, generator)
    noise = noise * (1 - grey) + noise[:, :1] * grey
    level = uniform(generator, one, 0.002, 0.02 * strength)
    return (image + level * noise).clamp(0, 1)


def blurred(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of every image with a deviation (N, 1, 1, 1) of its own, up to about 2."""
    n, channels, height, width = image.shape
    reach = torch.arange(-4, 5, dtype=torch.float32)
    kernel = torch.exp(-(reach**2) / (2 * sigma.view(n, 1).clamp(min=0.05) ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    flat = image.reshape(1, n * channels, height, width)
    flat = F.pad(flat, (4, 4, 4, 4), mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=n * channels)
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=n * channels)
    return flat.view_as(image)
