"""What is unclear in a folder of images, and the errors that say so."""

import os
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from fastad.data.finding import ENDINGS
from fastad.data.layouts.folders import Folders
from fastad.data.layouts.named import part_above
from fastad.data.layouts.naming import is_group, is_unjudged, only_groups, part_of, words

MOST_LISTED = 20  # folders in one message
# Words of a data set's name: ``crack_detection`` need not be a folder of cracks.
OF_DATA_SETS = {"data", "dataset", "datasets", "demo", "detection", "inspection", "project"}


def not_all_normal(
    folders: Folders,
    images: list[Path],
    masked: Collection[Path],
    counts: Callable[[list[Path]], dict[str, int]],
) -> ValueError | None:
    """Why the images of a folder without a known layout cannot all be taken as normal.

    ``masked`` are folders of masks among them. ``counts`` gives the images in each folder.
    """
    root, says = folders.root, folders.says
    if masked:
        return doubtful(root, min(masked))
    own = list(dict.fromkeys(path.parent for path in images))
    above = {f: [g for g in (f, *f.parents) if root in g.parents] for f in own}
    normal = {f for f in own if any(says(g) == "normal" for g in above[f])}
    for folder in own:
        said = [says(g) for g in above[folder]]
        parts = [part_of(g.name) for g in above[folder] if folders.named.get(g) is None]
        unjudged = any(is_unjudged(g.name) for g in above[folder] if g not in folders.named)
        bad = "defect" in said or "both" in said or any(parts) or unjudged
        if bad or (normal and folder not in normal):
            return doubtful(root, folder, min(normal) if normal and not bad else None)
    if normal:
        top = {f: next(g for g in reversed(above[f]) if says(g) == "normal") for f in own}
        inner = mixed(folders, [(top[path.parent], path) for path in images])
        return nested(root, root, inner) if inner else None
    containing = {g for every in above.values() for g in every}
    for parent in sorted({g.parent for g in containing}):
        siblings = [f for f in folders.of(parent) if f in containing]
        names = [f.name for f in siblings]
        # Images beside a folder may be those without what the folder's name says.
        names += [""] * (parent in own and len(siblings) == 1)
        if len(names) > 1 and not only_groups(names):
            return ValueError(
                f"none of the folders in {parent} is plainly that of the normal images: "
                f"{_listed(counts(siblings))}. Name the folder of good images with --good FOLDER, "
                f"or {root} itself with --good .; `fastad inspect {root}` shows what was found"
            )
    of_no_group = {tuple(words(g.name) for g in above[f] if not is_group(g.name)) for f in own}
    if len(of_no_group) > 1:
        return ValueError(
            f"the folders in {root} are of several kinds: {_listed(_below(root, images))}. Name "
            "the folder of good images with --good FOLDER, or all of them with --good .; "
            f"`fastad inspect {root}` shows what was found"
        )
    if _of_defects(folders):
        return ValueError(
            f"{root} is a folder of defects by its name. Give the folder of good images. If this "
            "is one, rename it, or train with --good ."
        )
    return None


def _of_defects(folders: Folders) -> bool:
    """Whether the folder itself is one of defects: by its name, or as test/TYPE is beside good."""
    root = folders.root
    if folders.says(root) == "defect":
        return OF_DATA_SETS.isdisjoint(words(root.name))
    if (
        root in folders.named
        or folders.says(root) == "normal"
        or part_of(root.parent.name) != "test"
    ):
        return False
    try:
        return bool(folders.normal(root.parent))
    except PermissionError:  # above the data set, where nobody need be allowed to look
        return False


def mixed(folders: Folders, found: list[tuple[Path, Path]]) -> Path | None:
    """A folder within one of a class that may hold other images than the rest of it.

    ``found`` are images with the folders of their classes, folder first. A folder whose name says
    nothing is doubtful where not all images of the class are in such a one. What the user has
    named is not.
    """
    inner: dict[Path, dict[tuple, Path]] = {}
    for folder, place in dict.fromkeys((folder, path.parent) for folder, path in found):
        if folder in folders.named:
            continue
        between = [f for f in (place, *place.parents) if folder in f.parents]
        unknown = [f for f in between if f not in folders.named and not is_group(f.name)]
        key = tuple(words(f.name) for f in unknown)
        inner.setdefault(folder, {}).setdefault(key, unknown[-1] if unknown else folder)
    several = [found for found in inner.values() if len(found) > 1]
    return next((place for found in several for key, place in found.items() if key), None)


