"""The features that every bench of the ops runs on: ResNet-18's layer1 to layer3."""

import torch
from torch import Tensor

LEVELS = ((64, 4), (128, 8), (256, 16))  # channels, stride


def pyramid(
    batch: int,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    size: int = 256,
    device: str = "cpu",
    requires_grad: bool = False,
) -> list[Tensor]:
    """Normal random features of images of ``size`` x ``size``: list of (N, C_l, H_l, W_l)."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return [
        torch.randn(batch, channels, size // stride, size // stride, device=device)
        .to(dtype)
        .contiguous(memory_format=layout)
        .requires_grad_(requires_grad)
        for channels, stride in LEVELS
    ]
