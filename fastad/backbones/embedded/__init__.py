"""The pretrained teacher inside the package: a ResNet-18 up to layer3; README.md is its card."""

from collections.abc import Sequence
from pathlib import Path

BACKBONE = "resnet18"
LAYERS = ("layer1", "layer2", "layer3")
PATH = Path(__file__).with_name("resnet18.safetensors")
# Of the file; `sha256sum fastad/backbones/embedded/resnet18.safetensors` gives the next one's.
SHA256 = "9689c896f6b495e069a82439c36e3a8769e63a44740bd31d7843e01acc331fce"


def covers(backbone: str, layers: Sequence[str]) -> bool:
    """Whether the file holds all that ``layers`` of ``backbone`` need."""
    return backbone == BACKBONE and set(layers) <= set(LAYERS)
