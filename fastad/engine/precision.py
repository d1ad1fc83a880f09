"""What "auto" means for a prediction's convolutions on this machine, and what comes after it."""

import torch

from fastad import _extension, training
from fastad.training.precision import has_amx

PRECISIONS = (*training.PRECISIONS, "int16")


def resolve(precision: str, device: torch.device, *, integers: bool = True) -> torch.dtype:
    """The dtype of a prediction's convolutions.

    As `fastad.training.resolve_precision`, with one more for CPUs: "int16", whose products are of
    16-bit integers between float32 (csrc/convolution/int16.h). Where the processor has AVX-512
    VNNI and no AMX, "auto" means that: it is faster than bfloat16 there, and rounds less.

    Args:
        integers: whether the model has anything that multiplies integers.

    Raises:
        ValueError: not one of `PRECISIONS`, or int16 where there is none.
    """
    can_be_int16 = device.type == "cpu" and _extension.cpu_int16
    if precision == "int16":
        if not can_be_int16:
            raise ValueError(
                f"precision 'int16' needs a CPU with AVX-512 VNNI; on {device} take 'auto'"
            )
        if not integers:
            raise ValueError("precision 'int16' needs a model with a network of this package")
        return torch.int16
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    if precision == "auto" and integers and can_be_int16 and not has_amx():
        return torch.int16
    return training.resolve_precision(precision, device)


def fallbacks(
    dtype: torch.dtype, device: torch.device, *, integers: bool = True
) -> list[torch.dtype]:
    """This dtype and those to fall back on, the fastest first; float32 is the last."""
    int16 = [torch.int16] if integers and device.type == "cpu" and _extension.cpu_int16 else []
    after = [] if dtype == torch.float32 else [*int16, torch.float32]
    return list(dict.fromkeys([dtype, *after]))


def autocast(dtype: torch.dtype) -> tuple[torch.dtype, bool]:
    """The arguments of torch.autocast after the device's type."""
    half = dtype in (torch.bfloat16, torch.float16)
    return (dtype if half else torch.bfloat16), half
