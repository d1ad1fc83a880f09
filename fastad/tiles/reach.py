"""How far around a place a model looks, measured on the model itself.

A convolution of anything with NaN is NaN. So a strip that is NaN up to a line shows at which places
of each level a tile that begins at this line would see too little: where the result is NaN. This
holds for every network, and shows one that looks at the whole image, too.

Tiles must also begin where the strides of the whole image do, and have its remainder by them:
paddings that depend on the size are then the same. Whether that is enough is tried on a strip of
random pixels with and without its beginning.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastad.models import AnomalyModel
from fastad.models.map_model import Evidence, MapModel

LENGTHS = (256, 512, 1024, 2048)  # pixels of half a strip; the first that is long enough
COARSEST = 64  # pixels, the largest step of tiles that is tried
WIDTH = 32  # pixels of the strip's other side
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
    # Convolutions by Fourier transforms would spread NaN over everything.
    with torch.backends.cudnn.flags(enabled=False):
        for half in LENGTHS:
            found = _reach(looks, half, length % COARSEST, across)
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


def _reach(model: MapModel, half: int, remainder: int, turned: bool) -> Reach | None:
    """Measured on a strip of twice ``half`` pixels; None where that is too short."""
    size = 2 * half + remainder
    end = size - half  # the same remainder
    strip = torch.rand(3, size, WIDTH, generator=torch.Generator().manual_seed(0)).to(model.mean)
    whole = _found(model, strip, turned)
    strides = tuple(round(size / len(level)) for level in whole)
    begun, ended = (_seen(model, strip, rows, turned) for rows in (slice(half), slice(end, size)))
    before = max(int(x.nonzero().max() + 1) * s for x, s in zip(begun, strides, strict=True)) - half
    after = end - min(int(x.nonzero().min()) * s for x, s in zip(ended, strides, strict=True))
    if max(before, after) > half - COARSEST:
        return None
    step, far = max(strides), half // 2
    while step <= COARSEST:
        shift = far - far % (2 * step) + step  # an odd multiple: half of it would not do
        shorter = _found(model, strip[:, shift:], turned)
        pairs = [
            (part[-(-before // stride) :], level[-(-before // stride) + shift // stride :])
            for part, level, stride in zip(shorter, whole, strides, strict=True)
        ]
        if all(_alike(part, level) for part, level in pairs):
            return Reach(step, before, after, strides)
        step *= 2
    raise ValueError(
        f"tile: the levels of {model.name} lie on no common grid in an image of this size, as they "
        f"are resized to one another: give sides that are multiples of {COARSEST} pixels"
    )


def _found(model: MapModel, strip: Tensor, turned: bool) -> list[Tensor]:
    """Maps (h, w) of a strip (3, H, W), h along H. A ``turned`` one lies on its side."""
    image = (strip.mT if turned else strip)[None].contiguous()
    with torch.autocast(strip.device.type, enabled=False):
        found = model.local_evidence({"image": image})
    if found.factors or found.score_factor is not None or found.composition is not None:
        raise ValueError(
            f"tile: {model.name} with these options judges an image by more than its distance maps"
        )
    return [level[0].mT if turned else level[0] for level in maps_of(found)]


def _seen(model: MapModel, strip: Tensor, rows: slice, turned: bool) -> list[Tensor]:
    """Of each map which of its rows see some of these rows of the strip: (h,) bool."""
    strip = strip.clone()
    strip[:, rows] = torch.nan
    return [level.isnan().any(dim=1) for level in _found(model, strip, turned)]


def _alike(part: Tensor, level: Tensor) -> bool:
    if part.shape != level.shape:
        return False
    return bool((part - level).abs().max() <= TOLERANCE * level.abs().max())
