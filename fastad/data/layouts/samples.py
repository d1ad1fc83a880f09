"""Folders of images: which are normal, which are defects, and where their masks are.

Recognised::

    MVTec AD     train/good  test/good  test/TYPE  ground_truth/TYPE/NAME_mask.* (or NAME.*)
    MVTec AD 2   and validation/good; test_public/TYPE, test_public/ground_truth; test_private
    MVTec LOCO   and validation/good; ground_truth/TYPE/NAME/*.png, several masks an image
    BTAD         train/ok  test/ok  test/ko  ground_truth/ko/NAME.*
    VisA         ROOT/OBJECT, as published; see `fastad.data.layouts.visa`
    by class     good  TYPE ...  ground_truth/TYPE (or masks/TYPE), inside the folder or beside it
    DAGM         Train  Test, each with Label/Labels.txt, which says what every image is
    pairs        NAME.*  NAME_mask.*, good where the mask is black, as KolektorSDD2
    any          images at any depth, all normal

`fastad.data.layouts.naming` lists the words for normal images, defects and masks. A mask may lie
beside its image, too: as NAME_mask, NAME_GT, NAME_label or NAME_seg. It is never an image.

What the names leave open is refused: a folder whose name says both, several folders side by side
none of which is plainly normal, and test folders none of which is plainly normal where one is
neither named as a defect nor has masks. So is a folder among good images whose name says nothing
of when or how they were taken. Folders such as ``todo`` or ``repaired`` are passed over.
`describe` shows all of it; ``good``, ``defects`` and ``masks`` name such folders.
"""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fastad.data.finding import find_images, once
from fastad.data.layouts.description import DataDescription, Named, describe, existing
from fastad.data.layouts.exclusion import excluded
from fastad.data.layouts.folders import Folders
from fastad.data.layouts.mask_files import split_masks
from fastad.data.layouts.naming import saying
from fastad.data.layouts.visa import read_split
from fastad.data.masks import read_ground_truth


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
        name: of the folder.
        excluded: images that the user left out.
    """

    paths: list[Path]
    held_out: list[Path]
    layout: str
    name: str | None = field(default=None, compare=False)
    excluded: list[Path] = field(default_factory=list, compare=False)


def training_images(
    data: str | Path,
    *,
    good: Named = (),
    masks: Named = (),
    exclude: str | Path | None = None,
) -> TrainingImages:
    """Normal images of a folder in one of the layouts of `fastad.data.layouts`.

    A folder that may hold defects or masks among its images is refused: taking every image would
    train on them.

    Args:
        data: the folder.
        good: folders of normal images whose names do not say so, as in `describe`.
        masks: folders of masks.
        exclude: a text file that names images to leave out, a path or its end in a line. See
            `fastad.data.layouts.exclusion`.

    Raises:
        FileNotFoundError: there is no such folder, or no file ``exclude``.
        NotADirectoryError: it is a file.
        ValueError: there is no image, ``exclude`` names one that is not there, or it is
            unclear which are normal. The message says what to give instead.

    Examples:
        >>> from fastad.data import training_images
        >>> from fastad.data.rendered.products import Counts, write_dataset
        >>> write_dataset("denim", "denim", Counts(train=3, test_good=1, test_defect=1))
        >>> found = training_images("denim")
        >>> found.layout, [path.as_posix() for path in found.paths]
        ('MVTec AD', ['denim/train/good/000.png', 'denim/train/good/001.png',
                      'denim/train/good/002.png'])
    """
    found = describe(data, good=good, masks=masks)
    if found.cannot_train is not None:
        raise found.cannot_train
    paths, held_out = ([f.path for f in files] for files in (found.training, found.held_out))
    name = found.folder.resolve().name
    if exclude is None:
        return TrainingImages(paths, held_out, found.layout, name)
    left_out = excluded([*paths, *held_out], exclude)
    paths, held_out = ([p for p in some if p not in left_out] for some in (paths, held_out))
    if not paths:
        raise ValueError(f"{exclude} leaves no image of {data} to train on")
    return TrainingImages(paths, held_out, found.layout, name, left_out)


def test_samples(  # no test of pytest's
    data: str | Path,
    *,
    good: Named = (),  # noqa: PT028
    defects: Named = (),  # noqa: PT028
    masks: Named = (),  # noqa: PT028
) -> list[Sample]:
    """Test images of a folder in one of the layouts of `fastad.data.layouts`, normal ones first.

    Args:
        data: the folder.
        good: folders of normal images whose names do not say so, as in `describe`.
        defects: folders of defects.
        masks: folders of masks.

    Raises:
        FileNotFoundError: there is neither a folder ``test`` nor one of normal images.
        NotADirectoryError: it is a file.
        ValueError: there are no images, or it is unclear which are normal.

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
    return samples_of(describe(data, good=good, defects=defects, masks=masks))