def nested(root: Path, good: Path, inner: Path) -> ValueError:
    """The error of a folder among good images whose name says nothing of them."""
    option = os.path.relpath(good, root)
    return ValueError(
        f"{root} has images in {inner.relative_to(root)}, among good ones: they may be defects. If "
        f"all are good, say so with --good {shlex.quote(option)}; else move that folder out of "
        f"there; `fastad inspect {root}` shows what was found"
    )


def contradicting(
    folders: Folders, found: list[tuple[Path, Path]], parts: bool = False
) -> Path | None:
    """A folder within one of a class whose name says another class, or a part where ``parts``.

    ``found`` are images with the folders of their classes, folder first.
    """
    for folder, path in found:
        other = "defect" if folders.says(folder) == "normal" else "normal"
        for inner in path.parents:
            if inner == folder:
                break
            if folders.says(inner) in ("both", other) or (parts and part_of(inner.name)):
                return inner
    return None


def unclear(root: Path, parent: Path, counts: Mapping[str, int]) -> ValueError:
    """The error of folders of which nobody can tell what is in them."""
    return ValueError(
        f"in {parent} it is unclear whether these folders hold normal images or defects: "
        f"{_listed(counts)}. Name the folder of good images with --good FOLDER, those of defects "
        f"with --defects FOLDER; `fastad inspect {root}` shows what was found"
    )


def doubtful(root: Path, folder: Path, beside: Path | None = None) -> ValueError:
    """The error of a folder among others that may hold defects or masks."""
    among = f", beside {beside.relative_to(root)}" if beside else ""
    return ValueError(
        f"{root} has images in {folder.relative_to(root)}{among}: they may be defects or masks, or "
        "there are several data sets. Give one data set, or the folder of normal images itself, or "
        f"name that with --good FOLDER; `fastad inspect {root}` shows what was found"
    )


def incomplete(root: Path, name: str) -> FileNotFoundError:
    """The error of a layout without normal images."""
    return FileNotFoundError(
        f"{root} has a folder {name.lower()!r} but no 'train/good' with the normal images; give "
        "the folder of normal images itself to train on that, or name it with --good FOLDER; "
        f"`fastad inspect {root}` shows what was found"
    )


def no_test(root: Path) -> FileNotFoundError:
    """The error of a folder without labelled images."""
    return FileNotFoundError(
        f"{root} has no folder 'test' (test/good for normal images, test/TYPE for defects) and no "
        "folders of normal images and of defects itself; name that of normal images with --good "
        f"FOLDER; `fastad inspect {root}` shows what was found"
    )


def no_normal(root: Path, named: Sequence[Path]) -> Exception:
    """The error where the user has named folders, but none of images to train on."""
    if not named:
        return FileNotFoundError(
            f"folders of defects in {root} are named, but none of good images: name one with "
            "--good FOLDER"
        )
    if any(part_above(folder, root) for folder in named):
        return of_tests(root, named)
    return no_images(*named)


def of_tests(root: Path, folders: Sequence[Path]) -> ValueError:
    """The error of folders of test images alone, where images to train on are needed."""
    places = ", ".join(os.path.relpath(folder, root) for folder in folders)
    return ValueError(
        f"{places} in {root}: these are test or validation images, which are never trained on. "
        "Name a folder of training images with --good FOLDER, or give the folder itself"
    )


def unused_masks(root: Path, folder: Path) -> ValueError:
    """The error of a folder that the user has named as one of masks."""
    return ValueError(
        f"masks: no file in {os.path.relpath(folder, root)} is the mask of a defect in {root}: the "
        "mask of NAME is NAME or NAME_mask, and its defect is in no folder that --masks names"
    )


def no_images(*folders: Path) -> ValueError:
    """The error of folders without any image."""
    return ValueError(
        f"no images in {' or '.join(map(str, folders))} (looked for {' '.join(ENDINGS)})"
    )


def no_test_images(folder: Path) -> ValueError:
    """The error of a test set without any image."""
    return ValueError(f"no images in the folders of {folder} (looked for {' '.join(ENDINGS)})")


def _below(root: Path, images: list[Path]) -> Counter[str]:
    return Counter(os.path.relpath(path.parent, root) for path in images)


def _listed(counts: Mapping[str, int]) -> str:
    items = [f"{name} ({n} image{'s' * (n != 1)})" for name, n in counts.items()]
    more = len(items) - MOST_LISTED
    return ", ".join(items[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
