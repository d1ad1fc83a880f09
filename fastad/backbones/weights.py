"""Where pretrained weights come from, and how they get into a backbone.

A source is None or "random" (no weights), a file (.pth, .pt, .safetensors), a folder of such files,
or "auto": the folder in the environment variable FASTAD_WEIGHTS, then torch.hub's cache, then a
download into that cache. In a folder a file belongs to the backbone whose name its own name begins
with, the longest such name: ``resnet50_caffe_imagenet.pth`` is not for resnet50. Files are read
without running any code stored in them.
"""

import hashlib
import logging
import os
import pickle
import queue
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn

from fastad._files import atomic_path
from fastad.backbones.resnet import ARCHITECTURES

log = logging.getLogger("fastad")

# torchvision's ImageNet weights ("V1"); a name ends in the first 8 digits of the file's SHA-256.
DOWNLOADS = {
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet34": "https://download.pytorch.org/models/resnet34-b627a593.pth",
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "wide_resnet50_2": "https://download.pytorch.org/models/wide_resnet50_2-95faca4d.pth",
}
SUFFIXES = (".pth", ".pt", ".safetensors")
TIMEOUT = 10.0  # seconds without an answer after which a download is given up
_PREFIXES = ("module.", "backbone.", "model.")  # what wrappers and training frameworks put before


class WeightsNotFoundError(FileNotFoundError):
    """No pretrained weights could be had; the message names every way to provide them."""


class IncompleteWeightsError(ValueError):
    """A weight file lacks parameters; the message names the file, the first, and what it holds."""


def load(source: str | os.PathLike | None, backbone: str, module: nn.Module) -> Path | None:
    """Fill ``module`` from ``source``; returns the file used, None for a random initialisation.

    The file must hold every parameter and buffer of ``module`` except ``num_batches_tracked``;
    what else it holds (a classifier, deeper stages) is ignored.

    Raises:
        WeightsNotFoundError, FileNotFoundError: there is no such file; see `resolve`.
        IncompleteWeightsError: a key is missing; a ValueError.
        ValueError: the file is no weight file, or a key has another shape.
    """
    if source is None or source == "random":
        return None
    path = resolve(source, backbone)
    state = read(path)
    wanted = module.state_dict()
    state = _strip_prefixes(state, first=next(iter(wanted)))
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
    module.load_state_dict(found, strict=False)
    log.debug(f"weights of {backbone} from {path}")
    return path


def resolve(source: str | os.PathLike, backbone: str) -> Path:
    """The weight file for ``backbone`` of a file, a folder, or "auto" (which may download it).

    Raises:
        WeightsNotFoundError: "auto" found nothing, or the folder has none; a FileNotFoundError.
        FileNotFoundError: nothing at the path, or FASTAD_WEIGHTS names no folder.
        ValueError: "embedded": this version carries no weights inside.
    """
    if source == "embedded":
        raise ValueError(
            "this version has no embedded teacher; weights may be 'auto', 'random' or the path of "
            f"a file ({', '.join(SUFFIXES)}) or of a folder of such files"
        )
    if source != "auto":
        path = Path(source).expanduser()
        found = _in_folder(path, backbone) if path.is_dir() else path
        if found is None:
            raise WeightsNotFoundError(f"the folder {path} {_holds_no_file(backbone)}")
        if not found.is_file():
            raise FileNotFoundError(f"there is no weight file {found} (for {backbone})")
        return found

    tried = []
    if path := find(source, backbone):
        return path
    folder = os.environ.get("FASTAD_WEIGHTS")
    if folder:
        tried.append(f"FASTAD_WEIGHTS={folder} {_holds_no_file(backbone)}")
    else:
        tried.append("the environment variable FASTAD_WEIGHTS is not set")
    url = DOWNLOADS.get(backbone)
    if url is None:
        tried.append(f"there is no download for {backbone}")
    else:
        cached = _cached(url)
        tried.append(f"torch.hub's cache has no {cached}")
        try:
            _download(url, cached)
            return cached
        except (OSError, HTTPException, ValueError) as error:
            reason = str(error).strip("<>") or type(error).__name__
            tried.append(f"the download of {url} failed: {reason}")
    ways = ["the option --teacher-weights PATH (teacher_weights= in Python)"]
    ways.append(f"a file named {backbone}* in the folder that FASTAD_WEIGHTS names")
    if url is not None:
        ways.append(f"the file of {url} as {cached}")
    raise WeightsNotFoundError(
        f"no pretrained weights for {backbone}: {'; '.join(tried)}. Provide them by {_or(ways)}"
    )


