"""Convolutions as they run in prediction, with what comes before and after them.

Batch norm becomes part of the weights (Jacob et al., CVPR 2018, section 3.2). ReLU and the sum with
a shortcut are done while a convolution's results are still in registers, on weights that are laid
out once: by oneDNN, and in float32 by this package's own 3x3 convolutions, which need a quarter of
the multiplications (Lavin and Gray, CVPR 2016; csrc/cpu/winograd.h). On CUDA by cuDNN.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad import _extension


def can_fuse(dtype: torch.dtype, device: torch.device | str = "cpu") -> bool:
    """Whether there is what convolves in this dtype on this device: of CPUs, oneDNN."""
    if torch.device(device).type == "cuda":
        return True
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if dtype == torch.float16:
        return torch.ops.mkldnn._is_mkldnn_fp16_supported()
    return dtype == torch.float32


class Convolution(nn.Module):
    """A convolution with its batch norm, and with ``relu`` what ReLU makes of it.

    ``forward`` takes (N, C, H, W) and, for a residual block, what is added before ReLU: a tensor of
    the result's shape, which is overwritten. With ``winograd`` it takes the way with the fewest
    multiplications where it can: there results are rounded in proportion to the largest values
    around them, not to their own.
    """

    def __init__(
        self,
        convolution: nn.Conv2d,
        norm: nn.BatchNorm2d,
        dtype: torch.dtype,
        *,
        relu: bool,
        winograd: bool = False,
    ):
        super().__init__()
        weight, bias = _folded(convolution, norm)
        on_cpu = weight.device.type == "cpu"
        winograd = winograd and on_cpu and dtype == torch.float32
        self.winograd = winograd and _suits_winograd(convolution)
        if self.winograd:
            weight = torch.ops.fastad.pack_3x3(weight)
        elif not on_cpu:
            weight = weight.to(memory_format=torch.channels_last)
        self.weight = nn.Buffer(weight.to(dtype))
        self.bias = nn.Buffer(bias.to(dtype))
        self.relu = relu
        self._geometry = (
            list(convolution.padding),
            list(convolution.stride),
            list(convolution.dilation),
            convolution.groups,
        )
        self._packed: Tensor | None = None
        self._cudnn_fuses = True

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        x = x.to(self.weight.dtype, memory_format=torch.channels_last)
        if added is not None:
            added = added.to(x.dtype, memory_format=torch.channels_last)
        if x.is_cuda:
            return self._on_cuda(x, added)
        if self.winograd:
            if added is None:
                return torch.ops.fastad.convolve_3x3(x, self.weight, self.bias, self.relu)
            torch.ops.fastad.convolve_3x3_add_(added, x, self.weight, self.bias, True)
            return added
        if self._packed is None:  # the layout is the best for the size that comes first
            padding, stride, dilation, groups = self._geometry
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, padding, stride, dilation, groups, list(x.shape)
            )
        if added is None:
            follows = ("relu" if self.relu else "none", [], "")
            return torch.ops.mkldnn._convolution_pointwise(
                x, self._packed, self.bias, *self._geometry, *follows
            )
        follows = ("add", 1.0, "relu", [], "")
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            added, x, self._packed, self.bias, *self._geometry, *follows
        )

    def _on_cuda(self, x: Tensor, added: Tensor | None) -> Tensor:
        padding, stride, dilation, groups = self._geometry
        geometry = (stride, padding, dilation, groups)
        if self._cudnn_fuses and (self.relu or added is not None):
            try:
                if added is None:
                    return torch.cudnn_convolution_relu(x, self.weight, self.bias, *geometry)
                return torch.cudnn_convolution_add_relu(
                    x, self.weight, added, 1.0, self.bias, *geometry
                )
            except RuntimeError:  # not on this device, in this dtype, or in this version
                self._cudnn_fuses = False
        y = functional.conv2d(x, self.weight, self.bias, *geometry)
        if added is not None:
            y += added
        return y.relu_() if self.relu or added is not None else y


class Projection(nn.Module):
    """A 1x1 convolution that skips pixels, with its batch norm, in float32: see `suits`.

    oneDNN takes several times as long for it as for as many operations elsewhere.
    """

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d):
        super().__init__()
        weight, bias = _folded(convolution, norm)
        weight = weight.float().view(-1, 32, convolution.in_channels).mT
        self.weight, self.bias = nn.Buffer(weight.contiguous()), nn.Buffer(bias.float())
        self.stride = convolution.stride[0]

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.float32, memory_format=torch.channels_last)
        return torch.ops.fastad.project(x, self.weight, self.bias, self.stride)

    @staticmethod
    def suits(convolution: nn.Conv2d, dtype: torch.dtype) -> bool:
        """Whether this can take the place of a `Convolution`, on this processor."""
        down, across = convolution.stride
        return (
            _extension.cpu_convolutions
            and dtype == torch.float32
            and convolution.weight.device.type == "cpu"
            and convolution.kernel_size == (1, 1)
            and down == across > 1
            and convolution.padding == (0, 0)
            and convolution.groups == 1
            and convolution.out_channels % 32 == 0
        )


class Stem(nn.Module):
    """A residual network's first convolution with batch norm, ReLU and pool, in one pass.

    Computes in float32. ``forward`` takes (N, 3, H, W) and returns (N, 64, about H / 4, about
    W / 4) in ``dtype``.
    """

    def __init__(
        self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, pool: nn.MaxPool2d, dtype: torch.dtype
    ):
        super().__init__()
        self.dtype = dtype
        self.plain = None
        if convolution.weight.is_cuda or not _extension.cpu_convolutions:
            self.plain = nn.Sequential(Convolution(convolution, norm, dtype, relu=True), pool)
            return
        weight, bias = _folded(convolution, norm)
        self.weight = nn.Buffer(torch.ops.fastad.pack_stem(weight.float()))
        self.bias = nn.Buffer(bias.float())
        self.padding = pool.padding

    def forward(self, images: Tensor) -> Tensor:
        if self.plain is not None:
            return self.plain(images)
        images = images.to(torch.float32, memory_format=torch.channels_last)
        half = self.dtype == torch.bfloat16
        x = torch.ops.fastad.stem(images, self.weight, self.bias, self.padding, half)
        return x.to(self.dtype)


def _folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of a convolution with its batch norm."""
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() - norm.running_mean.double() * factor
    if convolution.bias is not None:
        bias = bias + convolution.bias.double() * factor
    weight = convolution.weight.double() * factor[:, None, None, None]
    return weight.detach().contiguous(), bias.detach()