def samples_of(found: DataDescription) -> list[Sample]:
    """`test_samples` of a folder that is described already."""
    if found.cannot_evaluate is not None:
        raise found.cannot_evaluate
    if found.unjudged:
        names = ", ".join(folder.name for folder in found.unjudged)
        warnings.warn(
            f"not measured on, as their names say that nobody has judged the images: {names}; "
            "--good FOLDER or --defects FOLDER says what they hold",
            stacklevel=3,
        )
    return [Sample(f.path, int(f.role == "defect"), f.kind, f.masks) for f in found.test]


# The name is no test of pytest's where a test module imports it.
test_samples.__test__ = False  # type: ignore[attr-defined]


def defect_samples(data: str | Path) -> list[Sample]:
    """Images of defects that have masks: the test images of a data set in one of the layouts above.

    Or those of a folder of defects alone, at any depth; their type is the subfolder. Masks are
    looked for beside each image as NAME_mask, and in a folder of masks (``ground_truth``, ``masks``
    and the like) inside that of the type, inside the folder, or beside it or its parent, as NAME or
    NAME_mask; letter case does not matter. Images without a mask are left out with a warning.

    Raises FileNotFoundError, NotADirectoryError; ValueError when there is no defect with a mask.
    """
    found = defect_images(data)
    samples = [sample for sample in found if sample.mask_paths]
    if not samples:
        raise ValueError(
            f"no defects with masks in {data}: masks are looked for in a folder ground_truth, "
            "masks or the like, inside the folder or beside it, and beside each image as NAME_mask"
        )
    if len(samples) < len(found):
        warnings.warn(
            f"{len(found) - len(samples)} of {len(found)} images of defects in {data} have no mask "
            "and are left out",
            stacklevel=2,
        )
    return samples


def defect_images(data: str | Path) -> list[Sample]:
    """As `defect_samples`, with or without masks.

    Raises FileNotFoundError, NotADirectoryError; ValueError for a folder of masks or good images.
    """
    # Masks may lie beside or above what a relative path begins with.
    data = Path(os.path.abspath(existing(data)))
    if saying(data.name) == "masks":
        raise ValueError(f"{data} is a folder of masks by its name: give that of the images")
    if read_split(data) is not None or Folders(data).part("test"):
        return [sample for sample in test_samples(data) if sample.label]
    found = _defects_alone(data)
    between = {f.name for s in found for f in s.path.parents if data in f.parents}
    if saying(data.name) == "normal" and "defect" not in map(saying, between):
        raise ValueError(
            f"{data} is a folder of good images by its name: give that of the defects, or rename it"
        )
    return found


def images_without_masks(folder: str | Path) -> list[Path]:
    """Images at any depth, as `find_images` gives them, without masks.

    Masks are known by the names of their folders or of files beside images. A folder that has
    nothing else is a folder of images. Raises FileNotFoundError or NotADirectoryError.
    """
    root = Path(os.path.abspath(existing(folder)))
    folders, every = Folders(root), find_images(folder, every_link=True)
    inside = [path for path in every if not folders.in_masks(Path(os.path.abspath(path)))]
    known = set(split_masks(inside)[0])
    return once([path for path in inside if path in known] or every)


def _defects_alone(data: Path) -> list[Sample]:
    """Images at any depth, with their masks as far as there are any."""
    folders = Folders(data)
    every = find_images(data, every_link=True)  # many images may share one mask
    every = [path for path in every if not folders.in_masks(path)]
    images, beside, _ = split_masks(every)
    known = set(once(images))
    samples = []
    for path in every:
        above = [folder for folder in path.parents if data in folder.parents]
        if path not in known or any(folders.says(folder) == "normal" for folder in above):
            continue
        masks = tuple(beside.get(path, ()))
        masks = masks or folders.masks.around(path, data, data.parent.parent)
        kind = path.relative_to(data).parts[0] if path.parent != data else data.name
        samples.append(Sample(path, 1, kind, masks))
    return _without_good(samples, beside)


def _without_good(samples: list[Sample], beside: Iterable[Path]) -> list[Sample]:
    """Without images whose mask beside them is black, where others' are not: those are good."""
    pairs = set(beside)
    if not all(sample.path in pairs for sample in samples):
        return samples
    defects = [sample for sample in samples if not _black(sample.mask_paths)]
    return defects or samples


def _black(masks: tuple[Path, ...]) -> bool:
    try:
        return not read_ground_truth(masks).any()
    except (OSError, ValueError):
        return False  # whoever uses it says what is wrong
