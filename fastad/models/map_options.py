"""How distance maps become one map and one score: the options, and what was chosen for them."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from fastad._values import Options, is_integer, is_number
from fastad.backbones import FACTORS

SCALES = ("none", "level", "position")  # the plainest first
SCORES = ("maps", "memory")
AREA = re.compile(r"\s*[0-9.]+\s*(px|mm2|mm²)\s*")  # a pooling that is none of the share


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
        score_by: what the score is pooled from: the distance "maps", or the distances from the
            "memory" of normal images.

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
    score_by: str = "maps"

    def __post_init__(self) -> None:
        weights = self.pair_weights
        levels = (self.map_levels, self.score_levels)
        holds = (
            {self.scale_maps, self.scale_score} <= set(SCALES)
            and (is_number(self.pooling, 0) and self.pooling <= 1)
            and isinstance(weights, (list, tuple))
            and all(is_number(weight, 0) for weight in weights)
            and isinstance(self.subspace, bool)
            and self.score_by in SCORES
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
    """The options that such models have in common. Some with a student have two more, ``subspace``
    and ``score_by``."""

    scale_maps: str
    scale_score: str
    pooling: str | float
    subspace: str | bool
    score_by: str
    composition: bool
    overview: int

    def _check_maps(self) -> None:
        for field in ("scale_maps", "scale_score"):
            allowed = ("auto", *SCALES)
            self._require(field, getattr(self, field) in allowed, " or ".join(map(repr, allowed)))
        share = self.pooling
        holds = share in ("auto", "maximum") or (is_number(share, 0) and share <= 1)
        holds |= isinstance(share, str) and AREA.fullmatch(share) is not None
        self._require("pooling", holds, "'auto', 'maximum', a share from 0 to 1 or an area as 60px")
        if hasattr(self, "subspace"):
            holds = isinstance(self.subspace, bool) or self.subspace == "auto"
            self._require("subspace", holds, "'auto', True or False")
        if hasattr(self, "composition"):
            holds = isinstance(self.composition, bool)
            self._require("composition", holds, "True or False")
        if hasattr(self, "overview"):
            holds = is_integer(self.overview, 0) and self.overview in (0, *FACTORS)
            self._require("overview", holds, f"0, {' or '.join(map(str, FACTORS))}")
        if hasattr(self, "score_by"):
            holds = self.score_by in ("auto", *SCORES)
            self._require("score_by", holds, "'auto', 'maps' or 'memory'")
            has_overview = hasattr(self, "overview") and self.overview > 0
            if self.score_by == "memory" and has_overview:
                raise ValueError("score_by must be 'maps' with an overview: a memory has no scales")

    def given(self) -> dict[str, Any]:
        """The fields of `MapChoice` that are options and not "auto"."""
        names = [name for name in CHOSEN if hasattr(self, name)]
        found = {name: getattr(self, name) for name in names if getattr(self, name) != "auto"}
        pooling = found.get("pooling")
        if pooling == "maximum":
            found["pooling"] = 0.0
        elif isinstance(pooling, str):
            raise ValueError(
                f"pooling {pooling} is a share once images have a size, as in a detector"
            )
        return found

    @property
    def is_given(self) -> bool:
        """Whether none of these options is "auto"."""
        return "auto" not in (getattr(self, name, None) for name in CHOSEN)
