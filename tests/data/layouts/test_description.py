"""What a folder holds: the files' roles, what is unclear, and who names it."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastad.data import defect_samples, describe, training_images
from fastad.data import test_samples as labelled


def touch(root: Path, *names: str) -> list[Path]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return [root / name for name in names]


def draw(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value).save(path)
    return path


def roles(data: Path, **named) -> dict[str, str]:
    return {
        os.path.relpath(file.path, data): file.role if not file.part else f"{file.role} {file.part}"
        for file in describe(data, **named).files
    }


def shown(samples) -> list[tuple[str, int, list[str]]]:
    return [(s.path.name, s.label, [m.name for m in s.mask_paths]) for s in samples]


@pytest.mark.parametrize("masks", ["mask", "MASK", "gt", "GroundTruth", "labels", "Annotations"])
@pytest.mark.parametrize("ng", ["NG", "bad"])
def test_folders_of_masks_have_many_names(tmp_path, masks, ng):
    touch(tmp_path, "OK/1.png", f"{ng}/broken/2.png", f"{ng}/3.png")
    touch(tmp_path, f"{masks}/broken/2.png", f"{masks}/3.png")
    assert shown(labelled(tmp_path)) == [
        ("1.png", 0, []),
        ("3.png", 1, ["3.png"]),
        ("2.png", 1, ["2.png"]),
    ]
    assert [p.name for p in training_images(tmp_path).paths] == ["1.png"]


def test_masks_in_a_folder_named_after_that_of_the_images(tmp_path):
    touch(tmp_path, "good/1.png", "NG/2.png", "NG_mask/2.png", "ground_truth/2.png")
    assert shown(labelled(tmp_path))[1] == ("2.png", 1, ["2.png"])
    touch(tmp_path, "worse/2.png")
    masks = [s.mask_paths for s in labelled(tmp_path)]
    assert masks == [(), (tmp_path / "NG_mask/2.png",), ()]


def test_folders_of_masks_named_after_the_types(tmp_path):
    touch(tmp_path, "test/good/1.png", "test/type_1/2.png", "test/type_2/2.png")
    touch(tmp_path, "ground_truth/type_1_mask/2.png", "ground_truth/type_2_mask/2.png")
    found = [m.parent.name for s in labelled(tmp_path) for m in s.mask_paths]
    assert found == ["type_1_mask", "type_2_mask"]


def test_a_folder_of_images_beside_masks(tmp_path):
    touch(tmp_path, "img/1.png", "mask/1.png")
    with pytest.raises(FileNotFoundError, match=r"has a folder 'mask' but no .*--good"):
        training_images(tmp_path)
    assert [p.name for p in training_images(tmp_path, good=["img"]).paths] == ["1.png"]


@pytest.mark.parametrize("name", ["2_mask", "2_GT", "2-gt", "2.mask", "2_label", "2_SEG"])
def test_masks_beside_images_are_no_images(tmp_path, name):
    data = tmp_path / "data"
    touch(data, "test/good/1.png", f"test/bad/{name}.png", "test/bad/2.jpg", "test/bad/3_mask.png")
    assert shown(labelled(data)) == [("1.png", 0, []), ("2.jpg", 1, [f"{name}.png"])]
    assert roles(data)["test/bad/3_mask.png"] == "passed over"
    assert shown(defect_samples(data / "test" / "bad")) == [("2.jpg", 1, [f"{name}.png"])]


def test_masks_beside_good_images_are_not_trained_on(tmp_path):
    draw(tmp_path / "train/good/1.png")
    mask = draw(tmp_path / "train/good/1_mask.png")
    for data in (tmp_path, tmp_path / "train", tmp_path / "train/good"):
        assert [p.name for p in training_images(data).paths] == ["1.png"]
    mask.write_bytes(b"")  # black or not: nobody can tell
    with pytest.raises(ValueError, match=r"1_mask\.png: is empty"):
        training_images(tmp_path / "train/good")


@pytest.mark.parametrize("names", [["2_mask_1", "2_mask_2"], ["2_mask1", "mask_2"], ["gt_2"]])
def test_several_masks_and_words_in_front(tmp_path, names):
    touch(tmp_path, "good/1.png", "bad/2.png", *(f"bad/{name}.png" for name in names))
    assert sorted(m.stem for m in labelled(tmp_path)[1].mask_paths) == sorted(names)


def test_drawings_beside_photographs_are_masks(tmp_path):
    touch(tmp_path, "good/1.png")
    for name in ("2", "3"):
        draw(tmp_path / f"NG/{name}.jpg", 100)
        draw(tmp_path / f"NG/{name}.png", 255)
    expected = [("2.jpg", 1, ["2.png"]), ("3.jpg", 1, ["3.png"])]
    assert shown(labelled(tmp_path))[1:] == shown(defect_samples(tmp_path)) == expected
    draw(tmp_path / "NG/4.jpg")  # no mask of it: they may be images of two kinds
    assert len(labelled(tmp_path)) == 6


def test_photographs_in_two_formats_are_images(tmp_path):
    for ending in ("jpg", "png"):
        Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(tmp_path / f"1.{ending}")
    assert len(training_images(tmp_path).paths) == 2


def test_views_of_a_label_are_images(tmp_path):
    paths = touch(tmp_path, "front_label.png", "back_label.png", "front_seg.png", "mask_1.png")
    assert sorted(training_images(tmp_path).paths) == sorted(paths)


def test_a_black_mask_beside_an_image_says_that_it_is_good(tmp_path):
    for i, value in enumerate([0, 0, 255]):
        draw(tmp_path / f"{i}.png")
        draw(tmp_path / f"{i}_GT.png", value)
    found = training_images(tmp_path)
    assert (found.layout, [p.name for p in found.paths]) == (
        "masks beside images",
        ["0.png", "1.png"],
    )
    assert shown(labelled(tmp_path)) == [
        ("0.png", 0, []),
        ("1.png", 0, []),
        ("2.png", 1, ["2_GT.png"]),
    ]
    assert shown(defect_samples(tmp_path)) == [("2.png", 1, ["2_GT.png"])]
    draw(tmp_path / "3.png")
    with pytest.raises(ValueError, match="3 of 4 images have a mask beside them"):
        training_images(tmp_path)


def test_kolektor_sdd2(tmp_path):
    for part, values in (("train", [0, 255]), ("test", [0, 255, 255])):
        for i, value in enumerate(values):
            draw(tmp_path / part / f"{i}.png")
            draw(tmp_path / part / f"{i}_GT.png", value)
    assert [p.name for p in training_images(tmp_path).paths] == ["0.png"]
    assert [label for _, label, _ in shown(labelled(tmp_path))] == [0, 1, 1]
    assert len(defect_samples(tmp_path)) == 2


def test_mvtec_ad_2(tmp_path):
    touch(tmp_path, "train/good/1.png", "validation/good/2.png", "test_public/good/3.png")
    touch(tmp_path, "test_public/bad/4.png", "test_public/ground_truth/bad/4_mask.png")
    touch(tmp_path, "test_private/5.png", "test_private_mixed/6.png")
    found = training_images(tmp_path)
    assert found.layout == "MVTec AD 2"
    assert [[p.name for p in paths] for paths in (found.paths, found.held_out)] == [
        ["1.png"],
        ["2.png"],
    ]
    expected = [("3.png", 0, []), ("4.png", 1, ["4_mask.png"])]
    assert shown(labelled(tmp_path)) == shown(labelled(tmp_path / "test_public")) == expected
    unlabelled = [file.path.name for file in describe(tmp_path).unlabelled]
    assert unlabelled == ["5.png", "6.png"]


def test_mvtec_3d(tmp_path):
    touch(tmp_path, "test/good/rgb/1.png", "test/bad/rgb/2.png", "test/bad/gt/2.png")
    assert shown(labelled(tmp_path)) == [("1.png", 0, []), ("2.png", 1, ["2.png"])]


@pytest.mark.parametrize("here", [".", "test", "test/good"])
def test_a_relative_folder_is_the_absolute_one(tmp_path, monkeypatch, here):
    touch(tmp_path, "test/good/1.png", "test/bad/2.png", "ground_truth/bad/2_mask.png")
    expected = shown(labelled(tmp_path / "test"))
    monkeypatch.chdir(tmp_path / here)
    relative = os.path.relpath(tmp_path / "test")
    assert shown(labelled(relative)) == expected
    assert all(os.path.exists(m) for s in labelled(relative) for m in s.mask_paths)
    assert shown(defect_samples(relative)) == expected[1:]


def test_a_link_to_a_good_image_is_no_defect(tmp_path):
    (good,) = touch(tmp_path, "train/good/1.png")
    touch(tmp_path, "test/good/2.png", "test/bad/3.png")
    os.symlink(good, tmp_path / "test/bad/1.png")
    assert [s.path.name for s in labelled(tmp_path)] == ["2.png", "3.png"]
    assert roles(tmp_path)["test/bad/1.png"] == "passed over"
    os.symlink(good, tmp_path / "test/good/1.png")  # the detector warns of images it knows
    assert [s.path.name for s in labelled(tmp_path)] == ["1.png", "2.png", "3.png"]


def test_links_to_a_folder_of_all_images(tmp_path):
    paths = touch(tmp_path, "all/1.png", "all/2.png", "train/good/x.txt", "test/bad/x.txt")
    os.symlink(paths[0], tmp_path / "train/good/1.png")
    os.symlink(paths[1], tmp_path / "test/bad/2.png")
    assert [p.parent.name for p in training_images(tmp_path).paths] == ["good"]
    assert [s.path.parent.name for s in labelled(tmp_path)] == ["bad"]


def test_a_link_to_a_test_folder(tmp_path):
    data = tmp_path / "data"
    touch(data, "test/good/1.png", "test/bad/2.png", "ground_truth/bad/2_mask.png")
    os.symlink(data / "test", tmp_path / "link")
    assert shown(labelled(tmp_path / "link"))[1] == ("2.png", 1, ["2_mask.png"])


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("normal_dir", "abnormal_dir"),
        ("0_normal", "1_abnormal"),
        ("ok_front", "def_front"),
        ("gut", "schlecht"),
        ("pass", "fail"),
        ("i.O.", "n.i.O."),
        ("no_defect", "defect"),
    ],
)
@pytest.mark.parametrize("around", ["", "test/"])
def test_class_folders_of_other_names(tmp_path, good, bad, around):
    touch(tmp_path, f"{around}{good}/1.png", f"{around}{bad}/2.png", f"{around}{bad}/3.png")
    assert [label for _, label, _ in shown(labelled(tmp_path))] == [0, 1, 1]
    assert len(training_images(tmp_path / around).paths) == 1


@pytest.mark.parametrize(
    ("one", "other"), [("foo", "bar"), ("0", "1"), ("class1", "class2"), ("positive", "negative")]
)
def test_folders_none_of_which_is_plainly_good_are_refused(tmp_path, one, other):
    touch(tmp_path, f"{one}/1.png", f"{other}/2.png", f"{other}/3.png")
    said = rf"none of .*normal images: .*{other} \(2 images\).*--good FOLDER"
    with pytest.raises(ValueError, match=said):
        training_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="--good FOLDER"):
        labelled(tmp_path)
    assert len(training_images(tmp_path, good=[other]).paths) == 2
    assert [s.label for s in labelled(tmp_path, good=[other])] == [0, 0, 1]
    assert len(training_images(tmp_path, good=".").paths) == 3


def test_a_test_folder_that_may_be_the_normal_one(tmp_path):
    touch(tmp_path, "train/good/0.png", "test/negative/1.png", "test/hollow/2.png")
    touch(tmp_path, "ground_truth/hollow/2.png")
    with pytest.raises(ValueError, match=r"unclear .*negative \(1 image\)\. Name"):
        labelled(tmp_path)
    assert [s.label for s in labelled(tmp_path, good=["negative"])] == [0, 1]
    assert [s.label for s in labelled(tmp_path, defects=["test/negative"])] == [1, 1]
    touch(tmp_path, "ground_truth/negative/1.png")  # now it has defects
    assert [s.label for s in labelled(tmp_path)] == [1, 1]


@pytest.mark.parametrize("name", ["good_and_bad", "OK-NG", "mask_ok"])
def test_a_name_that_says_both_is_refused(tmp_path, name):
    touch(tmp_path, f"test/{name}/1.png", "test/good/1.png", "train/good/2.png")
    with pytest.raises(ValueError, match=f"unclear .*{name}"):
        labelled(tmp_path)
    assert [s.label for s in labelled(tmp_path, defects=[name])] == [0, 1]


def test_a_contradicting_folder_within_a_class(tmp_path):
    touch(tmp_path, "train/good/a/1.png", "train/good/NG/1.png", "test/good/1.png")
    with pytest.raises(ValueError, match="images in train/good/NG: they may be defects"):
        training_images(tmp_path)


@pytest.mark.parametrize("names", ["{part}_{kind}/", "{kind}/{part}/", "{part}/{kind}/"])
def test_parts_in_names_of_classes(tmp_path, names):
    for i, (part, kind) in enumerate([("train", "good"), ("test", "good"), ("test", "bad")]):
        touch(tmp_path, names.format(part=part, kind=kind) + f"{i}.png")
    assert [p.name for p in training_images(tmp_path).paths] == ["0.png"]
    assert shown(labelled(tmp_path)) == [("1.png", 0, []), ("2.png", 1, [])]


def test_folders_named_anywhere(tmp_path):
    touch(tmp_path, "a/b/1.png", "a/c/2.png", "d/3.png", "e/2.png")
    named = {"good": ["a/b"], "defects": ["c"], "masks": ["e"]}
    assert shown(labelled(tmp_path, **named)) == [("1.png", 0, []), ("2.png", 1, ["2.png"])]
    assert roles(tmp_path, **named)["d/3.png"] == "passed over"


def test_wrongly_named_folders(tmp_path):
    touch(tmp_path, "a/1.png", "b/2.png")
    with pytest.raises(FileNotFoundError, match=r"good: there is no folder c in .*: a, b"):
        training_images(tmp_path, good=["c"])
    with pytest.raises(ValueError, match="a is named as something else"):
        labelled(tmp_path, good=["a"], defects=["a"])


@pytest.mark.parametrize("folder", ["NG", "defects/monday", "caps/test/kratzer"])
def test_a_folder_of_defects_is_not_trained_on(tmp_path, folder):
    touch(tmp_path, f"{folder}/1.png", "caps/test/good/2.png")
    root = tmp_path / folder.removesuffix("/monday")
    with pytest.raises(ValueError, match="is a folder of defects by its name"):
        training_images(root)
    assert len(training_images(root, good=".").paths) == 1


@pytest.mark.parametrize("folder", ["crack_detection", "NG/good", "caps/kratzer", "caps/test/good"])
def test_a_folder_of_good_images_is(tmp_path, folder):
    touch(tmp_path, f"{folder}/1.png")
    assert len(training_images(tmp_path / folder).paths) == 1
