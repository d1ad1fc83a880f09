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
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastad import ops
from fastad._values import Options, is_number
from fastad.models.base import AnomalyModel, Batches, Prediction
from fastad.models.maps import GRID, PositionMeans, mean_of_highest
from fastad.models.residual import Residual, patch_features

SCALES = ("none", "level", "position")  # the plainest first
LEVELS_OF_SUBSPACE = 2  # the last ones: earlier ones show texture, not the product
LEAST_MEAN = 1e-12  # a level without any distance stays without
POOLINGS = (0.0, 0.003, 0.01, 0.03)  # shares that "auto" chooses from; 0 is the maximum


@dataclass(frozen=True)
class MapChoice:
    """How distance maps are joined and pooled.

    Attributes:
        scale_maps, scale_score: what they are divided by for the anomaly map, and for the score.
        pooling: the score is the mean of this share of the pixels, the highest ones. 0 takes the
            maximum.
        pair_weights: factors of the pairs of a model that adds pairs.
        subspace: whether the map is multiplied by that of the subspace.
    """

    scale_maps: str = "none"
    scale_score: str = "none"
    pooling: float = 0.0
    pair_weights: tuple[float, ...] = ()
    subspace: bool = False


class MapOptions(Options):
    """The options that such models have in common."""

    scale_maps: str
    scale_score: str
    pooling: str | float
    subspace: str | bool  # of models with a student

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


