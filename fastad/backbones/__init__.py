"""Networks that turn an image into a pyramid of feature maps, and their pretrained weights.

Any ``nn.Module`` that returns a list (or tuple) of feature maps (N, C_l, H_l, W_l) is a backbone.
`build` makes those of the package. Open `weights` for where pretrained weights come from, and
`availability` for which network "auto" is.
"""

import copy
import os
from collections.abc import Sequence

from torch import Tensor, nn

from fastad.backbones import embedded
from fastad.backbones.availability import (
    FROM_PIP,
    auto_backbone,
    can_be_had,
    check_weights,
    has_weights,
)
from fastad.backbones.base import LAYERS, Backbone
from fastad.backbones.efficientnet_lite import EfficientNetLite
from fastad.backbones.networks import NAMES, make
from fastad.backbones.resnet import ResNet
from fastad.backbones.timm_networks import TimmBackbone, is_timm
from fastad.backbones.two_scales import FACTORS, TwoScales, reduced
from fastad.backbones.weights import (
    IncompleteWeightsError,
    WeightsNotFoundError,
    load,
)

__all__ = [
    "FACTORS",
    "FROM_PIP",
    "NAMES",
    "Backbone",
    "EfficientNetLite",
    "IncompleteWeightsError",
    "ResNet",
    "TimmBackbone",
    "TwoScales",
    "WeightsNotFoundError",
    "auto_backbone",
    "build",
    "can_be_had",
    "check_names",
    "check_weights",
    "extract",
    "fresh_copy",
    "has_weights",
    "reduced",
]


def build(
    name: str,
    layers: Sequence[str] = ("layer1", "layer2", "layer3"),
    weights: str | os.PathLike | None = None,
) -> Backbone:
    """Make a backbone that returns the feature maps of ``layers``, in the order given.

    What comes after the deepest of ``layers`` is neither made nor run.

    Args:
        name: one of `NAMES`, or "timm:NAME" for a network of timm (`TimmBackbone`).
        layers: any of "layer1" to "layer4".
        weights: None or "random" for a random initialisation from torch's generator. Otherwise a
            file, a folder, "embedded" or "auto". See `fastad.backbones.weights.load`.

    Raises:
        ValueError: unknown name or layer, or a weight file that does not fit.
        WeightsNotFoundError: "auto" found no weights, or "embedded" has none for this network.

    Examples:
        >>> import torch
        >>> from fastad import backbones
        >>> backbone = backbones.build("resnet18", layers=("layer3", "layer1"), weights="embedded")
        >>> backbone.channels, backbone.strides
        ([256, 64], [16, 4])
        >>> [tuple(features.shape) for features in backbone(torch.rand(2, 3, 64, 64))]
        [(2, 256, 4, 4), (2, 64, 16, 16)]
    """
    check_names(name, layers)
    if is_timm(name):
        return TimmBackbone(name, layers, weights)
    backbone = make(name, layers)
    path = load(weights, name, backbone)
    if path is not None:
        backbone.origin = "embedded" if path == embedded.PATH else path.name
    return backbone


def check_names(name: str, layers: Sequence[str], auto: bool = False) -> None:
    """ValueError for an unknown backbone, or for layers that it does not have.

    ``auto``: whether the name may be "auto".
    """
    if name not in NAMES and not is_timm(name) and not (auto and name == "auto"):
        raise ValueError(f"unknown backbone {name!r}; there are {', '.join(NAMES)}, and timm:NAME")
    if isinstance(layers, str) or not layers or not set(layers) <= set(LAYERS):
        raise ValueError(
            f"layers must be a sequence of names among {', '.join(LAYERS)}; got {layers!r}"
        )


def extract(backbone: nn.Module, images: Tensor | tuple[Tensor, Tensor]) -> list[Tensor]:
    """Run ``backbone`` on (N, 3, H, W) and check what it returns: a list of (N, C_l, H_l, W_l).

    Raises:
        TypeError: it returned something else; the message says what.
    """
    features = backbone(images)
    is_list = isinstance(features, (list, tuple)) and len(features) > 0
    if is_list and all(isinstance(f, Tensor) and f.dim() == 4 for f in features):
        return list(features)
    raise TypeError(
        f"a backbone must return a list of feature maps (N, C, H, W); "
        f"{type(backbone).__name__} returned {_describe(features)}"
    )


def fresh_copy(backbone: nn.Module) -> nn.Module:
    """A copy of ``backbone`` with newly drawn parameters, for use as a student.

    Raises:
        ValueError: a module of it holds parameters but has no ``reset_parameters`` to draw them.
    """
    backbone = copy.deepcopy(backbone)
    for name, module in backbone.named_modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        elif any(True for _ in module.parameters(recurse=False)):
            raise ValueError(
                f"cannot make a student from {type(backbone).__name__}: its module {name!r} "
                f"({type(module).__name__}) has no reset_parameters(); give the student itself"
            )
    return backbone.requires_grad_(True)


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a dict with keys {list(value)}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of [{', '.join(map(_describe, value))}]"
    return f"{type(value).__name__} {value!r}"[:200]
