"""Folders that a user names: which one is meant, and what is never trained on."""

import json
import os
from pathlib import Path

import pytest

from fastad.data import describe, training_images
from fastad.data import test_samples as labelled


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def learned(data: Path, **named) -> list[str]:
    return [p.relative_to(data).as_posix() for p in training_images(data, **named).paths]


def roles(data: Path, **named) -> dict[str, str]:
    files = describe(data, **named).files
    return {f.path.relative_to(data).as_posix(): f"{f.role} {f.part}".strip() for f in files}


@pytest.fixture
def bottle(tmp_path):
    data = tmp_path / "bottle"
    touch(data, "train/good/1.png", "test/good/2.png", "test/bad/3.png", "ground_truth/bad/3.png")
    return data


@pytest.mark.parametrize("name", ["good", "good/", "./good", "GOOD", "train/good", "train/good/"])
def test_a_name_never_takes_test_images_into_the_training(bottle, name):
    assert learned(bottle, good=[name]) == ["train/good/1.png"]
    assert [(s.path.name, s.label) for s in labelled(bottle, good=[name])] == [
        ("2.png", 0),
        ("3.png", 1),
    ]


@pytest.mark.parametrize("name", ["good", "test/good", "deep/good", "test/deep/good"])
@pytest.mark.parametrize("folder", ["test", "Testing", "validation", "test_private"])
def test_nothing_below_a_test_folder_is_trained_on(tmp_path, folder, name):
    touch(tmp_path, f"{folder}/good/1.png", f"{folder}/deep/good/2.png", "a/b/good/3.png")
    touch(tmp_path, f"{folder}/deep/bad/4.png")
    named = ["a/b/good", name.replace("test", folder)]
    if not (tmp_path / named[1]).exists():
        named[1] = "good"
    taken = [*training_images(tmp_path, good=named).paths]
    assert [p.name for p in taken] == ["3.png"]


def test_good_images_of_the_test_alone(tmp_path):
    touch(tmp_path, "test/a/good/1.png", "test/a/bad/2.png")
    with pytest.raises(ValueError, match=r"test/a/good in .*never trained on\. Name"):
        training_images(tmp_path, good=["good"])
    assert [s.label for s in labelled(tmp_path, good=["good"], defects=["bad"])] == [0, 1]


def test_the_whole_of_a_folder_is_without_its_test_images(bottle):
    assert learned(bottle, good=["."]) == ["train/good/1.png"]


def test_the_nearest_folder_of_a_name(tmp_path):
    touch(tmp_path, "foo/1.png", "a/foo/2.png", "bar/3.png")
    assert learned(tmp_path, good=["foo"]) == ["foo/1.png"]
    touch(tmp_path, "x/y/baz/4.png", "x/z/u/baz/5.png")
    assert learned(tmp_path, good=["baz"]) == ["x/y/baz/4.png"]
    assert learned(tmp_path, good=["u/../foo"]) == ["foo/1.png"]


def test_several_folders_of_a_name_as_near_are_refused(tmp_path):
    touch(tmp_path, "a/foo/1.png", "b/foo/2.png")
    with pytest.raises(ValueError, match=r"good: several folders .* foo: a/foo, b/foo\. Give"):
        training_images(tmp_path, good=["foo"])
    assert learned(tmp_path, good=["a/foo"]) == ["a/foo/1.png"]
    assert learned(tmp_path, good=["a/foo", "b/foo"]) == ["a/foo/1.png", "b/foo/2.png"]


def test_a_folder_named_beside_a_test_folder_is_trained_on(tmp_path):
    touch(tmp_path, "good/1.png", "test/good/2.png", "test/bad/3.png")
    assert learned(tmp_path, good=["good"]) == ["good/1.png"]
    assert [s.label for s in labelled(tmp_path, good=["good"])] == [0, 1]


def test_a_name_is_not_that_of_a_folder_of_masks(bottle):
    assert [s.label for s in labelled(bottle, defects=["bad"])] == [0, 1]
    assert describe(bottle, defects=["bad"]).test[1].masks


@pytest.mark.parametrize("mark", ["fastad-pictures.json", "fastad-report.json"])
def test_what_fastad_wrote_is_never_named(bottle, mark):
    touch(bottle, "out/good/9.png")
    listed = json.dumps({"written_by": "fastad predict", "files": ["good/9.png"]})
    (bottle / "out" / mark).write_text(listed)
    assert learned(bottle, good=["good"]) == ["train/good/1.png"]
    assert "out/good/9.png" not in roles(bottle)
    with pytest.raises(ValueError, match=r"good: out/good holds what fastad wrote to .*out"):
        training_images(bottle, good=["out/good"])


@pytest.mark.parametrize("option", ["good", "defects", "masks"])
def test_a_link_upwards_is_not_named(tmp_path, option):
    touch(tmp_path, "data/a/1.png", "other/2.png")
    os.symlink("..", tmp_path / "data" / "up")
    with pytest.raises(ValueError, match=rf"{option}: up is .* itself, or above it"):
        describe(tmp_path / "data", **{option: ["up"]})


