"""A model as it serves on a CPU: batch norm inside the convolutions, what follows them fused.

Between training and serving a network stays the same function, but not the same work: batch norm
becomes part of the weights (Jacob et al., CVPR 2018, section 3.2), and ReLU and the sum with a
shortcut are done by oneDNN while a convolution's results are still in registers, on weights that
are brought into its layout once.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad.backbones.resnet import BasicBlock, Bottleneck, ResNet
from fastad.models.decoder import Block, Decoder, Gate
from fastad.models.unet import UNet

BLOCKS = {
    BasicBlock: ("conv1", "conv2"),
    Bottleneck: ("conv1", "conv2", "conv3"),
    Block: ("conv1", "conv2", "conv3"),
}


def fold(model: nn.Module, dtype: torch.dtype) -> nn.Module | None:
    """A copy of a model in eval mode whose convolutions run fused, in ``dtype``.

    Knows this package's networks; of others every part stays as it is. The copy takes no gradient
    and cannot be pickled once it has run. None where there is nothing to fold, no oneDNN, or a
    dtype that it does not know on this processor, or a module that cannot be copied.
    """
    known = (ResNet, UNet, Gate, *BLOCKS)
    if not can_fuse(dtype) or not any(type(module) in known for module in model.modules()):
        return None
    try:
        folded = copy.deepcopy(model).eval().requires_grad_(False)
    except Exception:  # a teacher from elsewhere, not made for copying
        return None
    modules = list(folded.modules())
    ours = {m for root in modules if type(root) in (ResNet, Decoder) for m in root.modules()}
    for parent in modules:
        if type(parent) is ResNet:
            parent.conv1 = Convolution(parent.conv1, parent.bn1, dtype, relu=True)
            parent.bn1, parent.relu = nn.Identity(), nn.Identity()
        for name, child in list(parent.named_children()):
            if type(child) in BLOCKS:
                names = BLOCKS[type(child)]
                setattr(parent, name, Residual(child, names, dtype, overwrite=child in ours))
            elif type(child) is nn.Sequential and type(parent) is Gate:
                setattr(parent, name, _sequence(child, dtype))
        if type(parent) is UNet:
            for half in (parent.encoder, parent.decoder):
                for index, block in enumerate(half):
                    half[index] = _sequence(block, dtype)
    return folded


def can_fuse(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there and convolves in this dtype on this processor."""
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
    the result's shape, which is overwritten.
    """

    def __init__(
        self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, dtype: torch.dtype, *, relu: bool
    ):
        super().__init__()
        weight = convolution.weight.detach().double()
        factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        bias = norm.bias.double() - norm.running_mean.double() * factor
        if convolution.bias is not None:
            bias = bias + convolution.bias.detach().double() * factor
        self.weight = nn.Buffer((weight * factor[:, None, None, None]).to(dtype))
        self.bias = nn.Buffer(bias.to(dtype))
        self.relu = relu
        self._geometry = (
            list(convolution.padding),
            list(convolution.stride),
            list(convolution.dilation),
            convolution.groups,
        )
        self._packed: Tensor | None = None

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        x = x.to(self.weight.dtype, memory_format=torch.channels_last)
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
        added = added.to(x.dtype, memory_format=torch.channels_last)
        follows = ("add", 1.0, "relu", [], "")
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            added, x, self._packed, self.bias, *self._geometry, *follows
        )


class Residual(nn.Module):
    """A residual block of folded convolutions.

    Where it has no projected shortcut, its result takes the place of its input with ``overwrite``:
    in networks of this package no one needs that any more, as levels that are returned go on
    through projections.
    """

    def __init__(
        self, block: nn.Module, names: tuple[str, ...], dtype: torch.dtype, *, overwrite: bool
    ):
        super().__init__()
        self.convolutions = nn.ModuleList(
            Convolution(block.get_submodule(name), block.get_submodule(f"bn{n}"), dtype, relu=True)
            for n, name in enumerate(names, start=1)
        )
        projection = getattr(block, "downsample", None) or getattr(block, "shortcut", None)
        self.shortcut = nn.Identity()
        self._copies = not overwrite and not isinstance(projection, nn.Sequential)
        if isinstance(projection, nn.Sequential):
            self.shortcut = Convolution(*projection, dtype, relu=False)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        first, *middle, last = self.convolutions
        shortcut = x.clone() if self._copies else self.shortcut(x)
        x = first(x)
        if size is not None:
            shortcut, x = functional.interpolate(shortcut, size), functional.interpolate(x, size)
        for convolution in middle:
            x = convolution(x)
        return last(x, shortcut)


def _sequence(sequence: nn.Sequential, dtype: torch.dtype) -> nn.Sequential:
    """The same with every convolution, batch norm and ReLU in a row folded."""
    modules, left = [], list(sequence)
    while left:
        if [type(module) for module in left[:3]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]:
            convolution, norm, _ = left[:3]
            modules.append(Convolution(convolution, norm, dtype, relu=True))
            left = left[3:]
        else:
            modules.append(left.pop(0))
    return nn.Sequential(*modules)
