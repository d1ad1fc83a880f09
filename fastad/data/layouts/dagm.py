"""The DAGM 2007 data set as published: good and defective images in one folder, told by a table.

    Class1/Train/*.PNG   Class1/Train/Label/*_label.PNG   Class1/Train/Label/Labels.txt
    Class1/Test          likewise

A line of ``Labels.txt`` has a number, 0 for good or 1 for defective, and the image's file name.

Wieler and Hahn, "Weakly Supervised Learning for Industrial Optical Inspection", DAGM 2007.
"""

from collections.abc import Iterable
from pathlib import Path

TABLE = "labels.txt"


def read_labels(folder: Path, masks: Iterable[Path]) -> dict[str, bool] | None:
    """File names in small letters, and whether each image is defective; None without a table.

    ``masks`` are the folders of masks in ``folder``. Raises ValueError for a damaged table.
    """
    tables = [path for truth in masks for path in truth.iterdir() if path.name.lower() == TABLE]
    if not tables:
        return None
    labels: dict[str, bool] = {}
    try:
        for line in tables[0].read_text(encoding="utf-8-sig").splitlines():
            fields = line.split()
            if len(fields) >= 3:  # the first line may have a number alone
                labels[fields[2].lower()] = {"0": False, "1": True}[fields[1]]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{tables[0]} cannot be read as a table of DAGM's: {error}") from error
    return labels
