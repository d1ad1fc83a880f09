"""What a detector would find, without a real defect at hand: synthesised ones on good images.

Kinds and sizes of the defects are those of `fastad.data.TrialDefects`. No model learns from these
kinds. They are no real defects: a detector that misses them is weak, and one that finds them may
still miss what a product really gets.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastad.data import TrialDefects
from fastad.data.folder import Images
from fastad.data.synthesis.conditions import disturbed
from fastad.data.synthesis.trial import KINDS, SIZES
from fastad.evaluation.accumulator import Evaluation
from fastad.evaluation.shares import ExactShare

Predict = Callable[[Tensor], tuple[np.ndarray, np.ndarray]]
# Least share found, over all kinds and sizes, for a word on a detector.
VERDICTS = ((0.8, "strong"), (0.5, "fair"), (0.0, "weak"))
CHANCE, ALARMS = "no better than chance", "too many false alarms"
UNCERTAIN = "too few good images to judge its false alarms"
MOST_DISTURBED = 100  # good images that are looked at under each of the other conditions
ANY_PROMISE = 0.5  # of the good images: more alarms are too many whatever was promised


@dataclass(frozen=True)
class Tried:
    """One synthesised defect, and what the detector said.

    Attributes:
        kind, size: of `fastad.data.TrialDefects`.
        image: (H, W, 3) uint8 with the defect.
        mask: (H, W) bool, its pixels.
        score: of the image.
        anomaly_map: (h, w) floats.
        found: whether the score is above the threshold.
    """

    kind: str
    size: str
    image: np.ndarray
    mask: np.ndarray
    score: float
    anomaly_map: np.ndarray
    found: bool


@dataclass(frozen=True)
class CheckResult:
    """What a detector finds of synthesised defects, and what it says of the good images.

    Attributes:
        threshold: an image with a higher score is called anomalous.
        promised: share of good images that are above it at most. None where nobody knows.
        found: {kind: {size: defects found of those tried}}.
        new_alarms: good images above the threshold, of those that the detector never saw.
        held_out_alarms: the same of the held-out images of its training. The threshold was set by
            them, so they say nothing about new ones.
        disturbed: {condition: good images above the threshold under it}, of at most 100 good images
            of all. The names are those of `fastad.data.synthesis.DISTURBANCES`. "undisturbed" are
            the same images as they are. Empty where nobody asked.
        trained_on: images given that are left out, because the detector was trained on them.
        image_auroc: of the images with defects against the good ones.
        image_auroc_interval: its 95 % bootstrap interval.
        pixel_auroc, aupro: of the masks of the defects, over all these images.
        per_kind: {kind: {"image_auroc", "pixel_auroc", "aupro"}} against all good images.
        seed: of the defects.
        notes: what a reader of the numbers has to know.
    """

    threshold: float
    promised: float | None
    found: Mapping[str, Mapping[str, ExactShare]]
    new_alarms: ExactShare
    held_out_alarms: ExactShare
    image_auroc: float
    image_auroc_interval: tuple[float, float]
    pixel_auroc: float
    aupro: float
    per_kind: Mapping[str, Mapping[str, float]]
    seed: int
    disturbed: Mapping[str, ExactShare] = field(default_factory=dict)
    trained_on: int = 0
    notes: Sequence[str] = field(default=())

    @property
    def by_kind(self) -> dict[str, ExactShare]:
        """Defects found of each kind, of all sizes."""
        return {kind: _sum(sizes.values()) for kind, sizes in self.found.items()}

    @property
    def by_size(self) -> dict[str, ExactShare]:
        """Defects found of each size, of all kinds."""
        return {size: _sum(sizes[size] for sizes in self.found.values()) for size in SIZES}

    @property
    def total(self) -> ExactShare:
        """Defects found of all."""
        return _sum(self.by_kind.values())

    @property
    def alarms(self) -> ExactShare:
        """False alarms on new images, where there are any, else on the held-out ones."""
        return self.new_alarms if self.new_alarms.total else self.held_out_alarms

    @property
    def breaks_promise(self) -> bool:
        """Whether the interval of the false alarms on new images lies above what was promised."""
        interval = self.new_alarms.interval
        return interval is not None and interval[0] > self._most_alarms

    @property
    def has_few_images(self) -> bool:
        """Whether new images have more false alarms than promised, and are too few to tell more."""
        share, interval = self.new_alarms.rate, self.new_alarms.interval
        if share is None or interval is None:
            return False
        return share > self._most_alarms and interval[1] > ANY_PROMISE and not self.breaks_promise

    @property
    def _most_alarms(self) -> float:
        """The share of good images that was promised."""
        return ANY_PROMISE if self.promised is None else self.promised

    @property
    def verdict(self) -> str:
        """ "strong" where at least 80 % of the defects are found, "fair" from 50 % on, else "weak".

        `CHANCE` where the interval of the image AUROC reaches down to 0.5. Otherwise `ALARMS` where
        the false alarms break what was promised, `UNCERTAIN` where they may.
        """
        if self.image_auroc_interval[0] <= 0.5:
            return CHANCE
        if self.breaks_promise:
            return ALARMS
        if self.has_few_images:
            return UNCERTAIN
        rate = self.total.rate or 0.0
        return next(word for least, word in VERDICTS if rate >= least)

    @property
    def summary(self) -> str:
        """All of it in a line."""
        sizes = ", ".join(
            f"{size} {share.rate:.0%}".replace("%", " %")
            for size, share in self.by_size.items()
            if share.rate is not None
        )
        good, alarms = self.alarms, self.alarms.hits
        number = "no false alarm" if alarms == 0 else f"{alarms} false alarm{'s' * (alarms > 1)}"
        whose = "new" if self.new_alarms.total else "held-out"
        return (
            f"finds {self.total.hits} of {self.total.total} synthesised defects ({sizes}) at "
            f"{number} in {good.total} {whose} good image{'s' * (good.total != 1)}: {self.verdict}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings, for JSON."""
        return {
            "summary": self.summary,
            "verdict": self.verdict,
            "threshold": self.threshold,
            "promised_false_positive_rate": self.promised,
            "found": self.total.to_dict(),
            "by_size": {size: share.to_dict() for size, share in self.by_size.items()},
            "by_kind": {
                kind: share.to_dict() | dict(self.per_kind[kind])
                for kind, share in self.by_kind.items()
                if kind in self.per_kind
            },
            "by_kind_and_size": {
                kind: {size: share.to_dict() for size, share in sizes.items()}
                for kind, sizes in self.found.items()
            },
            "false_alarms": {
                "new": self.new_alarms.to_dict(),
                "held_out": self.held_out_alarms.to_dict(),
            },
            "false_alarms_under_other_conditions": {
                name: share.to_dict() for name, share in self.disturbed.items()
            },
            "image_auroc": self.image_auroc,
            "image_auroc_interval": list(self.image_auroc_interval),
            "pixel_auroc": self.pixel_auroc,
            "aupro": self.aupro,
            "trained_on_and_left_out": self.trained_on,
            "seed": self.seed,
            "notes": list(self.notes),
        }


