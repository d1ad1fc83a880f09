"""Loads the compiled modules once, and says what was built.

Importing this module registers ``torch.ops.fastad``.
"""

import importlib.util
from typing import Any

import torch

try:
    from fastad import _C, _C_convolution  # type: ignore[attr-defined]
except ImportError as error:
    raise ImportError(
        f"fastad's compiled module cannot be loaded ({error}). Install the package with "
        "`pip install .` and leave the source folder, or build in place with `pip install -e .`; "
        "after a change of Python, build again."
    ) from error


def _load_cuda() -> str | None:
    """Loads the CUDA kernels where they were built; what was in the way, or None."""
    module = importlib.util.find_spec("fastad._C_cuda")
    if module is None:
        return _C.cuda_status
    if torch.version.cuda is None:
        return f"built, but torch {torch.__version__} has no CUDA"
    try:
        torch.ops.load_library(module.origin)  # a library that registers kernels, no Python module
    except OSError as error:
        return f"built, but cannot be loaded: {error}"
    return None


cpu_convolutions: bool = _C_convolution.float32  # whether the processor has AVX2, which they need
cpu_int16: bool = _C_convolution.int16  # whether it has AVX-512 VNNI, for products of int16
cuda_obstacle: str | None = _load_cuda()


def build_info() -> dict[str, Any]:
    """What was built: compiler, torch at build time, CUDA kernels (or why there are none)."""
    return {
        "built_with_torch": _C.torch_version,
        "compiler": _C.compiler,
        "cpu_kernels": _C.cpu_kernels,
        "cuda_kernels": cuda_obstacle or "loaded",
    }
