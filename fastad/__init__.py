"""fastad: student-teacher anomaly detection on fused C++ and CUDA kernels.

Everything is imported on first use: ``import fastad`` costs little beyond ``import torch``.
Open `fastad.detector` first: `Detector` is the whole package behind one class.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_NAMES = ("Detector", "load")
_SUBMODULES = (
    "backbones",
    "data",
    "evaluation",
    "export",
    "inference",
    "models",
    "ops",
    "training",
)


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"fastad.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module("fastad.detector"), name)
    raise AttributeError(f"module 'fastad' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES, *_SUBMODULES])