def check(
    predict: Predict,
    images: Images,
    indices: Sequence[int] | None = None,
    *,
    threshold: float,
    promised: float | None = None,
    held_out: Collection[int] = (),
    count: int = 150,
    seed: int = 0,
    batch_size: int = 32,
    inside: np.ndarray | None = None,
    disturbances: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    observe: Callable[[Tried], None] | None = None,
) -> CheckResult:
    """Put synthesised defects on good images, and count what a detector finds at its threshold.

    Args:
        predict: images (N, 3, H, W), of the dtype of ``images`` -> scores (N,) and anomaly maps
            (N, h, w) with h = H and w = W.
        images: good ones that the detector was not trained on: a map-style data set or a tensor
            (N, 3, H, W).
        indices: of the images to use. None for all.
        threshold: an image with a higher score is called anomalous.
        promised: share of good images that it may exceed, to compare with.
        held_out: those of the indices whose images set the threshold.
        count: number of defects. A multiple of 15 has each kind in each size as often.
        seed: of the defects and their places. The same seed gives every detector the same ones.
        batch_size: images in one call of ``predict``, at least 1.
        inside: (H, W) bool, a region of interest in which the defects lie, and whose pixels alone
            count. None for the whole image.
        disturbances: other conditions under which good images are looked at, too: names in
            `fastad.data.synthesis.DISTURBANCES`.
        progress: is called with the number of images done and of all.
        observe: is called with every defect. The arrays are valid during the call only.

    Raises:
        ValueError: there are no images, they are below 32 pixels a side, ``count`` or ``seed`` is
            out of range, or a score or map is not finite.

    Examples:
        Check a detector of your own. This one looks for what is far from grey.

        >>> import torch
        >>> from fastad.evaluation import check
        >>> def predict(images):
        ...     maps = (images.float().mean(dim=1) - 128).abs().numpy()
        ...     return maps.max(axis=(1, 2)), maps
        >>> result = check(
        ...     predict, torch.full((10, 3, 64, 64), 128, dtype=torch.uint8), threshold=10, count=30
        ... )
        >>> result.total.total, result.new_alarms
        (30, ExactShare(hits=0, total=10))
    """
    chosen = list(range(len(images)) if indices is None else map(int, indices))
    defects = TrialDefects(images, chosen, count=count, seed=seed, inside=inside)
    defects.indices = _spread(defects)
    evaluation, done, threshold = Evaluation(inside=inside), 0, float(threshold)
    of_threshold = set(held_out)
    alarms = {True: [0, 0], False: [0, 0]}  # of held-out and of new images: above, all
    above: dict[int, bool] = {}
    conditioned = _evenly(chosen, MOST_DISTURBED) if disturbances else []

    def report(number: int) -> None:
        nonlocal done
        done += number
        if progress is not None:
            progress(done, len(chosen) + len(defects) + len(disturbances) * len(conditioned))

    for part in _parts(chosen, batch_size):
        batch = torch.stack([_image(images[index]) for index in part])
        scores, maps = _run(predict, batch)
        for index, score in zip(part, scores, strict=True):
            seen = alarms[index in of_threshold]
            above[index] = bool(score > threshold)
            seen[0] += above[index]
            seen[1] += 1
        evaluation.update(np.zeros(maps.shape, bool), maps, [0] * len(part), scores)
        report(len(part))
    found = {kind: dict.fromkeys(SIZES, ExactShare(0, 0)) for kind in KINDS}
    for part in _parts(range(len(defects)), batch_size):
        items = [defects[index] for index in part]
        scores, maps = _run(predict, torch.stack([item["image"] for item in items]))
        kinds, sizes = [defects.kind(i) for i in part], [defects.size(i) for i in part]
        masks = np.stack([item["mask"].cpu().numpy() for item in items])
        evaluation.update(masks, maps, [1] * len(part), scores, kinds)
        for n, item in enumerate(items):
            is_found = bool(scores[n] > threshold)
            found[kinds[n]][sizes[n]] += ExactShare(int(is_found), 1)
            if observe is not None:
                image, score = _pixels(item["image"]), float(scores[n])
                observe(Tried(kinds[n], sizes[n], image, masks[n], score, maps[n], is_found))
        report(len(part))
    shares = {}
    if disturbances:
        hits = sum(above[index] for index in conditioned)
        shares["undisturbed"] = ExactShare(hits, len(conditioned))
    for name in disturbances:
        hits = 0
        for part in _parts(conditioned, batch_size):
            changed = [disturbed(_image(images[index]), name, seed=index) for index in part]
            scores, _ = _run(predict, torch.stack(changed))
            hits += int((scores > threshold).sum())
            report(len(part))
        shares[name] = ExactShare(hits, len(conditioned))
    metrics = evaluation.compute()
    names = ("image_auroc", "pixel_auroc", "aupro")
    return CheckResult(
        threshold,
        promised,
        found,
        ExactShare(*alarms[False]),
        ExactShare(*alarms[True]),
        **{name: metrics[name] for name in (*names, "image_auroc_interval")},
        per_kind={
            kind: {name: row[name] for name in names} for kind, row in metrics["per_defect"].items()
        },
        disturbed=shares,
        seed=defects.seed,
    )


