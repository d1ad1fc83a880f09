"""What the name of a folder or file says: normal, defect, masks, or a part of a split.

A name is read word by word. Words end at anything but a letter, at a digit, and where a small
letter meets a capital: ``ok_front``, ``0_normal``, ``NG-Parts`` and ``defectImages`` are
understood. Letter case never matters.
"""

import re
import unicodedata
from collections.abc import Collection
from functools import lru_cache
from pathlib import PurePath
from typing import Literal

Saying = Literal["normal", "defect", "masks", "both"]

NORMAL = {
    *("good", "ok", "okay", "normal", "pass", "passed", "healthy", "nominal"),
    *("flawless", "acceptable", "accepted", "conforming", "conform", "perfect", "undamaged"),
    *("io", "gut", "intakt", "fehlerfrei"),  # German
    *("bueno", "buena", "buenos", "buenas", "bon", "bons", "bonne", "buono", "buoni"),
    *("conforme", "conformes", "conformi", "dobry", "dobre", "goed", "bom"),
    *("正常", "合格", "良品", "양품", "정상"),
}
DEFECT = {
    *("bad", "ng", "nok", "ko", "nio", "fail", "fails", "failed", "failure", "failures"),
    *("reject", "rejects", "rejected", "def", "defect", "defects", "defective", "defected"),
    *("anomaly", "anomalies", "anomalous", "abnormal", "abnormals", "abnormality"),
    *("abnormalities", "fault", "faults", "faulty", "flaw", "flaws", "flawed", "scrap"),
    *("damage", "damaged", "damages", "broken", "nonconforming", "unacceptable", "notok"),
    *("notgood", "nogood", "outlier", "outliers", "nonconform"),
    *("schlecht", "fehler", "fehlerhaft", "defekt", "defekte", "ausschuss", "schaden"),  # German
    *("malo", "mala", "malos", "defecto", "defectos", "defectuoso", "defaut", "defauts"),
    *("mauvais", "difetto", "difetti", "difettoso", "wada", "wady", "vadny", "fout"),
    *("异常", "异物", "缺陷", "不良", "不良品", "不合格", "불량"),
    # Kinds of defects, as data sets call them.
    *("crack", "cracks", "cracked", "scratch", "scratches", "scratched", "dent", "dents"),
    *("dented", "stain", "stains", "stained", "contamination", "contaminated", "rust", "burr"),
    *("corrosion", "corroded", "misplaced", "bent", "blowhole", "fracture", "fray"),
}
# Alone, before a word of the other kind, or behind it.
NOT = {"not", "no", "non", "un", "without", "nicht", "keine", "ohne", "sin", "sans", "zero"}
FREE = {"free", "less"}
LINKS = {"of", "from", "any", "the"}

MASKS = {
    *("mask", "masks", "gt", "gts", "groundtruth", "groundtruths", "label", "labels"),
    *("annotation", "annotations", "seg", "segs", "segmentation", "segmentations", "maske"),
    *("masken", "segmask", "segmasks", "labelmask", "labelmasks"),
}
SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
    "tests": "test",
}
# These say nothing of what is in a folder.
IMAGES = {"image", "images", "img", "imgs", "rgb", "color", "colour", "picture", "pictures"}
NEUTRAL = {
    *IMAGES,
    *("dir", "folder", "data", "dataset", "set", "file", "files", "png", "jpg", "bmp", "tif"),
    *("photo", "photos", "sample", "samples", "bilder", "all", "raw"),
}
# Folders of these names group images by when, where and how they were taken.
GROUPS = {
    *NEUTRAL,
    *("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    *("january", "february", "march", "april", "may", "june", "july", "august", "september"),
    *("october", "november", "december", "jan", "feb", "mar", "apr", "jun", "jul", "aug"),
    *("sep", "oct", "nov", "dec", "mon", "tue", "wed", "thu", "fri", "sat", "sun", "day"),
    *("week", "month", "year", "date", "morning", "evening", "night", "am", "pm", "shift"),
    *("line", "station", "machine", "cell", "camera", "cam", "view", "lens", "light"),
    *("batch", "lot", "run", "session", "series", "part", "parts", "product", "products"),
    *("item", "items", "serial", "sn", "id", "no", "nr", "number", "kw", "tag", "woche"),
    *("left", "right", "top", "bottom", "front", "back", "rear", "side", "up", "down", "new"),
    *("old", "first", "second", "third"),
}
# What differs only in its number may be a class behind these words.
CLASSES = {"class", "classes", "cls", "category", "cat", "type", "kind", "grade", "c"}


_ABBREVIATION = re.compile(r"(?i)(?<![^\W\d_])(?:[a-z]\.\s?)+[a-z]\.?(?![^\W\d_])")


@lru_cache(maxsize=65536)
def words(name: str) -> tuple[str, ...]:
    """The words of a name in small letters, without its numbers.

    Examples:
        >>> from fastad.data.layouts.naming import words
        >>> words("0_okFront"), words("NG-parts 12"), words("i.O.")
        (('ok', 'front'), ('ng', 'parts'), ('io',))
    """
    # Accents and wide letters as plain ones, "n.i.O." as one word.
    plain = [c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c)]
    name = unicodedata.normalize("NFC", "".join(plain))
    name = _ABBREVIATION.sub(lambda found: re.sub(r"[.\s]", "", found[0]).lower(), name)
    apart = re.sub(r"(?<=[a-zß-ÿ])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    found = [word.lower() for word in re.findall(r"[^\W\d_]+", apart)]
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


_WORD = r"(mask|maske|gt|groundtruth|ground_truth|label|seg|annot|annotation)s?"
_MASK_FILE = re.compile(rf"(?i)(.+)[_\-. ]{_WORD}(?:[_\-. ]?\d{{1,2}})?")
_MASK_FILE_BEFORE = re.compile(rf"(?i){_WORD}[_\-. ](.+)")


def owner_of(path: PurePath) -> tuple[str, str] | None:
    """(name of the image, word) where a file is named as the mask of another beside it.

    Of ``NAME_mask.png``, ``NAME-GT.bmp``, ``NAME.label.tif`` or ``NAME_mask_2.png``: NAME in small
    letters and the word. Of ``mask_NAME.png`` the word has an underscore behind it, as images may
    well be called so. None for other names.

    Examples:
        >>> from pathlib import Path
        >>> from fastad.data.layouts.naming import owner_of
        >>> owner_of(Path("bad/007_GT.png")), owner_of(Path("bad/007.png"))
        (('007', 'gt'), None)
    """
    if match := _MASK_FILE.fullmatch(path.stem):
        return match[1].lower(), match[2].lower()
    if match := _MASK_FILE_BEFORE.fullmatch(path.stem):
        return match[2].lower(), f"{match[1].lower()}_"
    return None


def without_image_words(key: str) -> str:
    """A path in small letters without folders such as ``images`` or ``rgb``, which name nothing."""
    *folders, name = key.lower().split("/")
    return "/".join([*(part for part in folders if part not in IMAGES), name])
