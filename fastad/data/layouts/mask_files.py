"""Which mask files belong to which image: beside it under its name, or in a folder of masks."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from fastad.data.finding import find_images
from fastad.data.images import open_image
from fastad.data.layouts.naming import (
    file_key,
    masks_of_sibling,
    owner_of,
    saying,
    without_image_words,
)
from fastad.data.layouts.vocabulary import PRODUCT_LABELS, plain

PHOTOGRAPHS = (".jpg", ".jpeg")


def split_masks(paths: Iterable[Path]) -> tuple[list[Path], dict[Path, list[Path]], list[Path]]:
    """Images, their masks beside them, and masks whose image is missing.

    The mask of ``NAME.jpg`` is ``NAME_mask.png``, or another name that
    `fastad.data.layouts.naming.owner_of` knows, in the same folder; or ``NAME.png`` of two values
    where every ``NAME.jpg`` of the folder has one.
    """
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        by_folder[path.parent].append(path)
    images: list[Path] = []
    beside: dict[Path, list[Path]] = {}
    orphans: list[Path] = []
    for files in by_folder.values():
        owners = {path: owner_of(path) for path in files}
        names = {file_key(path) for path in files}
        used = {owner[1] for owner in owners.values() if owner and owner[0] in names}
        twins = _twins(files)
        own: dict[str, list[Path]] = defaultdict(list)
        for path, owner in owners.items():
            if path in twins:
                beside.setdefault(twins[path], []).append(path)
            elif owner is None or not _surely(owner[1], used):
                own[file_key(path)].append(path)
                images.append(path)
        for path, owner in owners.items():
            if owner is None or path in twins or path in own[file_key(path)]:
                continue
            if owner[0] not in own:
                orphans.append(path)
            for image in own.get(owner[0], ()):
                beside.setdefault(image, []).append(path)
    return images, beside, orphans


def _twins(files: list[Path]) -> dict[Path, Path]:
    """Masks ``NAME.png`` beside photographs ``NAME.jpg``, with the photographs.

    Only where every photograph of the folder has one, and all of these have two values at most.
    """
    photographs = {f.stem: f for f in files if f.suffix.lower() in PHOTOGRAPHS}
    drawn = {f: photographs.get(f.stem) for f in files if f.suffix.lower() == ".png"}
    if not drawn or len(photographs) + len(drawn) != len(files):
        return {}
    pairs = {mask: image for mask, image in drawn.items() if image is not None}
    complete = len(pairs) == len(drawn) == len(photographs)
    return pairs if complete and all(_two_values(mask) for mask in drawn) else {}


def _two_values(path: Path) -> bool:
    try:
        with open_image(path) as image:
            return image.getcolors(2) is not None
    except (OSError, ValueError):
        return False  # reading it says why


def _surely(word: str, used: set[str]) -> bool:
    # Without its image beside it the file of such a name is an image: a product may have a label.
    return word in used or not (word in PRODUCT_LABELS or word.endswith("_"))


class MaskFolders:
    """Masks in folders, by the names of the images.

    Args:
        of: the folders of masks directly in a folder.
        subfolders: all folders directly in a folder.
    """

    def __init__(
        self, of: Callable[[Path], list[Path]], subfolders: Callable[[Path], list[Path]]
    ) -> None:
        self._of, self._subfolders = of, subfolders
        self._names: dict[Path, dict[str, tuple[Path, ...]]] = {}

    def find(self, truth: Path, name: str) -> tuple[Path, ...]:
        """Masks of an image: NAME_mask, else NAME, else all in a folder NAME of ``truth``."""
        masks = self._by_name(truth)
        for spelled in (name, without_image_words(name)):
            for key in (f"{spelled}_mask", spelled, f"{spelled}/"):
                if key in masks:
                    return masks[key]
        return ()

    def of_class(
        self, path: Path, kind: Path, around: Iterable[Path], single: bool
    ) -> tuple[Path, ...]:
        """Masks of an image in the folder ``kind`` of its class.

        They lie in folders of masks directly in the folders ``around``, or within ``kind``.
        ``single``: there is no other class of defects, so that masks need no folder of its name.
        """
        for folder in around:
            for truth in self._of(folder):
                own = [f for f in self._subfolders(truth) if _of_kind(f.name, kind.name)]
                if masks_of_sibling(truth.name) and saying(truth.name) != "masks":
                    whole = _of_kind(truth.name, kind.name)
                else:
                    whole = single
                for place in own or ([truth] if whole else []):
                    if masks := self.find(place, name_below(path, kind)):
                        return masks
        return self.around(path, kind, kind)

    def around(self, path: Path, data: Path, top: Path) -> tuple[Path, ...]:
        """Masks in any folder of masks between an image and ``top``.

        They lie by the image's path below the folder that has the masks, or below ``data``.
        """
        for folder in path.parents:
            for truth in self._of(folder):
                # Outside the folder they may lie under its name or without.
                inside = folder in data.parents
                for base in (folder, data.parent, data) if inside else (folder,):
                    found = self.find(truth, name_below(path, base))
                    if found:
                        return found
            if folder == top:
                break
        return ()

    def _by_name(self, truth: Path) -> dict[str, tuple[Path, ...]]:
        """Masks by their name without ending, and all masks of a folder by its name with a slash;
        as spelled, and as `file_key`."""
        if truth not in self._names:
            exact: dict[str, list[Path]] = defaultdict(list)
            small: dict[str, list[Path]] = defaultdict(list)
            for path in find_images(truth, every_link=True):
                name = name_below(path, truth)
                folder = name.rpartition("/")[0] + "/"
                keys = {without_image_words(name), without_image_words(folder)}
                if owner := owner_of(path):
                    keys.add(without_image_words(f"{folder}{owner[0]}_mask".lstrip("/")))
                for key in (name, folder):
                    exact[key].append(path)
                for key in keys:
                    small[key].append(path)
            self._names[truth] = {key: tuple(own) for key, own in {**small, **exact}.items()}
        return self._names[truth]


def _of_kind(name: str, kind: str) -> bool:
    """Whether a folder with masks is of a class: ``NG``, ``NG_mask`` or ``mask_NG`` of ``NG``."""
    own = owner_of(Path(name))
    kind = plain(kind).casefold()
    return plain(name).casefold() == kind or (own is not None and own[0] == kind)


def name_below(path: Path, folder: Path) -> str:
    """The path below a folder, without the ending."""
    return os.path.splitext(path.relative_to(folder).as_posix())[0]
