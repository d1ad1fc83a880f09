"""Models that answer with distance maps: how the maps become one map and one score.

Where a student errs on good images too, at edges or on a texture, the map is high without a defect.
Dividing by the mean over good images, at each position, takes that out. It helps where the product
lies still, and hurts where defects lie at the places that vary. The score of an image is pooled
from its highest pixels: one for small defects, many for large ones. No choice is right for all
products, so "auto" leaves it to synthesised defects (`fastad.training.map_choice`).
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from fastad import ops
from fastad.models.base import AnomalyModel, Batches, Prediction
from fastad.models.composition import LEVELS as LEVELS_OF_COMPOSITION
from fastad.models.composition import QUANTILE, Composition
from fastad.models.map_options import MapChoice
from fastad.models.maps import GRID, PositionMeans, mean_of_highest
from fastad.models.memory import LevelMemories
from fastad.models.residual import SubspaceResidual, patch_features

LEVELS_OF_SUBSPACE = 2  # the last ones: earlier ones show texture, not the product
LEAST_MEAN = 1e-12  # a level without any distance stays without
SMOOTHING = 4.0  # pixels; of the memory's map, as PatchCore has it by default


class Evidence(NamedTuple):
    """What a model found in a batch of images, before it is scaled and joined.

    Attributes:
        maps: distance maps (N, H_l, W_l), not scaled. The last one is the subspace's, where there
            is one.
        factors: further maps (N, h, w) by which the joined map is multiplied.
        score_factor: (N,) by which the score is multiplied; None for 1.
        score_maps: as many other distance maps, that the score is joined of. Empty for ``maps``.
        memory_maps: distances (N, H_l, W_l) of the teacher's levels from the memory; empty without.
        composition: how far each image's composition is from that of good images, (N,); None where
            it is not asked for.
    """

    maps: Sequence[Tensor]
    factors: Sequence[Tensor] = ()
    score_factor: Tensor | None = None
    score_maps: Sequence[Tensor] = ()
    memory_maps: Sequence[Tensor] = ()
    composition: Tensor | None = None


class MapModel(AnomalyModel):
    """A model whose answer is joined from distance maps: subclasses give `level_maps` and `join`.

    Attributes:
        unchosen: what "auto" is until it is chosen, and where nothing can choose.
        chosen: what "auto" came to; None before.
        pairs: how many pairs' maps are added, each with a weight.
        level_names: of the levels, where each of them may be left out, at both scales where there
            are two. Empty where none may.
        subspace: of the teacher's patch features, a second opinion whose errors are others than
            the student's. None without.
        memory: of the teacher's levels, for another score than the student's. None without.
        composition: of what kinds of patches good images are. None without.
        poolings: what an "auto" pooling is chosen from, shares of the pixels, 0 for the maximum.
            None for those of `fastad.training.map_choice`.
        scale_factors: (2,) by which map and score of the overview are multiplied before those of
            the image are compared with them; 1 until `settle_scales`. Only of `scales_apart`.
        distance_means: (levels, 64, 64) means of the distance maps over normal images, at each
            position of a grid over the image; ones until `calibrate_maps`. In the order of
            `level_maps`.
    """

    unchosen: ClassVar[MapChoice] = MapChoice()
    pairs: ClassVar[int] = 1
    level_names: tuple[str, ...] = ()
    chosen: MapChoice | None = None
    poolings: Sequence[float] | None = None
    subspace: SubspaceResidual | None
    memory: LevelMemories | None
    composition: Composition | None
    scale_factors: Tensor
    distance_means: Tensor

    def _add_maps(
        self, levels: int, channels: Sequence[int] = (), widths: Sequence[int] = ()
    ) -> None:
        """Called by a subclass's constructor, once the number of its distance maps is known.

        ``channels`` of the levels that are compared, of the ``pair``'s teacher, for models that
        have the options ``subspace`` or ``score_by``. ``widths`` are the channels of another
        model's levels.
        """
        self._levels, self._channels, self._widths = levels, tuple(channels), tuple(widths)
        self.subspace = self.memory = self.composition = None
        if getattr(self.config, "composition", False):
            last = (channels or widths)[-LEVELS_OF_COMPOSITION:]
            self.composition = Composition(sum(last)).to(self.mean)
        if self.scales_apart:
            self.register_buffer("scale_factors", self.mean.new_ones(2))
        elif channels and getattr(self.config, "score_by", "maps") != "maps":
            self.memory = LevelMemories(channels).to(self.mean)
        if channels and self.config.subspace is not False:
            self.subspace = SubspaceResidual(sum(channels[-LEVELS_OF_SUBSPACE:])).to(self.mean)
            levels += 1
        self.register_buffer("distance_means", self.mean.new_ones(levels, GRID, GRID))

    def composition_of(self, teacher: Sequence[Tensor]) -> Tensor | None:
        """How far the composition of each image is from that of good images (N,), by the teacher's
        levels; None where it is not asked for."""
        return None if self.composition is None else self.composition(teacher, self.roi)

    def settle_composition(self, good: Batches) -> None:
        """Compare the composition with the score of the maps on held-out good images. Until then it
        does not count."""
        if self.composition is None:
            return
        self.composition.factor.zero_()
        distances, scores = [], []
        for batch in good():
            found = self.evidence(batch)
            assert found.composition is not None
            distances.append(found.composition)
            scores.append(self.judge(found, (batch["image"].shape[-2:])).score)
        self.composition.settle(torch.cat(distances), torch.cat(scores))

    def settle_scales(self, good: Batches) -> None:
        """Compare image and overview on held-out good images: the maxima of their maps become equal
        at the quantile of 0.95. Nothing where there is no overview."""
        if not self.scales_apart:
            return
        choice, highest = self.choice(), []
        for batch in good():
            found, size = self.evidence(batch), batch["image"].shape[-2:]
            of_map = self._joined_by_scale(found, size, choice.scale_maps, choice)
            of_score = self._joined_by_scale(found, size, choice.scale_score, choice, of_score=True)
            maxima = [self.inside(*each)[1] for each in (*of_map, *of_score)]
            highest.append(torch.stack(maxima).double())
        image, overview = torch.cat(highest, dim=1).quantile(QUANTILE, dim=1).view(2, 2).T
        self.scale_factors.copy_(image / overview.clamp_min(LEAST_MEAN))

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

    def memory_maps(self, teacher: Sequence[Tensor]) -> list[Tensor]:
        """How far the teacher's levels are from the memory, at each place: a map (N, H_l, W_l) of
        each level. None where there is no memory, or the score does not go by it."""
        if self.memory is None or not self.asks_memory():
            return []
        return self.memory(teacher[: len(self._channels)])

    def asks_memory(self) -> bool:
        """Whether there is a memory, and the score goes by it or may come to."""
        may = self.chosen is None or self.choice().score_by == "memory"
        return may and self.memory is not None and self.memory.is_filled

    def finish_stage(self, train: Batches) -> None:
        """Take subspace, memory and composition of the features of the ``pair``'s teacher, kept
        ones if there are."""
        if self.pair is None:
            return
        name = self.pair[0]

        def levels() -> Iterable[Sequence[Tensor]]:
            for batch in train():
                yield batch.get(name) or self.teacher_features(batch["image"])[name]

        if self.subspace is not None:
            self.fit_subspace(levels())
        if self.memory is not None:
            count = len(self._channels)
            self.memory.fit((each[:count] for each in levels()), self.places)
        if self.composition is not None:
            count = len(self._channels)
            self.composition.fit(lambda: (each[:count] for each in levels()), self.roi)

    def asks_teacher(self) -> bool:
        """Whether the teacher's levels are looked at by themselves, not only beside a student's."""
        return self.subspace is not None or self.composition is not None or self.asks_memory()

    def evidence_of(self, maps: Sequence[Tensor], teacher: Sequence[Tensor]) -> Evidence:
        """Distance maps, and what the teacher's levels say by themselves of memory and
        composition."""
        memory, composition = self.memory_maps(teacher), self.composition_of(teacher)
        return Evidence(maps, memory_maps=memory, composition=composition)

    def level_maps(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """The distance maps (N, H_l, W_l), not scaled, of a batch as in `loss`.

        Those of the score come behind, where it has others (`Evidence`). The last one is
        `subspace_maps`', where there is one.
        """
        raise NotImplementedError

    def evidence(self, batch: Mapping[str, Any]) -> Evidence:
        """What is found in a batch as in `loss`."""
        return Evidence(self.level_maps(batch))

    def local_evidence(self, batch: Mapping[str, Any]) -> Evidence:
        """What tiles of an image give of its `evidence`: all but what `completed` adds."""
        return self.evidence(batch)

    def completed(self, found: Evidence) -> Evidence:
        """`evidence` from the `local_evidence` of whole images."""
        return found

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
        """Take this for what is "auto". A subspace or a memory that is not used is dropped."""
        self.chosen = choice
        if not self.choice().subspace:
            self.drop_subspace()
        if self.choice().score_by != "memory":
            self.memory = None

    def drop_subspace(self) -> None:
        """Go without the subspace, where there is one."""
        if self.subspace is not None:
            self.subspace = None
            self.distance_means = self.distance_means[:-1].clone()

    def forget_choice(self) -> None:
        """Be ready for another training, after which it is chosen anew."""
        if self.chosen is not None:
            self.chosen = None
            self._add_maps(self._levels, self._channels, self._widths)

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

        ``of_score``: of the maps and levels of the score. Where it goes by the memory, of that,
        and of the maps as long as the memory is empty, as in the first stage of a training.
        """
        if of_score and choice.score_by == "memory" and found.memory_maps:
            anomaly_map, maxima = ops.aggregate_maps(
                found.memory_maps, size, smoothing=SMOOTHING, return_maximum=True
            )
            return self.inside(anomaly_map, maxima)
        scales = self._joined_by_scale(found, size, scale, choice, of_score)
        anomaly_map, maxima = scales[0]
        if self.scales_apart:
            factor = self.scale_factors[int(of_score)]
            anomaly_map = torch.maximum(anomaly_map, factor * scales[1][0])
            maxima = torch.maximum(maxima, factor * scales[1][1])
        return self.inside(anomaly_map, maxima)

    def _joined_by_scale(
        self,
        found: Evidence,
        size: tuple[int, int],
        scale: str,
        choice: MapChoice,
        of_score: bool = False,
    ) -> list[tuple[Tensor, Tensor]]:
        """As `joined`, of the image, and of the overview where that has maps of its own.

        Those of two scales are in units of their usual distances, also where ``scale`` is "none":
        so they can be compared whatever levels are joined.
        """
        if self.scales_apart and scale == "none":
            scale = "level"
        levels = choice.score_levels if of_score else choice.map_levels
        factors = list(found.factors)
        if of_score and found.score_maps:
            scaled = self.scaled(found.score_maps, scale, first=len(found.maps))
        else:
            scaled = self.scaled(found.maps, scale)
        if self.subspace is not None:
            *scaled, left = scaled
            factors += [left] if choice.subspace else []
        scales = self.of_scales(scaled)
        if levels:
            scales = [
                [level for name, level in zip(self.level_names, own, strict=True) if name in levels]
                for own in scales
            ]
        return [self.join(_weighted(own, choice.pair_weights), factors, size) for own in scales]

    def inside(self, anomaly_map: Tensor, maxima: Tensor) -> tuple[Tensor, Tensor]:
        """What `join` gave, with a roi: the map 0 outside, and its maxima inside."""
        if self.roi is None:
            return anomaly_map, maxima
        kept = self.roi.keep(anomaly_map)
        return kept, kept.amax(dim=(1, 2))

    def judge(self, found: Evidence, size: tuple[int, int]) -> Prediction:
        """What was found -> score (N,) and anomaly map (N, *size), as `choice` says."""
        choice = self.choice()
        anomaly_map, maxima = self.joined(found, size, choice.scale_maps, choice)
        scored = anomaly_map
        apart = choice.scale_score != choice.scale_maps or choice.score_levels != choice.map_levels
        if apart or found.score_maps or choice.score_by == "memory":
            scored, maxima = self.joined(found, size, choice.scale_score, choice, of_score=True)
        score = maxima
        if choice.pooling > 0:
            score = mean_of_highest(scored, choice.pooling, self.roi)
        if found.score_factor is not None:
            score = score * found.score_factor
        if found.composition is not None and self.composition is not None:
            score = torch.maximum(score, found.composition * self.composition.factor)
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
        return self.choice().pooling == 0 and self.composition is None

    def can_renew_means(self) -> bool:
        """Whether other `distance_means` suit the trained model: it divides by them, and no network
        in it has learned from maps so divided."""
        choice = self.choice()
        return {choice.scale_maps, choice.scale_score} != {"none"}

    def calibrate_maps(self, good: Batches) -> None:
        """Take the means of the distance maps from normal images."""
        self.calibrate_from(self.level_maps(batch) for batch in good())

    def calibrate_from(self, maps: Iterable[Sequence[Tensor]]) -> None:
        """As `calibrate_maps`, from the `level_maps` of batches of them."""
        means = [PositionMeans(self.roi) for _ in self.distance_means]
        for levels in maps:
            for mean, level in zip(means, levels, strict=True):
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