def _suits_winograd(convolution: nn.Conv2d) -> bool:
    """Whether this package's 3x3 convolution can take the place of oneDNN's, on this processor."""
    geometry = (convolution.kernel_size, convolution.stride, convolution.padding)
    return (
        _extension.cpu_convolutions
        and (*geometry, convolution.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and convolution.groups == 1
        and convolution.padding_mode == "zeros"
        and convolution.in_channels % 32 == 0
        and convolution.out_channels % 32 == 0
    )


@torch.library.register_fake("fastad::pack_3x3")
def _(weight: Tensor) -> Tensor:
    filters, channels = weight.shape[:2]
    return weight.new_empty((filters // 32, 36, channels, 32), dtype=torch.float32)


@torch.library.register_fake("fastad::convolve_3x3")
def _(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    batch, _, height, width = x.shape
    return x.new_empty((batch, height, width, len(bias))).permute(0, 3, 1, 2)


@torch.library.register_fake("fastad::convolve_3x3_add_")
def _(added: Tensor, x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> None:
    return None


@torch.library.register_fake("fastad::project")
def _(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    height, width = ((size + stride - 1) // stride for size in x.shape[2:])
    return x.new_empty((len(x), height, width, len(bias))).permute(0, 3, 1, 2)


@torch.library.register_fake("fastad::pack_stem")
def _(weight: Tensor) -> Tensor:
    return weight.new_empty((len(weight) // 32, 7, 21, 32))


@torch.library.register_fake("fastad::stem")
def _(images: Tensor, weight: Tensor, bias: Tensor, padding: int, bfloat16: bool) -> Tensor:
    # Half of the size, rounded up, twice; the second time down where the pool has no padding.
    height, width = ((size + 1) // 2 + padding for size in images.shape[2:])
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    shape = (len(images), height // 2, width // 2, len(bias))
    return images.new_empty(shape, dtype=dtype).permute(0, 3, 1, 2)
