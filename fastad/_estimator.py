"""scikit-learn's estimator conventions, without importing scikit-learn before it asks.

Parameters are the arguments of the constructor and, beyond them, the fields of the chosen model's
config: each is an attribute of the same name.
"""

import dataclasses
import inspect
from typing import Any

from fastad import models
from fastad._values import plain


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
                raise TypeError(
                    f"unknown option {name!r} of {self.model}; there are: {', '.join(known)}"
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
    model = plain(model)
    kind = models.MODELS.get(model) if isinstance(model, str) else None
    if kind is None:
        return list(otherwise)
    return [field.name for field in dataclasses.fields(kind.Config)]
