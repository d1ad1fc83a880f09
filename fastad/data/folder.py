"""Images from many files: in batches, read ahead in threads, and as a data set to train on."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastad._threads import own_threads
from fastad._values import is_integer, plain
from fastad.data.bands import read_for
from fastad.data.depth import FULL, PixelRange
from fastad.data.images import ImageError, parse_size, read_image, resize

# Decoding and resizing release the interpreter lock; more threads than this only add memory.
READER_THREADS = min(8, os.cpu_count() or 1)


def iterate_batches(
    items: Iterable[Any],
    size: tuple[int, int],
    batch_size: int,
    read: Callable[[Any], Tensor] = read_image,
    skip: Callable[[int, Exception], None] | None = None,
) -> Iterator[tuple[list[int], Tensor]]:
    """Positions in ``items`` and their images (n, 3, H, W) uint8 at ``size``, in order.

    ``read`` turns an item (a path unless told otherwise) into uint8 (3, h, w). Threads read ahead
    by one batch; no more than two batches are ever held.

    With ``skip``, an item that raises ImageError or OSError is reported to it and left out; a
    batch may then be shorter, but never empty. Without it, and for every other error, the error
    is raised. Raises ValueError for a batch size below 1.
    """
    batch_size = plain(batch_size)
    if not is_integer(batch_size, 1):
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    todo = enumerate(items)

    def load(item: Any) -> Tensor:
        image = read(item)
        with own_threads():
            return resize(image, size)

    def stacked(images: list[Tensor]) -> Tensor:
        if len(images) == 1:  # which may be large
            return images[0][None]
        with own_threads():
            return torch.stack(images)

    def submit(count: int) -> list[tuple[int, Future]]:
        return [(position, pool.submit(load, item)) for position, item in islice(todo, count)]

    pool = ThreadPoolExecutor(READER_THREADS)
    try:
        ahead = deque(submit(batch_size))
        while ahead:
            positions, images = [], []
            for _ in range(min(batch_size, len(ahead))):
                position, future = ahead.popleft()
                try:
                    images.append(future.result())
                    positions.append(position)
                except (ImageError, OSError) as error:
                    if skip is None:
                        raise
                    skip(position, error)
                ahead.extend(submit(1))
            if images:
                yield positions, stacked(images)
    finally:
        pool.shutdown(cancel_futures=True)


class Images(Protocol):
    """What a training reads: a map-style data set, or a tensor (N, 3, H, W).

    An item is an image (3, H, W), or a dict with one as "image".
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class ImageDataset(Dataset):
    """Map-style data set of image files: item -> uint8 (3, H, W) at ``size``.

    ``in_memory=True`` decodes every file once, at construction, with a few threads, and keeps
    N * 3 * H * W bytes; False decodes on every access, which processes may do too. With
    ``skip_bad``, unreadable files are left out; when not in memory, every file is decoded once at
    construction to find them. ``pixel_range`` is that of `read_image`.

    Raises what ``read_image`` raises, and ValueError when there is no image or all are left out.

    Attributes:
        paths: of the images, in order.
        skipped: the files left out and why.
        images: (N, 3, H, W) uint8, None when not in memory.
    """

    is_fixed = True  # nothing is drawn at random: training may keep what teachers say of an image

    def __init__(
        self,
        paths: Sequence[str | Path],
        size: int | str | tuple[int, int],
        in_memory: bool = True,
        skip_bad: bool = False,
        pixel_range: PixelRange | None = None,
    ) -> None:
        given = [Path(path) for path in paths]
        if not given:
            raise ValueError("paths: at least one image is needed")
        self.size = parse_size(size)
        self.pixel_range = pixel_range
        self.skipped: list[tuple[Path, str]] = []
        self.images: Tensor | None = None
        kept: list[int] = []

        def note(position: int, error: Exception) -> None:
            self.skipped.append((given[position], str(error)))

        skip = note if skip_bad else None
        if in_memory:
            images = torch.empty(len(given), 3, *self.size, dtype=torch.uint8)
            for positions, batch in iterate_batches(given, self.size, 64, self._read, skip):
                images[len(kept) : len(kept) + len(batch)] = batch
                kept += positions
            self.images = images[: len(kept)]
        elif skip_bad:
            for positions, _ in iterate_batches(given, (1, 1), 64, _decoded_corner, note):
                kept += positions
        else:
            kept = list(range(len(given)))
        if not kept:
            raise ValueError(
                f"none of the {len(given)} images can be read; the first: {self.skipped[0][1]}"
            )
        self.paths = [given[position] for position in kept]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the images' size, number, order and file names, and of the pixels in memory.

        Not in memory, the files' sizes and modification times stand for the pixels. Raises OSError
        when a file has gone.
        """
        digest = hashlib.sha256(repr(self.size).encode())
        for path in self.paths:
            digest.update(os.fsencode(path.name) + b"\0")
            if self.images is None:
                facts = path.stat()
                digest.update(f"{facts.st_size} {facts.st_mtime_ns}\0".encode())
        if self.images is not None:
            digest.update(self.images.numpy().data)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        if self.images is not None:
            return self.images[index]
        return resize(self._read(self.paths[index]), self.size)

    def _read(self, path: Path) -> Tensor:
        return read_for(path, self.size, self.pixel_range)[0]


def _decoded_corner(path: Path) -> Tensor:
    return read_image(path, FULL)[:, :1, :1]  # the range does not matter