def test_a_link_to_test_images_is_not_trained_on(tmp_path):
    touch(tmp_path, "test_private/good/1.png")
    os.symlink(tmp_path / "test_private", tmp_path / "foo")
    with pytest.raises(ValueError, match=r"foo in .*never trained on"):
        training_images(tmp_path, good=["foo"])


def test_both_unicode_forms_of_a_name(tmp_path):
    touch(tmp_path, "a/godka\u0308nd x/1.png", "b/2.png")
    assert learned(tmp_path, good=["godk\u00e4nd x"]) == ["a/godka\u0308nd x/1.png"]


def test_defects_named_without_good_images(tmp_path):
    touch(tmp_path, "a/b/c/1.png", "d/2.png")
    with pytest.raises(FileNotFoundError, match="none of good images: name one with --good"):
        raise describe(tmp_path, defects=["c"]).cannot_train


def test_a_folder_named_as_masks_that_holds_none(bottle):
    found = describe(bottle, masks=["test/bad"])
    assert found.cannot_train is None
    assert "masks: no file in test/bad is the mask of a defect" in str(found.cannot_evaluate)
    assert describe(bottle, masks=["ground_truth"]).cannot_evaluate is None


# What fastad wrote


def test_pictures_of_predict_are_passed_over(tmp_path):
    touch(tmp_path, "good/1.png", "bad/2.png", "out/bad/2.png", "out/bad/2_mask.png", "out/3.png")
    listed = json.dumps({"files": ["bad/2.png", "bad/2_mask.png"]})
    (tmp_path / "out/fastad-pictures.json").write_text(listed)
    found = roles(tmp_path)
    assert [name for name in found if name.startswith("out")] == ["out/3.png"]  # the user's own
    assert describe(tmp_path).outputs == [tmp_path / "out"]
    (tmp_path / "out/fastad-pictures.json").write_text("[]")  # of another program
    assert len(roles(tmp_path)) == 5


@pytest.mark.parametrize("name", ["thumbs", "report", "@eaDir"])
def test_what_programs_leave_is_no_class(tmp_path, name):
    touch(tmp_path, "good/1.png", "bad/2.png", f"{name}/2.png")
    if name == "report":
        touch(tmp_path, "report/fastad-report.json")
    assert [s.path.parent.name for s in labelled(tmp_path)] == ["good", "bad"]


# Folders among good images


@pytest.mark.parametrize("name", ["kratzer", "2024-01-02/kratzer", "kratzer 2", "rayure", "xyz"])
@pytest.mark.parametrize("around", ["train/good", "good", "train/normal_dir"])
def test_an_unknown_folder_among_good_images_is_refused(tmp_path, name, around):
    touch(tmp_path, f"{around}/1.png", f"{around}/{name}/2.png", "test/good/3.png")
    if around == "good":
        (tmp_path / "test/good/3.png").unlink()
        os.removedirs(tmp_path / "test/good")
    said = f"images in {around}/{name}, among good ones.*--good '?{around}"
    with pytest.raises(ValueError, match=said):
        training_images(tmp_path)
    taken = learned(tmp_path, good=[around])
    assert sorted(taken) == sorted([f"{around}/1.png", f"{around}/{name}/2.png"])


@pytest.mark.parametrize("name", ["kratzer", "NG"])
def test_an_unknown_folder_among_good_test_images_is_refused(bottle, name):
    touch(bottle, f"test/good/{name}/4.png")
    with pytest.raises(ValueError, match=f"test/good/{name}"):
        labelled(bottle)
    assert learned(bottle) == ["train/good/1.png"]


GROUPING = """2024-01-02 20240102 12 cam1 Kamera_2 lot-A7 batch_3 Charge12 SN-1234 kos01 KW12 A
    monday Montag line2/shift_3 b3f9c2d1 img rgb 2024-05-01T12-00-00Z left red S0001 type_2 ok"""


@pytest.mark.parametrize("name", GROUPING.split())
def test_folders_that_group_good_images(tmp_path, name):
    touch(tmp_path, "train/good/1.png", f"train/good/{name}/2.png")
    assert len(training_images(tmp_path).paths) == 2


def test_good_images_all_in_folders_of_one_unknown_name(tmp_path):
    touch(tmp_path, "train/good/palette_1/1.png", "train/good/palette_2/2.png")
    assert len(training_images(tmp_path).paths) == 2
    touch(tmp_path, "train/good/beule/3.png")
    with pytest.raises(ValueError, match="among good ones"):
        training_images(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["2024-01-01/kratzer/1.png", "2024-01-02/beule/2.png"],
        ["monday/1.png", "tuesday/kratzer/2.png"],
        ["cam1/kratzer/1.png", "cam2/1.png"],
    ],
)
def test_unknown_folders_within_dated_ones_are_refused(tmp_path, names):
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match=r"several kinds: .*kratzer \(1 image\).*--good FOLDER"):
        training_images(tmp_path)
    assert len(training_images(tmp_path, good=".").paths) == 2


