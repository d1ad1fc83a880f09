"""Synthetic images of products, good and defective, for demonstrations and tests.

A turned flange, a blister pack of tablets, a piece of denim, and a kit of parts whose numbers and
places count: drawn with numpy and Pillow, not photographed. How well a detector does on them says
nothing about how it does on real images. A seed gives the same images every time, and a defect the
same image as without it but for the defect: the ground truth is where the two differ.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageFilter

from fastad._files import write_atomically
from fastad.data.rendered.drawing import FINE, SIZE, Rng
from fastad.data.rendered.kit import kit
from fastad.data.rendered.product_drawings import blister, denim, flange

VISIBLE = 8  # grey levels by which a pixel must differ to belong to a defect
NOTE = "SYNTHETIC.txt"
NOTE_TEXT = """\
The images in this folder are synthetic: rendered by fastad, not photographed. How
well a detector does on them says nothing about how it does on real images.
"""

# (rng of the product, rng of the defect, defect) -> colours (3, EXTENT, EXTENT)
Draw = Callable[[Rng, Rng, str | None], np.ndarray]


@dataclass(frozen=True)
class Product:
    """How a product is drawn, and the types of defect that it can have."""

    draw: Draw
    defects: tuple[str, ...]


@dataclass(frozen=True)
class Counts:
    """Images of a data set: good ones to learn from and to test on, and of each type of defect."""

    train: int = 48
    test_good: int = 16
    test_defect: int = 5


USUAL_COUNTS = Counts()


@dataclass(frozen=True)
class Item:
    """An image of a data set: its file and its ground truth's below the folder, and its content."""

    path: PurePosixPath
    mask_path: PurePosixPath | None
    defect: str | None
    seed: tuple[int, ...]


def render(
    product: str, defect: str | None = None, seed: int | Sequence[int] = 0
) -> tuple[np.ndarray, np.ndarray]:
    """An image (256, 256, 3) uint8 of a product and its ground truth (256, 256) bool.

    The same product and seed without the defect gives the same image outside of the ground truth,
    up to differences of `VISIBLE` grey levels. Raises ValueError for an unknown product or defect.
    """
    _check(product)
    defects = PRODUCTS[product].defects
    if defect is not None and defect not in defects:
        raise ValueError(
            f"defect of a {product} must be one of {', '.join(defects)} or None; got {defect!r}"
        )
    key = list(seed) if isinstance(seed, Sequence) else [seed]
    clean = _image(product, None, key)
    if defect is None:
        return clean, np.zeros((SIZE, SIZE), bool)
    image = _image(product, defect, key)
    differs = np.abs(image.astype(np.int16) - clean).max(axis=2) > VISIBLE
    # Closed, because a defect has by chance the colour of what it covers in a pixel here and there.
    mask = Image.fromarray(np.uint8(differs) * 255)
    mask = mask.filter(ImageFilter.MaxFilter(3)).filter(ImageFilter.MinFilter(3))
    return image, np.asarray(mask) > 0


def plan_dataset(product: str, counts: Counts = USUAL_COUNTS, seed: int = 0) -> list[Item]:
    """The images of a data set in MVTec layout; ValueError for an unknown product."""
    _check(product)
    jobs: list[tuple[str, str | None, int]]
    jobs = [("train/good", None, counts.train), ("test/good", None, counts.test_good)]
    jobs += [(f"test/{name}", name, counts.test_defect) for name in PRODUCTS[product].defects]
    return [
        Item(
            PurePosixPath(part, f"{i:03}.png"),
            PurePosixPath("ground_truth", defect, f"{i:03}_mask.png") if defect else None,
            defect,
            (seed, kind, i),
        )
        for kind, (part, defect, number) in enumerate(jobs)
        for i in range(number)
    ]


def write_dataset(
    folder: str | Path,
    product: str,
    counts: Counts = USUAL_COUNTS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Render the images of `plan_dataset` into a folder, and a note that they are synthetic.

    Files are PNG, written atomically, and replace those of the same name. ``progress`` is called
    with the images done and their number.
    """
    items = plan_dataset(product, counts, seed)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / NOTE, lambda path: path.write_text(NOTE_TEXT, encoding="utf-8"))
    for done, item in enumerate(items, 1):
        image, mask = render(product, item.defect, item.seed)
        _write_png(folder / item.path, image)
        if item.mask_path is not None:
            _write_png(folder / item.mask_path, mask.astype(np.uint8) * 255)
        if progress is not None:
            progress(done, len(items))


def _check(product: str) -> None:
    if product not in PRODUCTS:
        raise ValueError(f"product must be one of {', '.join(PRODUCTS)}; got {product!r}")


def _write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))


def _image(product: str, defect: str | None, key: list[int]) -> np.ndarray:
    # The defect draws from numbers of its own, so that it changes nothing else.
    rng, damage = (np.random.default_rng([*key, stream]) for stream in (0, 1))
    colour = PRODUCTS[product].draw(rng, damage, defect) * rng.uniform(0.96, 1.04)
    levels = (np.clip(colour, 0, 1) * 255).astype(np.uint8)
    drawn = np.stack([np.asarray(Image.fromarray(b).reduce(FINE)) for b in levels], axis=-1)
    grain = rng.normal(0, 1.6, (SIZE, SIZE, 1))  # of the camera
    return np.clip(np.rint(drawn + grain), 0, 255).astype(np.uint8)


PRODUCTS = {
    "flange": Product(flange, ("scratch", "broken edge", "stain")),
    "blister": Product(blister, ("missing tablet", "broken tablet", "hair")),
    "denim": Product(denim, ("hole", "missing yarn", "bleach")),
    "kit": Product(kit, ("missing part", "doubled part", "misplaced part")),
}
DEMONSTRATED = ("flange", "blister", "denim")  # by `fastad demo`
