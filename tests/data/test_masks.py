"""Ground-truth masks."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from fastad.data import ImageError, read_ground_truth, read_mask, resize_masks


def save(tmp_path, array, name="a.png", **options):
    Image.fromarray(array).save(tmp_path / name, **options)
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


@pytest.mark.filterwarnings("ignore:.*marks .* of its image")
@settings(deadline=None, max_examples=40)
@given(
    top=st.sampled_from([1, 3, 127, 128, 200, 255]),
    deep=st.booleans(),
    shape=st.tuples(st.integers(1, 9), st.integers(4, 9)),
    seed=st.integers(0, 2**31),
)
def test_the_rule_holds_for_any_mask(tmp_path_factory, top, deep, shape, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, top + 1, shape)
    values.flat[rng.permutation(values.size)[:4]] = 0, top // 3, top // 2, top
    values = (values * 257).astype(np.uint16) if deep else values.astype(np.uint8)
    path = save(tmp_path_factory.mktemp("mask"), values)
    half = values > np.iinfo(values.dtype).max / 2
    # Noise has no areas: of 16 levels or from end to end it is a soft edge, else it is classes.
    soft = half.any() and (top == 255 or len(np.unique(values)) > 16)
    assert np.array_equal(read_mask(path).numpy(), half if soft else values != 0)


# Kinds of masks, each with random shapes --------------------------------------------------------


def drawn(seed, classes, scale=1, side=96):
    """Labels (side, side): overlapping ellipses, polygons and lines of classes 1, 2, ..."""
    rng = np.random.default_rng(seed)
    image = Image.new("L", (side * scale, side * scale))
    draw = ImageDraw.Draw(image)
    for label in [1 + i for i in range(classes)] * 2:
        x, y = (int(v) * scale for v in rng.integers(10, 70, 2))
        r = int(rng.integers(6, 14)) * scale
        kind = rng.integers(3)
        if kind == 0:
            draw.ellipse([x, y, x + 2 * r, y + r], fill=label)
        elif kind == 1:
            draw.polygon([(x, y), (x + 2 * r, y + r), (x, y + r)], fill=label)
        else:
            draw.line([x, y, x + r, y + r], fill=label, width=3 * scale)
    labels = np.array(image)
    assert 0 < (labels > 0).mean() < 0.5
    return labels


def painted(labels, values):
    return np.array([0, *values], np.int64)[labels]


def voc_palette():
    """Pascal VOC's: the bits of an index spread over the colours, 0 is black."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    red, green, blue = bits[:, 0::3], bits[:, 1::3], bits[:, 2::3]
    return np.stack(
        [(c << (7 - np.arange(c.shape[1]))).sum(1) for c in (red, green, blue)], axis=1
    ).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize(
    "values",
    [
        *([255], [1], [128], [7]),
        *([1, 2], [100, 200], [85, 170], [64, 128], [64, 128, 191, 255], [51, 102, 153, 204, 255]),
        *([254, 255], [248, 251, 254], [1, 255], [128, 255], [3, 200], [1, 15, 255], range(1, 9)),
    ],
    ids=str,
)
def test_every_class_is_the_defect(tmp_path, values, dtype, ending):
    for seed in range(4):
        labels = drawn(seed, len(values))
        path = save(tmp_path, painted(labels, values).astype(dtype), f"{seed}.{ending}")
        assert np.array_equal(read_mask(path).numpy(), labels > 0)


@pytest.mark.parametrize(
    "values", [[65535], [300, 600], [20000, 40000], [1, 65535], [60000]], ids=str
)
def test_every_class_of_16_bits_is_the_defect(tmp_path, values):
    labels = drawn(0, len(values))
    path = save(tmp_path, painted(labels, values).astype(np.uint16))
    assert np.array_equal(read_mask(path).numpy(), labels > 0)


def test_many_instances_are_the_defect(tmp_path):
    for seed in range(4):
        labels = drawn(seed, 60, side=200)
        path = save(tmp_path, (labels * 4).astype(np.uint8))
        assert np.array_equal(read_mask(path).numpy(), labels > 0)


@pytest.mark.parametrize("values", [[1, 2], [1, 8], [8, 9], [1, 255], [7, 15, 2]], ids=str)
def test_a_palette_is_read_by_its_index(tmp_path, values):
    labels = drawn(3, len(values))
    for name, palette in {
        "voc": voc_palette(),
        "all black": np.zeros((256, 3), np.uint8),
        "blue background": np.array([[0, 0, 200], *[[9, 9, 9], [250, 0, 0]] * 127, [1, 2, 3]]),
    }.items():
        image = Image.fromarray(painted(labels, values).astype(np.uint8))
        image.putpalette(palette.astype(np.uint8).ravel().tolist())
        image.save(tmp_path / f"{name}.png")
        assert Image.open(tmp_path / f"{name}.png").mode == "P"
        assert np.array_equal(read_mask(tmp_path / f"{name}.png").numpy(), labels > 0)


@pytest.mark.parametrize("kind", ["palette.png", "a.gif"])
def test_a_palette_of_greys_may_have_any_order(tmp_path, kind):
    labels = drawn(4, 1)
    image = Image.fromarray(np.where(labels > 0, np.uint8(0), np.uint8(1)))
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / kind)
    assert np.array_equal(read_mask(tmp_path / kind).numpy(), labels > 0)


