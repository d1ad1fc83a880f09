"""What the name of a folder or file says: normal, defect, masks, or a part of a split.

A name is read word by word. Words end at anything but a letter, at a digit, and where a small
letter meets a capital: ``ok_front``, ``0_normal``, ``NG-Parts`` and ``defectImages`` are
understood. Letter case never matters.
"""

import re
from collections.abc import Collection
from functools import lru_cache
from pathlib import PurePath
from typing import Literal

from fastad.data.layouts.vocabulary import (
    CLASSES,
    DEFECT,
    FREE,
    GROUPS,
    IMAGES,
    LINKS,
    MASKS,
    NEUTRAL,
    NORMAL,
    NOT,
    SPLITS,
    UNJUDGED,
    plain,
)

Saying = Literal["normal", "defect", "masks", "both"]

SHORT = 3  # letters of a serial number, at most

_ABBREVIATION = re.compile(r"(?i)(?<![^\W\d_])(?:[a-z]\.\s?)+[a-z]\.?(?![^\W\d_])")
_CAPITAL_O = re.compile(r"(?<![^\W\d_])n?iO(?![^\W\d_])")  # "in Ordnung", or not


@lru_cache(maxsize=65536)
def words(name: str) -> tuple[str, ...]:
    """The words of a name in small letters, without its numbers.

    Examples:
        >>> from fastad.data.layouts.naming import words
        >>> words("0_okFront"), words("NG-parts 12"), words("i.O.")
        (('ok', 'front'), ('ng', 'parts'), ('io',))
    """
    # "n.i.O." and "niO" are one word.
    name = _ABBREVIATION.sub(lambda found: re.sub(r"[.\s]", "", found[0]).lower(), plain(name))
    name = _CAPITAL_O.sub(lambda found: found[0].lower(), name)
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    found = [word.casefold() for word in re.findall(r"[^\W\d_]+", apart)]
    joined: list[str] = []
    for word in found:
        if word in ("truth", "truths") and joined and joined[-1] == "ground":
            joined[-1] = "groundtruth"
        else:
            joined.append(word)
    return tuple(joined)


@lru_cache(maxsize=65536)
def saying(name: str) -> Saying | None:
    """What a folder's name says of the images in it; None where it says nothing.

    A negation turns a word: ``not_good`` is a defect, ``no_defect`` and ``defect_free`` are
    normal. A name that says both is "both": nobody can tell what is in ``good_and_bad``. So is
    ``mask_ok``: it may hold masks of good images, or good images of a mask. So is a good word
    beside an unknown one, which may take it back: ``almost good``, ``ok_kratzer``.

    Examples:
        >>> from fastad.data.layouts.naming import saying
        >>> saying("ok_front"), saying("not_good"), saying("GT_dir"), saying("good_and_bad")
        ('normal', 'defect', 'masks', 'both')
    """
    found: set[str] = set()
    of_name = [word for word in words(name) if word not in NEUTRAL | LINKS]
    for i, word in enumerate(of_name):
        if word in MASKS:
            found.add("masks")
        elif (said := _verdict(word)) is not None:
            before = of_name[i - 1] if i else ""
            behind = of_name[i + 1] if i + 1 < len(of_name) else ""
            turned = before in NOT or (said == "defect" and not FREE.isdisjoint((before, behind)))
            found.add({"normal": "defect", "defect": "normal"}[said] if turned else said)
    if found == {"masks"}:
        return "masks" if all(word in MASKS or word in SPLITS for word in of_name) else None
    if len(found) > 1:
        return "both"
    if found == {"normal"} and not all(map(_is_known, of_name)):
        return "both"
    return "normal" if "normal" in found else "defect" if found else None


def _verdict(word: str) -> str | None:
    if word in NORMAL:
        return "normal"
    if word in DEFECT:
        return "defect"
    for prefix in ("non", "not", "un"):  # "nondefective", "notok"
        rest = word.removeprefix(prefix)
        if rest != word and rest in DEFECT:
            return "normal"
        if rest != word and rest in NORMAL:
            return "defect"
    return None


def _is_known(word: str) -> bool:
    """Whether a word takes nothing back from a good word beside it."""
    known = (GROUPS, SPLITS, NOT, FREE, CLASSES)
    return len(word) == 1 or any(word in words for words in known) or _verdict(word) is not None


