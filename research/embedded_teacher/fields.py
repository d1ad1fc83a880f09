"""Random numbers and coordinate fields of a batch, (N, 1, side, side) each."""

import torch
import torch.nn.functional as F
from torch import Tensor


def uniform(generator: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def polar(side: int, centre: Tensor, angle: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Coordinates in pixels about centres (N, 2), turned by angles (N,): x, y, radius, angle."""
    line = torch.arange(side, dtype=torch.float32) + 0.5
    x = line.view(1, 1, 1, side) - centre[:, 0].view(-1, 1, 1, 1)
    y = line.view(1, 1, side, 1) - centre[:, 1].view(-1, 1, 1, 1)
    cos, sin = angle.cos().view(-1, 1, 1, 1), angle.sin().view(-1, 1, 1, 1)
    x, y = x * cos + y * sin, y * cos - x * sin
    return x, y, torch.hypot(x, y), torch.atan2(y, x)


def blobs(n: int, side: int, generator: torch.Generator, cells: int = 5) -> Tensor:
    """Smooth noise (N, 1, side, side) of about mean 0 and deviation 1."""
    noise = 1.4 * torch.randn(n, 1, cells, cells, generator=generator)
    return F.interpolate(noise, size=(side, side), mode="bicubic", align_corners=False)


def chosen(share: float, n: int, generator: torch.Generator) -> Tensor:
    """1 with probability ``share``, else 0: (N, 1, 1, 1)."""
    return (torch.rand(n, 1, 1, 1, generator=generator) < share).float()


def moved_grid(
    angle: Tensor, zoom: Tensor, shift: Tensor, side: int, mirror: Tensor | int = 1
) -> Tensor:
    """Where `grid_sample` reads N images: turned (N,), scaled (N,), shifted (N, 2), mirrored."""
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    across = torch.stack([cos * mirror, -sin, shift[:, 0]], 1)
    down = torch.stack([sin * mirror, cos, shift[:, 1]], 1)
    shape = [len(angle), 1, side, side]
    return F.affine_grid(torch.stack([across, down], 1), shape, align_corners=False)
