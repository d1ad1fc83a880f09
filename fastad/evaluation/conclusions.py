"""What the numbers of an evaluation mean, in sentences: what a reader must not overlook."""

import math
from collections.abc import Mapping
from typing import Any

from fastad.evaluation.shares import exact_interval


def missing_classes(counts: Mapping[str, int]) -> list[str]:
    """That a test set has no defects, or no good images, and what is unknown for it."""
    if not counts["defect"]:
        return ["image and pixel scores are undefined (NaN): no test image has a defect"]
    if not counts["normal"]:
        return ["image scores are undefined (NaN): no test image is normal"]
    return []


def conclusions(
    metrics: Mapping[str, Any], *, large_masks: int, promised: float | None
) -> list[str]:
    """Sentences on the metrics of `fastad.evaluation.evaluate`; none where all is as it should be.

    Args:
        metrics: with ``at_threshold`` where there is a threshold.
        large_masks: how many of the defects' masks mark more than half of their image.
        promised: largest share of good images above the threshold; None where nothing is.
    """
    counts = metrics["counts"]
    texts = missing_classes(counts)
    low, high = metrics["image_auroc_interval"]
    interval = f"image AUROC {metrics['image_auroc']:.2f}, 95 % interval {low:.2f} to {high:.2f}"
    if high < 0.5:
        texts.append(
            f"worse than chance: {interval}. Good images score higher than defects: see whether "
            "the folders of good images and defects are mixed up, or train anew"
        )
    elif low <= 0.5:  # NaN is neither
        texts.append(
            f"no better than chance: {interval}. The detector does not tell these defects from "
            "good images, or there are too few test images to show it"
        )
    if promised is not None and counts["normal"] and "at_threshold" in metrics:
        rate = metrics["at_threshold"]["false_positive_rate"]
        alarms = round(rate * counts["normal"])
        least, most = exact_interval(alarms, counts["normal"])
        if least > promised:
            texts.append(
                f"the promise is broken: {alarms} of {counts['normal']} good test images are "
                f"called anomalous ({rate:.1%}, 95 % interval {least:.1%} to {most:.1%}), at most "
                f"{promised:.1%} were promised. These images are not like the held-out ones: see "
                "what differs, or train with such images"
            )
    masked = counts["defect"] - counts["defect_without_mask"]
    if 2 * large_masks > masked:
        below = metrics["pixel_auroc"] < 0.5
        found = f", and the pixel AUROC is {metrics['pixel_auroc']:.2f}" * below
        texts.append(
            f"the masks look inverted: {large_masks} of {masked} mark more than half of their "
            f"image{found}. What is not black is the defect"
        )
    elif metrics["pixel_auroc"] < 0.5 and not math.isnan(metrics["pixel_auroc"]):
        texts.append(
            f"pixels are told apart worse than by chance: pixel AUROC "
            f"{metrics['pixel_auroc']:.2f}. See whether each mask belongs to its image"
        )
    return texts
