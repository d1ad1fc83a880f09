"""Training scenes: generated textures composed of shapes, seen twice, the second time with defects.

A scene is a product. Both views have its layout and its textures. In a share of the scenes the
second view shows other parts of the same textures, as two pieces of cloth or two castings differ;
in the rest the same parts, as two prints of a label do not.

A bank of textures is drawn once an epoch; scenes are composed of crops of it, turned and scaled,
batch by batch in torch, so that the drawing costs a small share of a training step. Everything
follows from (seed, epoch, step).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from research.embedded_teacher.defects import add_defects
from research.embedded_teacher.fields import blobs, moved_grid, polar, uniform
from research.embedded_teacher.programs import FAMILIES
from research.embedded_teacher.views import photograph

SHEET = 192  # pixels a side of a texture in the bank
LAYERS = 4  # textures a scene at most
MARGIN = 8  # pixels around a scene that the small moves of its views may bring into sight


@dataclass
class Batch:
    """Two views (N, 3, S, S) of N scenes, in [0, 1], and what is known of them.

    Attributes:
        first, second: the views; only the second has defects.
        sheets: (N, LAYERS) numbers of the textures in the bank.
        shares: (N, LAYERS, S, S) which texture is seen where, 0 to 1.
        defect: (N, 1, S, S) 0 to 1, where the second view has a defect.
        clean: (N, 3, S, S) the second view's scene without light, noise, blur or defects.
        repeated: (N,) whether both views show the same parts of the textures.
        fine: whether surfaces may have grain, and defects may be as thin as hairs.
    """

    first: Tensor
    second: Tensor
    sheets: Tensor
    shares: Tensor
    defect: Tensor
    clean: Tensor
    repeated: Tensor
    fine: bool = False


def draw_bank(seed: int, epoch: int, size: int) -> Tensor:
    """``size`` textures (size, 3, SHEET, SHEET) uint8, all families in turn."""
    families = list(FAMILIES.values())
    bank = torch.empty(size, 3, SHEET, SHEET, dtype=torch.uint8)
    for n in range(size):
        rng = np.random.default_rng([seed, epoch, n])
        texture = families[n % len(families)](rng, SHEET, SHEET)
        bank[n] = torch.from_numpy(np.array(texture)).permute(2, 0, 1)
    return bank


def compose(
    bank: Tensor,
    scenes: int,
    size: int,
    generator: torch.Generator,
    repeated: float = 0.5,
    nuisance: float = 1.0,
    fine: bool = False,
) -> Batch:
    """A batch of ``scenes`` scenes of ``size`` x ``size`` pixels.

    ``repeated`` is the share of scenes whose views show the same parts of the textures,
    ``nuisance`` how unlike the two photographs are taken, ``fine`` whether surfaces may have
    grain, and defects be as thin as hairs.
    """
    side = size + 2 * MARGIN
    shares, relief, present = _layout(scenes, side, generator)
    sheets = torch.randint(len(bank), (scenes, LAYERS), generator=generator)
    alike = torch.rand(scenes, 1, generator=generator) < repeated
    textures = torch.zeros(2, scenes, LAYERS, 3, side, side)
    textures[:, present] = _crops(
        bank[sheets[present]], side, alike.expand(-1, LAYERS)[present], generator
    )
    scene, twin = ((t * shares[:, :, None]).sum(1) * relief for t in textures)
    if fine:
        grains = _grain(scenes, side, generator)
        scene, twin = scene + grains[0], twin + grains[1]
    scene, twin = scene.clamp(0, 1), twin.clamp(0, 1)
    strange = torch.randint(len(bank), (scenes,), generator=generator)
    same = torch.ones(scenes, dtype=torch.bool)
    strangers = _crops(bank[strange], side, same, generator)[0]
    damaged, defect = add_defects(twin, strangers, generator, fine)
    first = photograph(scene, shares, size, nuisance, generator)
    second = photograph(damaged, torch.cat([shares, defect], 1), size, nuisance, generator)
    return Batch(
        first.image,
        second.image,
        sheets,
        (first.known + second.known[:, :LAYERS]) / 2,
        second.known[:, LAYERS:],
        F.pad(twin, [-MARGIN] * 4),
        alike[:, 0],
        fine,
    )


def _crops(images: Tensor, side: int, repeated: Tensor, generator: torch.Generator) -> Tensor:
    """Textures (N, 3, SHEET, SHEET) uint8 -> two crops (2, N, 3, side, side) of each.

    Both are turned, scaled, mirrored and coloured alike; of the same part where ``repeated`` (N,).
    """
    n = len(images)
    angle = uniform(generator, (n,), 0, 2 * math.pi)
    # Half of the crops stay upright: horizontals and verticals are what products are made of.
    upright = torch.rand(n, generator=generator) < 0.5
    angle = torch.where(upright, (angle * 2 / math.pi).round() * (math.pi / 2), angle)
    zoom = torch.exp(uniform(generator, (n,), math.log(0.35), math.log(0.9)))
    mirror = 1 - 2 * torch.randint(2, (n,), generator=generator)
    reach = zoom * (angle.cos().abs() + angle.sin().abs())
    shift = uniform(generator, (2, n, 2), -1, 1) * (1 - reach).clamp(min=0)[:, None]
    shift[1] = torch.where(repeated[:, None], shift[0], shift[1])
    images = images.float()
    crops = torch.stack(
        [
            F.grid_sample(
                images,
                moved_grid(angle, zoom, part, side, mirror),
                padding_mode="reflection",
                align_corners=False,
            )
            for part in shift
        ]
    )
    crops = crops / 255
    # Colours of its own, so that colour alone does not tell a texture.
    gain = uniform(generator, (n, 3, 1, 1), 0.75, 1.25)
    grey = torch.rand(n, 1, 1, 1, generator=generator) < 0.35
    crops = torch.where(grey, crops.mean(2, keepdim=True), crops * gain).clamp(0, 1)
    contrast = uniform(generator, (n, 1, 1, 1), 0.4, 1.0)
    mean = crops.mean((0, 2, 3, 4), keepdim=True)[0]
    crops = mean + (crops - mean) * contrast
    return crops


def _grain(n: int, side: int, generator: torch.Generator) -> Tensor:
    """Grain (2, n, 1, side, side) of n surfaces as two pieces have it: alike, but never the same.

    Stretched along one axis as that of brushed metal; two of three surfaces have none.
    """
    fields = torch.randn(2, n, side, side, generator=generator)
    reach = torch.arange(-8, 9, dtype=torch.float32)
    for axis in ("along", "across"):
        low, high = (0.3, 4.0) if axis == "along" else (0.3, 1.5)
        sigma = torch.exp(uniform(generator, (n, 1), math.log(low), math.log(high)))
        kernel = torch.exp(-(reach**2) / (2 * sigma**2))[:, None, None]
        padded = F.pad(fields, (8, 8, 0, 0), mode="reflect")
        # Rows and columns change places, so that each axis has its turn.
        fields = F.conv2d(padded, kernel, groups=n).transpose(2, 3)
    fields = fields / fields.std((2, 3), keepdim=True)
    turned = torch.rand(n, 1, 1, generator=generator) < 0.5
    fields = torch.where(turned, fields.transpose(2, 3), fields)
    strength = torch.exp(uniform(generator, (n, 1, 1), math.log(0.015), math.log(0.12)))
    there = torch.rand(n, 1, 1, generator=generator) < 1 / 3
    return (fields * strength * there)[:, :, None]


def _layout(n: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Which texture is where, the relief at outlines, and which textures there are.

    Shares (N, LAYERS, side, side), factors (N, 1, side, side), bool (N, LAYERS).
    """
    count = torch.multinomial(torch.tensor([0.3, 0.3, 0.2, 0.2]), n, True, generator=generator) + 1
    shares = [torch.ones(n, 1, side, side)]
    relief = torch.ones(n, 1, side, side)
    for layer in range(1, LAYERS):
        depth = _shape(n, side, generator)  # pixels inside of the outline
        present = (count > layer).view(n, 1, 1, 1)
        cover = (depth + 0.5).clamp(0, 1) * present
        shares = [share * (1 - cover) for share in shares] + [cover]
        width = uniform(generator, (n, 1, 1, 1), 0.7, 5)
        strength = uniform(generator, (n, 1, 1, 1), -0.6, 0.6)
        strength = strength * (torch.rand(n, 1, 1, 1, generator=generator) < 0.6) * present
        offset = uniform(generator, (n, 1, 1, 1), -2, 2)
        relief = relief * (1 + strength * torch.exp(-(((depth + offset) / width) ** 2)))
    return torch.cat(shares, 1), relief, count[:, None] > torch.arange(LAYERS)


