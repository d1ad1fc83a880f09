"""What the package's own backbones have in common."""

from collections.abc import Sequence

from torch import nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LAYERS = ("layer1", "layer2", "layer3", "layer4")


class Backbone(nn.Module):
    """A network that returns the feature maps of the layers asked for, and is no deeper.

    Input (N, 3, H, W), of ImageNet's mean and standard deviation. Output: one feature map
    (N, channels[i], H / strides[i], W / strides[i]) for each of ``layers``, in their order. Sizes
    that strides do not divide round up, unless a network says otherwise.

    Attributes:
        layers: names of the feature maps returned, "layer1" to "layer4".
        channels: their channels.
        strides: pixels of the input a step in the feature map: 4, 8, 16, 32 from layer1 to layer4.
        signed: whether they hold values below 0: no ReLU comes last.
        origin: "embedded" or the name of the file that its weights were loaded from by
            `fastad.backbones.build`; None where they were drawn at random.
    """

    channels: list[int]
    strides: list[int]
    signed = False
    origin: str | None = None

    def __init__(self, layers: Sequence[str]):
        super().__init__()
        self.layers = tuple(layers)
