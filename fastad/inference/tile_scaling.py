"""Whether a detector of tiles divides its maps by their means at each position of an image.

A tile does not know where it lies. So this is chosen on whole images after the training: held-out
good images, and such images with a defect synthesised on one of their tiles. All else stays as
tiles chose it.
"""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fastad.data.folder import Images
from fastad.data.synthesis import TrialDefects
from fastad.data.synthesis.trial import MIN_SIDE
from fastad.models.map_model import LEAST_MEAN, Evidence, MapModel
from fastad.models.maps import PositionMeans
from fastad.tiles import TileDataset, Tiling
from fastad.training.map_choice import LEAST_IMAGES, ChoiceRecord, choice_lines, choose
from fastad.training.trial import spread

MOST_IMAGES = 100  # that the means come from, and good ones that choose
DEFECTS = 75  # images with one, 5 of each kind and size
PIXELS = 2**29  # of all images with a defect: of larger images there are fewer
LEAST_DEFECTS = 15  # of each kind and size one

log = logging.getLogger("fastad")


@torch.inference_mode()
def choose_scaling(
    model: MapModel,
    options: Sequence[str],
    tiles: TileDataset,
    size: tuple[int, int],
    train: Tensor,
    apart: Tensor,
    seed: int,
) -> ChoiceRecord | None:
    """Take the means at each position, and divide by them where that finds more.

    Args:
        model: trained on tiles, with its maps not scaled.
        options: which of "scale_maps" and "scale_score" to choose.
        tiles: that it was trained on.
        size: (H, W) of the images.
        train: indices of the images that the means come from.
        apart: those of the held-out images that choose.
        seed: of the defects.

    Returns:
        What was chosen and by which numbers. None where maps stay as they are: scaling does not
        help, or nothing can choose, as too few images are held out.
    """
    few = len(apart) < LEAST_IMAGES or min(tiles.tile) < MIN_SIDE
    if few or not options or model.scales_apart:
        return None
    log.info("choosing on whole images whether maps are scaled by position")
    tiling = Tiling(model.eval(), size, tiles.tile)
    take_means(model, tiling, whole_images(model, tiles.images, spread(train, MOST_IMAGES)))
    apart = spread(apart, MOST_IMAGES)

    def look(batch: dict[str, Any]) -> Evidence:
        return model.completed(tiling.evidence(model.local_evidence, batch["image"]))

    before = model.config
    own = {field.name for field in dataclasses.fields(before)}
    kept = {k: v for k, v in dataclasses.asdict(model.choice()).items() if k in own}
    model.config = dataclasses.replace(before, **kept | dict.fromkeys(options, "auto"))
    try:
        good = ({"image": image} for image in whole_images(model, tiles.images, apart))
        found = choose(model, good, _defects(model, tiles, size, apart, seed), look)
    finally:
        model.config = before
    scales = {name: found.chosen[name] for name in options}
    for what, line in choice_lines(dataclasses.asdict(found)):
        log.info(f"{what}: {line}")
    model.config = dataclasses.replace(before, **scales)
    return found if "position" in scales.values() else None


def _defects(
    model: MapModel, tiles: TileDataset, size: tuple[int, int], apart: Tensor, seed: int
) -> Iterator[dict[str, Tensor]]:
    """Whole images with a defect on one of their tiles, in the region, and its mask (1, H, W)."""
    count = max(LEAST_DEFECTS, min(DEFECTS, PIXELS // (size[0] * size[1])))
    of_tiles = TrialDefects(tiles, tiles.of_images(apart.tolist()), count=count, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(apart) * tiles.each, generator=generator).tolist()
    of_tiles.indices = [of_tiles.indices[i] for i in order]  # not all tiles of one image first
    for index in range(count):
        which, place = divmod(of_tiles.indices[index % len(order)], tiles.each)
        (top, left), (height, width) = tiles.places[place], tiles.tile
        found = of_tiles[index]
        [image] = whole_images(model, tiles.images, torch.tensor([which]))
        tile = _floats(model, found["image"])
        image[0, :, top : top + height, left : left + width] = tile
        mask = torch.zeros(1, *size, dtype=torch.bool, device=image.device)
        mask[0, top : top + height, left : left + width] = found["mask"].to(image.device)
        if model.roi is not None:
            mask &= model.roi.mask
        if mask.any():
            yield {"image": image, "mask": mask}


def whole_images(model: MapModel, images: Images, indices: Tensor) -> Iterator[Tensor]:
    """Some images of a data set, one by one: (1, 3, H, W) in [0, 1], where the model is."""
    for index in indices.tolist():
        item: Any = images[index]
        image = item["image"] if isinstance(item, dict) else item
        yield _floats(model, image)[None].clone()


def _floats(model: MapModel, image: Tensor) -> Tensor:
    image = image.to(model.mean.device)
    return image / 255 if image.dtype == torch.uint8 else image.float()


@torch.inference_mode()
def take_means(model: MapModel, tiling: Tiling, images: Iterable[Tensor]) -> None:
    """As `MapModel.calibrate_maps`, of whole images (N, 3, H, W) in [0, 1] in tiles."""
    means = [PositionMeans(model.roi) for _ in model.distance_means]
    for batch in images:
        found = tiling.evidence(model.local_evidence, batch)
        for mean, level in zip(means, [*found.maps, *found.score_maps], strict=True):
            mean.add(level.to(model.distance_means.dtype))
    result = torch.stack([mean.result() for mean in means])
    model.distance_means.copy_(result.clamp_min(LEAST_MEAN))