def find(source: str | os.PathLike, backbone: str) -> Path | None:
    """The file that `resolve` gives where it downloads nothing; None where there is none.

    Raises:
        FileNotFoundError: FASTAD_WEIGHTS names no folder.
    """
    if source != "auto":
        path = Path(source).expanduser()
        path = _in_folder(path, backbone) if path.is_dir() else path
        return path if path is not None and path.is_file() else None
    folder = os.environ.get("FASTAD_WEIGHTS")
    if folder and not Path(folder).expanduser().is_dir():
        raise FileNotFoundError(f"FASTAD_WEIGHTS={folder} is not a folder")
    if folder and (path := _in_folder(Path(folder).expanduser(), backbone)):
        return path
    url = DOWNLOADS.get(backbone)
    cached = None if url is None else _cached(url)
    return cached if cached is not None and cached.is_file() else None


def read(path: Path) -> dict[str, Tensor]:
    """The named tensors in a weight file, unwrapped from a "state_dict" or "model" entry.

    Raises:
        ValueError: the file is damaged or holds something else.
    """
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


def _in_folder(folder: Path, backbone: str) -> Path | None:
    found = []
    for path in sorted(folder.iterdir()):
        owner = max((n for n in ARCHITECTURES if path.name.startswith(n)), key=len, default=None)
        if owner == backbone and path.suffix in SUFFIXES and path.is_file():
            found.append(path)
    if len(found) > 1:
        warnings.warn(
            f"several files in {folder} are for {backbone}: "
            f"{', '.join(p.name for p in found)}; taking {found[0].name}",
            stacklevel=5,
        )
    return found[0] if found else None


def _download(url: str, target: Path) -> None:
    """Fetch ``url`` to ``target``, check it against the digest in its name; progress on stderr."""
    response = _open(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    total = int(response.headers.get("Content-Length") or 0)
    digest, size, shown = hashlib.sha256(), 0, time.monotonic()
    print(f"downloading {url} ({total / 1e6:.1f} MB) to {target}", file=sys.stderr)
    with response, atomic_path(target) as temporary, open(temporary, "wb") as file:
        while chunk := response.read(1 << 20):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            if time.monotonic() - shown > 2:
                shown = time.monotonic()
                print(f"  {size / 1e6:.1f} of {total / 1e6:.1f} MB", file=sys.stderr)
        expected = target.stem.rpartition("-")[2]
        received = digest.hexdigest()[: len(expected)]
        if received != expected:
            raise ValueError(f"the {size} bytes received have SHA-256 {received}, not {expected}")


def _open(url: str):
    # urlopen's timeout holds for each address of the host and not for the name look-up: behind a
    # firewall that swallows packets it adds up to minutes. A thread bounds the whole of it.
    answer = queue.SimpleQueue()

    def connect() -> None:
        try:
            answer.put(urllib.request.urlopen(url, timeout=TIMEOUT))
        except Exception as error:
            answer.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        response = answer.get(timeout=TIMEOUT)
    except queue.Empty:
        raise TimeoutError(f"no answer within {TIMEOUT:g} s") from None
    if isinstance(response, Exception):
        raise response
    return response


def _or(items: list[str] | tuple[str, ...]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} or {items[-1]}"
