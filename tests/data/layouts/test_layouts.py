"""Layouts of folders: which images are normal, which are defects, and where their masks are."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastad.data import Sample, TrainingImages, defect_samples, find_images, training_images
from fastad.data import test_samples as labelled


def touch(root: Path, *names: str) -> list[Path]:
    """Empty files: a layout is recognised by names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return [root / name for name in names]


@pytest.fixture
def mvtec(tmp_path):
    touch(tmp_path, *(f"train/good/{i}.png" for i in range(3)), "test/good/0.png")
    touch(tmp_path, *(f"test/{n}" for n in ("hole/1.png", "hole/2.png", "hole/10.png")))
    touch(tmp_path, "test/crack/deep/a.jpg", "ground_truth/crack/deep/a_mask.png")
    touch(tmp_path, "ground_truth/hole/1_mask.png", "ground_truth/hole/2.png")
    return tmp_path


def test_training_images_of_the_mvtec_layout_and_of_a_folder(mvtec):
    expected = [mvtec / "train/good" / f"{i}.png" for i in range(3)]
    assert training_images(mvtec) == TrainingImages(expected, [], "MVTec AD")
    assert training_images(str(mvtec / "train")) == TrainingImages(expected, [], "folders by class")
    assert training_images(mvtec / "train/good") == TrainingImages(expected, [], "folder of images")


def test_samples_have_labels_types_and_masks(mvtec):
    truth = mvtec / "ground_truth"
    expected = [
        Sample(mvtec / "test/good/0.png", 0, "good", ()),
        Sample(mvtec / "test/crack/deep/a.jpg", 1, "crack", (truth / "crack/deep/a_mask.png",)),
        Sample(mvtec / "test/hole/1.png", 1, "hole", (truth / "hole/1_mask.png",)),
        Sample(mvtec / "test/hole/2.png", 1, "hole", (truth / "hole/2.png",)),
        Sample(mvtec / "test/hole/10.png", 1, "hole", ()),
    ]
    assert labelled(mvtec) == expected
    assert labelled(mvtec / "test") == expected  # with the masks beside it
    truth.rename(mvtec / "test" / "Ground_Truth")  # and inside it
    assert [len(s.mask_paths) for s in labelled(mvtec / "test")] == [0, 1, 1, 1, 0]


def test_a_test_folder_trains_on_its_good_images_alone(mvtec):
    assert training_images(mvtec / "test").paths == [mvtec / "test/good/0.png"]


def test_mvtec_loco(tmp_path):
    train = touch(tmp_path, "train/good/000.png", "train/good/001.png")
    held_out = touch(tmp_path, "validation/good/000.png")
    touch(tmp_path, "test/good/000.png", "test/logical_anomalies/000.png")
    touch(tmp_path, "test/structural_anomalies/000.png")
    several = touch(tmp_path, *(f"ground_truth/logical_anomalies/000/00{i}.png" for i in range(3)))
    one = touch(tmp_path, "ground_truth/structural_anomalies/000/000.png")
    assert training_images(tmp_path) == TrainingImages(train, held_out, "MVTec LOCO")
    assert labelled(tmp_path) == [
        Sample(tmp_path / "test/good/000.png", 0, "good"),
        Sample(tmp_path / "test/logical_anomalies/000.png", 1, "logical_anomalies", (*several,)),
        Sample(tmp_path / "test/structural_anomalies/000.png", 1, "structural_anomalies", (*one,)),
    ]


def test_btad(tmp_path):
    train = touch(tmp_path, "train/ok/0000.bmp")
    touch(tmp_path, "test/ok/0000.bmp", "test/ko/0001.BMP", "test/ko/0002.bmp")
    masks = touch(tmp_path, "ground_truth/ko/0001.png", "ground_truth/ok/0000.png")
    assert training_images(tmp_path) == TrainingImages(train, [], "BTAD")
    assert labelled(tmp_path) == [
        Sample(tmp_path / "test/ok/0000.bmp", 0, "ok"),
        Sample(tmp_path / "test/ko/0001.BMP", 1, "ko", (masks[0],)),
        Sample(tmp_path / "test/ko/0002.bmp", 1, "ko"),
    ]


@pytest.mark.parametrize("normal", ["good", "Good", "OK", "ok", "Normal", "NORMAL"])
@pytest.mark.parametrize("masks", ["ground_truth", "masks", "Masks", "../Ground_truth"])
def test_folders_by_class(tmp_path, normal, masks):
    data = tmp_path / "parts"
    good = touch(data, f"{normal}/a/1.png", f"{normal}/2.png")
    touch(data, "scratch/1.png", "Dent/1.png", ".hidden/1.png")
    mask = touch(data, f"{masks}/scratch/1_mask.png")[0]
    found = training_images(data)
    assert sorted(found.paths) == sorted(good)
    assert found.layout == "folders by class"
    samples = labelled(data)
    assert [(s.label, s.defect_type) for s in samples] == [
        (0, normal),
        (0, normal),
        (1, "Dent"),
        (1, "scratch"),
    ]
    assert [s.mask_paths for s in samples[:3]] == [(), (), ()]
    assert [path.resolve() for path in samples[3].mask_paths] == [mask.resolve()]


