"""Where the tiles of an image lie."""

from typing import NamedTuple

from fastad.tiles.reach import Reach


class Window(NamedTuple):
    """A tile along one side of an image, in pixels.

    Attributes:
        begin, end: of what is kept.
        first, last: of what the networks see.
    """

    begin: int
    end: int
    first: int
    last: int


def windows(length: int, tile: int, reach: Reach, step: int | None = None) -> list[Window]:
    """Tiles that keep about ``tile`` pixels each, as equal as the strides allow.

    At the ends of the image they see its own edge, where the networks pad with zeros. Elsewhere
    they see at least as far as the reach. What is seen has the image's remainder by ``reach.step``.
    They begin at multiples of ``step``, a multiple of that. None for that itself.

    Examples:
        >>> from fastad.tiles import Reach
        >>> from fastad.tiles.windows import windows
        >>> for window in windows(1000, 512, Reach(step=16, before=20, after=30, strides=(4,))):
        ...     print(window)
        Window(begin=0, end=512, first=0, last=552)
        Window(begin=512, end=1000, first=480, last=1000)
    """
    count = -(-length // tile)
    kept = _up(-(-length // count), step or reach.step)
    return [
        seeing(begin, min(begin + kept, length), length, reach) for begin in range(0, length, kept)
    ]


def windows_of_overview(
    found: list[Window], length: int, factor: int, reach: Reach
) -> list[Window]:
    """What the same tiles keep of the image's overview, and see of it, in pixels of that.

    Args:
        found: of the image.
        length: of the image.
        factor: how many times smaller the overview is.
        reach: in the overview.
    """
    return [
        seeing(window.begin // factor, -(-window.end // factor), -(-length // factor), reach)
        for window in found
    ]


def seeing(begin: int, end: int, length: int, reach: Reach) -> Window:
    """A tile that keeps these pixels of a side."""
    left = length % reach.step
    before = _up(reach.before, reach.step)
    after = _up(reach.after - left, reach.step) + left
    return Window(begin, end, max(begin - before, 0), min(end + after, length))


def _up(pixels: int, step: int) -> int:
    return -(-max(pixels, 0) // step) * step
