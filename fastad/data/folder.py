"""Folders as data sets: the MVTec AD layout, or any folder of images.

MVTec layout::

    bottle/train/good/000.png              normal images to learn from
    bottle/test/good/000.png               normal images to test on
    bottle/test/broken/000.png             defects, one folder a type
    bottle/ground_truth/broken/000_mask.png    white where the defect is (000.png works too)
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastad.data.images import ENDINGS, find_images, natural_key, parse_size, read_image, resize

# Decoding and resizing release the interpreter lock; more threads than this only add memory.
READER_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Sample:
    """A test image: ``label`` 0 normal, 1 defect; ``mask_path`` None for a normal image and for a
    defect without ground truth."""

    path: Path
    label: int
    defect_type: str
    mask_path: Path | None


def training_images(data: str | Path) -> list[Path]:
    """Paths of the normal images to learn from.

    ``train/good`` where it exists, otherwise every image below the folder. A folder with ``train``,
    ``test`` or ``ground_truth`` but without ``train/good`` is refused, because taking every
    image would train on the defects.

    Raises FileNotFoundError, NotADirectoryError, or ValueError when there is no image.
    """
    data = Path(data)
    folder = data
    if (data / "train" / "good").is_dir():
        folder = data / "train" / "good"
    else:
        parts = [n for n in ("train", "test", "ground_truth") if (data / n).is_dir()]
        if parts:
            raise FileNotFoundError(
                f"{data} has a folder {parts[0]!r} but no 'train/good' with the normal images; "
                "give the folder of normal images itself to train on that"
            )
    paths = find_images(folder)
    if not paths:
        raise ValueError(f"no images in {folder} (looked for {' '.join(ENDINGS)})")
    return paths


def test_samples(data: str | Path) -> list[Sample]:
    """Test images of a folder in MVTec layout, normal ones (``test/good``) first.

    A defect's mask is ``ground_truth/TYPE/NAME_mask.*`` or ``ground_truth/TYPE/NAME.*``, and None
    where there is none. Raises FileNotFoundError when ``test`` is missing, ValueError when it
    holds no images in folders.
    """
    data = Path(data)
    if not data.is_dir():
        raise FileNotFoundError(f"no such folder: {data}")
    test = data / "test"
    if not test.is_dir():
        raise FileNotFoundError(
            f"{data} has no folder 'test' (test/good for normal images, test/TYPE for defects)"
        )
    types = [f.name for f in test.iterdir() if f.is_dir() and not f.name.startswith(".")]
    types.sort(key=lambda name: (name != "good", natural_key(name)))
    samples = []
    for defect_type in types:
        truth = data / "ground_truth" / defect_type
        masks = {}
        if defect_type != "good" and truth.is_dir():
            masks = {p.relative_to(truth).with_suffix("").as_posix(): p for p in find_images(truth)}
        for path in find_images(test / defect_type):
            name = path.relative_to(test / defect_type).with_suffix("").as_posix()
            mask = masks.get(f"{name}_mask", masks.get(name))
            samples.append(Sample(path, int(defect_type != "good"), defect_type, mask))
    if not samples:
        raise ValueError(f"no images in the folders of {test} (looked for {' '.join(ENDINGS)})")
    return samples


test_samples.__test__ = False  # the name is no test of pytest's where a test module imports it


def iterate_batches(
    items: Iterable[Any],
    size: tuple[int, int],
    batch_size: int,
    read: Callable[[Any], Tensor] = read_image,
) -> Iterator[Tensor]:
    """Images as batches (N, 3, H, W) uint8 at ``size``, in order.

    ``read`` turns an item (a path unless told otherwise) into uint8 (3, h, w). Threads read ahead
    by one batch; no more than two batches are ever held.
    """

    def load(item: Any) -> Tensor:
        return resize(read(item), size)

    with ThreadPoolExecutor(READER_THREADS) as pool:
        todo = iter(items)
        ahead = deque(pool.submit(load, item) for item in islice(todo, batch_size))
        while ahead:
            batch = []
            for _ in range(min(batch_size, len(ahead))):
                batch.append(ahead.popleft().result())
                ahead.extend(pool.submit(load, item) for item in islice(todo, 1))
            yield torch.stack(batch)


class ImageDataset(Dataset):
    """Map-style data set of image files: item -> uint8 (3, H, W) at ``size``.

    ``in_memory=True`` decodes every file once, at construction, with a few threads, and keeps
    N * 3 * H * W bytes; False decodes on every access. Raises what ``read_image`` raises.
    """

    is_fixed = True  # nothing is drawn at random: training may keep what teachers say of an image

    def __init__(
        self,
        paths: Sequence[str | Path],
        size: int | str | tuple[int, int],
        in_memory: bool = True,
    ) -> None:
        if not paths:
            raise ValueError("paths: at least one image is needed")
        self.paths = [Path(path) for path in paths]
        self.size = parse_size(size)
        self.images: Tensor | None = None
        if in_memory:
            self.images = torch.empty(len(self.paths), 3, *self.size, dtype=torch.uint8)
            start = 0
            for batch in iterate_batches(self.paths, self.size, 64):
                self.images[start : start + len(batch)] = batch
                start += len(batch)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        if self.images is not None:
            return self.images[index]
        return resize(read_image(self.paths[index]), self.size)
