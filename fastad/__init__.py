"""fastad: student-teacher anomaly detection on fused C++ and CUDA kernels.

Everything is imported on first use: ``import fastad`` costs little beyond ``import torch``.
Open `fastad.detector` first: `Detector` is the whole package behind one class.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Detector",
    "backbones",
    "compat",
    "data",
    "evaluation",
    "export",
    "inference",
    "integrations",
    "load",
    "models",
    "ops",
    "training",
]

if TYPE_CHECKING:
    from fastad import (
        backbones,
        compat,
        data,
        evaluation,
        export,
        inference,
        integrations,
        models,
        ops,
        training,
    )
    from fastad.detector import Detector, load
else:

    def __getattr__(name: str) -> Any:
        if name in ("Detector", "load"):
            return getattr(importlib.import_module("fastad.detector"), name)
        if name in __all__:
            return importlib.import_module(f"fastad.{name}")
        raise AttributeError(f"module 'fastad' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