def test_an_unknown_folder_among_good_ones_of_days(tmp_path):
    touch(tmp_path, "monday/ok/1.png", "monday/ok/kratzer/2.png", "tuesday/ok/3.png")
    with pytest.raises(ValueError, match=r"monday/ok/kratzer, among good ones.*--good \."):
        training_images(tmp_path)


# Links


def test_two_links_to_one_folder_count_once(tmp_path):
    data = tmp_path / "data"
    touch(tmp_path, "store/1.png", "store/2.png")
    touch(data, "bad/3.png")
    for name in ("good", "ok"):
        os.symlink(tmp_path / "store", data / name)
    assert len(training_images(data).paths) == 2
    assert [s.label for s in labelled(data)] == [0, 0, 1]
    assert [path.name for path in describe(data).repeats] == ["ok"]


def test_links_count_once_in_any_folder(tmp_path):
    touch(tmp_path, "store/1.png")
    (tmp_path / "data").mkdir()
    for name in ("monday", "tuesday"):
        os.symlink(tmp_path / "store", tmp_path / "data" / name)
    assert learned(tmp_path / "data") == ["monday/1.png"]
    assert [path.name for path in describe(tmp_path / "data").repeats] == ["tuesday"]


@pytest.mark.parametrize("masks", ["ground_truth/bad/{}.png", "bad/{}_mask.png", "masks/{}.png"])
def test_many_defects_may_share_a_mask(tmp_path, masks):
    data = tmp_path / "data"
    touch(tmp_path, "shared.png")
    touch(data, "good/0.png", *(f"bad/{i}.png" for i in range(4)))
    for i in range(4):
        place = data / masks.format(i)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(tmp_path / "shared.png", place)
    assert [len(s.mask_paths) for s in labelled(data)] == [0, 1, 1, 1, 1]
    assert [s.mask_paths[0].name for s in labelled(data)[1:]] == [
        Path(masks.format(i)).name for i in range(4)
    ]


# Folders that nobody has judged


UNJUDGED = """unknown todo repaired overlay review unsorted rework to_check Nacharbeit inconnus"""


@pytest.mark.parametrize("name", UNJUDGED.split())
@pytest.mark.parametrize("around", ["", "test/"])
def test_folders_that_nobody_has_judged_are_passed_over(tmp_path, name, around):
    touch(tmp_path, f"{around}good/1.png", f"{around}bad/2.png", f"{around}{name}/3.png")
    with pytest.warns(UserWarning, match=f"not measured on, .*: {name}; --good FOLDER or --def"):
        assert [s.label for s in labelled(tmp_path)] == [0, 1]
    assert roles(tmp_path)[f"{around}{name}/3.png"] == "passed over"
    assert [s.label for s in labelled(tmp_path, defects=[f"{around}{name}"])] == [0, 1, 1]


def test_a_folder_with_masks_has_been_judged(bottle):
    touch(bottle, "test/unknown/4.png", "ground_truth/unknown/4.png")
    assert [s.label for s in labelled(bottle)] == [0, 1, 1]


def test_good_images_and_unjudged_ones_are_no_test_set(tmp_path):
    touch(tmp_path, "good/1.png", "todo/2.png")
    with pytest.raises(FileNotFoundError, match="--good FOLDER"):
        labelled(tmp_path)
    assert learned(tmp_path) == ["good/1.png"]


# DAGM


@pytest.fixture
def dagm(tmp_path):
    data = tmp_path / "Class1"
    for part in ("Train", "Test"):
        touch(data, *(f"{part}/000{i}.PNG" for i in (1, 2, 3)))
        touch(data, f"{part}/Label/0002_label.PNG")
        lines = ["1", *(f"{i}\t{int(i == 2)}\t000{i}.PNG\t0\t0" for i in (1, 2, 3))]
        (data / part / "Label/Labels.txt").write_text("\n".join(lines))
    return data


def test_dagm(dagm):
    assert describe(dagm).layout == "DAGM"
    assert learned(dagm) == ["Train/0001.PNG", "Train/0003.PNG"]
    assert [(s.label, [m.name for m in s.mask_paths]) for s in labelled(dagm)] == [
        (0, []),
        (0, []),
        (1, ["0002_label.PNG"]),
    ]
    assert roles(dagm)["Train/0002.PNG"] == "passed over"


def test_dagm_without_its_table_or_with_a_damaged_one(dagm):
    for part in ("Train", "Test"):
        (dagm / part / "Label/Labels.txt").write_text("1 2 0001.PNG")
    with pytest.raises(ValueError, match=r"Labels\.txt cannot be read as a table of DAGM's"):
        training_images(dagm)
    for part in ("Train", "Test"):
        (dagm / part / "Label/Labels.txt").unlink()
    with pytest.raises(FileNotFoundError, match="no 'train/good'"):
        training_images(dagm)
