"""Defects of training scenes: strange textures, scratches, spots, stains, warps, blur, erasure."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from research.embedded_teacher.fields import blobs, chosen, polar, uniform
from research.embedded_teacher.views import blurred

VISIBLE = 0.02  # of full scale, by which a pixel must differ to belong to a defect


def add_defects(
    scenes: Tensor, strangers: Tensor, generator: torch.Generator, fine: bool = False
) -> tuple[Tensor, Tensor]:
    """Scenes (N, 3, S, S) with up to three defects each, and where they are (N, 1, S, S), 0 to 1.

    About one in fifteen stays good. The mask is where the scene really differs, closed by 3 pixels.
    ``fine`` makes lines more frequent, and as thin as hairs.
    """
    n = len(scenes)
    damaged = scenes.clone()
    weights, kinds = (FINE_WEIGHTS, FINE_KINDS) if fine else (WEIGHTS, KINDS)
    for share in (0.84, 0.45, 0.25):
        kind = torch.multinomial(torch.tensor(weights), n, True, generator=generator)
        kind[torch.rand(n, generator=generator) >= share] = -1
        for number, change in enumerate(kinds):
            chosen_ones = (kind == number).nonzero()[:, 0]
            if len(chosen_ones):
                changed = change(damaged[chosen_ones], strangers[chosen_ones], generator)
                damaged[chosen_ones] = changed.clamp(0, 1)
    differs = ((damaged - scenes).abs().amax(1, keepdim=True) > VISIBLE).float()
    closed = -F.max_pool2d(-F.max_pool2d(differs, 3, 1, 1), 3, 1, 1)
    return damaged, closed


def _patch(
    n: int, side: int, generator: torch.Generator, low: float, high: float, soft: float
) -> Tensor:
    """A spot of irregular outline, 1 inside: its radius drawn between two lengths in pixels."""
    centre = uniform(generator, (n, 2), 0.1, 0.9) * side
    angle = uniform(generator, (n,), 0, 2 * math.pi)
    x, y, _, _ = polar(side, centre, angle)
    radius = torch.exp(uniform(generator, (n, 1, 1, 1), math.log(low), math.log(high)))
    flat = uniform(generator, (n, 1, 1, 1), 0.35, 1)
    wobble = 1 + 0.25 * blobs(n, side, generator, cells=9)
    return ((radius * wobble - torch.hypot(x, y / flat)) / soft + 0.5).clamp(0, 1)


def _tone(n: int, generator: torch.Generator, low: float, high: float) -> Tensor:
    """A change of colour (N, 3, 1, 1), grey or a little coloured, darker more often."""
    strength = torch.exp(uniform(generator, (n, 1, 1, 1), math.log(low), math.log(high)))
    sign = 1 - 2 * chosen(0.6, n, generator)
    hue = 1 + chosen(0.4, n, generator) * uniform(generator, (n, 3, 1, 1), -0.8, 0.8)
    return strength * sign * hue


def _transplant(scenes: Tensor, strangers: Tensor, generator: torch.Generator) -> Tensor:
    n, side = len(scenes), scenes.shape[-1]
    share = _patch(n, side, generator, 3, side / 5, 1.0)
    # A piece of the same scene, from elsewhere, is the harder stranger.
    same = chosen(0.5, n, generator)
    strange = same * scenes.flip(3).roll(side // 3, 2) + (1 - same) * strangers
    return scenes + share * uniform(generator, (n, 1, 1, 1), 0.3, 1) * (strange - scenes)


def _line(
    scenes: Tensor, strangers: Tensor, generator: torch.Generator, fine: bool = False
) -> Tensor:
    """A crack or scratch: a bent line of finite length, 1 to 3 pixels wide, or ``fine``."""
    n, side = len(scenes), scenes.shape[-1]
    centre = uniform(generator, (n, 2), 0.15, 0.85) * side
    x, y, _, _ = polar(side, centre, uniform(generator, (n,), 0, 2 * math.pi))
    half = torch.exp(uniform(generator, (n, 1, 1, 1), math.log(4), math.log(side / 2)))
    bend = uniform(generator, (n, 1, 1, 1), -0.3, 0.3) * half
    knots = 1.4 * torch.randn(n, 1, 1, 24, generator=generator)
    walk = F.interpolate(knots, size=(1, side), mode="bicubic", align_corners=False)
    rough = walk.expand(-1, -1, side, -1) * uniform(generator, (n, 1, 1, 1), 0, 2)
    away = (y + bend * (x / half) ** 2 + rough).abs()
    if fine:  # half of them under 1 pixel wide: they only dim the pixels that they cross
        width = 1.6 * uniform(generator, (n, 1, 1, 1), 0, 1).square()
    else:
        width = uniform(generator, (n, 1, 1, 1), 0.4, 1.6)
    share = (width + 0.5 - away).clamp(0, 1) * (half - x.abs()).clamp(0, 1)
    return scenes + share * _tone(n, generator, 0.06, 0.6)


def _spot(scenes: Tensor, strangers: Tensor, generator: torch.Generator) -> Tensor:
    """A hole, dent or particle with a rim of the other tone."""
    n, side = len(scenes), scenes.shape[-1]
    centre = uniform(generator, (n, 2), 0.1, 0.9) * side
    _, _, r, turn = polar(side, centre, uniform(generator, (n,), 0, 2 * math.pi))
    radius = torch.exp(uniform(generator, (n, 1, 1, 1), math.log(1.2), math.log(10)))
    inside = (radius - r + 0.5).clamp(0, 1)
    rim = torch.exp(-(((r - radius - 1) / 1.2) ** 2)) * torch.cos(turn)
    tone = _tone(n, generator, 0.06, 0.5)
    return scenes + inside * tone - rim * tone * uniform(generator, (n, 1, 1, 1), 0, 0.8)


def _stain(scenes: Tensor, strangers: Tensor, generator: torch.Generator) -> Tensor:
    n, side = len(scenes), scenes.shape[-1]
    share = _patch(n, side, generator, 4, side / 4, 6.0)
    return scenes + share * _tone(n, generator, 0.04, 0.3)


def _warp(scenes: Tensor, strangers: Tensor, generator: torch.Generator) -> Tensor:
    """A part pushed aside or swirled."""
    n, side = len(scenes), scenes.shape[-1]
    centre = uniform(generator, (n, 2), 0.15, 0.85) * side
    x, y, r, _ = polar(side, centre, torch.zeros(n))
    radius = torch.exp(uniform(generator, (n, 1, 1, 1), math.log(4), math.log(side / 7)))
    near = torch.exp(-((r / radius) ** 2))
    swirl = chosen(0.5, n, generator)
    push = uniform(generator, (n, 2, 1, 1), -0.8, 0.8) * radius
    angle = uniform(generator, (n, 1, 1, 1), -2, 2) * near * swirl
    dx = x * (angle.cos() - 1) - y * angle.sin() + push[:, :1] * near * (1 - swirl)
    dy = x * angle.sin() + y * (angle.cos() - 1) + push[:, 1:] * near * (1 - swirl)
    base = F.affine_grid(torch.eye(2, 3).expand(n, 2, 3), [n, 3, side, side], align_corners=False)
    grid = base + torch.cat([dx, dy], 1).permute(0, 2, 3, 1) * (2 / side)
    return F.grid_sample(scenes, grid, padding_mode="reflection", align_corners=False)


def _smear(scenes: Tensor, strangers: Tensor, generator: torch.Generator) -> Tensor:
    """A part blurred, or roughened by noise."""
    n, side = len(scenes), scenes.shape[-1]
    share = _patch(n, side, generator, 5, side / 4, 2.0)
    soft = blurred(scenes, uniform(generator, (n, 1, 1, 1), 1, 2.5))
    noise = torch.randn(scenes[:, :1].shape, generator=generator)
    rough = scenes + uniform(generator, (n, 1, 1, 1), 0.05, 0.25) * noise
    blur = chosen(0.5, n, generator)
    return scenes + share * (blur * soft + (1 - blur) * rough - scenes)


KINDS = (_transplant, _line, _spot, _stain, _warp, _smear)
WEIGHTS = (3.0, 3.0, 2.0, 2.0, 2.0, 1.0)
FINE_KINDS = (_transplant, functools.partial(_line, fine=True), *KINDS[2:])
FINE_WEIGHTS = (3.0, 5.0, *WEIGHTS[2:])