def test_coloured_classes_and_bilevel_masks(tmp_path):
    labels = drawn(5, 3)
    colours = np.array([[0, 0, 0], [0, 100, 0], [200, 0, 0], [0, 0, 255]], np.uint8)
    assert np.array_equal(read_mask(save(tmp_path, colours[labels])).numpy(), labels > 0)
    for name in ("b.png", "b.tif", "b.bmp"):
        assert np.array_equal(read_mask(save(tmp_path, labels > 0, name)).numpy(), labels > 0)


@pytest.mark.parametrize("under", [0, 255, 77])
@pytest.mark.parametrize("ink", [0, 255, 130])
@pytest.mark.parametrize("grey", [False, True])
def test_alpha_is_the_mask_where_it_alone_has_the_shape(tmp_path, grey, ink, under):
    labels = drawn(6, 1)
    colour = np.where(labels > 0, np.uint8(ink), np.uint8(under))
    alpha = ((labels > 0) * 255).astype(np.uint8)
    layers = [colour, alpha] if grey else [colour, colour // 2, colour, alpha]
    path = save(tmp_path, np.dstack(layers))
    assert np.array_equal(read_mask(path).numpy(), labels > 0)


@pytest.mark.parametrize("opacity", [0, 128, 255])
def test_an_alpha_without_a_shape_does_not_count(tmp_path, opacity):
    labels = drawn(7, 2)
    values = painted(labels, [100, 200]).astype(np.uint8)
    alpha = np.full_like(values, opacity)
    assert np.array_equal(read_mask(save(tmp_path, np.dstack([values, alpha]))).numpy(), labels > 0)
    alpha[:20] = 255 - opacity
    assert np.array_equal(read_mask(save(tmp_path, np.dstack([values, alpha]))).numpy(), labels > 0)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_antialiased_masks_are_cut_at_half(tmp_path, scale, deep):
    for seed in range(5):
        fine = (drawn(seed, 2, scale) > 0).reshape(96, scale, 96, scale).mean((1, 3))
        values = (fine * 65535).astype(np.uint16) if deep else (fine * 255).astype(np.uint8)
        path = save(tmp_path, values)
        assert np.array_equal(read_mask(path).numpy(), values / np.iinfo(values.dtype).max > 0.5)


@pytest.mark.parametrize("radius", [0.7, 1.5])
def test_blurred_masks_are_cut_at_half(tmp_path, radius):
    for seed in range(5):
        full = Image.fromarray(((drawn(seed, 2) > 0) * 255).astype(np.uint8))
        values = np.array(full.filter(ImageFilter.GaussianBlur(radius)))
        assert np.array_equal(read_mask(save(tmp_path, values)).numpy(), values > 127)


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
@pytest.mark.parametrize("quality", [30, 50, 75, 90, 95])
def test_the_noise_of_compression_is_no_defect(tmp_path, quality, ending):
    for seed in range(5):
        truth = drawn(seed, 2) > 0
        path = save(tmp_path, (truth * 255).astype(np.uint8), f"{seed}.jpg", quality=quality)
        if ending != "jpg":
            options = {"compression": "jpeg"} if ending == "tif" else {}
            path = save(tmp_path, np.array(Image.open(path)), f"{seed}.{ending}", **options)
        assert (read_mask(path).numpy() != truth).mean() < 0.002


@pytest.mark.parametrize("values", [[100, 200], [60, 250]], ids=str)
def test_classes_in_a_jpeg_are_all_the_defect(tmp_path, values):
    labels = np.zeros((96, 96), int)
    labels[9:45, 11:50], labels[55:90, 40:87] = 1, 2
    path = save(tmp_path, painted(labels, values).astype(np.uint8), "a.jpg", quality=90)
    mask = read_mask(path).numpy()
    assert mask[labels > 0].all()
    far = np.pad(labels > 0, 2)
    near = np.any([np.roll(far, (y, x), (0, 1)) for y in range(-2, 3) for x in range(-2, 3)], 0)
    assert not mask[~near[2:-2, 2:-2]].any()


@pytest.mark.parametrize(("background", "defect"), [(1, 2), (1, 255), (16, 235), (3, 200)])
def test_the_background_need_not_be_quite_black(tmp_path, background, defect):
    labels = drawn(8, 1)
    values = np.where(labels > 0, np.uint8(defect), np.uint8(background))
    assert np.array_equal(read_mask(save(tmp_path, values)).numpy(), labels > 0)


def test_a_mask_that_marks_most_is_told_once_for_each_folder(tmp_path):
    inverted = np.where(drawn(9, 1) > 0, np.uint8(0), np.uint8(255))
    half = np.zeros((4, 4), np.uint8)
    half[:2] = 255
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read_mask(save(tmp_path / folder, half, "half.png"))
        with pytest.warns(UserWarning, match=rf"{folder}.1\.png: the mask marks 9\d% .*inverted"):
            assert read_mask(save(tmp_path / folder, inverted, "1.png")).float().mean() > 0.9
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read_mask(save(tmp_path / folder, inverted, "2.png"))


def test_the_union_takes_masks_of_several_kinds(tmp_path):
    labels = drawn(10, 3)
    alpha = np.dstack([np.full_like(labels, 255), ((labels == 1) * 255).astype(np.uint8)])
    classes = ((labels == 2) * 100).astype(np.uint8)
    deep = ((labels == 3) * 65535).astype(np.uint16)
    arrays = {"alpha.png": alpha, "classes.tif": classes, "deep.png": deep}
    paths = [save(tmp_path, array, name) for name, array in arrays.items()]
    assert np.array_equal(read_ground_truth(paths).numpy(), labels > 0)


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
