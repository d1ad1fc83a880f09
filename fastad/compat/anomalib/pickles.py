"""PyTorch's pickles of whole objects as inert trees: no class of the file is imported or run.

torch's restricted unpickler builds tensors and plain containers. Every other name in the file
stands for an empty class made here, whose instances only keep what the file says of them.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Inert:
    """An object of a file, without its class: ``arguments`` and attributes, and no behaviour."""

    arguments: tuple[Any, ...] = ()

    def __init__(self, *arguments: Any, **_: Any):
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def read_tree(path: str | Path) -> Any:
    """What a file of ``torch.save`` holds, with `Inert` objects for all but tensors and containers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, is damaged, or asks for what the restricted unpickler
            refuses. The message names the file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        stand_ins: list[tuple[Callable, str]] = [(_stand_in(name), name) for name in names]
        with torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises a dozen kinds, some of them without a message
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch would advise an unsafe load
            reason = "it holds what cannot be read without running code of the file"
        raise ValueError(f"{path} cannot be read as a checkpoint: {reason}") from error


def class_of(value: Any) -> str:
    """The last part of the name that an object had in the file, or that of its own class."""
    return type(value).__name__.rpartition(".")[2]


def state_of(module: Any) -> dict[str, Tensor]:
    """The state dict of an inert ``torch.nn.Module``: its tensors by their dotted names."""
    found: dict[str, Tensor] = {}
    waiting, seen = [("", module)], set()
    while waiting:
        prefix, one = waiting.pop()
        if id(one) in seen or not isinstance(one, Inert):
            continue
        seen.add(id(one))
        for kind in ("_parameters", "_buffers"):
            for name, value in _entries(one, kind):
                if isinstance(value, Tensor):
                    found[f"{prefix}{name}"] = value.detach()
        waiting += [(f"{prefix}{name}.", child) for name, child in _entries(one, "_modules")]
    return found


def _entries(module: Inert, kind: str) -> list[tuple[Any, Any]]:
    held = module.__dict__.get(kind)
    return [*held.items()] if isinstance(held, dict) else []


def _stand_in(name: str) -> Callable:
    # torch's unpickler fills dictionaries of its own kinds alone.
    if name.endswith("Dict"):
        return OrderedDict
    if name == "collections.defaultdict":
        return lambda *_: OrderedDict()
    return type(name, (Inert,), {})
