"""Convolutions as they run in prediction, with what comes before and after them.

Batch norm becomes part of the weights (Jacob et al., CVPR 2018, section 3.2). ReLU and the sum with
a shortcut are done while a convolution's results are still in registers, on weights that are laid
out once: by oneDNN, and in float32 by this package's own 3x3 convolutions, which need a quarter of
the multiplications (Lavin and Gray, CVPR 2016; csrc/convolution/winograd.h). On CUDA by cuDNN.

Of int16, float32 is what comes in and goes out, and the products are of 16-bit integers where this
package has such a convolution (csrc/convolution/int16.h): finer than bfloat16, and as fast on
processors that multiply it in vectors.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad import _extension
from fastad.engine import fakes  # noqa: F401 (what the ops' results look like)

MANY_FILTERS = 512 * 512  # inputs times outputs


def can_fuse(dtype: torch.dtype, device: torch.device | str = "cpu") -> bool:
    """Whether there is what convolves in this dtype on this device: of CPUs, oneDNN."""
    if torch.device(device).type == "cuda":
        return True
    if dtype == torch.int16 and not _extension.cpu_int16:
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if dtype == torch.float16:
        return torch.ops.mkldnn._is_mkldnn_fp16_supported()
    return dtype in (torch.float32, torch.int16)


class Convolution(nn.Module):
    """A convolution with its batch norm, and with ``relu`` what ReLU makes of it, or ReLU6.

    ``forward`` takes (N, C, H, W) and, for a residual block, what is added before ReLU: a tensor of
    the result's shape, which is overwritten. With ``winograd`` it takes the way with the fewest
    multiplications where it can: there results are rounded in proportion to the largest values
    around them, not to their own.
    """

    def __init__(
        self,
        convolution: nn.Conv2d,
        norm: nn.BatchNorm2d | None,
        dtype: torch.dtype,
        *,
        relu: bool,
        relu6: bool = False,
        winograd: bool = False,
    ):
        super().__init__()
        weight, bias = folded(convolution, norm)
        int16 = dtype == torch.int16
        self.dtype = dtype = torch.float32 if int16 else dtype
        self.kernel = _kernel(convolution, dtype, int16, winograd)
        self.filters = convolution.out_channels
        if self.kernel == "winograd":
            missing = -self.filters % 32
            weight = functional.pad(weight, (0, 0, 0, 0, 0, 0, 0, missing))
            weight = torch.ops.fastad.pack_3x3(weight, int16)
            bias = functional.pad(bias, (0, missing))
        elif self.kernel == "int16":
            weight = torch.ops.fastad.pack_int16(weight)
            bias = functional.pad(bias, (0, -self.filters % 32))
        elif weight.is_cuda:
            weight = weight.to(dtype, memory_format=torch.channels_last)
        else:
            weight = weight.to(dtype)
        self.weight, self.bias = nn.Buffer(weight), nn.Buffer(bias.to(dtype))
        self.relu, self.relu6 = relu or relu6, relu6
        self._geometry = (
            list(cast(tuple[int, int], convolution.padding)),
            list(convolution.stride),
            list(convolution.dilation),
            convolution.groups,
        )
        self._packed: Tensor | None = None
        self._cudnn_fuses = True

    @property
    def in_groups(self) -> bool:
        """Whether it can hold several filters, each for a part of the images."""
        return self.kernel != "torch"

    @property
    def geometry(self) -> tuple:
        """All but the numbers in the filters."""
        return self.kernel, self.filters, self.relu, self.relu6, *map(str, self._geometry)

    @property
    def side(self) -> int:
        """Of a square filter of this package's own kernels."""
        return 1 if self._geometry[0] == [0, 0] else 3

    @property
    def stride(self) -> int:
        """As `side`."""
        return self._geometry[1][0]

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        x = x.to(self.dtype, memory_format=torch.channels_last)
        if added is not None:
            added = added.to(x.dtype, memory_format=torch.channels_last)
        if self.relu6 and (x.is_cuda or self.kernel != "torch"):
            return self._convolve(x, None).clamp_max_(6)
        return self._convolve(x, added)

    def _convolve(self, x: Tensor, added: Tensor | None) -> Tensor:
        if x.is_cuda:
            return self._on_cuda(x, added)
        if self.kernel == "winograd":
            if added is None or self.filters % 32:
                relu = self.relu and added is None
                y = torch.ops.fastad.convolve_3x3(x, self.weight, self.bias, relu)
                y = y[:, : self.filters]
                return y if added is None else added.add_(y).relu_()
            torch.ops.fastad.convolve_3x3_add_(added, x, self.weight, self.bias, True)
            return added
        if self.kernel == "int16":
            return self._in_integers(x, added)
        if self._packed is None:  # the layout is the best for the size that comes first
            padding, stride, dilation, groups = self._geometry
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, padding, stride, dilation, groups, list(x.shape)
            )
        if added is None:
            kind = "hardtanh" if self.relu6 else "relu" if self.relu else "none"
            limits = [0.0, 6.0] if self.relu6 else []
            return torch.ops.mkldnn._convolution_pointwise(
                x, self._packed, self.bias, *self._geometry, kind, limits, ""
            )
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            added, x, self._packed, self.bias, *self._geometry, "add", 1.0, "relu", [], ""
        )

    def _in_integers(self, x: Tensor, added: Tensor | None) -> Tensor:
        side, stride = self.side, self.stride
        if added is None or stride > 1:
            relu = self.relu and added is None
            y = torch.ops.fastad.convolve_int16(
                x, self.weight, self.bias, self.filters, side, stride, relu
            )
            return y if added is None else added.add_(y).relu_()
        torch.ops.fastad.convolve_int16_add_(added, x, self.weight, self.bias, side, True)
        return added

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


