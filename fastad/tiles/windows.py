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


def windows(length: int, tile: int, reach: Reach) -> list[Window]:
    """Tiles that keep about ``tile`` pixels each, as equal as the strides allow.

    At the ends of the image they see its own edge, where the networks pad with zeros. Elsewhere
    they see at least as far as the reach. What is seen has the image's remainder by ``reach.step``.

    Examples:
        >>> from fastad.tiles import Reach
        >>> from fastad.tiles.windows import windows
        >>> for window in windows(1000, 512, Reach(step=16, before=20, after=30, strides=(4,))):
        ...     print(window)
        Window(begin=0, end=512, first=0, last=552)
        Window(begin=512, end=1000, first=480, last=1000)
    """
    step, left = reach.step, length % reach.step
    count = -(-length // tile)
    kept = _up(-(-length // count), step)
    before = _up(reach.before, step)
    after = _up(reach.after - left, step) + left
    found = []
    for begin in range(0, length, kept):
        end = min(begin + kept, length)
        last = min(end + after, length)
        found.append(Window(begin, end, max(begin - before, 0), last))
    return found


def _up(pixels: int, step: int) -> int:
    return -(-max(pixels, 0) // step) * step
