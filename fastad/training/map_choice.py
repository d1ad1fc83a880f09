"""How distance maps are scaled and pooled, chosen by synthesised defects on held-out images.

The defects are those of `fastad.data.TrialDefects`: of other kinds than a model is trained on. The
anomaly map is chosen by its AUPRO, the score by its image AUROC. The plainest way wins that is
within `MARGIN` of the best.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fastad.data.folder import Images
from fastad.data.synthesis import TrialDefects
from fastad.evaluation import aupro, image_metrics
from fastad.models.map_model import POOLINGS, SCALES, MapChoice, MapModel
from fastad.models.maps import mean_of_highest
from fastad.training.record import TrainingRecord
from fastad.training.source import Source
from fastad.training.stages import StagePlan

MARGIN = 0.005  # by which a less plain way must be better
LEAST_IMAGES = 8  # held out: with fewer, chance would choose
DEFECTS = 300  # images with a defect
REDUCED = 4  # pixels along a side that are one where a map is judged: outlines are not in question


@dataclass
class ChoiceRecord:
    """What was chosen, and by which numbers.

    Attributes:
        chosen: the fields of `fastad.models.map_model.MapChoice`.
        images, defects: numbers of held-out good images, and of images with a synthesised defect.
        maps: AUPRO of each way to scale and weigh the map.
        scores: image AUROC of each way to scale and pool the score.
    """

    chosen: dict[str, Any]
    images: int
    defects: int
    maps: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)


def has_choice(model: MapModel) -> bool:
    """Whether any of the options is "auto"."""
    options = (getattr(model.config, f.name, None) for f in dataclasses.fields(MapChoice))
    return any(isinstance(value, str) and value == "auto" for value in options)


def choose_by_defects(
    model: MapModel,
    plan: StagePlan,
    dataset: Images,
    open_source: Callable[[Images], Source],
    record: TrainingRecord,
) -> None:
    """Let defects on the images that ``plan`` holds out choose what is "auto".

    The record says what was chosen, or has a note on why nothing could choose.
    """
    if not has_choice(model):
        return
    held_out = plan.held_out
    if len(held_out) < LEAST_IMAGES:
        record.notes.append(
            f"how maps are scaled and pooled was not chosen but left plain: it needs "
            f"{LEAST_IMAGES} held-out images, there are {len(held_out)}"
        )
        return
    defects = TrialDefects(dataset, held_out.tolist(), count=DEFECTS, seed=plan.seed)
    sources = [open_source(images) for images in (dataset, defects)]
    items = held_out, torch.arange(len(defects))
    try:
        good, bad = (
            (batch for _, batch in source.batches(of.split(plan.config.batch_size)))
            for source, of in zip(sources, items, strict=True)
        )
        with torch.no_grad(), sources[0].autocast():
            record.choice = dataclasses.asdict(choose(model, good, bad))
    finally:
        for source in sources:
            source.close()


def choose(
    model: MapModel, good: Iterable[Mapping[str, Any]], defects: Iterable[Mapping[str, Any]]
) -> ChoiceRecord:
    """Choose what is "auto" in the options of a trained model, and take it over.

    Args:
        good: batches of held-out good images, as of the model's loss.
        defects: batches of such images with defects, with a "mask" (N, H, W) bool.
    """
    seen: list[tuple[list[Tensor], list[Tensor], Tensor]] = []
    images = 0
    for is_defect, batches in ((False, good), (True, defects)):
        for batch in batches:
            like = batch["mask"] if is_defect else batch["image"][:, 0]
            mask = like.bool() if is_defect else torch.zeros_like(like, dtype=torch.bool)
            maps = model.level_maps(batch)
            seen.append((maps, model.factors(maps), mask))
            images += 0 if is_defect else len(mask)
    masks = np.concatenate([_reduced(mask.float()).cpu().numpy() > 0 for _, _, mask in seen])
    labels = np.arange(len(masks)) >= images
    maps_of: dict[tuple[Any, ...], float] = {}
    scores_of: dict[tuple[Any, ...], float] = {}
    for scale, (weights, subspace) in itertools.product(_scales(model), _parts(model)):
        choice = MapChoice(pair_weights=weights, subspace=subspace)
        judged = [
            model.joined(maps, factors, _size(mask), scale, choice) for maps, factors, mask in seen
        ]
        reduced = np.concatenate([_reduced(found).cpu().numpy() for found, _ in judged])
        maps_of[scale, weights, subspace] = aupro(masks, reduced)
        for pooling in _poolings(model):
            parts = [m if pooling == 0 else mean_of_highest(f, pooling) for f, m in judged]
            scores = torch.cat(parts).double().cpu().numpy()
            scores_of[scale, weights, subspace, pooling] = image_metrics(labels, scores)[
                "image_auroc"
            ]
    choice = _best(model, maps_of, scores_of)
    model.choose(choice)
    of_map = ("scale_maps", "pair_weights", "subspace")
    of_score = ("scale_score", "pair_weights", "subspace", "pooling")
    return ChoiceRecord(
        dataclasses.asdict(choice),
        images,
        len(masks) - images,
        [_row(of_map, key, "aupro", value) for key, value in maps_of.items()],
        [_row(of_score, key, "image_auroc", value) for key, value in scores_of.items()],
    )


def plainest(values: Mapping[Any, float], margin: float = MARGIN) -> Any:
    """The first key whose value is within ``margin`` of the largest; keys come plainest first."""
    best = max(values.values())
    return next(key for key, value in values.items() if value >= best - margin)


def _best(
    model: MapModel,
    maps: Mapping[tuple[Any, ...], float],
    scores: Mapping[tuple[Any, ...], float],
) -> MapChoice:
    """What is joined first, by the best map and the best score of it; then scales and pooling."""
    given, config = model.choice(), model.config
    weights, subspace = plainest(
        {
            parts: max(v for key, v in maps.items() if key[1:3] == parts)
            + max(v for key, v in scores.items() if key[1:3] == parts)
            for parts in dict.fromkeys(key[1:3] for key in maps)
        },
        2 * MARGIN,
    )
    maps = {key[0]: v for key, v in maps.items() if key[1:3] == (weights, subspace)}
    scale_maps = plainest(maps) if config.scale_maps == "auto" else given.scale_maps
    scale_score, pooling = plainest(
        {
            (scale, share): value
            for (scale, *parts, share), value in scores.items()
            if tuple(parts) == (weights, subspace)
            and scale in ((scale,) if config.scale_score == "auto" else (given.scale_score,))
        }
    )
    return MapChoice(scale_maps, scale_score, pooling, weights, subspace)


def _scales(model: MapModel) -> Sequence[str]:
    given = {model.config.scale_maps, model.config.scale_score}
    if "auto" not in given:
        return sorted(given, key=SCALES.index)
    # A factor of a whole level changes nothing in a product.
    return [scale for scale in SCALES if model.pairs > 1 or scale != "level" or scale in given]


def _parts(model: MapModel) -> list[tuple[tuple[float, ...], bool]]:
    """Weights of the pairs, and whether with the subspace."""
    given = model.choice()
    weights = [given.pair_weights]
    if getattr(model.config, "pair_weights", None) == "auto":
        weights += [tuple(float(i == j) for j in range(model.pairs)) for i in range(model.pairs)]
    choose_subspace = model.subspace is not None and model.config.subspace == "auto"
    subspaces = [False, True] if choose_subspace else [given.subspace]
    return [(w, subspace) for subspace in subspaces for w in weights]


def _poolings(model: MapModel) -> Sequence[float]:
    return POOLINGS if model.config.pooling == "auto" else [model.choice().pooling]


def _size(mask: Tensor) -> tuple[int, int]:
    return mask.shape[-2], mask.shape[-1]


def _reduced(maps: Tensor) -> Tensor:
    """The largest values of maps (N, H, W) in squares of `REDUCED` pixels."""
    return functional.max_pool2d(maps[:, None].float(), REDUCED, ceil_mode=True)[:, 0]


def _row(names: Sequence[str], key: Sequence[Any], name: str, value: float) -> dict[str, Any]:
    return dict(zip(names, key, strict=True)) | {name: value}
