"""What is unclear in a folder of images, and the errors that say so."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from fastad.data.images import ENDINGS
from fastad.data.layouts.folders import Folders
from fastad.data.layouts.naming import only_groups, part_of


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
        bad = "defect" in said or "both" in said or any(parts)
        if bad or (normal and folder not in normal):
            return doubtful(root, folder, min(normal) if normal and not bad else None)
    if normal:
        return None
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
    return None


def contradicting(folders: Folders, found: list[tuple[Path, Path]]) -> Path | None:
    """A folder within one of a class whose name says another class.

    ``found`` are images with the folders of their classes, folder first.
    """
    for folder, path in found:
        other = "defect" if folders.says(folder) == "normal" else "normal"
        for inner in path.parents:
            if inner == folder:
                break
            if folders.says(inner) in ("both", other):
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


def no_images(*folders: Path) -> ValueError:
    """The error of folders without any image."""
    return ValueError(
        f"no images in {' or '.join(map(str, folders))} (looked for {' '.join(ENDINGS)})"
    )


def no_test_images(folder: Path) -> ValueError:
    """The error of a test set without any image."""
    return ValueError(f"no images in the folders of {folder} (looked for {' '.join(ENDINGS)})")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({n} image{'s' * (n != 1)})" for name, n in counts.items())