def test_masks_of_a_single_type_may_lie_in_no_folder(tmp_path):
    touch(tmp_path, "good/1.png", "bad/1.png")
    mask = touch(tmp_path, "masks/1.png")[0]
    assert labelled(tmp_path)[1].mask_paths == (mask,)
    touch(tmp_path, "worse/1.png")  # now it could be either's
    assert [s.mask_paths for s in labelled(tmp_path)] == [(), (), ()]


def test_masks_named_after_the_image_win_over_a_folder_of_them(tmp_path):
    touch(tmp_path, "good/1.png", "bad/1.png", "ground_truth/bad/1/0.png", "ground_truth/bad/1.png")
    expected = touch(tmp_path, "ground_truth/bad/1_mask.png")
    assert labelled(tmp_path)[1].mask_paths == tuple(expected)


def test_several_folders_of_normal_images(tmp_path):
    paths = touch(tmp_path, "good/1.png", "OK/1.png")
    assert sorted(training_images(tmp_path).paths) == sorted(paths)
    with pytest.raises(FileNotFoundError, match="no folders of normal images and of defects"):
        labelled(tmp_path)  # they are rather those of the training
    touch(tmp_path, "hole/1.png")
    assert [s.label for s in labelled(tmp_path)] == [0, 0, 1]


def test_any_folder_of_images(tmp_path):
    paths = touch(tmp_path, "1.png", "monday/2.JPG", "monday/line 2/3.tiff", "tuesday/4.WebP")
    touch(tmp_path, "notes.txt", ".thumbnails/1.png")
    found = training_images(tmp_path)
    assert sorted(found.paths) == sorted(paths)
    assert (found.held_out, found.layout) == ([], "folder of images")


def test_nested_folders_that_are_all_normal(tmp_path):
    paths = touch(tmp_path, "monday/ok/1.png", "tuesday/OK/deep/1.png")
    assert training_images(tmp_path).paths == paths


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("bottle/train/good/1.png", "bottle/test/hole/1.png"), "bottle/t.*several data sets"),
        (("monday/ok/1.png", "monday/rest/1.png"), "images in monday/rest, beside monday/ok"),
        (("monday/ok/1.png", "2.png"), r"images in \., beside monday/ok"),
        (("parts/1.png", "Defective/1.png"), "images in Defective: they may be defects"),
        (("parts/1.png", "parts/NOK/1.png"), "images in parts/NOK: they may be defects"),
        (("parts/1.png", "parts/masks/1.png"), "images in parts/masks: they may be .*masks"),
    ],
)
def test_folders_that_may_hold_defects_are_refused(tmp_path, names, said):
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match=f"{said}.*Give one data set, or the folder of normal"):
        training_images(tmp_path)


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (("train/fine/1.png", "test/good/1.png"), "train"),
        (("train/1.png", "test/hole/1.png"), "train"),
        (("Test/good/1.png",), "test"),
        (("good/1.png", "test/hole/1.png"), "test"),
        (("1.png", "ground_truth/1.png"), "ground_truth"),
        (("1.png", "Masks/1.png"), "masks"),
    ],
)
def test_training_on_a_test_set_by_accident_is_refused(tmp_path, names, part):
    touch(tmp_path, *names)
    said = f"folder '{part}' but no 'train/good'.*give the folder of normal images"
    with pytest.raises(FileNotFoundError, match=said):
        training_images(tmp_path)


folder_names = st.sampled_from(
    ["good", "OK", "normal", "bad", "scratch", "train", "test", "ground_truth", "masks", "a", "b"]
)


@settings(deadline=None, max_examples=150)
@given(names=st.lists(st.lists(folder_names, max_size=3), min_size=1, max_size=5))
def test_nothing_beside_a_folder_of_normal_images_is_ever_trained_on(tmp_path_factory, names):
    data = tmp_path_factory.mktemp("data")
    touch(data, *("/".join([*parts, "1.png"]) for parts in names))
    try:
        paths = training_images(data).paths
    except (ValueError, FileNotFoundError):
        return
    assert paths
    normal = {"good", "ok", "normal"}
    parts = [{part.lower() for part in path.relative_to(data).parts} for path in paths]
    if len(paths) < len(find_images(data)) or any(p & normal for p in parts):
        assert all(p & normal for p in parts)
    else:
        assert not any(p & {"bad", "train", "test", "ground_truth", "masks"} for p in parts)


