"""The images below a folder, each with the one role that it is given."""

import os
from collections.abc import Iterable
from pathlib import Path

from fastad.data.finding import find_images, once
from fastad.data.layouts.description import DataDescription, FoundFile, Role
from fastad.data.layouts.folders import Folders
from fastad.data.layouts.mask_files import split_masks
from fastad.data.layouts.naming import is_unjudged

Named = Iterable[str | Path]

UNCLEAR = "it is unclear what it is"
UNJUDGED = "its folder's name says that nobody has judged it"


class Roles:
    """Arguments as of `describe`; ``root`` is absolute."""

    def __init__(self, root: Path, good: Named, defects: Named, masks: Named) -> None:
        self.root = root
        self.folders = Folders(root, good, defects, masks)
        self.result = DataDescription(root)
        self._files: dict[Path, FoundFile] = {}
        self._beside: dict[Path, list[Path]] = {}
        self._first: dict[str, Path] = {}  # of links to the same file
        self._orphans: set[Path] = set()
        self._masked: set[Path] = set()  # folders of masks that were passed over

    def _images(self, folder: Path) -> list[Path]:
        """Images at any depth, without masks."""
        every = find_images(folder, every_link=True)  # many images may share one mask
        found = [path for path in every if not self.folders.in_masks(path)]
        if len(found) < len(every):
            self._masked.update(path.parent for path in {*every}.difference(found))
        images, beside, orphans = split_masks(found)
        self._beside |= beside
        self._orphans.update(orphans)
        known = set(once(images))
        return [path for path in found if path in known]

    def _add(
        self,
        path: Path,
        role: Role,
        part: str = "",
        kind: str = "",
        masks: tuple[Path, ...] = (),
        reason: str = "",
    ) -> None:
        if path in self._files:
            return
        first = self._first.setdefault(self.folders.real(path), path)
        if first != path and not self._may_be_again(self._files[first], role, part):
            role, part, kind, masks = "passed over", "", "", ()
            reason = f"the same files as in {os.path.relpath(first.parent, self.root)}"
        self._files[path] = FoundFile(path, role, part, kind, masks, reason)

    def _may_be_again(self, first: FoundFile, role: Role, part: str) -> bool:
        """Whether a file has a second place: a shared mask, or a good image of two parts, of which
        the evaluation warns."""
        return role == first.role and (role == "mask" or (role == "normal" and part != first.part))

    def _is_unjudged(self, folder: Path) -> bool:
        names = {folder.name, os.path.basename(os.path.realpath(folder))}  # it may be a link
        return folder not in self.folders.named and any(map(is_unjudged, names))

    def _pass_over(self, paths: list[Path], reason: str) -> None:
        for path in paths:
            self._files[path] = FoundFile(path, "passed over", reason=reason)

    def _masks_of(
        self, path: Path, kind: Path, around: tuple[Path, ...], single: bool
    ) -> tuple[Path, ...]:
        beside = self._beside.get(path)
        return tuple(beside) if beside else self.folders.masks.of_class(path, kind, around, single)

    def _counts(self, folders: list[Path]) -> dict[str, int]:
        return {folder.name: len(self._images(folder)) for folder in folders}

    def _some(self, role: Role, part: str) -> bool:
        return any(f.role == role and f.part == part for f in self._files.values())
