"""Backbones of timm by name, ``timm:NAME``: any that timm gives feature maps of.

timm is imported where such a name is first used. In a network that halves its maps, "layer1" to
"layer4" are its last maps of strides 4, 8, 16 and 32. In a vision transformer all maps have one
stride: there they are the tokens after a quarter, a half, three quarters and all of its blocks,
reshaped to maps by timm.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastad.backbones.base import IMAGENET_MEAN, IMAGENET_STD, LAYERS, Backbone

PREFIX = "timm:"
# Options by which transformers take images of any size.
ANY_SIZE = ({"dynamic_img_size": True, "dynamic_img_pad": True}, {"strict_img_size": False})


def is_timm(name: str) -> bool:
    """Whether a backbone's name is one of timm's."""
    return name.startswith(PREFIX)


class TimmBackbone(Backbone):
    """A network of timm. Images whose sides patches do not divide are padded by timm.

    Args:
        name: with the prefix.
        layers: of "layer1" to "layer4".
        weights: None or "random" for none, a file in timm's layout, or "auto" for timm's own
            pretrained weights, from its cache or a download.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm has no such network, no feature maps of it, no weights for it, or it has no
            map of a layer's stride.
        FileNotFoundError: there is no such file.
    """

    signed = True

    def __init__(
        self, name: str, layers: Sequence[str], weights: str | os.PathLike[str] | None = None
    ):
        super().__init__(layers)
        given: dict[str, Any] = {"pretrained": False}
        if weights not in (None, "random"):
            given["pretrained"] = True
            self.origin = "timm"
            if weights != "auto":
                path = check_file(name, weights)
                given["pretrained_cfg_overlay"] = {"file": str(path)}
                self.origin = path.name
        reductions = _reductions(name)
        indices = [_index(name, layer, reductions) for layer in self.layers]
        self.network = _network(name, given | {"out_indices": tuple(sorted(set(indices)))})
        self._order = [sorted(set(indices)).index(index) for index in indices]
        info = self.network.feature_info
        self.channels = [info.channels()[i] for i in self._order]
        self.strides = [info.reduction()[i] for i in self._order]
        of_timm = getattr(self.network, "pretrained_cfg", None) or {}
        mean, std = (
            torch.tensor(tuple(of_timm.get(key) or usual))
            for key, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))
        )
        factor = torch.tensor(IMAGENET_STD) / std
        shift = (torch.tensor(IMAGENET_MEAN) - mean) / std
        self.register_buffer("factor", factor[:, None, None], persistent=False)
        self.register_buffer("shift", shift[:, None, None], persistent=False)

    factor: Tensor
    shift: Tensor

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.network(images * self.factor + self.shift)
        chosen = [maps[i] for i in self._order]
        # Some transformers of timm have their channels last.
        return [
            one if one.shape[1] == channels else one.permute(0, 3, 1, 2)
            for one, channels in zip(chosen, self.channels, strict=True)
        ]


def check_file(name: str, weights: str | os.PathLike[str]) -> Path:
    """The weight file; FileNotFoundError where there is none."""
    path = Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no weight file {path} (for {name})")
    return path


def _reductions(name: str) -> list[int]:
    """The strides of all maps that a network has; of a transformer, one for each block."""
    network = _network(name, {"pretrained": False})
    found = list(network.feature_info.reduction())
    if len(set(found)) == 1:  # timm gives the last blocks alone where it is not asked
        return found[:1] * len(network.model.feature_info)
    return found


def _index(name: str, layer: str, reductions: Sequence[int]) -> int:
    """Which of a network's maps is ``layer``."""
    number = LAYERS.index(layer)
    if len(set(reductions)) == 1:
        return (number + 1) * len(reductions) // len(LAYERS) - 1
    stride = 4 << number
    found = [index for index, reduction in enumerate(reductions) if reduction == stride]
    if not found:
        raise ValueError(
            f"{name} has no {layer}, which is a map of stride {stride}; it has maps of strides "
            f"{', '.join(map(str, reductions))}"
        )
    return found[-1]


def _network(name: str, given: dict[str, Any]) -> Any:
    """timm's network of feature maps."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"the backbone {name} needs timm: pip install timm") from error
    own = name.removeprefix(PREFIX)
    try:
        for options in ANY_SIZE:
            try:
                return timm.create_model(own, features_only=True, **given, **options)
            except TypeError:  # this network does not have these options
                pass
        return timm.create_model(own, features_only=True, **given)
    except Exception as error:  # timm raises a dozen kinds
        raise ValueError(f"timm gives no backbone {name}: {str(error)[:200]}") from error
