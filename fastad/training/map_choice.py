"""How distance maps are scaled and pooled, chosen by synthesised defects on held-out images.

The defects are those of `fastad.data.TrialDefects`: of other kinds than a model is trained on. The
anomaly map is chosen by its AUPRO, the score by its image AUROC. The plainest way wins that is
within `MARGIN` of the best.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastad.data.folder import Images
from fastad.evaluation import aupro
from fastad.evaluation.metrics import image_auroc
from fastad.models.map_model import Evidence, MapModel
from fastad.models.map_options import MapChoice
from fastad.models.maps import means_of_highest
from fastad.training.record import TrainingRecord
from fastad.training.source import Source, Watch
from fastad.training.stages import StagePlan, derived_seed
from fastad.training.trial import cells, trial_defects

MARGIN = 0.005  # by which a less plain way must be better
LEAST_IMAGES = 8  # held out: with fewer, chance would choose
DEFECTS = 225  # images with one, 15 of each kind and size
POOLINGS = (0.0, 0.003, 0.01, 0.03)  # shares of the pixels to choose from; 0 is the maximum
SEED = 4  # behind that of the training: other defects than those that choose the epoch

Parts = tuple[tuple[float, ...], bool]  # weights of the pairs, and whether with the subspace
Levels = tuple[str, ...]  # that are multiplied, by name; empty for all
Way = tuple[str, Levels, str]  # what a score goes by, its levels and its scale
BY_MEMORY: Way = ("memory", (), "none")
Seen = Sequence[tuple[Evidence, tuple[int, int]]]  # what was found in batches, and their size


@dataclass
class ChoiceRecord:
    """What was chosen, and by which numbers.

    Attributes:
        chosen: the fields of `fastad.models.map_model.MapChoice`.
        images, defects: numbers of held-out good images, and of images with a synthesised defect.
        maps: AUPRO of each way to scale and weigh the map, the plainest first.
        scores: image AUROC of each way to take, scale and pool the score, the plainest first.
    """

    chosen: dict[str, Any]
    images: int
    defects: int
    maps: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)


def images_to_judge(model: MapModel, held_out: int) -> int:
    """How many images `choose_by_defects` goes by; 0 where it leaves the choice."""
    if model.config.is_given or held_out < LEAST_IMAGES:
        return 0
    return held_out + DEFECTS


def choose_by_defects(
    model: MapModel,
    plan: StagePlan,
    dataset: Images,
    open_source: Callable[[Images], Source],
    record: TrainingRecord,
    watch: Callable[[int], Watch],
) -> None:
    """Let defects on the images that ``plan`` holds out choose what is "auto".

    The record says what was chosen, or has a note on why nothing could choose. ``watch`` of 0 and 1
    reports the batches of good images, and of those with defects.
    """
    if model.config.is_given:
        return
    held_out = plan.held_out
    if len(held_out) < LEAST_IMAGES:
        why = f"it needs {LEAST_IMAGES} held-out images, there are {len(held_out)}"
        return leave_plain(model, record, why)
    seed = derived_seed(plan.seed, SEED)
    if (defects := trial_defects(dataset, held_out, seed, DEFECTS, model.roi)) is None:
        return leave_plain(model, record, "the images are too small for synthesised defects")
    sources = [open_source(images) for images in (dataset, defects)]
    items = held_out, torch.arange(len(defects))

    def batches(part: int) -> Iterator[dict[str, Any]]:
        pieces = items[part].split(plan.config.batch_size)
        read = watch(part)(sources[part].batches(pieces), len(pieces))
        return (batch for _, batch in read)

    try:
        good, bad = batches(0), batches(1)
        with torch.no_grad(), sources[0].autocast():
            record.choice = dataclasses.asdict(choose(model, good, bad))
    finally:
        for source in sources:
            source.close()


def leave_plain(model: MapModel, record: TrainingRecord, why: str) -> None:
    """Take the plain way for what is "auto", with a note of why; nothing where nothing is."""
    if not model.config.is_given and model.chosen is None:
        record.notes.append(f"how maps are scaled and pooled was not chosen but left plain: {why}")
    model.choose(model.choice())


def choose(
    model: MapModel,
    good: Iterable[Mapping[str, Any]],
    defects: Iterable[Mapping[str, Any]],
    look: Callable[[Any], Evidence] | None = None,
) -> ChoiceRecord:
    """Choose what is "auto" in the options of a trained model, and take it over.

    Args:
        good: batches of held-out good images, as of the model's loss.
        defects: batches of such images with defects, with a "mask" (N, H, W) bool.
        look: what the model finds in a batch; None for `MapModel.evidence`.
    """
    look = look or model.evidence
    seen, masks = [], []
    for batch in good:
        seen.append((look(batch), _size(batch["image"])))
        masks.append(cells(torch.zeros_like(batch["image"][:, 0])))
    images = sum(map(len, masks))
    for batch in defects:
        seen.append((look(batch), _size(batch["mask"])))
        masks.append(cells(batch["mask"]))
    inside = None if model.roi is None else cells(model.roi.mask[None])[0].cpu().numpy() > 0
    truth = torch.cat(masks).cpu().numpy() > 0
    labels = (np.arange(len(truth)) >= images).astype(int)

    poolings = _poolings(model)
    maps: dict[tuple[Parts, Levels, str], float] = {}
    scores: dict[tuple[Parts, str, Levels, str, float], float] = {}

    def judge_scores(parts: Parts, by: str, levels: Levels, scale: str) -> list[float]:
        weights, subspace = parts
        choice = MapChoice("none", scale, 0, weights, subspace, (), levels, by)
        pooled = _pooled(model, seen, choice, poolings)
        finite = np.isfinite(pooled).all(axis=1)
        return [image_auroc(labels, p) if ok else 0.0 for p, ok in zip(pooled, finite, strict=True)]

    everything = _parts(model)
    of_memory = {}
    if all(evidence.memory_maps for evidence, _ in seen):
        of_memory[BY_MEMORY] = judge_scores(everything[0], *BY_MEMORY)
    for parts in everything:
        for levels, scale in _ways(model, "map"):
            found = _cells(model, seen, parts, levels, scale)
            is_finite = np.isfinite(found).all()
            maps[parts, levels, scale] = aupro(truth, found, inside=inside) if is_finite else 0.0
        ways = {way: judge_scores(parts, *way) for way in _ways_of_score(model)} | of_memory
        for way, values in ways.items():
            scores |= {(parts, *way, p): v for p, v in zip(poolings, values, strict=True)}
    choice = best(maps, scores)
    model.choose(choice)
    return ChoiceRecord(
        _row(**dataclasses.asdict(choice)),
        images,
        len(truth) - images,
        [
            _row(*parts, map_levels=levels, scale_maps=scale, aupro=v)
            for (parts, levels, scale), v in maps.items()
        ],
        [
            _row(
                *parts,
                score_by=by,
                score_levels=levels,
                scale_score=scale,
                pooling=pooling,
                image_auroc=v,
            )
            for (parts, by, levels, scale, pooling), v in scores.items()
        ],
    )


def plainest(values: Mapping[Any, float], margin: float = MARGIN) -> Any:
    """The first key whose value is within ``margin`` of the largest; keys come plainest first."""
    enough = max(values.values()) - margin
    return next(key for key, value in values.items() if value >= enough)


def best(
    maps: Mapping[tuple[Parts, Levels, str], float],
    scores: Mapping[tuple[Parts, str, Levels, str, float], float],
) -> MapChoice:
    """The plainest of the best: first what is joined, by map and score; then the rest of each.

    Args:
        maps: AUPRO of (parts, levels, scale), the plainest first.
        scores: image AUROC of (parts, by, levels, scale, pooling), the plainest first.
    """
    together = {
        parts: max(v for key, v in maps.items() if key[0] == parts)
        + max(v for key, v in scores.items() if key[0] == parts)
        for parts in dict.fromkeys(key[0] for key in maps)
    }
    chosen = plainest(together, 2 * MARGIN)  # of a sum of two
    map_levels, scale_maps = plainest(
        {tuple(rest): v for (parts, *rest), v in maps.items() if parts == chosen}
    )
    of_parts = {tuple(rest): v for (parts, *rest), v in scores.items() if parts == chosen}
    sources = dict.fromkeys(by for by, *_ in of_parts)
    highest = {
        source: max(v for (by, *_), v in of_parts.items() if by == source) for source in sources
    }
    score_by = plainest(highest, 2 * MARGIN)  # a memory takes time with every image
    score_levels, scale_score, pooling = plainest(
        {tuple(rest): v for (by, *rest), v in of_parts.items() if by == score_by}
    )
    weights, subspace = chosen
    return MapChoice(
        scale_maps, scale_score, pooling, weights, subspace, map_levels, score_levels, score_by
    )


def choice_lines(choice: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Of a record's ``choice`` a line on the map and one on the score; none without."""
    if choice is None:
        return []
    on = f"{choice['defects']} synthesised defects and {choice['images']} held-out good images"
    found = []
    for name, key, number, unit in (
        ("anomaly map", "maps", "aupro", "AUPRO"),
        ("image score", "scores", "image_auroc", "image AUROC"),
    ):
        rows, chosen = choice[key], choice["chosen"]
        row = next(r for r in rows if all(r[k] == chosen[k] for k in r if k != number))
        line = f"{_words(row)}: {unit} {row[number]:.3f} on {on}"
        if row is not rows[0]:
            line += f", against {rows[0][number]:.3f} {_words(rows[0])}"
        elif len(rows) > 1:
            others = f"{len(rows) - 1} other way" + ("s" if len(rows) > 2 else "")
            line += f", at most {max(r[number] for r in rows[1:]):.3f} in {others}"
        found.append((name, line))
    return found


