"""Which device and which precision "auto" means on this machine."""

import warnings
from collections.abc import Mapping

import torch

PRECISIONS = ("auto", "float32", "bfloat16", "float16")

# Processor units that multiply in a precision. Without them a convolution in it is emulated and
# takes several times as long as in float32.
_NATIVE_UNITS = {
    torch.bfloat16: ("amx_bf16", "avx512_bf16"),
    torch.float16: ("amx_fp16", "avx512_fp16"),
}


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """A device that is there; "auto" takes CUDA where it can be used, the CPU otherwise.

    Raises:
        ValueError: the name means nothing, or there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(
            f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N'; got {device!r}"
        ) from None
    if resolved.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N'; got {device!r}")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {device!r} is not there: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices"
        )
    return resolved


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype that convolutions run in.

    "auto": on CUDA bfloat16 where the device has it, else float16; on the CPU bfloat16 only where
    the processor multiplies in it (AMX or AVX512-BF16), else float32. A precision asked for by
    name is taken, with a warning where it is slow.

    Raises:
        ValueError: not one of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    if precision == "auto":
        if device.type == "cuda":
            with torch.cuda.device(device):
                native = torch.cuda.is_bf16_supported(including_emulation=False)
            return torch.bfloat16 if native else torch.float16
        return torch.bfloat16 if cpu_multiplies_in(torch.bfloat16) else torch.float32
    dtype = getattr(torch, precision)
    if device.type == "cpu" and dtype != torch.float32 and not cpu_multiplies_in(dtype):
        warnings.warn(
            f"this CPU has no {precision} units: {precision} will be slower than float32",
            stacklevel=2,
        )
    return dtype


def cpu_multiplies_in(dtype: torch.dtype) -> bool:
    """Whether the processor has units for products of this half precision."""
    capabilities = _cpu_capabilities()
    return any(capabilities.get(unit, False) for unit in _NATIVE_UNITS[dtype])


def has_amx() -> bool:
    """Whether the processor multiplies bfloat16 in tiles."""
    return _cpu_capabilities().get("amx_bf16", False)


def _cpu_capabilities() -> Mapping[str, bool]:
    if hasattr(torch.cpu, "get_capabilities"):
        return torch.cpu.get_capabilities()
    # Older torch answers one question at a time, if at all. Every processor with AMX tiles
    # multiplies bfloat16 in them.
    questions = {
        "amx_bf16": "_is_amx_tile_supported",
        "avx512_bf16": "_is_avx512_bf16_supported",
        "amx_fp16": "_is_amx_fp16_supported",
    }
    return {
        unit: bool(getattr(torch.cpu, question, bool)()) for unit, question in questions.items()
    }