class Conv1x1Strided(nn.Module):
    """A 1x1 convolution that skips pixels, with its batch norm, in float32: see `suits`.

    oneDNN takes several times as long for it as for as many operations elsewhere.
    """

    in_groups = True

    @property
    def geometry(self) -> tuple:
        """As of a `Convolution`."""
        return (self.stride,)

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d):
        super().__init__()
        weight, bias = folded(convolution, norm)
        weight = weight.float().view(-1, 32, convolution.in_channels).mT
        self.weight, self.bias = nn.Buffer(weight.contiguous()), nn.Buffer(bias.float())
        self.stride = convolution.stride[0]

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.float32, memory_format=torch.channels_last)
        return torch.ops.fastad.conv1x1_strided(x, self.weight, self.bias, self.stride)

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

    Computes in float32 unless ``dtype`` is int16. ``forward`` takes (N, 3, H, W) and returns
    (N, 64, about H / 4, about W / 4) in ``dtype``, of int16 in float32.
    """

    def __init__(
        self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, pool: nn.MaxPool2d, dtype: torch.dtype
    ):
        super().__init__()
        int16 = dtype == torch.int16
        self.dtype = dtype = torch.float32 if int16 else dtype
        self.plain = None
        if convolution.weight.is_cuda or not _extension.cpu_convolutions:
            self.plain = nn.Sequential(Convolution(convolution, norm, dtype, relu=True), pool)
            return
        weight, bias = folded(convolution, norm)
        self.weight = nn.Buffer(torch.ops.fastad.pack_stem(weight, int16))
        self.bias = nn.Buffer(bias.float())
        self.padding = pool.padding

    @property
    def in_groups(self) -> bool:
        """As of a `Convolution`: it then takes all images for each."""
        return self.plain is None

    @property
    def geometry(self) -> tuple:
        """As of a `Convolution`."""
        return (self.padding,)

    def forward(self, images: Tensor) -> Tensor:
        if self.plain is not None:
            return self.plain(images)
        images = images.to(torch.float32, memory_format=torch.channels_last)
        half = self.dtype == torch.bfloat16
        x = torch.ops.fastad.stem(images, self.weight, self.bias, self.padding, half)
        return x.to(self.dtype)


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a batch norm in eval mode multiplies by and then adds: (C,) float64 each."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    factor = norm.weight.double() / (variance.double() + norm.eps).sqrt()
    return factor, norm.bias.double() - mean.double() * factor


def folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of a convolution with its batch norm, if it has one."""
    if norm is None:
        weight, bias = convolution.weight.double(), convolution.bias
        bias = weight.new_zeros(len(weight)) if bias is None else bias.double()
        return weight.detach().contiguous(), bias.detach()
    factor, bias = scale_and_shift(norm)
    if convolution.bias is not None:
        bias = bias + convolution.bias.double() * factor
    weight = convolution.weight.double() * factor[:, None, None, None]
    return weight.detach().contiguous(), bias.detach()


def _kernel(convolution: nn.Conv2d, dtype: torch.dtype, int16: bool, winograd: bool) -> str:
    """What computes it: "winograd" or "int16", which this package has, or "torch"."""
    side, stride = convolution.kernel_size[0], convolution.stride
    in_place = (
        _extension.cpu_convolutions
        and dtype == torch.float32
        and convolution.weight.device.type == "cpu"
        and convolution.kernel_size == (side, side)
        and stride[0] == stride[1]
        and (side, convolution.padding) in ((1, (0, 0)), (3, (1, 1)))
        and convolution.dilation == (1, 1)
        and convolution.groups == 1
        and convolution.padding_mode == "zeros"
        and convolution.in_channels % 32 == 0
    )
    if not in_place:
        return "torch"
    # In memory Winograd's filters are four times as large, which is too much for the deepest.
    many = int16 and convolution.in_channels * convolution.out_channels >= MANY_FILTERS
    if winograd and side == 3 and stride == (1, 1) and not many:
        return "winograd"
    return "int16" if int16 else "torch"
