"""scikit-learn's estimator conventions, without importing scikit-learn before it asks.

Parameters are the arguments of the constructor and, beyond them, the fields of the chosen model's
config: each is an attribute of the same name.
"""

import dataclasses
import inspect
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Subset

from fastad import models
from fastad._suggest import did_you_mean
from fastad._values import plain
from fastad.data.inputs import gathered, is_one
from fastad.data.layouts.naming import saying


class NotFittedError(ValueError, AttributeError):
    """The detector has not been trained or loaded; scikit-learn's error has the same bases."""


class Estimator:
    """Parameters by name, for `sklearn.base.clone`, grid searches and a readable ``repr``."""

    model: str

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments by name."""
        return {name: getattr(self, name) for name in self._arguments()} | self._options()

    def set_params(self, **params: Any) -> "Estimator":
        """Change arguments of the constructor; ValueError for one that is unknown."""
        known = [*self._arguments(), *model_options(params.get("model", self.model), params)]
        for name, value in params.items():
            if name not in known:
                raise ValueError(
                    f"invalid parameter {name!r} of {type(self).__name__}; there are: "
                    f"{', '.join(known)}"
                )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = self._arguments()
        shown = [
            f"{name}={value!r}"
            for name, value in plain(self.get_params()).items()
            if name != "model" and (name not in defaults or value != defaults[name])
        ]
        return f"{type(self).__name__}({', '.join([repr(plain(self.model)), *shown])})"

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags

        return Tags(
            estimator_type="outlier_detector",
            target_tags=TargetTags(required=False),
            input_tags=InputTags(two_d_array=False, string=True),
        )

    def _set_options(self, options: dict[str, Any]) -> None:
        known = model_options(self.model, options)
        for name, value in options.items():
            if name not in known:
                more = "; name a model for its own" if plain(self.model) == models.AUTO else ""
                raise TypeError(
                    f"unknown option {name!r} of {self.model}{did_you_mean(name, known)}"
                    f"{models.who_has(name)}; there are: {', '.join(known)}{more}"
                )
            setattr(self, name, value)

    def _options(self) -> dict[str, Any]:
        """The fields of the model's config that were given."""
        arguments = self._arguments()
        return {
            name: value
            for name, value in vars(self).items()
            if name not in arguments and not name.startswith("_") and not name.endswith("_")
        }

    @classmethod
    def _arguments(cls) -> dict[str, Any]:
        """The constructor's arguments and their defaults, without the model's options."""
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        return {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}


def model_options(model: Any, otherwise: dict[str, Any]) -> list[str]:
    """Fields of a model's config; for an unknown model ``otherwise``, as `fit` will refuse it."""
    try:
        config = models.config_class(model)
    except ValueError:
        return list(otherwise)
    return [field.name for field in dataclasses.fields(config)]


def normal_images(images: Any, y: Any) -> tuple[Any, int | None]:
    """Images without those that scikit-learn's ``y`` marks as anomalies, and how many there are.

    Of 1 and -1, as `Detector.predict_labels` gives them, those of -1 are left out with a warning.
    Other labels must all mark normal images: 0 or False, 1, or words such as "good"
    (`fastad.data.layouts.naming`). Where 0 and 1 are together nobody knows which is the defect.

    Raises ValueError or TypeError; the message names ``y`` and what selects the normal images.

    Examples:
        >>> from fastad._estimator import normal_images
        >>> normal_images(["a.png", "b.png"], ["good", "good"])
        (['a.png', 'b.png'], 2)
        >>> normal_images(["a.png", "b.png"], None)
        (['a.png', 'b.png'], None)
    """
    if y is None:
        return images, None
    labels = plain(y)
    if isinstance(labels, Sequence) and not isinstance(labels, str):
        labels = list(labels)  # a column of a data set, too
    if isinstance(labels, list) and all(isinstance(x, list) and len(x) == 1 for x in labels):
        labels = [label[0] for label in labels]  # a column (N, 1)
    if not isinstance(labels, (list, tuple)) or not all(
        isinstance(label, (bool, int, float, str)) for label in labels
    ):
        raise TypeError(f"y must be one label for each image, or None; got {y!r:.200}")
    counts = Counter((type(label) is bool, label) for label in labels)
    if set(counts) == {(False, 1), (False, -1)}:
        return _without_anomalies(images, labels)
    are_words = all(isinstance(label, str) for label in labels)
    if all(_is_normal(label) for _, label in counts) and (are_words or len(counts) < 2):
        return images, len(labels)
    found = ", ".join(f"{label!r} ({count})" for (_, label), count in counts.most_common(5))
    more = ", ..." if len(counts) > 5 else ""
    raise ValueError(
        f"y: fit trains on normal images alone, but the labels are {found}{more}. "
        f"{_selection([label for _, label in counts])}"
    )


def _without_anomalies(images: Any, labels: Sequence[Any]) -> tuple[Any, int]:
    images = gathered(images)
    if is_one(images) or not (hasattr(images, "__getitem__") or isinstance(images, Iterable)):
        raise ValueError("y: labels are of images given one by one; give a list of them")
    items = images if hasattr(images, "__len__") else list(images)
    if len(items) != len(labels):
        raise ValueError(f"y has {len(labels)} labels, but there are {len(items)} images")
    kept = [i for i, label in enumerate(labels) if label == 1]
    warnings.warn(
        f"y: {len(labels) - len(kept)} of {len(labels)} labels are -1, for anomalies: fit leaves "
        "those images out",
        stacklevel=4,
    )
    if isinstance(items, (np.ndarray, Tensor)):
        return items[kept], len(kept)
    normal = [items[i] for i in kept] if isinstance(items, Sequence) else Subset(items, kept)
    return normal, len(kept)


def _is_normal(label: bool | float | str) -> bool:
    if isinstance(label, str):
        return saying(label) == "normal"
    return label is False or (label is not True and label in (0, 1))


def _selection(labels: list[Any]) -> str:
    """What to do with labels of which not all are normal."""
    normal = [label for label in labels if _is_normal(label)]
    if 0 in normal:
        normal = [label for label in normal if label == 0]  # 1 is a defect then
    if len(normal) != 1:
        return "Give the normal images only, without y"
    chosen = f"[image for image, label in zip(images, y) if label == {normal[0]!r}]"
    return (
        f"If {normal[0]!r} marks normal images, give fit({chosen}), or give 1 for normal images "
        "and -1 for anomalies, which are left out"
    )
