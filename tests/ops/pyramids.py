"""Random feature pyramids for the tests of the ops."""

import torch
from torch import Tensor

# (C, H, W) of the levels: the usual pyramid in small, odd sizes, single pixels, many channels.
SHAPES = {
    "pyramid": [(64, 16, 16), (128, 8, 8), (256, 4, 4)],
    "odd": [(5, 7, 9), (33, 13, 1), (17, 1, 11)],
    "pixel": [(2, 1, 1), (19, 1, 1)],
    "wide": [(1030, 3, 5)],
    "eight": [(3 + i, 1 + i, 9 - i) for i in range(8)],
    "blocks": [(64, 40, 41)],
}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def pyramid(
    shapes: list[tuple[int, int, int]],
    batch: int = 2,
    dtype: torch.dtype = torch.float32,
    layout: str = "contiguous",
    device: str = "cpu",
    requires_grad: bool = False,
) -> list[Tensor]:
    return [
        torch.randn(batch, *shape)
        .to(device, dtype)
        .contiguous(memory_format=LAYOUTS[layout])
        .requires_grad_(requires_grad)
        for shape in shapes
    ]


def doubled(features: list[Tensor]) -> list[Tensor]:
    """The same values in float64, as leaves of a graph of their own."""
    return [x.detach().double().requires_grad_(x.requires_grad) for x in features]


# What a result computed and stored in a dtype may deviate from float64, relative to the largest
# value: float32 accumulation for every dtype, and the rounding of a stored gradient.
COMPUTED = {torch.float64: 1e-13}
STORED = {torch.float64: 1e-13, torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}


def deviation(result: Tensor, expected: Tensor) -> float:
    assert result.shape == expected.shape
    scale = expected.abs().max().clamp_min(1e-30) if expected.numel() else 1.0
    return ((result.double() - expected).abs().max() / scale).item() if expected.numel() else 0.0
