"""A score for scikit-learn's searches, where there are no images of real defects to judge by."""

from typing import Any

from fastad.detector import Detector


def synthesised_defects(
    detector: Detector, images: Any, y: object = None, *, count: int = 150
) -> float:
    """How well a detector tells good images from ones with synthesised defects: their AUROC.

    Give it to ``GridSearchCV`` as ``scoring=``. Each fold's images are good ones that the detector
    was not trained on. Defects are drawn on them (`Detector.check`), the same for all candidates.
    Test images stay unseen, so they can still say how good the chosen detector is.

    Args:
        detector: fitted, with a threshold.
        images: good images, in any form of `fastad.data.inputs`.
        y: not used; scikit-learn may pass it.
        count: so many defects.

    Returns:
        From 0 to 1. 0.5 is chance.

    Raises:
        ValueError: as `Detector.check`.

    Examples:
        >>> import numpy as np
        >>> from sklearn.model_selection import GridSearchCV
        >>> from fastad import Detector
        >>> from fastad.integrations import synthesised_defects
        >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
        >>> detector = Detector(
        ...     "subspace", image_size=32, teacher_weights="embedded", false_positive_rate=0.4
        ... )
        >>> search = GridSearchCV(
        ...     detector, {"smoothing": [0.0, 4.0]}, scoring=synthesised_defects, cv=2
        ... )
        >>> search = search.fit(good, self_check=False)
        >>> len(search.cv_results_["mean_test_score"]), bool(search.best_score_ > 0.5)
        (2, True)
    """
    return detector.check(images, count=count).image_auroc
