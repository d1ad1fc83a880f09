"""A model as it serves: batch norm inside the convolutions, what follows them fused.

Between training and serving a network stays the same function, but not the same work; see
`fastad.engine.convolution`.
"""

import copy
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad.backbones import EfficientNetLite
from fastad.backbones.efficientnet_lite import MBConv
from fastad.backbones.resnet import BasicBlock, Bottleneck, ResNet
from fastad.engine.convolution import Conv1x1Strided, Convolution, Stem, can_fuse, scale_and_shift
from fastad.engine.normalization import Normalization
from fastad.engine.pairing import Pair, PairOfScales, paired
from fastad.engine.runtimes import Runtime
from fastad.engine.separable import SeparableBlock, SeparableStem
from fastad.models import MODELS, AnomalyModel
from fastad.models.base import FrozenTeacher
from fastad.models.prn.network import Decoder as Segmenter
from fastad.models.prn.network import Merge, PatchAttention
from fastad.models.rstpm.decoder import Block, Decoder, Gate
from fastad.models.rstpm.unet import UNet
from fastad.models.stpm import STPM
from fastad.models.utad.impression import Inception

BLOCKS = {
    BasicBlock: ("conv1", "conv2"),
    Bottleneck: ("conv1", "conv2", "conv3"),
    Block: ("conv1", "conv2", "conv3"),
}
# Convolutions with their batch norms in networks where ReLU6 follows all but the last of a block.
SEPARABLE = {
    EfficientNetLite: {"_conv_stem": "_bn0"},
    MBConv: {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"},
}
# Lists of sequences of convolutions, batch norms and ReLUs.
BLOCK_LISTS = {UNet: ("encoder", "decoder"), Segmenter: ("ups", "blocks")}


M = TypeVar("M", bound=nn.Module)


def has_foldable_parts(model: nn.Module) -> bool:
    """Whether there is anything in a model that `fold` knows."""
    known = (ResNet, UNet, Gate, Merge, Inception, *BLOCKS, *SEPARABLE)
    return any(type(part) in known for part in model.modules())


def fold(model: M, dtype: torch.dtype) -> M | None:
    """A copy of a model in eval mode whose convolutions run fused, in ``dtype``.

    Knows this package's networks; of others every part stays as it is. The copy takes no gradient
    and cannot be pickled once it has run. None where there is nothing to fold, no oneDNN, or a
    dtype that it does not know on this processor, or a module that cannot be copied.
    """
    device = next(model.parameters(), torch.empty(0)).device
    if not can_fuse(dtype, device) or not has_foldable_parts(model):
        return None
    try:
        folded = copy.deepcopy(model).eval().requires_grad_(False)
    except Exception:  # a teacher from elsewhere, not made for copying
        return None
    modules = list(folded.modules())
    ours = {m for root in modules if type(root) in (ResNet, Decoder) for m in root.modules()}
    in_one_pass = {m for m in modules if type(m) is MBConv and SeparableBlock.suits(m)}
    for parent in modules:
        if type(parent) is ResNet:
            # Other modules than the class says, in the places that its forward knows.
            parent.conv1 = cast(Any, Stem(parent.conv1, parent.bn1, parent.maxpool, dtype))
            parent.bn1, parent.relu, parent.maxpool = (cast(Any, nn.Identity()) for _ in range(3))
        if type(parent) is EfficientNetLite and in_one_pass.issuperset(parent._blocks):
            parent.__dict__["stem"] = SeparableStem(parent)  # over the method of its class
            parent._conv_stem, parent._bn0 = (cast(Any, nn.Identity()) for _ in range(2))
        elif type(parent) in SEPARABLE and parent not in in_one_pass:
            _fold_separable(parent, dtype)
        for name, child in list(parent.named_children()):
            if child in in_one_pass:
                setattr(parent, name, SeparableBlock(child, int16=dtype == torch.int16))
            elif type(child) in BLOCKS:
                names = BLOCKS[type(child)]
                setattr(parent, name, Residual(child, names, dtype, overwrite=child in ours))
            elif type(child) is Merge:
                merge = Convolution(child.conv, child.bn, dtype, relu=True, winograd=True)
                setattr(parent, name, merge)
            elif type(child) is nn.Sequential and type(parent) in (Gate, PatchAttention):
                setattr(parent, name, _sequence(child, dtype))
        if type(parent) is Inception:
            _fold_inception(parent)
        for name in BLOCK_LISTS.get(type(parent), ()):
            blocks = getattr(parent, name)
            for index, block in enumerate(blocks):
                blocks[index] = _sequence(block, dtype)
    if type(folded) in MODELS.values() and device.type == "cpu":
        assert isinstance(folded, AnomalyModel)
        # Over the methods of its class: these models look at images through them alone.
        folded.__dict__["normalize"] = Normalization(folded)
        if folded.pair is not None:
            teacher, student = map(folded.get_submodule, folded.pair)
            both = paired(teacher.backbone, student) if isinstance(teacher, FrozenTeacher) else None
            if both is not None:
                folded.__dict__["extract_pair"] = both
    return folded


def takes_bytes(network: nn.Module | Runtime) -> bool:
    """Whether what runs takes images as uint8, too."""
    if isinstance(network, Runtime):
        return True
    return isinstance(network.__dict__.get("normalize"), Normalization)


def runs_on_own_threads(network: nn.Module | Runtime) -> bool:
    """Whether a folded copy is so fast on `fastad._threads.own_threads` as on torch's.

    Beside the convolutions of the pair all of its work is ops of this package, and a little of
    torch's.
    """
    pair = network.__dict__.get("extract_pair")
    is_plain = (
        type(network) is STPM
        and not network.choice().subspace
        and network.choice().score_by == "maps"
        and network.composition is None
    )
    return is_plain and isinstance(pair, (Pair, PairOfScales)) and pair.in_int16


class Residual(nn.Module):
    """A residual block of folded convolutions.

    Ends in ReLU unless the block is a ``signed`` one. Where it has no projected shortcut, its
    result takes the place of its input with ``overwrite``: in networks of this package no one needs
    that any more, as levels that are returned go on through projections.
    """

    def __init__(
        self, block: nn.Module, names: tuple[str, ...], dtype: torch.dtype, *, overwrite: bool
    ):
        super().__init__()
        # A decoder's gate closes to values many orders below those beside it, which are normalised
        # afterwards: they need rounding in proportion to themselves.
        winograd = type(block) is not Block
        self.convolutions = nn.ModuleList()
        for n, name in enumerate(names, start=1):
            convolution = cast(nn.Conv2d, block.get_submodule(name))
            norm = cast(nn.BatchNorm2d, block.get_submodule(f"bn{n}"))
            folded = Convolution(convolution, norm, dtype, relu=True, winograd=winograd)
            self.convolutions.append(folded)
        self._signed = getattr(block, "signed", False)
        if self._signed:
            folded.relu = False
        projection = getattr(block, "downsample", None) or getattr(block, "shortcut", None)
        self.shortcut: nn.Module = nn.Identity()
        self._copies = not overwrite and not isinstance(projection, nn.Sequential)
        if isinstance(projection, nn.Sequential):
            convolution, norm = cast(tuple[nn.Conv2d, nn.BatchNorm2d], tuple(projection))
            if Conv1x1Strided.suits(convolution, dtype):
                self.shortcut = Conv1x1Strided(convolution, norm)
            else:
                self.shortcut = Convolution(convolution, norm, dtype, relu=False)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        first, *middle, last = self.convolutions
        shortcut = x.clone() if self._copies else self.shortcut(x)
        x = first(x)
        if size is not None:
            shortcut, x = functional.interpolate(shortcut, size), functional.interpolate(x, size)
        for convolution in middle:
            x = convolution(x)
        return last(x).add_(shortcut) if self._signed else last(x, shortcut)


def _fold_separable(part: nn.Module, dtype: torch.dtype) -> None:
    """Put other modules in the places that its forward knows."""
    for name, norm in SEPARABLE[type(part)].items():
        if hasattr(part, name):
            convolution, after = part.get_submodule(name), part.get_submodule(norm)
            relu6 = name != "_project_conv"
            folded = Convolution(
                cast(nn.Conv2d, convolution),
                cast(nn.BatchNorm2d, after),
                dtype,
                relu=False,
                relu6=relu6,
            )
            setattr(part, name, folded)
            setattr(part, norm, nn.Identity())
    part._relu6 = nn.Identity()


def _fold_inception(block: Inception) -> None:
    """Put the batch norm over a block's branches into the convolutions of each."""
    norm, start = block.norm, 0
    factor, shift = scale_and_shift(norm)
    for convolution in (*block.branches, block.pooled):
        part = slice(start, start + convolution.out_channels)
        weight = convolution.weight.double() * factor[part, None, None, None]
        for name, value in (("weight", weight), ("bias", shift[part])):
            value = value.detach().to(convolution.weight.dtype)
            setattr(convolution, name, nn.Parameter(value, requires_grad=False))
        start = part.stop
    block.norm = cast(Any, nn.Identity())


def _sequence(sequence: nn.Sequential, dtype: torch.dtype) -> nn.Sequential:
    """The same with every convolution, batch norm and ReLU in a row folded."""
    modules: list[nn.Module] = []
    left: list[Any] = list(sequence)
    while left:
        if [type(module) for module in left[:3]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]:
            convolution, norm, _ = left[:3]
            modules.append(Convolution(convolution, norm, dtype, relu=True, winograd=True))
            left = left[3:]
        elif type(left[0]) is nn.Conv2d and left[0].padding_mode == "zeros":
            modules.append(Convolution(left.pop(0), None, dtype, relu=False, winograd=True))
        else:
            modules.append(left.pop(0))
    return nn.Sequential(*modules)
