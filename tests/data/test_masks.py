"""Ground-truth masks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastad.data import ImageError, read_ground_truth, read_mask, resize_masks


def save(tmp_path, array, name="a.png"):
    Image.fromarray(array).save(tmp_path / name)
    return tmp_path / name


def test_mask_is_above_half_of_the_range(tmp_path):
    grey = np.array([[0, 1, 127, 128, 255]], np.uint8)
    assert read_mask(save(tmp_path, grey)).tolist() == [[False, False, False, True, True]]
    deep = np.array([[0, 255, 32767, 32768, 65535]], np.uint16)
    assert read_mask(save(tmp_path, deep)).tolist() == [[False, False, False, True, True]]
    assert read_mask(save(tmp_path, grey > 127)).tolist() == [[False, False, False, True, True]]
    colour = np.repeat(grey[:, :, None], 3, axis=2)
    assert read_mask(save(tmp_path, colour)).tolist() == [[False, False, False, True, True]]


def test_label_masks_hold_small_numbers(tmp_path):
    labels = np.array([[0, 1, 2, 3, 127]])
    expected = [[False, True, True, True, True]]
    assert read_mask(save(tmp_path, labels.astype(np.uint8))).tolist() == expected
    assert read_mask(save(tmp_path, labels.astype(np.uint16))).tolist() == expected
    palette = Image.fromarray(labels.astype(np.uint8))
    palette.putpalette([0, 0, 0, 40, 0, 0, 0, 0, 1, 0, 50, 0] + [9, 9, 9] * 252)
    palette.save(tmp_path / "p.png")
    assert Image.open(tmp_path / "p.png").mode == "P"
    assert read_mask(tmp_path / "p.png").tolist() == expected


def test_a_black_mask_marks_nothing(tmp_path):
    assert not read_mask(save(tmp_path, np.zeros((3, 4), np.uint8))).any()


def test_a_pure_colour_is_a_mark(tmp_path):
    colour = np.zeros((1, 4, 3), np.uint8)
    colour[0, [1, 2, 3], [0, 1, 2]] = 255
    assert read_mask(save(tmp_path, colour)).tolist() == [[False, True, True, True]]


def test_alpha_is_no_mark(tmp_path):
    grey = np.array([[0, 0, 255]], np.uint8)
    alpha = np.array([[0, 255, 255]], np.uint8)
    assert read_mask(save(tmp_path, np.dstack([grey, alpha]))).tolist() == [[False, False, True]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_masks_are_turned_like_images(tmp_path, dtype):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a clockwise quarter turn
    mask = np.array([[0, 255, 0], [0, 0, 0]], dtype)
    Image.fromarray(mask).save(tmp_path / "r.png", exif=exif)
    assert np.array_equal(read_mask(tmp_path / "r.png").numpy(), np.rot90(mask > 0, k=-1))


@settings(deadline=None, max_examples=40)
@given(
    top=st.sampled_from([1, 3, 127, 128, 255]),
    deep=st.booleans(),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 2**31),
)
def test_the_rule_holds_for_any_mask(tmp_path_factory, top, deep, shape, seed):
    values = np.random.default_rng(seed).integers(0, top + 1, shape)
    values = (values * 257).astype(np.uint16) if deep else values.astype(np.uint8)
    path = save(tmp_path_factory.mktemp("mask"), values)
    above = values / np.iinfo(values.dtype).max > 0.5
    assert np.array_equal(read_mask(path).numpy(), above if above.any() else values != 0)


def test_ground_truth_is_the_union_of_the_masks(tmp_path):
    masks = np.zeros((3, 4, 5), np.uint8)
    masks[0, 0], masks[1, :, 1], masks[2, 3, 3] = 255, 3, 200
    paths = [save(tmp_path, mask, f"{i}.png") for i, mask in enumerate(masks)]
    truth = read_ground_truth(paths)
    assert truth.dtype == torch.bool
    assert np.array_equal(truth.numpy(), masks.max(axis=0) > 0)
    assert np.array_equal(read_ground_truth(paths[1:2]).numpy(), masks[1] > 0)


def test_ground_truth_errors(tmp_path):
    first = save(tmp_path, np.zeros((3, 4), np.uint8), "first.png")
    second = save(tmp_path, np.zeros((4, 3), np.uint8), "second.png")
    with pytest.raises(ImageError, match=r"second\.png: the mask has 4x3 .*first\.png .*3x4"):
        read_ground_truth((first, second))
    with pytest.raises(ValueError, match="paths: at least one mask"):
        read_ground_truth(())


@pytest.mark.parametrize("size", [(4, 3), (13, 21), (30, 30)])
def test_masks_are_resized_by_nearest_pixel_centre(size):
    mask = np.random.default_rng(0).random((12, 9)) > 0.5
    rows = ((np.arange(size[0]) + 0.5) * 12 / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * 9 / size[1]).astype(int)
    result = resize_masks(torch.from_numpy(mask), size)
    assert result.dtype == torch.bool
    assert np.array_equal(result.numpy(), mask[np.ix_(rows, columns)])
    assert resize_masks(torch.from_numpy(mask)[None, None], size).shape == (1, 1, *size)


def test_a_tiny_defect_survives_the_resize():
    masks = torch.zeros(3, 1024, 1024, dtype=torch.bool)
    masks[0, 101, 103] = True
    masks[1, 200:400, 300:500] = True
    resized = resize_masks(masks, (256, 256))
    assert resized[0].nonzero().tolist() == [[25, 25]]
    assert resized[1].sum() == 50 * 50
    assert not resized[2].any()
    assert resize_masks(masks[0], (256, 256)).sum() == 1
