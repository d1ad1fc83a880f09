"""The pretrained teacher inside the package: a ResNet-18 up to layer3; README.md is its card."""

from collections.abc import Sequence
from pathlib import Path

BACKBONE = "resnet18"
LAYERS = ("layer1", "layer2", "layer3")
PATH = Path(__file__).with_name("resnet18.safetensors")
# Of the file; `sha256sum fastad/backbones/embedded/resnet18.safetensors` gives the next one's.
SHA256 = "2310ec5f478f0d4b3284cd222fb7020652546d79b1705f179777e92a615a93df"


def covers(backbone: str, layers: Sequence[str]) -> bool:
    """Whether the file holds all that ``layers`` of ``backbone`` need."""
    return backbone == BACKBONE and set(layers) <= set(LAYERS)
