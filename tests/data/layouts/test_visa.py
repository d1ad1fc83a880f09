"""The VisA data set as published."""

import csv

import pytest

from fastad.data import Sample, TrainingImages, training_images
from fastad.data import test_samples as labelled


@pytest.fixture
def visa(tmp_path):
    rows = []
    for name in ("candle", "pcb1"):
        images = f"{name}/Data/Images"
        rows += [
            (name, "train", "normal", f"{images}/Normal/0000.JPG", ""),
            (name, "test", "anomaly", f"{images}/Anomaly/000.JPG", f"{name}/Data/Masks/000.png"),
            (name, "train", "normal", f"{images}/Normal/0002.JPG", ""),
            (name, "test", "normal", f"{images}/Normal/0001.JPG", ""),
            (name, "test", "anomaly", f"{images}/Anomaly/001.JPG", ""),
        ]
        rows = [tuple(v.replace("Masks/0", "Masks/Anomaly/0") for v in row) for row in rows]
        for *_, image, mask in rows:
            for path in (image, mask):
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / (path or "x")).touch()
    write(tmp_path, rows)
    return tmp_path


def write(root, rows, columns=("object", "split", "label", "image", "mask")):
    (root / "split_csv").mkdir(exist_ok=True)
    with open(root / "split_csv/1cls.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def test_the_published_split(visa):
    images = visa / "pcb1/Data/Images"
    train = [images / "Normal/0000.JPG", images / "Normal/0002.JPG"]
    assert training_images(visa / "pcb1") == TrainingImages(train, [], "VisA")
    mask = visa / "pcb1/Data/Masks/Anomaly/000.png"
    assert labelled(str(visa / "pcb1")) == [
        Sample(images / "Normal/0001.JPG", 0, "normal"),
        Sample(images / "Anomaly/000.JPG", 1, "anomaly", (mask,)),
        Sample(images / "Anomaly/001.JPG", 1, "anomaly"),
    ]


def test_the_folder_may_be_the_current_one(visa, monkeypatch):
    expected = training_images(visa / "candle")
    monkeypatch.chdir(visa / "candle")
    assert training_images(".") == expected
    assert len(labelled(".")) == 3


@pytest.mark.parametrize("find", [training_images, labelled])
def test_the_root_needs_a_single_object(visa, find):
    with pytest.raises(ValueError, match=r"2 objects of VisA; give .* one of them: candle, pcb1"):
        find(visa)
    write(visa, [("pcb1", "train", "normal", "a.JPG", ""), ("pcb1", "test", "normal", "b.JPG", "")])
    assert find(visa) == find(visa / "pcb1")


def test_defects_of_the_training_split_are_left_out(visa):
    write(visa, [("pcb1", "train", c, f"{c}.JPG", "") for c in ("anomaly", "normal", "Normal")])
    assert training_images(visa / "pcb1").paths == [visa / "normal.JPG", visa / "Normal.JPG"]


def test_without_the_table_the_images_still_serve_by_class(visa):
    (visa / "split_csv/1cls.csv").unlink()
    for find in (training_images, labelled):
        with pytest.raises(FileNotFoundError, match=r"1cls\.csv .* is not there; give .*Normal"):
            find(visa / "pcb1")
    images = visa / "pcb1/Data/Images"
    assert len(training_images(images).paths) == 3
    samples = labelled(images)
    assert [s.label for s in samples] == [0, 0, 0, 1, 1]
    assert sum(len(s.mask_paths) for s in samples) == 1
    with pytest.raises(ValueError, match="they may be defects"):
        training_images(visa)


@pytest.mark.parametrize("find", [training_images, labelled])
def test_damaged_tables(visa, find):
    table = visa / "split_csv/1cls.csv"
    write(visa, [("candle", "train", "normal", "a.JPG", "")])
    with pytest.raises(ValueError, match=r"1cls\.csv has no object 'pcb1'; it has candle"):
        find(visa / "pcb1")
    write(visa, [], columns=("object", "image"))
    with pytest.raises(ValueError, match=r"1cls\.csv cannot be .* no column split, label, mask"):
        find(visa / "pcb1")
    write(visa, [("pcb1", "train", "normal", "a.JPG"), ("pcb1", "train")])
    with pytest.raises(ValueError, match=r"1cls\.csv cannot be read .* line 3 is incomplete"):
        find(visa / "pcb1")
    table.write_bytes(b"\xff\xfe\x00\x80" * 9)
    with pytest.raises(ValueError, match=r"1cls\.csv cannot be read"):
        find(visa / "pcb1")
    table.write_bytes(b"")
    with pytest.raises(ValueError, match=r"1cls\.csv cannot be read"):
        find(visa / "pcb1")


def test_a_split_without_images(visa):
    write(visa, [("pcb1", "other", "normal", "a.JPG", "")])
    with pytest.raises(ValueError, match="no images in"):
        training_images(visa / "pcb1")
    with pytest.raises(ValueError, match="no images in the folders of"):
        labelled(visa / "pcb1")
