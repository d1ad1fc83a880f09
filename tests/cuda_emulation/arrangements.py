"""Feature tensors in every arrangement in memory that the kernels read in place."""

import torch
from torch import Tensor


def planar(x: Tensor) -> Tensor:
    return x.contiguous()


def interleaved(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def planar_slice(x: Tensor) -> Tensor:
    """Channels 1.. of a tensor with 3 more."""
    n, c, h, w = x.shape
    wider = torch.full((n, c + 3, h, w), torch.nan, dtype=x.dtype, device=x.device)
    wider[:, 1 : 1 + c] = x
    return wider[:, 1 : 1 + c]


def interleaved_slice(x: Tensor) -> Tensor:
    """The first channels of a channels_last tensor with 16 more: pixels stay aligned."""
    n, c, h, w = x.shape
    wider = torch.full((n, c + 16, h, w), torch.nan, dtype=x.dtype, device=x.device)
    wider = wider.contiguous(memory_format=torch.channels_last)
    wider[:, :c] = x
    return wider[:, :c]


def _shifted(x: Tensor) -> Tensor:
    """The same strides, one element off every alignment."""
    storage = torch.full((x.numel() + 1,), torch.nan, dtype=x.dtype, device=x.device)
    shifted = storage[1:].as_strided(x.shape, x.stride())
    shifted.copy_(x)
    return shifted


def planar_misaligned(x: Tensor) -> Tensor:
    return _shifted(planar(x))


def interleaved_misaligned(x: Tensor) -> Tensor:
    return _shifted(interleaved(x))


def channel_major(x: Tensor) -> Tensor:
    """(C, N, H, W) in memory."""
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def images_apart(x: Tensor) -> Tensor:
    """One element between images, so that only the first is aligned."""
    n, c, h, w = x.shape
    step = c * h * w + 1
    storage = torch.full((n * step,), torch.nan, dtype=x.dtype, device=x.device)
    apart = storage.as_strided(x.shape, (step, h * w, w, 1))
    apart.copy_(x)
    return apart


def one_image(x: Tensor) -> Tensor:
    """The first image, expanded over the batch."""
    return x[:1].contiguous().expand_as(x)


ARRANGEMENTS = {
    f.__name__: f
    for f in (
        planar,
        interleaved,
        planar_slice,
        interleaved_slice,
        planar_misaligned,
        interleaved_misaligned,
        channel_major,
        images_apart,
        one_image,
    )
}


def features(
    shapes: list[tuple[int, int, int]],
    arrangement: str = "planar",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    batch: int = 2,
) -> list[Tensor]:
    """Random levels (batch, C, H, W)."""
    arrange = ARRANGEMENTS[arrangement]
    return [arrange(torch.randn(batch, *s).to(device, dtype)) for s in shapes]


def spatial_weights(features: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Random weights (N, H, W), a fifth of them 0, in one arrangement after the other."""
    result = []
    for i, x in enumerate(features):
        n, _, h, w = x.shape
        kind = ["plain", "shared", "transposed", "images apart"][i % 4]
        shape = {"shared": (1, h, w), "transposed": (n, w, h), "images apart": (n, h + 1, w)}
        weights = torch.rand(shape.get(kind, (n, h, w)), dtype=torch.float64) + 0.1
        weights[torch.rand(weights.shape) < 0.2] = 0
        weights = weights.to(x.device, dtype)
        if kind == "transposed":
            weights = weights.transpose(1, 2)
        elif kind == "images apart":
            weights[:, h:] = torch.nan
        result.append(weights[:, :h].expand(n, h, w))
    return result


def channel_statistics(features: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Random means and inverse deviations (2, C) of each level, one of them misaligned."""
    result = []
    for i, x in enumerate(features):
        memory = torch.rand(2 * x.shape[1] + i % 2, dtype=torch.float64).to(x.device, dtype) + 0.5
        result.append(memory[i % 2 :].view(2, x.shape[1]))
    return result


def exact(tensors: list[Tensor], requires_grad: bool = False) -> list[Tensor]:
    """The same values in float64 on the CPU, as new leaves."""
    return [x.detach().cpu().double().contiguous().requires_grad_(requires_grad) for x in tensors]


# What may deviate from float64, relative to the largest value of a tensor: the rounding of what
# was computed, in float32 for every dtype but float64, and of what was stored.
STORED = {torch.float64: 1e-13, torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}


def computed(*tensors: Tensor) -> float:
    return 1e-13 if any(x.dtype == torch.float64 for x in tensors) else 5e-6


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Tensor by tensor, relative to the largest value expected; NaN never passes."""
    assert len(found) == len(expected)
    for f, e in zip(found, expected, strict=True):
        assert f.shape == e.shape
        if e.numel():
            scale = e.abs().max().clamp_min(1e-30)
            deviation = ((f.cpu().double() - e).abs().max() / scale).item()
            assert deviation <= tolerance, f"deviation {deviation:.3g} > {tolerance:.3g}"
