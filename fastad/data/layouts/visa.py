"""The VisA data set as published: images by object, the split in one table.

    ROOT/OBJECT/Data/Images/{Normal,Anomaly}   ROOT/OBJECT/Data/Masks/Anomaly
    ROOT/split_csv/1cls.csv    columns object, split, label, image, mask; paths relative to ROOT

Zou et al., "SPot-the-Difference Self-supervised Pre-training for Anomaly Detection and
Segmentation", ECCV 2022.
"""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

TABLE = Path("split_csv", "1cls.csv")
COLUMNS = ("object", "split", "label", "image", "mask")


@dataclass(frozen=True)
class SplitRow:
    """One image of the split: ``split`` is "train" or "test", ``label`` "normal" or "anomaly"."""

    split: str
    label: str
    image: Path
    masks: tuple[Path, ...]


def read_split(data: Path) -> list[SplitRow] | None:
    """Rows of one object's split; None where ``data`` is no folder of VisA's.

    ``data`` is ROOT/OBJECT, or ROOT where its table has one object alone. Raises FileNotFoundError
    without the table, ValueError when it is damaged or when the object is not clear.
    """
    # Absolute, because the name and the parent of "." are neither.
    data = Path(os.path.abspath(data))
    if (data / TABLE).is_file():
        root, name = data, None
    elif (data / "Data" / "Images" / "Normal").is_dir():
        root, name = data.parent, data.name
        if not (root / TABLE).is_file():
            raise FileNotFoundError(
                f"{data} looks like an object of VisA, but {root / TABLE} with its split is not "
                f"there; give {data / 'Data' / 'Images' / 'Normal'} to train on every normal "
                "image, or name the folders: --good Data/Images/Normal --defects "
                "Data/Images/Anomaly --masks Data/Masks/Anomaly"
            )
    else:
        return None
    rows = _read_table(root / TABLE)
    objects = sorted({row["object"] for row in rows})
    if name is None:
        if len(objects) != 1:
            raise ValueError(
                f"{data} holds {len(objects)} objects of VisA; give the folder of one of them: "
                f"{', '.join(objects)}"
            )
        name = objects[0]
    elif name not in objects:
        raise ValueError(f"{root / TABLE} has no object {name!r}; it has {', '.join(objects)}")
    return [
        SplitRow(
            row["split"].lower(),
            row["label"].lower(),
            root / row["image"],
            (root / row["mask"],) if row["mask"] else (),
        )
        for row in rows
        if row["object"] == name
    ]


def _read_table(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"it has no column {', '.join(missing)}")
            rows = [{name: (row[name] or "").strip() for name in COLUMNS} for row in reader]
    except (ValueError, csv.Error) as error:  # bytes that are no text are a ValueError too
        raise ValueError(f"{path} cannot be read as a table of VisA's: {error}") from error
    for number, row in enumerate(rows, start=2):
        if not all(row[name] for name in COLUMNS[:-1]):
            raise ValueError(
                f"{path} cannot be read as a table of VisA's: line {number} is incomplete"
            )
    return rows