def test_training_images_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*nowhere"):
        training_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no images in"):
        training_images(tmp_path)
    (tmp_path / "train/good").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no images in .*good \(looked for \.png"):
        training_images(tmp_path)
    with pytest.raises(NotADirectoryError, match=r"not a folder: .*1\.png"):
        training_images(*touch(tmp_path, "1.png"))


def test_sample_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*nowhere"):
        labelled(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="has no folder 'test'"):
        labelled(tmp_path)
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match="no images in the folders of"):
        labelled(tmp_path)
    with pytest.raises(NotADirectoryError, match=r"1\.png"):
        labelled(*touch(tmp_path, "1.png"))


def test_real_data(shared_data):
    data = shared_data / "mvtec_ad" / "bottle"
    assert len(training_images(data).paths) == 209
    samples = labelled(data)
    assert [s.label for s in samples].count(0) == 20
    assert sum(len(s.mask_paths) for s in samples) == 20 + 22 + 21


def test_defects_of_a_data_set_and_of_a_folder_of_their_own(mvtec, tmp_path):
    with_masks = [s for s in labelled(mvtec) if s.mask_paths]
    with pytest.warns(UserWarning, match="1 of 4 images of defects"):
        assert defect_samples(mvtec) == defect_samples(mvtec / "test") == with_masks
    own = mvtec / "some" / "where" / "own"
    touch(own, "hole/1.png", "hole/2.png", "crack/1.png", "masks/hole/1.png")
    touch(own, "masks/crack/1_mask.png")
    with pytest.warns(UserWarning, match="1 of 3 images of defects"):
        found = [(s.path, s.defect_type, s.mask_paths) for s in defect_samples(own)]
    assert found == [
        (own / "crack/1.png", "crack", (own / "masks/crack/1_mask.png",)),
        (own / "hole/1.png", "hole", (own / "masks/hole/1.png",)),
    ]


def test_defects_of_one_type_of_a_data_set(mvtec):
    with pytest.warns(UserWarning, match="1 of 3 images of defects"):
        samples = defect_samples(mvtec / "test" / "hole")
    truth = mvtec / "ground_truth" / "hole"
    assert [s.mask_paths for s in samples] == [(truth / "1_mask.png",), (truth / "2.png",)]


def test_defects_in_mixed_places(tmp_path):
    data = tmp_path / "mixed"
    touch(
        data, "0.png", "0_MASK.PNG", "0.bmp", "a/1.png", "a/1_mask.png", "b/masks/2.png", "b/2.jpg"
    )
    touch(data, "b/none.png", "good/3.png", "good/3_mask.png")
    (data / "empty").mkdir()
    with pytest.warns(UserWarning, match="1 of 5 images of defects in .*mixed have no mask"):
        samples = defect_samples(data)
    found = {(s.path.name, s.defect_type, s.mask_paths[0].name) for s in samples}
    assert found == {
        ("0.png", "mixed", "0_MASK.PNG"),
        ("0.bmp", "mixed", "0_MASK.PNG"),
        ("1.png", "a", "1_mask.png"),
        ("2.jpg", "b", "2.png"),
    }


def test_a_folder_of_masks_is_no_folder_of_defects(mvtec):
    with pytest.raises(ValueError, match="ground_truth is a folder of masks by its name"):
        defect_samples(mvtec / "ground_truth")


@pytest.mark.parametrize("masks", ["masks", "Ground_Truth", "../masks", "beside"])
def test_defects_of_one_folder(tmp_path, masks):
    folder = tmp_path / "cracks"
    images = touch(folder, "1.png", "2.jpg", "10.png")
    if masks == "beside":
        found = touch(folder, "1_mask.png", "10_mask.png")
    else:
        found = touch(folder / masks, "1_mask.png", "10.png")
    expected = [(images[0], found[0].resolve()), (images[2], found[1].resolve())]
    with pytest.warns(UserWarning, match="have no mask"):
        samples = defect_samples(folder)
    assert [(s.path, s.mask_paths[0].resolve()) for s in samples] == expected
    assert {(s.label, s.defect_type) for s in samples} == {(1, "cracks")}


def test_no_defects_with_masks(tmp_path):
    touch(tmp_path, "cracks/1.png")
    with pytest.raises(
        ValueError, match=r"no defects with masks in .*cracks: masks are looked for"
    ):
        defect_samples(tmp_path / "cracks")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        defect_samples(tmp_path / "nowhere")


@pytest.mark.parametrize(("name", "is_refused"), [("kratzer", True), ("2024-01-02", False)])
def test_a_folder_beside_images_that_says_something_unknown(tmp_path, name, is_refused):
    for path in ("a.png", "b.png", f"{name}/c.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    if is_refused:
        with pytest.raises(ValueError, match=rf"none of the folders .*: {name} \(1 image\)"):
            training_images(tmp_path)
    else:
        assert len(training_images(tmp_path).paths) == 3
