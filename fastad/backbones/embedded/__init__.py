"""The pretrained teacher inside the package: a ResNet-18 up to layer3; README.md is its card."""

from collections.abc import Sequence
from pathlib import Path

BACKBONE = "resnet18"
LAYERS = ("layer1", "layer2", "layer3")
PATH = Path(__file__).with_name("resnet18.safetensors")
# Of the file; `sha256sum fastad/backbones/embedded/resnet18.safetensors` gives the next one's.
SHA256 = "729365dc9f6911d085f729ebbb6878e0941c99ca4ac01e232237caeeede612eb"


def covers(backbone: str, layers: Sequence[str]) -> bool:
    """Whether the file holds all that ``layers`` of ``backbone`` need."""
    return backbone == BACKBONE and set(layers) <= set(LAYERS)