def _spread(defects: TrialDefects) -> list[int]:
    """The image of each defect: all as often, in an order that kinds and sizes do not follow."""
    indices, count = defects.indices, len(defects)
    rng = np.random.default_rng([defects.seed, 3])  # no key of a defect
    if count <= len(indices):
        order = rng.permutation(np.linspace(0, len(indices) - 1, count).round().astype(int))
    else:
        rounds = -(-count // len(indices))
        order = np.concatenate([rng.permutation(len(indices)) for _ in range(rounds)])
    return [indices[i] for i in order[:count]]


def _evenly(items: Sequence[int], most: int) -> list[int]:
    """The items, or so many of them in even distances."""
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _run(predict: Predict, batch: Tensor) -> tuple[np.ndarray, np.ndarray]:
    scores, maps = map(np.asarray, predict(batch))
    if scores.shape != (len(batch),) or maps.shape != (len(batch), *batch.shape[2:]):
        raise ValueError(
            f"predict must give scores (N,) and maps (N, H, W) for images {tuple(batch.shape)}; "
            f"got shapes {scores.shape} and {maps.shape}"
        )
    return scores.astype(np.float64), maps


def _parts(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _image(item: Any) -> Tensor:
    return item["image"] if isinstance(item, Mapping) else item


def _pixels(image: Tensor) -> np.ndarray:
    """(3, H, W) of any form as (H, W, 3) uint8."""
    levels = image if image.dtype == torch.uint8 else (image.clamp(0, 1) * 255).round().byte()
    return levels.permute(1, 2, 0).cpu().numpy()


def _sum(shares: Iterable[ExactShare]) -> ExactShare:
    return sum(shares, start=ExactShare(0, 0))
