"""Recognises the layout of a folder and gives every image file in it one role."""

import os
from pathlib import Path

from fastad.data.finding import walk
from fastad.data.layouts import doubts
from fastad.data.layouts.dagm import read_labels
from fastad.data.layouts.description import DataDescription, with_parts_in_classes
from fastad.data.layouts.named import part_above
from fastad.data.layouts.naming import part_of
from fastad.data.layouts.roles import UNCLEAR, UNJUDGED, Roles
from fastad.data.masks import read_mask


class Recognition(Roles):
    """One pass over a folder: ``root`` is absolute; the other arguments are those of `describe`."""

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
        self._check_named_masks()
        result.files = list(self._files.values())
        if result.cannot_evaluate is None and not result.test:
            result.cannot_evaluate = doubts.no_test_images(self.root)
        return result

    # Layouts with train and test

    def _by_parts(self, train: Path | None, test: Path | None) -> None:
        named = [f for f in self.folders.named_normal() if f.parent == self.root]
        normal = [f for f in named if not part_above(f, self.root)] or self.folders.normal(train)
        private = [f for f in self.folders.of(self.root) if part_of(f.name) == "private"]
        layout = "BTAD" if normal and normal[0].name.lower() == "ok" else "MVTec AD"
        if normal:
            self._add_normal(normal, "train")
            self._add_normal(self.folders.normal(self.folders.part("validation")), "validation")
            if self._some("normal", "validation"):
                layout = "MVTec LOCO"
        elif train and self._by_table(train, "train"):
            layout = "DAGM"
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
        elif self._by_table(test, "test"):
            pass
        elif not self._classes(test) and (pairs := self._pairs(test)):
            self._add_pairs(pairs, "test", test)
        else:
            self._add_classes(test, "test", (self.root, test))
        for folder in private:
            for path in self._images(folder):
                self._add(path, "unlabelled", "test", folder.name)

    def _add_normal(self, folders: list[Path], part: str) -> None:
        found = [(folder, path) for folder in folders for path in self._images(folder)]
        doubtful = doubts.contradicting(self.folders, found, parts=bool(part))
        for folder, path in found:
            if doubtful is None or doubtful not in path.parents:
                self._add(path, "normal", part, folder.name)
            else:
                self._add(path, "passed over", reason=UNCLEAR)
        if not found and part != "validation":
            self.result.cannot_train = doubts.no_images(*folders)
        if doubtful is not None:
            self.result.cannot_train = doubts.doubtful(self.root, doubtful)
        elif (inner := doubts.mixed(self.folders, found)) is not None:
            good = next(f for f in inner.parents if f in folders)
            self.result.cannot_train = doubts.nested(self.root, good, inner)

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
            if images and not masked and self._is_unjudged(folder):
                self._pass_over(images, UNJUDGED)
                self.result.unjudged.append(folder)
                found = [(kind, path) for kind, path in found if kind != folder]
            elif images and says(folder) is None and not masked:
                without.append(folder)
        if not found:
            self.result.cannot_evaluate = doubts.no_test_images(test)
        with_images = {folder for folder, _ in found}
        unclear = [f for f in kinds if f in with_images and says(f) == "both"]
        if not any(says(f) == "normal" for f in with_images) and len(with_images) > 1:
            unclear += without
        doubtful = doubts.contradicting(self.folders, found)
        if unclear:
            self._pass_over([path for folder, path in found if folder in unclear], UNCLEAR)
            self.result.cannot_evaluate = doubts.unclear(self.root, test, self._counts(unclear))
        elif doubtful is not None:
            self.result.cannot_evaluate = doubts.doubtful(self.root, doubtful)
        elif inner := doubts.mixed(self.folders, [f for f in found if says(f[0]) == "normal"]):
            good = next(f for f in inner.parents if f in kinds)
            self.result.cannot_evaluate = doubts.nested(self.root, good, inner)

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
            if self.result.unjudged and not self._some("defect", ""):
                self.result.cannot_evaluate = doubts.no_test(self.root)
            if parts := [f for f in others if part_of(f.name)]:
                counts = self._counts(parts)
                self.result.cannot_evaluate = doubts.unclear(self.root, self.root, counts)
        self._files = with_parts_in_classes(self._files, self.root)
        if not self._some("normal", "") and not self._some("normal", "train"):
            self.result.cannot_train = self.result.cannot_train or doubts.of_tests(
                self.root, normal
            )

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
            if not marked and part == "train" and part_above(path, self.root):
                self._add(path, "passed over", reason=UNCLEAR)
            elif not marked:
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

    def _by_table(self, folder: Path, part: str) -> bool:
        """Whether a table beside the masks says of every image what it is, as in DAGM 2007."""
        images = self._images(folder)
        try:
            labels = read_labels(folder, self.folders.mask_folders(folder))
        except ValueError as error:
            self.result.cannot_train = self.result.cannot_evaluate = error
            return True
        if labels is None or not all(path.name.lower() in labels for path in images):
            return False
        for path in images:
            if not labels[path.name.lower()]:
                self._add(path, "normal", part, "good")
            elif part == "train":
                self._add(path, "passed over", reason="a defect, by the table")
            else:
                masks = self._masks_of(path, folder, (folder,), single=True)
                self._add(path, "defect", part, folder.name, masks)
        return True

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
        images = self._images(self.root)
        normal = [f for f in named if named[f] == "normal"]
        owners = {path: next((f for f in path.parents if f in named), None) for path in images}
        parts = {path: part_above(path, self.root) for path, own in owners.items() if own in normal}
        outside = "train" if "test" in parts.values() else ""
        for path, own in owners.items():
            if own is None:
                self._add(path, "passed over", reason="not in a folder that was named")
            elif own in normal:
                self._add(path, "normal", parts[path] or outside, own.name)
            else:
                masks = self._masks_of(path, own, places, single)
                self._add(path, "defect", "", own.name, masks)
        if not self._some("normal", outside):
            self.result.cannot_train = doubts.no_normal(self.root, normal)
        if not self._some("defect", ""):
            self.result.cannot_evaluate = doubts.no_test(self.root)

    # What is left

    def _rest(self) -> None:
        used = [mask for file in self._files.values() for mask in file.masks]
        for mask in used:
            self._add(mask, "mask")
        beside = {mask for masks in self._beside.values() for mask in masks}
        seen = walk(self.root)
        self.result.repeats, self.result.outputs = seen.repeats, seen.outputs
        for path in seen.paths:
            if path in self._files:
                continue
            if path in beside or self.folders.in_masks(path) or path in self._orphans:
                self._add(path, "passed over", reason="a mask of no defect")
            else:
                known = self.result.layout != "not recognised"
                reason = "outside the folders of the layout" if known else UNCLEAR
                self._add(path, "passed over", reason=reason)

    def _check_named_masks(self) -> None:
        """A folder that the user named, and that has no mask of any defect, is a mistake."""
        named = [f for f, said in self.folders.named.items() if said == "masks"]
        used = {mask.parent for f in self._files.values() for mask in f.masks} if named else set()
        for folder in named:
            is_used = any(folder == place or folder in place.parents for place in used)
            if not is_used and self.result.cannot_evaluate is None:
                self.result.cannot_evaluate = doubts.unused_masks(self.root, folder)
