"""Folders of images: which are normal, which are defects, and where their masks are.

Recognised::

    MVTec AD     train/good  test/good  test/TYPE  ground_truth/TYPE/NAME_mask.* (or NAME.*)
    MVTec LOCO   and validation/good; ground_truth/TYPE/NAME/*.png, several masks an image
    BTAD         train/ok  test/ok  test/ko  ground_truth/ko/NAME.*
    VisA         ROOT/OBJECT, as published; see `fastad.data.visa`
    by class     good  TYPE ...  ground_truth/TYPE (or masks/TYPE), inside the folder or beside it
    any          images at any depth, all normal

The folder of normal images is named good, ok or normal; letter case never matters.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastad.data.images import ENDINGS, find_images, natural_key
from fastad.data.visa import read_split

NORMAL = ("good", "ok", "normal")
MASKS = ("ground_truth", "masks")
# Below a folder whose images are all taken as normal, these names say that some are not.
DOUBTFUL = {
    *("train", "test", "validation", *MASKS),
    *("anomalies", "anomalous", "anomaly", "abnormal", "bad", "defect", "defective", "defects"),
    *("ko", "nok", "ng", "not_good", "not_ok", "logical_anomalies", "structural_anomalies"),
}


@dataclass(frozen=True)
class Sample:
    """A test image.

    Attributes:
        path: of the image.
        label: 0 normal, 1 defect.
        defect_type: name of its folder; of a normal image too.
        mask_paths: its masks, whose union is the ground truth (`read_ground_truth`); empty for a
            normal image and for a defect without ground truth.
    """

    path: Path
    label: int
    defect_type: str
    mask_paths: tuple[Path, ...] = ()


@dataclass(frozen=True)
class TrainingImages:
    """Normal images to learn from.

    Attributes:
        paths: to train on.
        held_out: others that the layout sets apart for calibration; mostly empty.
        layout: what the folder was recognised as, in words.
    """

    paths: list[Path]
    held_out: list[Path]
    layout: str


def training_images(data: str | Path) -> TrainingImages:
    """Normal images of a folder in one of the layouts of `fastad.data.layouts`.

    A folder that may hold defects or masks among its images is refused: taking every image would
    train on them.

    Raises:
        FileNotFoundError: there is no such folder.
        NotADirectoryError: it is a file.
        ValueError: there is no image, or it is unclear which are normal. The message says what to
            give instead.

    Examples:
        >>> from fastad.data import training_images
        >>> from fastad.data.rendered.products import Counts, write_dataset
        >>> write_dataset("denim", "denim", Counts(train=3, test_good=1, test_defect=1))
        >>> found = training_images("denim")
        >>> found.layout, [path.as_posix() for path in found.paths]
        ('MVTec AD', ['denim/train/good/000.png', 'denim/train/good/001.png',
                      'denim/train/good/002.png'])
    """
    data = _existing(data)
    split = read_split(data)
    if split is not None:
        rows = [row for row in split if row.split == "train" and row.label in NORMAL]
        return TrainingImages(_some([row.image for row in rows], data), [], "VisA")
    normal = _normal(_child(data, "train"))
    if normal:
        held_out = _images(_normal(_child(data, "validation")))
        is_btad = normal[0].name.lower() == "ok"
        layout = "MVTec LOCO" if held_out else "BTAD" if is_btad else "MVTec AD"
        return TrainingImages(_some(_images(normal), *normal), held_out, layout)
    parts = [name for name in ("train", "test") if _child(data, name)]
    normal = _normal(data)
    if not (parts or normal):
        parts = [name for name in MASKS if _child(data, name)]
    if parts:
        raise FileNotFoundError(
            f"{data} has a folder {parts[0]!r} but no 'train/good' with the normal images; "
            "give the folder of normal images itself to train on that"
        )
    if normal:
        return TrainingImages(_some(_images(normal), *normal), [], "folders by class")
    paths = _some(find_images(data), data)
    _refuse_doubtful(paths, data)
    return TrainingImages(paths, [], "folder of images")


def test_samples(data: str | Path) -> list[Sample]:
    """Test images of a folder in one of the layouts of `fastad.data.layouts`, normal ones first.

    Raises:
        FileNotFoundError: there is neither a folder ``test`` nor one of normal images.
        NotADirectoryError: it is a file.
        ValueError: there are no images.

    Examples:
        >>> from fastad.data import test_samples
        >>> from fastad.data.rendered.products import Counts, write_dataset
        >>> write_dataset("denim", "denim", Counts(train=1, test_good=1, test_defect=1))
        >>> for sample in test_samples("denim"):
        ...     print(sample.label, sample.defect_type, len(sample.mask_paths))
        0 good 0
        1 bleach 1
        1 hole 1
        1 missing yarn 1
    """
    data = _existing(data)
    split = read_split(data)
    if split is not None:
        samples = [
            Sample(row.image, int(row.label not in NORMAL), row.label, row.masks)
            for row in split
            if row.split == "test"
        ]
        samples.sort(key=lambda sample: sample.label)
    else:
        test = _child(data, "test")
        around: tuple[Path, ...] = (data,)
        # Normal images alone are more likely those of the training than a test set.
        if test is None and _normal(data) and _defects(data) and not _child(data, "train"):
            test, around = data, (data, data.parent)
        if test is None:
            raise FileNotFoundError(
                f"{data} has no folder 'test' (test/good for normal images, test/TYPE for defects) "
                "and no folders of normal images and of defects itself"
            )
        samples = _by_class(test, around)
    if not samples:
        raise ValueError(
            f"no images in the folders of {data if split is not None else test} "
            f"(looked for {' '.join(ENDINGS)})"
        )
    return samples


# The name is no test of pytest's where a test module imports it.
test_samples.__test__ = False  # type: ignore[attr-defined]


def defect_samples(data: str | Path) -> list[Sample]:
    """Images of defects that have masks: the test images of a data set in one of the layouts above.

    Or those of a folder of defects alone, at any depth; their type is the subfolder. Masks are
    looked for beside each image as NAME_mask, and in a folder ``ground_truth`` or ``masks`` inside
    that of the type, inside the folder, or beside it or its parent, as NAME or NAME_mask; letter
    case does not matter. Images without a mask are left out with a warning.

    Raises FileNotFoundError, NotADirectoryError; ValueError when there is no defect with a mask.
    """
    # Masks may lie beside or above what a relative path begins with.
    data = Path(os.path.abspath(_existing(data)))
    if data.name.lower() in MASKS:
        raise ValueError(f"{data} is a folder of masks by its name: give that of the images")
    if read_split(data) is not None or _child(data, "test"):
        found = [sample for sample in test_samples(data) if sample.label]
    else:
        found = _defects_alone(data)
    samples = [sample for sample in found if sample.mask_paths]
    if not samples:
        raise ValueError(
            f"no defects with masks in {data}: masks are looked for in {' or '.join(MASKS)}, "
            "inside the folder or beside it, and beside each image as NAME_mask"
        )
    if len(samples) < len(found):
        warnings.warn(
            f"{len(found) - len(samples)} of {len(found)} images of defects in {data} have no mask "
            "and are left out",
            stacklevel=2,
        )
    return samples


def _defects_alone(data: Path) -> list[Sample]:
    """Images at any depth, with their masks as far as there are any."""

    def kinds(path: Path) -> list[str]:
        return [part.lower() for part in path.relative_to(data).parts[:-1]]

    every = [path for path in find_images(data) if not {*MASKS, *NORMAL} & set(kinds(path))]
    by_name = {path.with_suffix("").as_posix().lower(): path for path in every}
    samples = []
    for path in every:
        own = path.with_suffix("").as_posix().lower()
        if own.endswith("_mask") and own.removesuffix("_mask") in by_name:
            continue  # of the image beside it
        beside = by_name.get(f"{own}_mask")
        masks = (beside,) if beside else _masks_around(path, data)
        kind = path.relative_to(data).parts[0] if path.parent != data else data.name
        samples.append(Sample(path, 1, kind, masks))
    return samples


def _masks_around(path: Path, data: Path) -> tuple[Path, ...]:
    """An image's masks in folders of masks: by the image's path below what is beside them."""
    for around in path.parents:
        for name in MASKS:
            truth = _child(around, name)
            if truth is None:
                continue
            masks = {key.lower(): found for key, found in _masks_by_name(truth).items()}
            # Outside the folder they may lie under its name or without.
            bases = (around, data.parent, data) if around in data.parents else (around,)
            for base in bases:
                key = _name(path, base).lower()
                found = masks.get(f"{key}_mask") or masks.get(key) or masks.get(f"{key}/")
                if found:
                    return found
        if around == data.parent.parent:
            break
    return ()


def _by_class(test: Path, around: Sequence[Path]) -> list[Sample]:
    types = [folder for folder in _folders(test) if folder.name.lower() not in MASKS]
    types.sort(key=lambda folder: folder.name.lower() not in NORMAL)
    defects = _defects(test)
    truths = (_child(folder, name) for folder in around for name in MASKS)
    truth = next((folder for folder in truths if folder), None)
    samples = []
    for folder in types:
        label = int(folder in defects)
        masks: dict[str, tuple[Path, ...]] = {}
        if label and truth:
            # Masks without folders of types are clear only where there is one type.
            own = _child(truth, folder.name) or (truth if len(defects) == 1 else None)
            masks = _masks_by_name(own) if own else {}
        for path in find_images(folder):
            name = _name(path, folder)
            found = masks.get(f"{name}_mask") or masks.get(name) or masks.get(f"{name}/", ())
            samples.append(Sample(path, label, folder.name, found))
    return samples


def _masks_by_name(truth: Path) -> dict[str, tuple[Path, ...]]:
    """Masks by their name without ending, and all masks of a folder by its name with a slash."""
    masks: dict[str, tuple[Path, ...]] = {}
    for path in find_images(truth):
        name = _name(path, truth)
        for key in (name, name.rpartition("/")[0] + "/"):
            masks[key] = (*masks.get(key, ()), path)
    return masks


def _refuse_doubtful(paths: list[Path], data: Path) -> None:
    folders = list(dict.fromkeys(path.relative_to(data).parent for path in paths))
    named_normal = {f for f in folders if any(part.lower() in NORMAL for part in f.parts)}
    for folder in folders:
        doubtful = any(part.lower() in DOUBTFUL for part in folder.parts)
        if doubtful or (named_normal and folder not in named_normal):
            among = f", beside {min(named_normal)}" if named_normal and not doubtful else ""
            raise ValueError(
                f"{data} has images in {folder}{among}: they may be defects or masks, or there are "
                "several data sets. Give one data set, or the folder of normal images itself"
            )


def _existing(data: str | Path) -> Path:
    data = Path(data)
    if not data.exists():
        raise FileNotFoundError(f"no such folder: {data}")
    if not data.is_dir():
        raise NotADirectoryError(f"not a folder: {data}")
    return data


def _some(paths: list[Path], *folders: Path) -> list[Path]:
    if not paths:
        raise ValueError(
            f"no images in {' or '.join(map(str, folders))} (looked for {' '.join(ENDINGS)})"
        )
    return paths


def _folders(folder: Path) -> list[Path]:
    found = [f for f in folder.iterdir() if f.is_dir() and not f.name.startswith(".")]
    return sorted(found, key=lambda f: natural_key(f.name))


def _child(folder: Path, name: str) -> Path | None:
    """The subfolder of this name, in this spelling if there is one, else in any letter case."""
    same = [f for f in _folders(folder) if f.name.lower() == name.lower()]
    return next((f for f in same if f.name == name), same[0] if same else None)


def _normal(folder: Path | None) -> list[Path]:
    return [f for f in _folders(folder) if f.name.lower() in NORMAL] if folder else []


def _defects(folder: Path) -> list[Path]:
    return [f for f in _folders(folder) if f.name.lower() not in (*NORMAL, *MASKS)]


def _images(folders: list[Path]) -> list[Path]:
    return [path for folder in folders for path in find_images(folder)]


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()
