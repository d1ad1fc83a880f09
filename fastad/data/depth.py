"""Which stored values of more than 8 bits mean black and white.

Files and arrays of 16 bits seldom use all of them: cameras have 10, 12 or 14, an X-ray a window of
its own. One range, chosen for a training, turns such values into grey levels everywhere.
"""

import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastad._values import is_integer, plain

DEEPEST = 65535
BITS = range(8, 17)
CLIPPED = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)  # shares of an image that are worth a word


@dataclass(frozen=True)
class PixelRange:
    """Values from ``low`` (black) to ``high`` (white), of the 16 bits that a pixel is stored in.

    Values outside become black or white. Pixels of 8 bits are taken as they are.

    Raises:
        ValueError: not 0 <= low < high <= 65535.

    Examples:
        >>> import numpy as np
        >>> from fastad.data import PixelRange
        >>> PixelRange(0, 4095).levels(np.array([0, 2048, 4095, 5000], np.uint16))
        array([  0, 128, 255, 255], dtype=uint8)
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= DEEPEST:
            raise ValueError(
                f"a range of pixel values must be within 0 to {DEEPEST} and its low end below its "
                f"high one; got {self.low} to {self.high}"
            )

    @property
    def bits(self) -> int | None:
        """How many bits have this range. None for a window."""
        bits = self.high.bit_length()
        return bits if self.low == 0 and bits in BITS and self.high == 2**bits - 1 else None

    @property
    def option(self) -> int | str:
        """The range as an option ``bit_depth``."""
        return self.bits or f"{self.low}-{self.high}"

    def levels(self, values: np.ndarray) -> np.ndarray:
        """Grey levels, uint8, of values of any shape, integers from 0 to 65535."""
        return _table(self.low, self.high)[values]

    def __str__(self) -> str:
        name = "a window" if self.bits is None else f"{self.bits} bits"
        return f"{name}, {self.low} to {self.high}"


FULL = PixelRange(0, DEEPEST)
BitDepth = str | int | tuple[int, int] | PixelRange


@lru_cache(maxsize=16)
def _table(low: int, high: int) -> np.ndarray:
    span = high - low
    above = np.clip(np.arange(DEEPEST + 1) - low, 0, span)
    return ((above * 510 + span) // (2 * span)).astype(np.uint8)  # rounded to the nearest level


def parse_range(bit_depth: BitDepth) -> PixelRange | None:
    """``12``, ``"12"``, ``"30000-34000"`` or ``(30000, 34000)`` -> a range; "auto" -> None.

    Raises:
        ValueError: anything else.

    Examples:
        >>> from fastad.data.depth import parse_range
        >>> parse_range("12"), parse_range("30000-34000"), parse_range("auto")
        (PixelRange(low=0, high=4095), PixelRange(low=30000, high=34000), None)
    """
    if isinstance(bit_depth, PixelRange):
        return bit_depth
    given = plain(bit_depth)
    if isinstance(given, str):
        if given.strip().lower() == "auto":
            return None
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", given)
        ends = tuple(int(end) for end in match.groups() if end is not None) if match else ()
    else:
        values = given if isinstance(given, (tuple, list)) else (given,)
        ends = tuple(values) if all(is_integer(value, 0) for value in values) else ()
    if len(ends) == 2 and 0 <= ends[0] < ends[1] <= DEEPEST:
        return PixelRange(*ends)
    if len(ends) == 1 and ends[0] in BITS:
        return PixelRange(0, 2 ** ends[0] - 1)
    raise ValueError(
        f"bit_depth must be auto, a number of bits from {BITS[0]} to {BITS[-1]}, or a window of "
        f"values from 0 to {DEEPEST} like 30000-34000; got {bit_depth!r}"
    )


def is_deep(item: Any) -> bool:
    """Whether an array or tensor holds values of 16 bits."""
    if isinstance(item, np.ndarray):
        return item.dtype.kind == "u" and item.dtype.itemsize == 2  # in either byte order
    return isinstance(item, Tensor) and item.dtype == torch.uint16


def as_levels(item: Any, pixel_range: PixelRange | None) -> Any:
    """A uint16 array or tensor as uint8 of the same shape; anything else as it is.

    Without a range it stays as it is, too: what is known of arrays of 16 bits is in `in_memory`.
    """
    if pixel_range is None or not is_deep(item):
        return item
    if isinstance(item, np.ndarray):
        return levels_within(item, pixel_range)
    return torch.from_numpy(levels_within(item.cpu().numpy(), pixel_range)).to(item.device)


def levels_within(values: np.ndarray, pixel_range: PixelRange | None) -> np.ndarray:
    """`PixelRange.levels`, with a warning where many values lie outside; see `as_levels`."""
    chosen = pixel_range or FULL
    if chosen != FULL:
        black, white = (
            np.count_nonzero(values < chosen.low),
            np.count_nonzero(values > chosen.high),
        )
        share = (black + white) / max(values.size, 1)
        least = max((step for step in CLIPPED if share > step), default=None)
        if least is not None:
            become = "black" if not white else "white" if not black else "black or white"
            warnings.warn(  # a text for each step, so that Python shows it once and not each time
                f"more than {least:.0%} of an image's pixels are outside of "
                f"{chosen.low} to {chosen.high} and become "
                f"{become}: see whether the camera was set otherwise, or train with a "
                "bit_depth that holds them (said once)",
                stacklevel=3,
            )
    return chosen.levels(values)