def _cells(model: MapModel, seen: Seen, parts: Parts, levels: Levels, scale: str) -> np.ndarray:
    """Of all images the cells of the map (N, h, w)."""
    choice = MapChoice(pair_weights=parts[0], subspace=parts[1], map_levels=levels)
    maps = (model.joined(evidence, size, scale, choice)[0] for evidence, size in seen)
    return torch.cat([cells(each).cpu() for each in maps]).numpy()


def _pooled(
    model: MapModel, seen: Seen, choice: MapChoice, poolings: Sequence[float]
) -> np.ndarray:
    """Of each pooling the scores of all images: (poolings, N)."""
    pooled = []
    for evidence, size in seen:
        scored, maxima = model.joined(evidence, size, choice.scale_score, choice, of_score=True)
        shares = [share for share in poolings if share > 0]
        scores = means_of_highest(scored, shares, model.roi)
        if 0.0 in poolings:
            scores.insert(list(poolings).index(0.0), maxima)
        if evidence.score_factor is not None:
            scores = [score * evidence.score_factor for score in scores]
        pooled.append(torch.stack(scores).double().cpu())
    return torch.cat(pooled, dim=1).numpy()


def _ways(model: MapModel, of: str) -> Iterator[tuple[Levels, str]]:
    """The levels and scales of the "map" or the "score", the plainest first."""
    option = "scale_maps" if of == "map" else "scale_score"
    scale = getattr(model.config, option)
    scales = model.scalings() if scale == "auto" else [scale]
    levels = getattr(model.config, f"{of}_levels", ())
    return itertools.product(runs(model.level_names) if levels == "auto" else [levels], scales)


