"""Which folders a user means by a path or a name."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from fastad.data.finding import holds_images, natural_key, output_above
from fastad.data.layouts.naming import part_of
from fastad.data.layouts.vocabulary import plain


def find_named(
    root: Path, name: str | Path, option: str, masks: Callable[[Path], bool]
) -> list[Path]:
    """The folders that an option names: the one of this path below ``root``, else of this name.

    A name is that of the folder nearest to ``root``, of training and of test images apart. So
    ``good`` stands for ``train/good`` and ``test/good``. Letter case does not matter for names.

    Args:
        root: the data set, absolute.
        name: a path, below ``root`` or not, or a name. Masks alone may lie elsewhere.
        option: "good", "defects" or "masks".
        masks: whether a folder holds masks; these are only named by ``masks``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: several are as near, or fastad wrote it.
    """
    text = os.path.normpath(os.path.expanduser(name)) if str(name) else ""
    if not text:
        raise ValueError(f"{option}: the name of a folder is empty")
    for place in (root / text, Path(text)):
        folder = Path(os.path.abspath(place))
        inside = folder == root or root in folder.parents
        if folder.is_dir() and (inside or option == "masks"):
            if folder != root and _is_above(folder, root):
                raise ValueError(f"{option}: {name} is {root} itself, or above it")
            if option != "masks" and inside and (output := output_above(folder, root)):
                raise ValueError(f"{option}: {name} holds what fastad wrote to {output}")
            return [folder]
    nearest: dict[str, list[Path]] = {}
    for folder in sorted(_of_this_name(root, text), key=_nearness):
        if option == "masks" or not any(map(masks, (folder, *_above(folder, root)))):
            own = nearest.setdefault(part_above(folder, root), [folder])
            if len(own[0].parts) == len(folder.parts) and folder not in own:
                own.append(folder)
    if not nearest:
        has = ", ".join(sorted(f.name for f in root.iterdir() if f.is_dir())) or "no folder"
        raise FileNotFoundError(f"{option}: there is no folder {name} in {root}: {has}")
    for several in nearest.values():
        if len(several) > 1:
            places = ", ".join(folder.relative_to(root).as_posix() for folder in several)
            raise ValueError(
                f"{option}: several folders in {root} are called {name}: {places}. Give the path "
                "of one, or the option once for each"
            )
    return [folder for several in nearest.values() for folder in several]


def part_above(path: Path, root: Path) -> str:
    """ "test" or "validation" for what lies, or a link leads, in such a folder, else ""."""
    folders = [path, *_above(path, root)]
    target, real = Path(os.path.realpath(path)), Path(os.path.realpath(root))
    if real in target.parents:
        folders += [target, *_above(target, real)]
    parts = {part_of(folder.name) for folder in folders}
    return "test" if parts & {"test", "private"} else "validation" if "validation" in parts else ""


def _is_above(folder: Path, root: Path) -> bool:
    target, real = Path(os.path.realpath(folder)), Path(os.path.realpath(root))
    return target == real or target in real.parents


def _nearness(folder: Path) -> tuple:
    return len(folder.parts), natural_key(folder.as_posix())


def _above(path: Path, root: Path) -> list[Path]:
    return [folder for folder in path.parents if root in folder.parents]


def _of_this_name(root: Path, name: str) -> Iterator[Path]:
    wanted = plain(name).casefold()
    for top, subfolders, _ in os.walk(root):
        subfolders[:] = [sub for sub in subfolders if holds_images(Path(top, sub))]
        for folder in (Path(top, sub) for sub in subfolders):
            spelled = (folder.name, os.path.relpath(folder, root))
            is_named = wanted in (plain(text).casefold() for text in spelled)
            if is_named and output_above(folder, root) is None and not _is_above(folder, root):
                yield folder
