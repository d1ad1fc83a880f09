"""Which weights can be had, and which network a teacher named "auto" therefore is.

One rule holds for all models:

1. The first of the model's candidates whose weights are at hand: the published network, then the
   EfficientNet-Lites that pip brings. At hand is what lies in the folder FASTAD_WEIGHTS, in an
   installed package or in torch.hub's cache. Nothing is downloaded for this.
2. The published network, whose weights are downloaded.
3. The embedded ResNet-18.

Of a folder given as the source, 1 alone holds. A file is for the network that its name begins with.
Where the name says nothing, it is for the first candidate that it fits.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from fastad.backbones import embedded, weights
from fastad.backbones.networks import make
from fastad.backbones.timm_networks import check_file, is_timm
from fastad.backbones.weights import IncompleteWeightsError

FROM_PIP = tuple(weights.PACKAGES)  # networks whose ImageNet weights pip brings


def auto_backbone(
    layers: Sequence[str],
    source: str | os.PathLike | None,
    candidates: Sequence[str],
    otherwise: Sequence[str] = (embedded.BACKBONE,),
) -> str:
    """The network that "auto" comes to, by the rule above.

    Where nothing can be had it is the published one: to build that says what is missing.

    Args:
        layers: what the weights must hold.
        source: as of `fastad.backbones.build`.
        candidates: the published network first.
        otherwise: taken where the download fails, the first for which there are weights.

    Raises:
        ValueError: a file that would be taken is damaged or has other shapes; the message names it.
        FileNotFoundError: FASTAD_WEIGHTS names no folder.
    """
    published = candidates[0]
    if source is None or source == "random":
        return published
    if source not in ("auto", "embedded") and Path(source).expanduser().is_file():
        named = weights.backbone_of_file(Path(source).name)  # no file says that it is Caffe's
        fitting = (name for name in candidates if can_be_had(name, layers, source))
        return named or next(fitting, published)
    for name in candidates:
        if _is_at_hand(name, layers, source):
            return name
    if source == "auto" and not embedded.covers(published, layers):
        try:
            check_weights(published, layers, source)
            return published
        except (FileNotFoundError, IncompleteWeightsError):
            pass
    return next((name for name in otherwise if has_weights(name, layers, source)), published)


def check_weights(name: str, layers: Sequence[str], source: str | os.PathLike | None) -> None:
    """Raise what `build` would, without a notice; "auto" may download. Arguments as there."""
    if is_timm(name):
        if source not in (None, "random", "auto"):
            check_file(name, source)
        return
    if source is not None and source != "random":
        _check_file(weights.resolve(source, name, layers), name, layers)


def can_be_had(name: str, layers: Sequence[str], source: str | os.PathLike | None) -> bool:
    """Whether `check_weights` has nothing to raise."""
    try:
        check_weights(name, layers, source)
    except (OSError, ValueError):
        return False
    return True


def has_weights(name: str, layers: Sequence[str], source: str | os.PathLike) -> bool:
    """Whether `build` would find all it needs without a download; arguments as there."""
    try:
        path = weights.find(source, name, layers)
        if path is not None:
            _check_file(path, name, layers)
        return path is not None
    except (OSError, ValueError):
        return False


def _is_at_hand(name: str, layers: Sequence[str], source: str | os.PathLike) -> bool:
    # The embedded teacher is always at hand. "auto" takes it last.
    path = weights.at_hand(name) if source == "auto" else weights.find(source, name, layers)
    if path is None:
        return False
    try:
        _check_file(path, name, layers)
    except IncompleteWeightsError:
        return False
    return True


def _check_file(path: Path, name: str, layers: Sequence[str]) -> None:
    with torch.random.fork_rng(devices=[]):  # looking must not change what is drawn afterwards
        backbone = make(name, layers)
    weights.matching_state(path, name, backbone)
