"""The folders of a data set: what their names, or the user, say of them."""

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from fastad.data.finding import holds_images, natural_key
from fastad.data.layouts.mask_files import MaskFolders
from fastad.data.layouts.named import find_named
from fastad.data.layouts.naming import Saying, masks_of_sibling, part_of, saying, words


class Folders:
    """Answers by folder; the user's word wins over the name.

    Args:
        root: the data set, absolute.
        good, defects, masks: folders that the user named, as `find_named` takes them. "." is
            ``root`` itself.

    Raises FileNotFoundError for a named folder that is not there, ValueError for one named twice.
    """

    def __init__(
        self,
        root: Path,
        good: Iterable[str | Path] = (),
        defects: Iterable[str | Path] = (),
        masks: Iterable[str | Path] = (),
    ) -> None:
        self.root = root
        self._children: dict[Path, list[Path]] = {}
        self._real: dict[Path, str] = {}
        self._said: dict[Path, Saying | None] = {}
        self.named: dict[Path, Saying] = {}
        given: tuple[tuple[Saying, str, Iterable[str | Path]], ...] = (
            ("normal", "good", good),
            ("defect", "defects", defects),
            ("masks", "masks", masks),
        )
        for said, option, names in given:
            for name in [names] if isinstance(names, (str, Path)) else names:
                for folder in find_named(root, name, option, self._of_masks):
                    if self.named.setdefault(folder, said) != said:
                        raise ValueError(f"{option}: {name} is named as something else, too")
        self.masks = MaskFolders(self.mask_folders, self.of)

    def of(self, folder: Path) -> list[Path]:
        """Its subfolders in natural order, without links upwards and those of no images."""
        if folder not in self._children:
            shown = [f for f in folder.iterdir() if f.is_dir() and holds_images(f)]
            found = [f for f in shown if not (f.is_symlink() and self._upwards(f))]
            self._children[folder] = sorted(found, key=lambda f: natural_key(f.name))
        return self._children[folder]

    def _upwards(self, link: Path) -> bool:
        target, real = Path(os.path.realpath(link)), Path(os.path.realpath(link.parent))
        return target == real or target in real.parents

    def real(self, path: Path) -> str:
        """The path of a file without links."""
        if path.is_symlink():
            return os.path.realpath(path)
        if path.parent not in self._real:
            self._real[path.parent] = os.path.realpath(path.parent)
        return os.path.join(self._real[path.parent], path.name)

    def says(self, folder: Path) -> Saying | None:
        """Of what is directly in it: "normal", "defect", "masks", "both" or None for nothing."""
        if folder not in self._said:
            said = self.named.get(folder) or saying(folder.name)
            rest = masks_of_sibling(folder.name)
            if folder not in self.named and rest and said in (None, "both"):
                others = {words(f.name) for f in self.of(folder.parent) if f != folder}
                said = "masks" if rest in others else said
            if said is None and folder.is_symlink():
                said = self._of_target(folder)
            self._said[folder] = said
        return self._said[folder]

    def _of_target(self, link: Path) -> Saying | None:
        """What the folder that a link leads to is called, or those around it in the data set."""
        target, root = Path(os.path.realpath(link)), Path(os.path.realpath(self.root))
        inside = [folder for folder in target.parents if root in folder.parents]
        masked = any(saying(folder.name) == "masks" for folder in inside)
        return "masks" if masked else saying(target.name)

    def normal(self, folder: Path | None) -> list[Path]:
        """The folders of normal images directly in a folder, or itself where the user says so."""
        if folder is None:
            return []
        if self.named.get(folder) == "normal":
            return [folder]
        return [f for f in self.of(folder) if self.says(f) == "normal"]

    def named_normal(self) -> list[Path]:
        """Folders that the user named as good."""
        return [f for f, said in self.named.items() if said == "normal"]

    def mask_folders(self, folder: Path) -> list[Path]:
        """The folders of masks directly in a folder; of the data set those named elsewhere, too."""
        try:
            found = [f for f in self.of(folder) if self.says(f) == "masks"]
        except PermissionError:  # above the data set, where nobody need be allowed to look
            found = []
        return found + (self._named_outside if folder == self.root else [])

    @cached_property
    def _named_outside(self) -> list[Path]:
        return [f for f, said in self.named.items() if said == "masks" and f.parent != self.root]

    def in_masks(self, path: Path) -> bool:
        """Whether a file lies in a folder of masks below the data set."""
        below = [f for f in path.parents if self.root in f.parents]
        return any(self.says(folder) == "masks" for folder in below)

    def part(self, name: str) -> Path | None:
        """The subfolder with the "train", "validation" or "test" images.

        In this spelling if there is one, else in any letter case, else of another usual name.
        """
        same = [f for f in self.of(self.root) if part_of(f.name) == name]
        spelled = [f for f in same if f.name == name] or [f for f in same if f.name.lower() == name]
        return next(iter(spelled or same), None)

    def named_deeper(self) -> bool:
        """Whether a named folder of images is not where the layouts look for one."""
        places = {self.root, *(f for f in self.of(self.root) if part_of(f.name))}
        named = [f for f, said in self.named.items() if said != "masks"]
        return any(f == self.root or not {f, f.parent} & places for f in named)

    def _of_masks(self, folder: Path) -> bool:
        return saying(folder.name) == "masks"
