"""A training on tiles of large images, whose detector judges whole images.

The networks learn from tiles, and tiles of held-out images with synthesised defects choose what is
"auto". What is known of whole images alone comes after that: scaling by position, the pooling,
which keeps its area in pixels, and thresholds.
"""

import dataclasses
import logging
import math
from typing import Any

from fastad.data.training_set import TrainingSet
from fastad.inference.predictor import Predictor
from fastad.inference.serving import Examination, examine
from fastad.inference.tile_scaling import choose_scaling, take_means, whole_images
from fastad.models import AnomalyModel
from fastad.models.map_model import MapModel
from fastad.tiles import TileDataset, Tiling
from fastad.tiles.reach import COARSEST
from fastad.training import Trainer, TrainingConfig, TrainingRecord
from fastad.training.batches import split_of
from fastad.training.stages import derived_seed

SEED = 7  # behind that of the training: other defects than those that chose before
AREAS = (16, 64, 256, 1024, 4096)  # pixels of an image that a score may be the mean of

MODELS = ("stpm", "patchcore", "subspace", "rstpm")

log = logging.getLogger("fastad")


class TileTraining:
    """A training of a model on the tiles of a set of images.

    Args:
        model: untrained. Its options that are "auto" are settled where whole images ask for it.
        config: of the training.
        source: the images.
        tile: (height, width).

    Raises:
        ValueError: the model cannot predict tiles, or learn from them with these options, or a tile
            is larger than the images.
    """

    def __init__(
        self,
        model: AnomalyModel,
        config: TrainingConfig,
        source: TrainingSet,
        tile: tuple[int, int],
    ) -> None:
        require_model(model.name)
        assert isinstance(model, MapModel)
        self.model, self.config, self.source, self.tile = model, config, source, tile
        self._open = _settle(model, source.size)
        self._mask = None if model.roi is None else model.roi.mask.clone()
        self._inside = math.prod(source.size) if model.roi is None else model.roi.pixels
        model.poolings = [
            0.0,
            *(area / math.prod(tile) for area in AREAS if area < math.prod(tile)),
        ]
        self.tiles = TileDataset(source.dataset, source.size, tile, self._mask)
        Tiling(model.eval(), source.size, tile)  # or say now why there can be no tiles

    def fit(self, trainer: Trainer, **options: Any) -> TrainingRecord:
        """Train, then take from whole images what is theirs; options are of `Trainer.fit`."""
        model, source, count = self.model, self.source, len(self.source.dataset)
        share, seed = self.config.validation_fraction, self.config.seed
        train, apart = split_of(count, source.held_out, share, seed)
        model.set_roi(None)  # it is one of whole images
        given = model.config.pooling
        if isinstance(given, float):  # a share of the image, which on a tile is another one
            own = min(given * self._inside / math.prod(self.tile), 1.0)
            model.config = dataclasses.replace(model.config, pooling=own)
        try:
            held_out = self.tiles.of_images(apart.tolist())
            record = trainer.fit(self.tiles, held_out=held_out, **options)
        finally:
            model.set_roi(self._mask)
            model.config = dataclasses.replace(model.config, pooling=given)
        height, width = self.tile
        record.notes.append(
            f"trained on {record.n_train} tiles of {height}x{width} pixels, "
            f"{len(self.tiles.places)} of each image"
        )
        record.n_train, record.n_validation = len(train), len(apart)
        # A stage may have learned from the tiles of some of them.
        record.held_out = sorted({item // self.tiles.each for item in record.held_out})
        self._pool_by_area()
        if model.choice().scale_maps == "position" or model.choice().scale_score == "position":
            tiling = Tiling(model.eval(), source.size, self.tile)
            take_means(model, tiling, whole_images(model, source.dataset, train))
        elif not record.interrupted:
            of_defects = derived_seed(seed, SEED)
            try:
                found = choose_scaling(
                    model, self._open, self.tiles, source.size, train, apart, of_defects
                )
            except KeyboardInterrupt:  # all is trained: nothing else is missing
                found = None
                record.notes.append("maps are not scaled: the user stopped what chooses it")
            if found is not None:
                record.choice = dataclasses.asdict(found)
        return record

    def examine(self, predictor: Predictor, record: TrainingRecord, rate: float) -> Examination:
        """As `fastad.inference.serving.examine`, on tiles."""
        model, roi = self.model, self.model.roi
        model.roi = None
        try:
            of_tiles = Predictor(
                model,
                self.tile,
                device=self.config.device,
                precision=self.config.precision,
            )
            found = examine(of_tiles, self.tiles, self.tiles.of_images(record.held_out), rate)
        finally:
            model.roi = roi
        predictor.dtype, predictor.fused = of_tiles.dtype, of_tiles.fused
        return found

    def _pool_by_area(self) -> None:
        """Keep the pooling that was chosen on tiles as an area: a share of an image hides more."""
        model = self.model
        if model.chosen is None or model.config.pooling != "auto":
            return
        pixels = model.chosen.pooling * math.prod(self.tile)
        share = min(pixels / self._inside, 1.0)
        model.chosen = dataclasses.replace(model.chosen, pooling=share)
        if share > 0:
            log.info(f"score: mean of the highest {round(pixels)} pixels of an image")


def require_model(name: str) -> None:
    """ValueError for a model that cannot be trained on tiles."""
    if name not in MODELS:
        raise ValueError(f"tile: {name} cannot be trained on tiles; there are {', '.join(MODELS)}")


def _settle(model: MapModel, size: tuple[int, int]) -> list[str]:
    """Settle what is "auto" and cannot be chosen on tiles. Gives what whole images can choose."""
    if model.pairs > 1 and "position" in (model.config.scale_maps, model.config.scale_score):
        raise ValueError(
            f"tile: the networks of {model.name} learn from scaled maps, and a tile does not know "
            "where it lies: leave scale_maps and scale_score, or set level or none"
        )
    scales = ("scale_maps", "scale_score")
    found = [name for name in scales if getattr(model.config, name) == "auto"]
    # Pairs that are added must be alike in size.
    plain = "level" if model.pairs > 1 else "none"
    settled: dict[str, Any] = dict.fromkeys(found, plain)
    odd = any(side % (COARSEST * max(model.overview, 1)) for side in size)
    if odd and getattr(model.config, "subspace", None) == "auto":
        settled["subspace"] = False  # its levels have no common grid in such an image
    model.config = dataclasses.replace(model.config, **settled)
    if "subspace" in settled:
        model.drop_subspace()
    return [] if model.pairs > 1 else found