def _ways_of_score(model: MapModel) -> list[Way]:
    """Of the distance maps, the plainest first."""
    if getattr(model.config, "score_by", "maps") == "memory":
        return []
    return [("maps", levels, scale) for levels, scale in _ways(model, "score")]


def runs(names: Sequence[str]) -> list[Levels]:
    """All names, as (), then the shorter runs of neighbours.

    Examples:
        >>> from fastad.training.map_choice import runs
        >>> runs(["a", "b", "c"])
        [(), ('a', 'b'), ('b', 'c'), ('a',), ('b',), ('c',)]
    """
    count = len(names)
    shorter = (
        tuple(names[start : start + length])
        for length in range(count - 1, 0, -1)
        for start in range(count - length + 1)
    )
    return [(), *shorter]


def _parts(model: MapModel) -> list[Parts]:
    """What may be joined, the plainest first."""
    given = model.choice()
    weights = [given.pair_weights]
    if getattr(model.config, "pair_weights", None) == "auto":
        weights += [tuple(float(i == j) for j in range(model.pairs)) for i in range(model.pairs)]
    choose_subspace = model.subspace is not None and model.config.subspace == "auto"
    subspaces = [False, True] if choose_subspace else [given.subspace]
    return [(w, subspace) for subspace in subspaces for w in weights]


def _poolings(model: MapModel) -> Sequence[float]:
    if model.config.pooling != "auto":
        return [model.choice().pooling]
    return POOLINGS if model.poolings is None else model.poolings


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _row(pair_weights: tuple[float, ...], subspace: bool, **others: Any) -> dict[str, Any]:
    """With lists, as in a file: a record and one that was read are the same."""
    row = {**others, "pair_weights": pair_weights, "subspace": subspace}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}


def _words(row: Mapping[str, Any]) -> str:
    """A row of the record, like "by position, times the subspace's map"."""
    scale = row.get("scale_maps", row.get("scale_score"))
    words = ["not scaled" if scale == "none" else f"scaled by {scale}"]
    if row.get("score_by") == "memory":
        words = ["by the memory of normal images"]
    if levels := row.get("map_levels") or row.get("score_levels"):
        words.append(" and ".join(levels))
    weights = row["pair_weights"] if row.get("score_by") != "memory" else ()
    if sum(weight != 0 for weight in weights) == 1:
        words.append(f"pair {[weight != 0 for weight in weights].index(True) + 1} alone")
    elif any(weight != 1 for weight in weights):
        words.append(f"pairs weighted {' and '.join(f'{weight:g}' for weight in weights)}")
    if row["subspace"]:
        words.append("times the subspace's map")
    if "pooling" in row:
        share = row["pooling"]
        words.append(f"mean of the highest {100 * share:g} %" if share > 0 else "maximum")
    return ", ".join(words)
