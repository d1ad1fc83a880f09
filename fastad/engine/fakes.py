"""What the results of prediction's CPU ops look like, for torch.compile and opcheck."""

import torch
from torch import Tensor


@torch.library.register_fake("fastad::pack_3x3")
def _(weight: Tensor, int16: bool = False) -> Tensor:
    filters, channels = weight.shape[:2]
    shape = (filters // 32, 36, channels + 2 * int16, 32)
    return weight.new_empty(shape, dtype=torch.int16 if int16 else torch.float32)


@torch.library.register_fake("fastad::pack_int16")
def _(weight: Tensor) -> Tensor:
    filters, channels, side, _ = weight.shape
    shape = ((filters + 31) // 32, side * side * channels + 2, 32)
    return weight.new_empty(shape, dtype=torch.int16)


@torch.library.register_fake("fastad::convolve_int16")
def _(
    x: Tensor, weight: Tensor, bias: Tensor, filters: int, side: int, stride: int, relu: bool
) -> Tensor:
    height, width = ((size + stride - 1) // stride for size in x.shape[2:])
    return x.new_empty((len(x), height, width, filters)).permute(0, 3, 1, 2)


@torch.library.register_fake("fastad::convolve_int16_add_")
def _(added: Tensor, x: Tensor, weight: Tensor, bias: Tensor, side: int, relu: bool) -> None:
    return None


@torch.library.register_fake("fastad::residual_networks")
def _(
    images: Tensor, weights: list[Tensor], biases: list[Tensor], steps: list[int], padding: int
) -> list[Tensor]:
    slots = {0: _after_stem(images, padding)}
    results: list[tuple[int, int, int]] = []
    for index in range(0, len(steps), 7):  # fields, as in csrc/convolution/networks.cpp
        _, stride, _, start, _, to, filters = steps[index : index + 7]
        before = slots[start] if start >= 0 else results[-2 - start][:2]
        height, width = ((length + stride - 1) // stride for length in before)
        if to >= 0:
            slots[to] = (height, width)
        else:
            results.append((height, width, filters))
    count = len(biases[0]) * len(images)
    return [images.new_empty((count, *size)).permute(0, 3, 1, 2) for size in results]


@torch.library.register_fake("fastad::convolve_3x3")
def _(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    batch, _, height, width = x.shape
    return x.new_empty((batch, height, width, bias.shape[-1])).permute(0, 3, 1, 2)


@torch.library.register_fake("fastad::convolve_3x3_add_")
def _(added: Tensor, x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> None:
    return None


@torch.library.register_fake("fastad::conv1x1_strided")
def _(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    height, width = ((size + stride - 1) // stride for size in x.shape[2:])
    return x.new_empty((len(x), height, width, bias.shape[-1])).permute(0, 3, 1, 2)


@torch.library.register_fake("fastad::separable_stem")
def _(images: Tensor, scaling: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    height, width = ((size + 1) // 2 for size in images.shape[2:])
    return images.new_empty((len(images), height, width, len(bias))).permute(0, 3, 1, 2)


@torch.library.register_fake("fastad::pack_separable")
def _(weight: Tensor, chunk: int) -> Tensor:
    filters, length = weight.shape
    return weight.new_empty((filters // 16, length + 2, 16), dtype=torch.int16)


@torch.library.register_fake("fastad::separable_block")
def _(
    x: Tensor,
    expand: Tensor,
    depthwise: Tensor,
    project: Tensor,
    bias: Tensor,
    filters: int,
    side: int,
    stride: int,
    add: bool,
) -> Tensor:
    height, width = ((size + stride - 1) // stride for size in x.shape[2:])
    return x.new_empty((len(x), height, width, filters)).permute(0, 3, 1, 2)


@torch.library.register_fake("fastad::pack_stem")
def _(weight: Tensor, int16: bool = False) -> Tensor:
    shape = (len(weight) // 32, 49, 12 + 2 * int16, 32)
    return weight.new_empty(shape, dtype=torch.int16 if int16 else torch.float32)


@torch.library.register_fake("fastad::stem")
def _(images: Tensor, weight: Tensor, bias: Tensor, padding: int, bfloat16: bool) -> Tensor:
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    groups = 1 if bias.dim() == 1 else len(bias)
    shape = (groups * len(images), *_after_stem(images, padding), bias.shape[-1])
    return images.new_empty(shape, dtype=dtype).permute(0, 3, 1, 2)


def _after_stem(images: Tensor, padding: int) -> tuple[int, int]:
    """Half of the size, rounded up, twice; the second time down where the pool has no padding."""
    height, width = (((size + 1) // 2 + padding) // 2 for size in images.shape[2:])
    return height, width
