"""Recognises the layout of a folder and gives every image file in it one role."""

import os
from collections.abc import Iterable
from pathlib import Path

from fastad.data.images import find_images
from fastad.data.layouts import doubts
from fastad.data.layouts.description import DataDescription, FoundFile, Role, with_parts_in_classes
from fastad.data.layouts.folders import Folders
from fastad.data.layouts.mask_files import split_masks
from fastad.data.layouts.naming import part_of
from fastad.data.masks import read_mask

Named = Iterable[str | Path]


UNCLEAR = "it is unclear what it is"


class Recognition:
    """One pass over a folder: ``root`` is absolute; the other arguments are those of `describe`."""

    def __init__(self, root: Path, good: Named, defects: Named, masks: Named) -> None:
        self.root = root
        self.folders = Folders(root, good, defects, masks)
        self.result = DataDescription(root)
        self._files: dict[Path, FoundFile] = {}
        self._beside: dict[Path, list[Path]] = {}
        self._first: dict[str, Path] = {}  # of links to the same file
        self._orphans: set[Path] = set()
        self._masked: set[Path] = set()  # folders of masks that were passed over

    def description(self) -> DataDescription:
        """Of the folder."""
        train, test = self.folders.part("train"), self.folders.part("test")
        if self.folders.named_deeper():
            self._by_the_users_word()
        elif train or test:
            self._by_parts(train, test)
        elif self.folders.normal(self.root):
            self._by_class()
        else:
            self._any_folder()
        self._rest()
        result = self.result
        result.files = list(self._files.values())
        if result.cannot_evaluate is None and not result.test:
            result.cannot_evaluate = doubts.no_test_images(self.root)
        return result

    def _images(self, folder: Path) -> list[Path]:
        """Images at any depth, without masks."""
        every = find_images(folder)
        found = [path for path in every if not self.folders.in_masks(path)]
        if len(found) < len(every):
            self._masked.update(path.parent for path in {*every}.difference(found))
        images, beside, orphans = split_masks(found)
        self._beside |= beside
        self._orphans.update(orphans)
        known = set(images)
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
        if first != path and (role != self._files[first].role or role != "normal"):
            role, part, kind, masks = "passed over", "", "", ()
            reason = f"the same file as {os.path.relpath(first, self.root)}"
        self._files[path] = FoundFile(path, role, part, kind, masks, reason)

    # Layouts with train and test

    def _by_parts(self, train: Path | None, test: Path | None) -> None:
        normal = self.folders.normal(train)
        private = [f for f in self.folders.of(self.root) if part_of(f.name) == "private"]
        layout = "BTAD" if normal and normal[0].name.lower() == "ok" else "MVTec AD"
        if train and normal:
            self._add_normal(normal, "train")
            self._add_normal(self.folders.normal(self.folders.part("validation")), "validation")
            if self._some("normal", "validation"):
                layout = "MVTec LOCO"
        elif train and (pairs := self._pairs(train)):
            layout = "masks beside images"
            self._add_pairs(pairs, "train", train)
        else:
            self.result.incomplete = train is not None
            self.result.cannot_train = doubts.incomplete(self.root, (train or test).name)  # type: ignore[union-attr]
        if private or (test and "public" in test.name.lower()):
            layout = "MVTec AD 2"
        self.result.layout = layout
        if test is None:
            self.result.cannot_evaluate = doubts.no_test(self.root)
        elif not self._classes(test) and (pairs := self._pairs(test)):
            self._add_pairs(pairs, "test", test)
        else:
            self._add_classes(test, "test", (self.root, test))
        for folder in private:
            for path in self._images(folder):
                self._add(path, "unlabelled", "test", folder.name)

    def _add_normal(self, folders: list[Path], part: str) -> None:
        found = [(folder, path) for folder in folders for path in self._images(folder)]
        doubtful = doubts.contradicting(self.folders, found)
        for folder, path in found:
            if doubtful is None or doubtful not in path.parents:
                self._add(path, "normal", part, folder.name)
            else:
                self._add(path, "passed over", reason=UNCLEAR)
        if not found and part != "validation":
            self.result.cannot_train = doubts.no_images(*folders)
        if doubtful is not None:
            self.result.cannot_train = doubts.doubtful(self.root, doubtful)

    def _classes(self, test: Path) -> list[Path]:
        if self.folders.named.get(test):
            return [test]
        return [f for f in self.folders.of(test) if self.folders.says(f) != "masks"]

    def _add_classes(self, test: Path, part: str, around: tuple[Path, ...]) -> None:
        """Test images by the folders of their classes."""
        says = self.folders.says
        kinds = sorted(self._classes(test), key=lambda folder: says(folder) != "normal")
        single = len([f for f in kinds if says(f) != "normal"]) == 1
        found, without = [], []
        for folder in kinds:
            masked = 0
            images = self._images(folder)
            found += [(folder, path) for path in images]
            for path in images:
                if says(folder) == "normal":
                    self._add(path, "normal", part, folder.name)
                    continue
                masks = self._masks_of(path, folder, around, single)
                masked += bool(masks)
                self._add(path, "defect", part, folder.name, masks)
            if images and says(folder) is None and not masked:
                without.append(folder)
        if not found:
            self.result.cannot_evaluate = doubts.no_test_images(test)
        with_images = {folder for folder, _ in found}
        unclear = [f for f in kinds if f in with_images and says(f) == "both"]
        if not any(says(f) == "normal" for f in with_images) and len(with_images) > 1:
            unclear += without
        doubtful = doubts.contradicting(self.folders, found)
        if unclear:
            for folder, path in found:
                if folder in unclear:
                    self._files[path] = FoundFile(path, "passed over", reason=UNCLEAR)
            self.result.cannot_evaluate = doubts.unclear(self.root, test, self._counts(unclear))
        elif doubtful is not None:
            self.result.cannot_evaluate = doubts.doubtful(self.root, doubtful)

    def _masks_of(
        self, path: Path, kind: Path, around: tuple[Path, ...], single: bool
    ) -> tuple[Path, ...]:
        beside = self._beside.get(path)
        return tuple(beside) if beside else self.folders.masks.of_class(path, kind, around, single)

    # Folders by class

    def _by_class(self) -> None:
        normal = self.folders.normal(self.root)
        self.result.layout = "folders by class"
        self._add_normal(normal, "")
        others = [
            f for f in self.folders.of(self.root) if self.folders.says(f) not in ("normal", "masks")
        ]
        if self.root in normal or not others:
            # Normal images alone are more likely those of the training than a test set.
            self.result.cannot_evaluate = doubts.no_test(self.root)
        else:
            beside = (self.root, self.root.parent, Path(os.path.realpath(self.root)).parent)
            self._add_classes(self.root, "", tuple(dict.fromkeys(beside)))
            if parts := [f for f in others if part_of(f.name)]:
                counts = self._counts(parts)
                self.result.cannot_evaluate = doubts.unclear(self.root, self.root, counts)
        self._files = with_parts_in_classes(self._files, self.root)

    # Masks beside images

    def _pairs(self, folder: Path) -> list[Path]:
        """Images that all have their masks beside them, else none."""
        images = self._images(folder)
        return images if all(path in self._beside for path in images) else []

    def _add_pairs(self, images: list[Path], part: str, folder: Path) -> None:
        """A black mask says that its image is good."""
        for path in images:
            masks = tuple(self._beside[path])
            try:
                marked = any(bool(read_mask(mask).any()) for mask in masks)
            except (OSError, ValueError) as error:
                self.result.cannot_train = self.result.cannot_evaluate = error
                return
            if not marked:
                self._add(path, "normal", part, "good")
                for mask in masks:
                    self._add(mask, "mask", part)
            elif part == "train":
                self._add(path, "passed over", reason="a defect, by its mask")
            else:
                self._add(path, "defect", part, folder.name, masks)
        if part in ("train", "") and not self._some("normal", part):
            self.result.cannot_train = ValueError(
                f"{folder} has no good image: every image has a mask beside it that is not black"
            )

    # Any folder

    def _any_folder(self) -> None:
        self.result.cannot_evaluate = doubts.no_test(self.root)
        masks = self.folders.mask_folders(self.root)
        images = self._images(self.root)
        if masks:
            self.result.cannot_train = doubts.incomplete(self.root, masks[0].name)
            return
        if not images:
            self.result.cannot_train = doubts.no_images(self.root)
            return
        if any(path in self._beside for path in images):
            self._with_masks_beside(images)
            return
        doubtful = self._refused(images)
        self.result.cannot_train = doubtful
        if doubtful is None:
            self.result.layout = "folder of images"
            for path in images:
                self._add(path, "normal", "train", self.root.name)

    def _with_masks_beside(self, images: list[Path]) -> None:
        count = sum(path in self._beside for path in images)
        if count == len(images) and self._refused(images) is None:
            self.result.layout, self.result.cannot_evaluate = "masks beside images", None
            self._add_pairs(images, "", self.root)
            if not self._some("defect", "") and self.result.cannot_train is None:
                self.result.cannot_evaluate = doubts.no_test(self.root)
            return
        example = next(iter(self._beside.values()))[0].name
        self.result.cannot_train = self._refused(images) or ValueError(
            f"{self.root}: {count} of {len(images)} images have a mask beside them ({example}), "
            "so the others may be good or not: put the good ones into a folder 'good'"
        )

    def _refused(self, images: list[Path]) -> ValueError | None:
        return doubts.not_all_normal(self.folders, images, self._masked, self._counts)

    # The user's word

    def _by_the_users_word(self) -> None:
        self.result.layout = "folders as named"
        named = {f: said for f, said in self.folders.named.items() if said != "masks"}
        places = tuple(dict.fromkeys((*(f.parent for f in named), self.root, self.root.parent)))
        single = list(named.values()).count("defect") == 1
        for path in self._images(self.root):
            own = next((f for f in path.parents if f in named), None)
            if own is None:
                self._add(path, "passed over", reason="not in a folder that was named")
            elif named[own] == "normal":
                self._add(path, "normal", "", own.name)
            else:
                masks = self._masks_of(path, own, places, single)
                self._add(path, "defect", "", own.name, masks)
        if not self._some("normal", ""):
            self.result.cannot_train = doubts.no_images(*[f for f in named if named[f] == "normal"])
        if not self._some("defect", ""):
            self.result.cannot_evaluate = doubts.no_test(self.root)

    # What is left

    def _rest(self) -> None:
        used = [mask for file in self._files.values() for mask in file.masks]
        for mask in used:
            self._add(mask, "mask")
        beside = {mask for masks in self._beside.values() for mask in masks}
        for path in find_images(self.root):
            if path in self._files:
                continue
            if path in beside or self.folders.in_masks(path) or path in self._orphans:
                self._add(path, "passed over", reason="a mask of no defect")
            else:
                known = self.result.layout != "not recognised"
                reason = "outside the folders of the layout" if known else UNCLEAR
                self._add(path, "passed over", reason=reason)

    def _counts(self, folders: list[Path]) -> dict[str, int]:
        return {folder.name: len(self._images(folder)) for folder in folders}

    def _some(self, role: Role, part: str) -> bool:
        return any(f.role == role and f.part == part for f in self._files.values())