@lru_cache(maxsize=65536)
def masks_of_sibling(name: str) -> tuple[str, ...] | None:
    """Words of the folder whose masks a folder of this name has: ``NG_mask`` those of ``NG``.

    None where the name has no word for masks, or nothing else.
    """
    found = words(name)
    rest = tuple(word for word in found if word not in MASKS)
    return rest if rest and len(rest) < len(found) else None


def part_of(name: str) -> str | None:
    """ "train", "validation", "test" or "private" (test images without labels), else None.

    ``test_public`` is a test set, ``test_private`` and ``test_private_mixed`` of MVTec AD 2 hold
    images whose labels are not published.
    """
    found = [word for word in words(name) if word not in NEUTRAL]
    if found[:2] == ["test", "private"]:
        return "private"
    if found == ["test", "public"]:
        return "test"
    return SPLITS.get(found[0]) if len(found) == 1 else None


def part_within(name: str) -> str | None:
    """The part of a split that a name mentions among other words: "train" of ``train_good``."""
    found = {SPLITS[word] for word in words(name) if word in SPLITS}
    return found.pop() if len(found) == 1 else None


def only_groups(names: Collection[str]) -> bool:
    """Whether folders of these names, side by side, group images without judging them.

    Days, lines, cameras and serial numbers do; ``0`` and ``1``, or ``class1`` and ``class2``,
    may be classes.
    """
    if {name.strip("0") or "0" for name in names} in ({"0", "1"}, {"1", "2"}):
        return False
    spelled = {words(name) for name in names}
    if all(word in GROUPS for found in spelled for word in found):
        return True
    return len(spelled) == 1 and not CLASSES & set(next(iter(spelled)))


@lru_cache(maxsize=65536)
def is_group(name: str) -> bool:
    """Whether a folder's name says when, where or how its images were taken, and nothing else.

    So do dates, numbers, and words for cameras, lots and the like. Short letters with a number,
    ``kos01`` or ``SN-1234``, are a serial number.
    """
    if any(digit.isdigit() for digit in name):
        if re.fullmatch(r"[0-9a-fA-F\-]{6,}", name):
            return True
        return all(len(word) <= SHORT or _is_known(word) for word in words(name))
    return all(map(_is_known, words(name)))


def is_unjudged(name: str) -> bool:
    """Whether a name says that nobody has judged the images: ``todo``, ``review``, ``repaired``."""
    return saying(name) is None and not UNJUDGED.isdisjoint(words(name))


_WORD = rf"({'|'.join(sorted({*MASKS, 'ground_truth'}, key=len, reverse=True))})"
_MASK_FILE = re.compile(rf"(.+)[_\-. ]{_WORD}(?:[_\-. ]?\d{{1,2}})?")
_MASK_FILE_BEFORE = re.compile(rf"{_WORD}[_\-. ](.+)")


def file_key(path: PurePath) -> str:
    """The name of a file without ending, as names of images and masks are compared."""
    return plain(path.stem).casefold()


def owner_of(path: PurePath) -> tuple[str, str] | None:
    """(name of the image, word) where a file is named as the mask of another beside it.

    Of ``NAME_mask.png``, ``NAME-GT.bmp``, ``NAME.label.tif`` or ``NAME_mask_2.png``: NAME as
    `file_key` and the word. Of ``mask_NAME.png`` the word has an underscore behind it, as images
    may well be called so. None for other names.

    Examples:
        >>> from pathlib import Path
        >>> from fastad.data.layouts.naming import owner_of
        >>> owner_of(Path("bad/007_GT.png")), owner_of(Path("bad/007.png"))
        (('007', 'gt'), None)
    """
    key = file_key(path)
    if match := _MASK_FILE.fullmatch(key):
        return match[1], match[2]
    if match := _MASK_FILE_BEFORE.fullmatch(key):
        return match[2], f"{match[1]}_"
    return None


def without_image_words(key: str) -> str:
    """A path, as `file_key`, without folders such as ``images`` or ``rgb``, which name nothing."""
    *folders, name = plain(key).casefold().split("/")
    return "/".join([*(part for part in folders if part not in IMAGES), name])