class MapModel(AnomalyModel):
    """A model whose answer is joined from distance maps: subclasses give `level_maps` and `join`.

    Attributes:
        unchosen: what "auto" is until it is chosen, and where nothing can choose.
        chosen: what "auto" came to; None before.
        pairs: whose maps are added, each with a weight.
        subspace: of the teacher's patch features, a second opinion whose errors are others than
            the student's. None without.
        distance_means: (levels, 64, 64) means of the distance maps over normal images, at each
            position of a grid over the image; ones until `calibrate_maps`. The last one is of the
            subspace's map, where there is one.
    """

    unchosen: ClassVar[MapChoice] = MapChoice()
    pairs: ClassVar[int] = 1
    chosen: MapChoice | None = None
    subspace: Residual | None
    distance_means: Tensor

    def _add_maps(self, levels: int, channels: Sequence[int] = ()) -> None:
        """Called by a subclass's constructor, once the number of its distance maps is known.

        ``channels`` of the teacher's levels, for models whose option ``subspace`` is not False.
        """
        self.subspace = None
        if channels and self.config.subspace is not False:
            self.subspace = Residual(sum(channels[-LEVELS_OF_SUBSPACE:]))
            levels += 1
        self.register_buffer("distance_means", torch.ones(levels, GRID, GRID))

    def subspace_maps(self, teacher: Sequence[Tensor]) -> list[Tensor]:
        """The map (N, h, w) of what the subspace leaves of the teacher's levels; none without."""
        if self.subspace is None:
            return []
        levels = [level.to(self.distance_means.dtype) for level in teacher[-LEVELS_OF_SUBSPACE:]]
        return [self.subspace(patch_features(levels))]

    def fit_subspace(self, levels: Iterable[Sequence[Tensor]]) -> None:
        """Take the subspace from the teacher's levels of batches of good images."""
        if self.subspace is not None:
            self.subspace.fit(
                patch_features([x.to(self.distance_means.dtype) for x in of[-LEVELS_OF_SUBSPACE:]])
                for of in levels
            )

    def level_maps(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """The distance maps (N, H_l, W_l), not scaled, of a batch as in `loss`.

        The last one is `subspace_maps`', where there is one.
        """
        raise NotImplementedError

    def factors(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Further maps (N, h, w) by which the joined one is multiplied, from the distance maps."""
        return []

    def join(
        self, maps: Sequence[Tensor], factors: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Scaled distance maps -> anomaly map (N, *size), and its maxima (N,)."""
        raise NotImplementedError

    def choice(self) -> MapChoice:
        """What the options say. For what is "auto" what was chosen, or else `unchosen`."""
        config, known = self.config, self.chosen or self.unchosen
        given: dict[str, Any] = {}
        if config.scale_maps != "auto":
            given["scale_maps"] = config.scale_maps
            if self.chosen is None:
                given["scale_score"] = config.scale_maps
        if config.scale_score != "auto":
            given["scale_score"] = config.scale_score
        if config.pooling != "auto":
            given["pooling"] = 0.0 if config.pooling == "maximum" else float(config.pooling)
        weights = getattr(config, "pair_weights", "auto")
        if weights != "auto":
            given["pair_weights"] = tuple(weights)
        if isinstance(getattr(config, "subspace", None), bool):
            given["subspace"] = config.subspace
        return dataclasses.replace(known, **given)

    def choose(self, choice: MapChoice) -> None:
        """Take this for what is "auto". A subspace that is not used is dropped."""
        self.chosen = choice
        if self.subspace is not None and not self.choice().subspace:
            self.subspace = None
            self.distance_means = self.distance_means[:-1].clone()

    def scaled(self, maps: Sequence[Tensor], scale: str) -> list[Tensor]:
        """Distance maps (N, H_l, W_l), divided by their means as ``scale`` says.

        Nothing is amplified where normal images are quieter than elsewhere, as on the background:
        where the mean is below that of the level, that is taken.
        """
        if scale == "none":
            return list(maps)
        pairs = list(zip(maps, self.distance_means, strict=False))  # of the first, where not all
        if scale == "level":
            return [level / mean.mean() for level, mean in pairs]
        return [
            level / ops.aggregate_maps([torch.maximum(mean, mean.mean())[None]], level.shape[-2:])
            for level, mean in pairs
        ]

    def joined(
        self,
        maps: Sequence[Tensor],
        factors: Sequence[Tensor],
        size: tuple[int, int],
        scale: str,
        choice: MapChoice,
    ) -> tuple[Tensor, Tensor]:
        """Distance maps, scaled one way and joined: anomaly map (N, *size), its maxima (N,)."""
        scaled = self.scaled(maps, scale)
        if self.subspace is not None:
            *scaled, left = scaled
            factors = [*factors, left] if choice.subspace else factors
        return self.join(self.weighted(scaled, choice.pair_weights), factors, size)

    def weighted(self, maps: Sequence[Tensor], weights: Sequence[float]) -> list[Tensor]:
        """Distance maps times the weights of their pairs."""
        if not weights or all(weight == 1 for weight in weights):
            return list(maps)
        each = len(maps) // len(weights)
        return [level * weights[index // each] for index, level in enumerate(maps)]

    def judge(
        self,
        maps: Sequence[Tensor],
        size: tuple[int, int],
        factors: Sequence[Tensor] | None = None,
        choice: MapChoice | None = None,
    ) -> Prediction:
        """Distance maps, not scaled -> score (N,) and anomaly map (N, *size)."""
        choice = self.choice() if choice is None else choice
        factors = self.factors(maps) if factors is None else factors
        anomaly_map, maxima = self.joined(maps, factors, size, choice.scale_maps, choice)
        scored = anomaly_map
        if choice.scale_score != choice.scale_maps:
            scored, maxima = self.joined(maps, factors, size, choice.scale_score, choice)
        score = mean_of_highest(scored, choice.pooling) if choice.pooling > 0 else maxima
        return Prediction(score, anomaly_map)

    def answer(self, batch: Mapping[str, Any]) -> Prediction:
        """Score and anomaly map of a batch as in `loss`."""
        like = batch["image"] if "image" in batch else batch["mask"]
        return self.judge(self.level_maps(batch), (like.shape[-2], like.shape[-1]))

    def forward(self, images: Tensor) -> Prediction:
        """Images (N, 3, H, W) in [0, 1] -> score (N,) and anomaly map (N, H, W)."""
        return self.answer({"image": images})

    def calibrate_maps(self, good: Batches) -> None:
        """Take the means of the distance maps from normal images."""
        means = [PositionMeans() for _ in self.distance_means]
        for batch in good():
            for mean, level in zip(means, self.level_maps(batch), strict=True):
                mean.add(level.to(self.distance_means.dtype))
        found = torch.stack([mean.result() for mean in means])
        self.distance_means.copy_(found.clamp_min(LEAST_MEAN))

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        # Files of models that had no means yet scale by none.
        state.setdefault(prefix + "distance_means", torch.ones_like(self.distance_means))
        super()._load_from_state_dict(state, prefix, *rest)
