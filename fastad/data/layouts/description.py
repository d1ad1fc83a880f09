"""What a folder of images holds: what every file is, and what is not clear.

`describe` looks at names alone. It reads pixels only of masks that lie beside images in a folder
of good and defective ones, where a black mask says that its image is good. The commands, the
training and the evaluation take their images from this one description.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from fastad.data.finding import find_images, given_path
from fastad.data.layouts.doubts import no_images, no_test_images
from fastad.data.layouts.named import part_above
from fastad.data.layouts.naming import part_of, part_within, saying
from fastad.data.layouts.visa import SplitRow, read_split

Role = Literal["normal", "defect", "mask", "unlabelled", "passed over"]
Named = Iterable[str | Path]


@dataclass(frozen=True)
class FoundFile:
    """An image file and what it is.

    Attributes:
        path: of the file.
        role: "normal", "defect", "mask", "unlabelled" (a test image without a published label) or
            "passed over".
        part: "train", "validation" or "test"; "" where the layout has no such parts.
        kind: name of the folder of its class.
        masks: of a defect.
        reason: why it is passed over.
    """

    path: Path
    role: Role
    part: str = ""
    kind: str = ""
    masks: tuple[Path, ...] = ()
    reason: str = ""


@dataclass
class DataDescription:
    """What `describe` found.

    Attributes:
        folder: absolute.
        layout: what the folder was recognised as, in words.
        files: every image file below the folder, each once.
        cannot_train: the error of `training_images`, None where the normal images are clear.
        cannot_evaluate: the error of `test_samples`, None where the test images are clear.
        incomplete: there is a folder of training images, but none of normal ones in it.
        unjudged: folders whose names say that nobody has judged their images; passed over.
        repeats: links to files and folders that count already.
        outputs: folders with what fastad wrote, which is passed over.
    """

    folder: Path
    layout: str = "not recognised"
    files: list[FoundFile] = field(default_factory=list)
    cannot_train: Exception | None = None
    cannot_evaluate: Exception | None = None
    incomplete: bool = False
    unjudged: list[Path] = field(default_factory=list)
    repeats: list[Path] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)

    @property
    def unclear(self) -> list[Exception]:
        """What must be settled before the folder can be used for all that it seems to be for.

        A folder of good images alone is clear, though it cannot be measured on.
        """
        errors = [error for error in (self.cannot_train, self.cannot_evaluate) if error]
        every = self.incomplete or len(errors) == 2
        return errors if every else [error for error in errors if isinstance(error, ValueError)]

    @property
    def training(self) -> list[FoundFile]:
        """Normal images to train on."""
        return [f for f in self.files if f.role == "normal" and f.part in ("train", "")]

    @property
    def held_out(self) -> list[FoundFile]:
        """Normal images that the layout sets apart for calibration."""
        return [f for f in self.files if f.role == "normal" and f.part == "validation"]

    @property
    def test(self) -> list[FoundFile]:
        """Test images, normal ones first."""
        test = [f for f in self.files if f.part in ("test", "")]
        return [f for role in ("normal", "defect") for f in test if f.role == role]

    @property
    def unlabelled(self) -> list[FoundFile]:
        """Images to predict only."""
        return [f for f in self.files if f.role == "unlabelled"]

    @property
    def passed_over(self) -> list[FoundFile]:
        """Files that nothing is done with."""
        return [f for f in self.files if f.role == "passed over"]


def describe(
    data: str | Path, *, good: Named = (), defects: Named = (), masks: Named = ()
) -> DataDescription:
    """Say of every image file below a folder what it is, without reading the images.

    Args:
        data: a folder in one of the layouts of `fastad.data.layouts`.
        good: folders of normal images, as paths or names, whatever their names say. A name stands
            for the folder nearest to ``data``. Nothing below a folder of test or validation images
            is trained on.
        defects: folders of defects.
        masks: folders of masks; they may lie elsewhere.

    Returns:
        The description. What is unclear is an error in ``cannot_train`` or ``cannot_evaluate``;
        nothing is raised for that.

    Raises:
        FileNotFoundError: there is no such folder.
        NotADirectoryError: it is a file.
        ValueError: a folder is named twice, several folders have the name, or fastad wrote it.

    Examples:
        >>> from fastad.data import describe
        >>> from fastad.data.rendered.products import Counts, write_dataset
        >>> write_dataset("denim", "denim", Counts(train=3, test_good=1, test_defect=1))
        >>> found = describe("denim")
        >>> found.layout, len(found.training), len(found.test)
        ('MVTec AD', 3, 4)
    """
    from fastad.data.layouts.recognition import Recognition

    given = existing(data)
    root = Path(os.path.abspath(given))
    good, defects, masks = (
        [names] if isinstance(names, (str, Path)) else list(names)
        for names in (good, defects, masks)
    )
    named = bool(good or defects or masks)
    found = None if named else _of_visa(root)
    if found is None:
        found = Recognition(root, good, defects, masks).description()
    if not given.is_absolute() and found.layout != "VisA":
        found.files = [_as_given(file, root, given) for file in found.files]
    return found


def existing(data: str | Path) -> Path:
    """The folder; FileNotFoundError or NotADirectoryError where it is none."""
    data = given_path(data)
    if not data.exists():
        raise FileNotFoundError(f"no such folder: {data}")
    if not data.is_dir():
        raise NotADirectoryError(f"not a folder: {data}")
    return data


def with_parts_in_classes(files: dict[Path, FoundFile], root: Path) -> dict[Path, FoundFile]:
    """The files of classes with their parts, of ``good/train`` or ``train_good``.

    As they are where no normal image is in a part. Otherwise normal images in no part are for the
    training where there are test images or others for the training.
    """

    def part(file: FoundFile) -> str:
        for name in file.path.relative_to(root).parts[:-1]:
            found = part_of(name) or (part_within(name) if name == file.kind else "")
            if found:
                return "test" if found == "private" else found
        return part_above(file.path, root)  # of what a link leads to

    parts = {path: part(f) for path, f in files.items() if f.role in ("normal", "defect")}
    of_normal = {parts[path] for path, f in files.items() if f.role == "normal"}
    if of_normal <= {""}:
        return files
    result = dict(files)
    for path, own in parts.items():
        if files[path].role == "normal":
            result[path] = replace(files[path], part=own or "train")
        elif own == "test" or (own == "" and "" in of_normal):
            result[path] = replace(files[path], part="test")
        else:
            reason = "a defect outside the test images"
            result[path] = FoundFile(path, "passed over", reason=reason)
    return result


def _as_given(file: FoundFile, root: Path, given: Path) -> FoundFile:
    def spelled(path: Path) -> Path:
        return given / path.relative_to(root) if root in path.parents else path

    return replace(file, path=spelled(file.path), masks=tuple(map(spelled, file.masks)))


def _of_visa(root: Path) -> DataDescription | None:
    try:
        split = read_split(root)
    except (FileNotFoundError, ValueError) as error:
        reason = "of no readable split"
        files = [FoundFile(path, "passed over", reason=reason) for path in find_images(root)]
        return DataDescription(root, "VisA", files, error, error, incomplete=True)
    return None if split is None else _of_split(root, split)


def _of_split(root: Path, split: list[SplitRow]) -> DataDescription:
    found: dict[Path, FoundFile] = {}
    for row in split:
        normal = saying(row.label) == "normal"
        masks = () if normal else row.masks
        if row.split not in ("train", "test"):
            file = FoundFile(row.image, "passed over", reason=f"of the split {row.split!r}")
        elif row.split == "train" and not normal:
            file = FoundFile(row.image, "passed over", reason="a defect of the training split")
        else:
            role: Role = "normal" if normal else "defect"
            file = FoundFile(row.image, role, row.split, row.label, masks)
        found[row.image] = file
        found |= {mask: FoundFile(mask, "mask", row.split, row.label) for mask in masks}
    for path in find_images(root):
        found.setdefault(path, FoundFile(path, "passed over", reason="not in the table"))
    result = DataDescription(root, "VisA", list(found.values()))
    if not result.training:
        result.cannot_train = no_images(root)
    if not result.test:
        result.cannot_evaluate = no_test_images(root)
    return result
