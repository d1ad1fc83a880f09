"""The product folders below a folder of many: a data set each, as published or a factory's own."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastad.data.finding import find_images, holds_images, natural_key
from fastad.data.layouts.description import describe, existing


@dataclass(frozen=True)
class Product:
    """A folder with the images of one product.

    Attributes:
        name: its path below the folder of all products, with slashes.
        folder: its path.
    """

    name: str
    folder: Path


def find_products(root: str | Path, *, passed_over: tuple[Path, ...] = ()) -> list[Product]:
    """The products below a folder, in natural order of their names.

    Each folder directly in ``root`` is a product. One that is no data set, but holds some with test
    images, is a group, and each of these is a product. Folders without images are none.

    Args:
        root: the folder, such as that of MVTec AD's fifteen products.
        passed_over: folders that are no products, such as that of the results.

    Raises:
        FileNotFoundError: there is no such folder.
        NotADirectoryError: it is a file.
        ValueError: ``root`` holds no product, or is one itself.

    Examples:
        >>> from fastad.data import find_products
        >>> from fastad.data.rendered.products import Counts, write_dataset
        >>> for name in ("denim", "flange"):
        ...     write_dataset(f"factory/{name}", name, Counts(train=3, test_good=1, test_defect=1))
        >>> [product.name for product in find_products("factory")]
        ['denim', 'flange']
    """
    root = existing(root)
    left_out = {path.resolve() for path in passed_over}
    found = []
    for folder in _folders(root, left_out):
        inner = list(_data_sets(folder, left_out))
        found += inner or ([folder] if find_images(folder) else [])
    if not found:
        raise ValueError(f"{root} has no product: no folder in it has images")
    if {"train", "test"} & {folder.name.lower() for folder in found}:
        raise ValueError(f"{root} is itself a product: give the folder that it is in")
    return [Product(folder.relative_to(root).as_posix(), folder) for folder in found]


def _folders(root: Path, left_out: set[Path]) -> list[Path]:
    """Those directly in a folder that may be products."""
    folders = [Path(entry.path) for entry in os.scandir(root) if entry.is_dir()]
    folders = [f for f in folders if holds_images(f) and f.resolve() not in left_out]
    return sorted(folders, key=lambda folder: natural_key(folder.name))


def _data_sets(folder: Path, left_out: set[Path]) -> Iterator[Path]:
    """The folder, or those below it, that are data sets with test images; nothing where none is."""
    found = describe(folder)
    if found.cannot_train is None:
        if found.test:
            yield folder
    elif found.files:
        for inner in _folders(folder, left_out):
            yield from _data_sets(inner, left_out)
