"""``auto``: no model, but several that are trained, of which the best one is kept.

No model is best on every product. A student tells small changes of a product that lies still, where
nearest neighbours tell unseen patches of one that varies. Which of them finds more synthesised
defects on held-out good images decides (`fastad.inference.fitting`).
"""

from dataclasses import dataclass

from fastad.models.map_options import MapOptions

AUTO = "auto"
CANDIDATES = ("patchcore", "rstpm")  # the quickest first: what it needs is refused soonest


@dataclass
class AutoConfig(MapOptions):
    """Options of ``auto``: those that all its candidates have.

    Attributes:
        teacher_weights: "auto", "embedded", a path, or None ("random"), of all candidates.
        scale_maps: what distance maps are divided by for the anomaly map: "none", their mean over
            good images, of the "level" or at each "position", or "auto": what finds more
            synthesised defects on held-out good images.
        scale_score: likewise for the score of an image.
        pooling: an image's score is the mean of this share of its pixels, the highest ones.
            "60px" takes an area of original pixels, "maximum" the highest one alone.
            "auto" chooses as above.
    """

    teacher_weights: str | None = "auto"
    scale_maps: str = "auto"
    scale_score: str = "auto"
    pooling: str | float = "auto"

    def __post_init__(self) -> None:
        self._make_plain()
        self._check_maps()
