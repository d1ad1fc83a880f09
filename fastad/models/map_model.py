"""Models that answer with distance maps: how the maps become one map and one score.

Where a student errs on good images too, at edges or on a texture, the map is high without a defect.
Dividing by the mean over good images, at each position, takes that out. It helps where the product
lies still, and hurts where defects lie at the places that vary. The score of an image is pooled
from its highest pixels: one for small defects, many for large ones. No choice is right for all
products, so "auto" leaves it to synthesised defects (`fastad.training.map_choice`).
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from fastad import ops
from fastad._values import Options, is_number
from fastad.models.base import AnomalyModel, Batches, Prediction
from fastad.models.maps import GRID, PositionMeans, mean_of_highest
from fastad.models.residual import SubspaceResidual, patch_features

SCALES = ("none", "level", "position")  # the plainest first
LEVELS_OF_SUBSPACE = 2  # the last ones: earlier ones show texture, not the product
LEAST_MEAN = 1e-12  # a level without any distance stays without


@dataclass(frozen=True)
class MapChoice:
    """How distance maps are joined and pooled.

    Attributes:
        scale_maps, scale_score: what they are divided by for the anomaly map, and for the score:
            one of `SCALES`.
        pooling: the score is the mean of this share of the pixels, the highest ones. 0 takes the
            maximum.
        pair_weights: factors of the pairs of a model that adds pairs. Empty for 1.
        map_levels, score_levels: names of the levels that are multiplied for the anomaly map, and
            for the score, of a model that has `MapModel.level_names`. Empty for all.
        subspace: whether the map is multiplied by that of the subspace.

    Raises:
        ValueError: a value that is none of these.
    """

    scale_maps: str = "none"
    scale_score: str = "none"
    pooling: float = 0.0
    pair_weights: tuple[float, ...] = ()
    subspace: bool = False
    map_levels: tuple[str, ...] = ()
    score_levels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        weights = self.pair_weights
        levels = (self.map_levels, self.score_levels)
        holds = (
            {self.scale_maps, self.scale_score} <= set(SCALES)
            and (is_number(self.pooling, 0) and self.pooling <= 1)
            and isinstance(weights, (list, tuple))
            and all(is_number(weight, 0) for weight in weights)
            and isinstance(self.subspace, bool)
            and all(isinstance(names, (list, tuple)) for names in levels)
            and all(isinstance(name, str) for names in levels for name in names)
        )
        if not holds:
            raise ValueError(f"there is no such way to join maps: {self}")
        object.__setattr__(self, "pair_weights", tuple(map(float, weights)))
        object.__setattr__(self, "map_levels", tuple(self.map_levels))
        object.__setattr__(self, "score_levels", tuple(self.score_levels))


# Names of its fields; torch.compile cannot ask a dataclass for them.
CHOSEN = tuple(field.name for field in dataclasses.fields(MapChoice))


class MapOptions(Options):
    """The options that such models have in common. Models with a student have ``subspace``, too."""

    scale_maps: str
    scale_score: str
    pooling: str | float
    subspace: str | bool

    def _check_maps(self) -> None:
        for field in ("scale_maps", "scale_score"):
            allowed = ("auto", *SCALES)
            self._require(field, getattr(self, field) in allowed, " or ".join(map(repr, allowed)))
        share = self.pooling
        holds = share in ("auto", "maximum") or (is_number(share, 0) and share <= 1)
        self._require("pooling", holds, "'auto', 'maximum' or a share from 0 to 1")
        if hasattr(self, "subspace"):
            holds = isinstance(self.subspace, bool) or self.subspace == "auto"
            self._require("subspace", holds, "'auto', True or False")

    def given(self) -> dict[str, Any]:
        """The fields of `MapChoice` that are options and not "auto"."""
        names = [name for name in CHOSEN if hasattr(self, name)]
        found = {name: getattr(self, name) for name in names if getattr(self, name) != "auto"}
        if found.get("pooling") == "maximum":
            found["pooling"] = 0.0
        return found

    @property
    def is_given(self) -> bool:
        """Whether none of these options is "auto"."""
        return "auto" not in (getattr(self, name, None) for name in CHOSEN)


class Evidence(NamedTuple):
    """What a model found in a batch of images, before it is scaled and joined.

    Attributes:
        maps: distance maps (N, H_l, W_l), not scaled. The last one is the subspace's, where there
            is one.
        factors: further maps (N, h, w) by which the joined map is multiplied.
        score_factor: (N,) by which the score is multiplied; None for 1.
        score_maps: as many other distance maps, that the score is joined of. Empty for ``maps``.
    """

    maps: Sequence[Tensor]
    factors: Sequence[Tensor] = ()
    score_factor: Tensor | None = None
    score_maps: Sequence[Tensor] = ()


class MapModel(AnomalyModel):
    """A model whose answer is joined from distance maps: subclasses give `level_maps` and `join`.

    Attributes:
        unchosen: what "auto" is until it is chosen, and where nothing can choose.
        chosen: what "auto" came to; None before.
        pairs: how many pairs' maps are added, each with a weight.
        level_names: of the levels, where each of them may be left out. Empty where none may.
        subspace: of the teacher's patch features, a second opinion whose errors are others than
            the student's. None without.
        distance_means: (levels, 64, 64) means of the distance maps over normal images, at each
            position of a grid over the image; ones until `calibrate_maps`. In the order of
            `level_maps`.
    """

    unchosen: ClassVar[MapChoice] = MapChoice()
    pairs: ClassVar[int] = 1
    level_names: tuple[str, ...] = ()
    chosen: MapChoice | None = None
    subspace: SubspaceResidual | None
    distance_means: Tensor

    def _add_maps(self, levels: int, channels: Sequence[int] = ()) -> None:
        """Called by a subclass's constructor, once the number of its distance maps is known.

        ``channels`` of the levels that are compared, of the ``pair``'s teacher, for models that
        have the option ``subspace``.
        """
        self._levels, self._channels = levels, tuple(channels)
        self.subspace = None
        if channels and self.config.subspace is not False:
            self.subspace = SubspaceResidual(sum(channels[-LEVELS_OF_SUBSPACE:])).to(self.mean)
            levels += 1
        self.register_buffer("distance_means", self.mean.new_ones(levels, GRID, GRID))

    def scalings(self) -> Sequence[str]:
        """Those of `SCALES` that may order places or images differently, the plainest first.

        A product of levels is only multiplied by a number where each is divided by one.
        """
        return ("none", "position")

    def subspace_maps(self, teacher: Sequence[Tensor]) -> list[Tensor]:
        """The map (N, h, w) of what the subspace leaves of the teacher's levels; none without."""
        return [] if self.subspace is None else [self.subspace(self._patches(teacher))]

    def fit_subspace(self, levels: Iterable[Sequence[Tensor]]) -> None:
        """Take the subspace from the teacher's levels of batches of good images."""
        if self.subspace is not None:
            self.subspace.fit(self.places(self._patches(own)) for own in levels)

    def _patches(self, levels: Sequence[Tensor]) -> Tensor:
        """The patch features (N, D, h, w) that the subspace is of, in the maps' precision."""
        last = levels[: len(self._channels)][-LEVELS_OF_SUBSPACE:]
        return patch_features([level.to(self.distance_means.dtype) for level in last])

    def finish_stage(self, train: Batches) -> None:
        """Take the subspace of the features of the ``pair``'s teacher, kept ones if there are."""
        if self.subspace is None or self.pair is None:
            return
        name = self.pair[0]
        self.fit_subspace(
            batch.get(name) or self.teacher_features(batch["image"])[name] for batch in train()
        )

    def level_maps(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """The distance maps (N, H_l, W_l), not scaled, of a batch as in `loss`.

        Those of the score come behind, where it has others (`Evidence`). The last one is
        `subspace_maps`', where there is one.
        """
        raise NotImplementedError

    def evidence(self, batch: Mapping[str, Any]) -> Evidence:
        """What is found in a batch as in `loss`."""
        return Evidence(self.level_maps(batch))

    def join(
        self, maps: Sequence[Tensor], factors: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Scaled distance maps -> anomaly map (N, *size), and its maxima (N,)."""
        raise NotImplementedError

    def choice(self) -> MapChoice:
        """What the options say. For what is "auto" what was chosen, or else `unchosen`."""
        given = self.config.given()
        if self.chosen is None and "scale_maps" in given:  # both alike, where nothing chose
            given.setdefault("scale_score", given["scale_maps"])
        return dataclasses.replace(self.chosen or self.unchosen, **given)

    def choose(self, choice: MapChoice) -> None:
        """Take this for what is "auto". A subspace that is not used is dropped."""
        self.chosen = choice
        if self.subspace is not None and not self.choice().subspace:
            self.subspace = None
            self.distance_means = self.distance_means[:-1].clone()

    def forget_choice(self) -> None:
        """Be ready for another training, after which it is chosen anew."""
        if self.chosen is not None:
            self.chosen = None
            self._add_maps(self._levels, self._channels)

    def scaled(self, maps: Sequence[Tensor], scale: str, first: int = 0) -> list[Tensor]:
        """Distance maps (N, H_l, W_l), divided by their means as ``scale`` says.

        Nothing is amplified where normal images are quieter than elsewhere, as on the background:
        where the mean is below that of the level, that is taken. ``maps`` are those of `level_maps`
        from the one with the index ``first`` on.
        """
        means = self.distance_means[first : first + len(maps)]
        if scale == "none":
            return list(maps)
        if scale == "level":
            return [level / mean.mean() for level, mean in zip(maps, means, strict=True)]
        return [
            level / ops.aggregate_maps([torch.maximum(mean, mean.mean())[None]], level.shape[-2:])
            for level, mean in zip(maps, means, strict=True)
        ]

    def joined(
        self,
        found: Evidence,
        size: tuple[int, int],
        scale: str,
        choice: MapChoice,
        of_score: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """What was found, scaled one way and joined: anomaly map (N, *size), its maxima (N,).

        ``of_score``: of the maps and levels of the score.
        """
        levels, factors = choice.map_levels, list(found.factors)
        if of_score:
            levels = choice.score_levels
        if of_score and found.score_maps:
            scaled = self.scaled(found.score_maps, scale, first=len(found.maps))
        else:
            scaled = self.scaled(found.maps, scale)
        if levels:
            named = zip(self.level_names, scaled, strict=True)
            scaled = [level for name, level in named if name in levels]
        if self.subspace is not None:
            *scaled, left = scaled
            factors += [left] if choice.subspace else []
        anomaly_map, maxima = self.join(_weighted(scaled, choice.pair_weights), factors, size)
        return (anomaly_map, maxima) if self.roi is None else self.inside(anomaly_map, maxima)

    def inside(self, anomaly_map: Tensor, maxima: Tensor) -> tuple[Tensor, Tensor]:
        """What `join` gave, where there is a roi: the map 0 outside, and its maxima inside."""
        assert self.roi is not None
        kept = self.roi.keep(anomaly_map)
        return kept, kept.amax(dim=(1, 2))

    def judge(self, found: Evidence, size: tuple[int, int]) -> Prediction:
        """What was found -> score (N,) and anomaly map (N, *size), as `choice` says."""
        choice = self.choice()
        anomaly_map, maxima = self.joined(found, size, choice.scale_maps, choice)
        scored = anomaly_map
        apart = choice.scale_score != choice.scale_maps or choice.score_levels != choice.map_levels
        if apart or found.score_maps:
            scored, maxima = self.joined(found, size, choice.scale_score, choice, of_score=True)
        score = maxima
        if choice.pooling > 0:
            score = mean_of_highest(scored, choice.pooling, self.roi)
        if found.score_factor is not None:
            score = score * found.score_factor
        return Prediction(score, anomaly_map)

    def answer(self, batch: Mapping[str, Any]) -> Prediction:
        """Score and anomaly map of a batch as in `loss`."""
        like = batch["image"] if "image" in batch else batch["mask"]
        return self.judge(self.evidence(batch), (like.shape[-2], like.shape[-1]))

    def forward(self, images: Tensor) -> Prediction:
        """Images (N, 3, H, W) in [0, 1] -> score (N,) and anomaly map (N, H, W)."""
        return self.answer({"image": images})

    def falls_with_roi(self) -> bool:
        """Where the score is a maximum."""
        return self.choice().pooling == 0

    def can_renew_means(self) -> bool:
        """Whether other `distance_means` suit the trained model: it divides by them, and no network
        in it has learned from maps so divided."""
        choice = self.choice()
        return {choice.scale_maps, choice.scale_score} != {"none"}

    def calibrate_maps(self, good: Batches) -> None:
        """Take the means of the distance maps from normal images."""
        means = [PositionMeans(self.roi) for _ in self.distance_means]
        for batch in good():
            for mean, level in zip(means, self.level_maps(batch), strict=True):
                mean.add(level.to(self.distance_means.dtype))
        found = torch.stack([mean.result() for mean in means])
        self.distance_means.copy_(found.clamp_min(LEAST_MEAN))

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        # Files of models that had no means yet scale by none.
        state.setdefault(prefix + "distance_means", torch.ones_like(self.distance_means))
        super()._load_from_state_dict(state, prefix, *rest)


def _weighted(maps: Sequence[Tensor], weights: Sequence[float]) -> list[Tensor]:
    """Distance maps, pair after pair, times the weights of their pairs."""
    if all(weight == 1 for weight in weights):
        return list(maps)
    each = len(maps) // len(weights)
    return [level * weights[index // each] for index, level in enumerate(maps)]
