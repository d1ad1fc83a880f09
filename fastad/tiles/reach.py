"""How far around a place a model looks, measured on the model itself.

A convolution of anything with NaN is NaN. So a strip that is NaN up to a line shows at which places
of each level a tile that begins at this line would see too little: where the result is NaN. This
holds for every network, and shows one that looks at the whole image, too.

Tiles must also begin where the strides of the whole image do, and have its remainder by them:
paddings that depend on the size are then the same. Whether that is enough is tried on a strip of
random pixels with and without its beginning.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastad.models import AnomalyModel
from fastad.models.map_model import Evidence, MapModel

LENGTHS = (256, 512, 1024, 2048)  # pixels of half a strip; the first that is long enough
COARSEST = 64  # pixels, the largest step of tiles that is tried
WIDTH = 32  # pixels of the strip's other side
Look = Callable[[Tensor], list[Tensor]]  # an image (1, 3, H, W) -> maps (1, h, w)

TOLERANCE = 2e-5  # of the largest distance; another grid is off by more


@dataclass(frozen=True)
class Reach:
    """What a tile needs, along one side of the image.

    Attributes:
        step: pixels. Tiles begin at multiples of it.
        before, after: pixels that must be seen around what is kept of a tile.
        strides: pixels a step of each map of `maps_of`.
    """

    step: int
    before: int
    after: int
    strides: tuple[int, ...]


def maps_of(found: Evidence) -> list[Tensor]:
    """All maps (N, h, w) that a model found, of the score and of the memory, too."""
    return [*found.maps, *found.score_maps, *found.memory_maps]


@torch.inference_mode()
def reach_of(model: AnomalyModel, length: int, *, across: bool = False) -> Reach:
    """What tiles need along one side of an image.

    Args:
        model: in eval mode.
        length: pixels of the side. Its remainder by the strides is all that counts.
        across: along the width, otherwise along the height.

    Raises:
        ValueError: the model looks at the whole image, or its levels do not lie on one grid for
            such a length.
    """
    looks = require_local(model)
    factor = max(model.overview, 1)
    return _measured(model, lambda image: _found(looks, {"image": image}), length, across, factor)


@torch.inference_mode()
def of_overview(model: AnomalyModel) -> list[bool] | None:
    """Of each map of `maps_of` whether the image's overview gave it. None for a model without one,
    and where a map is of both."""
    looks = require_local(model)
    if not model.overview:
        return None
    image = model.mean.new_zeros(1, 3, WIDTH, WIDTH)
    nothing = torch.full_like(image, torch.nan)
    with torch.backends.cudnn.flags(enabled=False):
        of_image, of_other = (
            [bool(level.isnan().any()) for level in _found(looks, batch)]
            for batch in (
                {"image": nothing, "overview": image},
                {"image": image, "overview": nothing},
            )
        )
    return of_other if all(a != b for a, b in zip(of_image, of_other, strict=True)) else None


@torch.inference_mode()
def reaches_apart(
    model: AnomalyModel, are_of_overview: list[bool], length: int, *, across: bool = False
) -> tuple[Reach, Reach]:
    """`reach_of` of the maps of the image, and in pixels of its overview of those of that.

    Args:
        are_of_overview: `of_overview`'s.
        length, across: of `reach_of`.
    """
    looks = require_local(model)
    other = model.mean.new_zeros(1, 3, WIDTH, WIDTH)

    def look(image: Tensor, overview: bool) -> list[Tensor]:
        both = (other, image) if overview else (image, other)
        found = _found(looks, dict(zip(("image", "overview"), both, strict=True)))
        return [m for m, own in zip(found, are_of_overview, strict=True) if own == overview]

    factor = model.overview
    return (
        _measured(model, lambda image: look(image, False), length, across),
        _measured(model, lambda image: look(image, True), -(-length // factor), across, factor),
    )


def _measured(model: AnomalyModel, look: Look, length: int, across: bool, factor: int = 1) -> Reach:
    # Convolutions by Fourier transforms would spread NaN over everything.
    with torch.backends.cudnn.flags(enabled=False):
        for half in LENGTHS:
            found = _reach(Strips(look, model, across, factor), half, length % COARSEST)
            if found is not None:
                return found
    raise ValueError(
        f"tile: {model.name} looks further than {LENGTHS[-1] - COARSEST} pixels around a place, as "
        "with attention: predict the whole image, or train stpm, rstpm or patchcore"
    )


def require_local(model: AnomalyModel) -> MapModel:
    """The model; ValueError where it does not answer with distance maps."""
    if not isinstance(model, MapModel):
        raise ValueError(
            f"tile: {model.name} joins no distance maps of places, so it predicts no tiles: use "
            "stpm, rstpm, patchcore or subspace"
        )
    return model


class Strips(NamedTuple):
    """What a model finds in strips (3, H, W), of an image or its overview.

    Attributes:
        look: gives the maps.
        turned: whether the strips lie on their side.
        factor: how many times larger the image is.
    """

    look: Look
    model: AnomalyModel
    turned: bool
    factor: int

    def found(self, strip: Tensor) -> list[Tensor]:
        """Maps (h, w), h along H."""
        image = (strip.mT if self.turned else strip)[None].contiguous()
        with torch.autocast(strip.device.type, enabled=False):
            found = self.look(image)
        return [level[0].mT if self.turned else level[0] for level in found]

    def seen(self, strip: Tensor, rows: slice) -> list[Tensor]:
        """Of each map which of its rows see some of these rows of the strip: (h,) bool."""
        strip = strip.clone()
        strip[:, rows] = torch.nan
        return [level.isnan().any(dim=1) for level in self.found(strip)]


def _reach(strips: Strips, half: int, remainder: int) -> Reach | None:
    """Measured on a strip of twice ``half`` pixels; None where that is too short."""
    size = 2 * half + remainder
    end = size - half  # the same remainder
    generator = torch.Generator().manual_seed(0)
    strip = torch.rand(3, size, WIDTH, generator=generator).to(strips.model.mean)
    whole = strips.found(strip)
    rest = strips.found(strip[:, half:])
    strides = tuple(round(half / max(len(a) - len(b), 1)) for a, b in zip(whole, rest, strict=True))
    begun, ended = (strips.seen(strip, rows) for rows in (slice(half), slice(end, size)))
    before = max(int(x.nonzero().max() + 1) * s for x, s in zip(begun, strides, strict=True)) - half
    after = end - min(int(x.nonzero().min()) * s for x, s in zip(ended, strides, strict=True))
    if max(before, after) > half - COARSEST:
        return None
    step, far = max(strides), half // 2
    while step <= COARSEST:
        shift = far - far % (2 * step) + step  # an odd multiple: half of it would not do
        shorter = strips.found(strip[:, shift:])
        pairs = [
            (part[-(-before // stride) :], level[-(-before // stride) + shift // stride :])
            for part, level, stride in zip(shorter, whole, strides, strict=True)
        ]
        if all(_alike(part, level) for part, level in pairs):
            return Reach(step, before, after, strides)
        step *= 2
    raise ValueError(
        f"tile: the levels of {strips.model.name} lie on no common grid in an image of this size, "
        "as they are resized to one another: give sides that are multiples of "
        f"{COARSEST * strips.factor} pixels"
    )


def _found(model: MapModel, batch: dict[str, Tensor]) -> list[Tensor]:
    """`maps_of` what a model finds; ValueError where it judges by more."""
    found = model.local_evidence(batch)
    if found.factors or found.score_factor is not None or found.composition is not None:
        raise ValueError(
            f"tile: {model.name} with these options judges an image by more than its distance maps"
        )
    return maps_of(found)


def _alike(part: Tensor, level: Tensor) -> bool:
    if part.shape != level.shape:
        return False
    return bool((part - level).abs().max() <= TOLERANCE * level.abs().max())