def _shape(n: int, side: int, generator: torch.Generator) -> Tensor:
    """Pixels (N, 1, side, side) from the outline of a random shape, positive inside."""
    centre = uniform(generator, (n, 2), 0.1, 0.9) * side
    angle = uniform(generator, (n,), 0, 2 * math.pi)
    x, y, r, turn = polar(side, centre, angle)
    a = torch.exp(uniform(generator, (n, 1, 1, 1), math.log(6), math.log(0.6 * side)))
    b = torch.exp(uniform(generator, (n, 1, 1, 1), math.log(6), math.log(0.6 * side)))
    lobes = torch.randint(3, 9, (n, 1, 1, 1), generator=generator)
    depth = uniform(generator, (n, 1, 1, 1), 0.05, 0.4)
    period = torch.exp(uniform(generator, (n, 1, 1, 1), math.log(8), math.log(60)))
    shapes = torch.stack(
        [
            (1 - ((x / a) ** 2 + (y / b) ** 2).sqrt()) * torch.minimum(a, b),  # ellipse
            torch.minimum(a - x.abs(), b - y.abs()),  # box
            x,  # half of the plane
            a / 5 + 2 - (r - b).abs(),  # ring
            a * (1 + depth * torch.cos(lobes * turn)) - r,  # star, gear, flower
            blobs(n, side, generator) * 12,
            (0.25 - ((x / period) % 1 - 0.5).abs()) * period,  # stripes
        ]
    )
    kind = torch.multinomial(torch.tensor([3.0, 3, 2, 2, 2, 3, 1]), n, True, generator=generator)
    return shapes[kind, torch.arange(n)]
