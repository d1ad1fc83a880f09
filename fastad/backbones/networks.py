"""The package's backbones by name."""

from collections.abc import Sequence

from fastad.backbones import efficientnet_lite, resnet
from fastad.backbones.base import Backbone
from fastad.backbones.efficientnet_lite import EfficientNetLite
from fastad.backbones.resnet import ResNet
from fastad.backbones.timm_networks import TimmBackbone, is_timm

NAMES = (*resnet.ARCHITECTURES, *efficientnet_lite.ARCHITECTURES)


def make(name: str, layers: Sequence[str]) -> Backbone:
    """A network of randomly drawn weights; ``name`` is one of `NAMES`, or "timm:NAME"."""
    if is_timm(name):
        return TimmBackbone(name, layers)
    if name in resnet.ARCHITECTURES:
        return ResNet(resnet.ARCHITECTURES[name], layers)
    return EfficientNetLite(efficientnet_lite.ARCHITECTURES[name], layers)
