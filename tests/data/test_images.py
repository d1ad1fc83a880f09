"""Reading, resizing and finding images."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from fastad.data import (
    ImageError,
    find_images,
    parse_size,
    read_image,
    read_mask,
    resize,
)

RGB = np.random.default_rng(0).integers(0, 256, (11, 7, 3), dtype=np.uint8)


def save(tmp_path: Path, array: np.ndarray, name: str = "a.png", mode: str | None = None) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(tmp_path / name)
    return tmp_path / name


def test_rgb_is_read_exactly(tmp_path):
    image = read_image(save(tmp_path, RGB))
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert np.array_equal(image.permute(1, 2, 0).numpy(), RGB)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        read_image(tmp_path / "nothing.png")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File Read")
@pytest.mark.parametrize("keep", [0, 20, 60, 0.5, 0.9])
@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif", "webp"])
def test_truncated_files_are_named(tmp_path, keep, ending):
    buffer = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(ending, ending))
    data = buffer.getvalue()
    path = tmp_path / f"cut.{ending}"
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(ImageError, match=f"cut.{ending}"):
        read_image(path)
    with pytest.raises(ImageError, match=f"cut.{ending}"):
        read_mask(path)


def test_empty_text_and_folder_are_image_errors(tmp_path):
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty\.png: is empty"):
        read_image(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ImageError, match=r"text\.png"):
        read_image(tmp_path / "text.png")
    with pytest.raises(ImageError, match=str(tmp_path)):
        read_image(tmp_path)


def test_32_bit_pixels_are_refused(tmp_path):
    with pytest.raises(ImageError, match=r"f\.tif.*no known range"):
        read_image(save(tmp_path, np.ones((3, 3), np.float32), "f.tif"))
    with pytest.raises(ImageError, match=r"i\.tif.*no known range"):
        read_image(save(tmp_path, np.full((3, 3), 70000, np.int32), "i.tif"))
    with pytest.raises(ImageError, match=r"f\.tif.*no known range"):
        read_mask(tmp_path / "f.tif")


sides = st.integers(1, 90)


@settings(deadline=None, max_examples=60)
@example(h=2, w=1, new_h=3, new_w=1, seed=0)  # where torch's kernel is wrong
@given(h=sides, w=sides, new_h=sides, new_w=sides, seed=st.integers(0, 2**31))
def test_resize_is_within_one_grey_level_of_pillow(h, w, new_h, new_w, seed):
    image = np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)
    ours = resize(torch.from_numpy(image).permute(2, 0, 1), (new_h, new_w))
    theirs = np.array(Image.fromarray(image).resize((new_w, new_h), Image.Resampling.BILINEAR))
    assert ours.dtype == torch.uint8
    assert ours.shape == (3, new_h, new_w)
    assert np.abs(ours.permute(1, 2, 0).numpy().astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_resize_keeps_floating_dtypes(dtype):
    image = torch.rand(2, 3, 40, 30, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    result = resize(image.to(dtype), (13, 17))
    assert result.dtype == dtype
    assert result.shape == (2, 3, 13, 17)
    expected = resize(image, (13, 17))
    torch.testing.assert_close(result.double(), expected, atol=5e-3, rtol=0)


def test_resize_of_float_and_uint8_agree_and_an_unchanged_size_is_free():
    image = torch.from_numpy(RGB).permute(2, 0, 1)
    small = resize(image.float(), (5, 3))
    assert torch.equal(resize(image, (5, 3)), small.round().to(torch.uint8))
    assert resize(image, (11, 7)) is image


def test_resize_errors():
    with pytest.raises(ValueError, match=r"shape \(4, 4\)"):
        resize(torch.zeros(4, 4), (2, 2))
    with pytest.raises(TypeError, match="int64"):
        resize(torch.zeros(3, 4, 4, dtype=torch.int64), (2, 2))


def test_parse_size():
    assert parse_size("256") == parse_size(256) == parse_size((256, 256)) == (256, 256)
    assert (
        parse_size("640x256") == parse_size(" 640 X 256 ") == parse_size([640, 256]) == (640, 256)
    )


@pytest.mark.parametrize(
    "size", ["", "0", "x", "64x", "-5", "1x2x3", 0, 2.5, (1,), (0, 4), True, None]
)
def test_parse_size_errors(size):
    with pytest.raises(ValueError, match="image size must be like 256 or 640x256"):
        parse_size(size)


def test_find_images_is_nested_natural_and_skips_the_hidden(tmp_path):
    names = ["b/10.PNG", "b/2.jpg", "a.tiff", "B/x.webp", "c.Jpeg", ".hidden.png", ".git/x.png"]
    for name in [*names, "notes.txt", "png"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    found = [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path)]
    assert found == ["a.tiff", "b/2.jpg", "b/10.PNG", "B/x.webp", "c.Jpeg"]


def test_find_images_follows_links_to_folders(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "1.png").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "good").symlink_to(tmp_path / "real")
    assert find_images(tmp_path / "set") == [tmp_path / "set" / "good" / "1.png"]


def test_find_images_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_images(tmp_path / "nowhere")
    (tmp_path / "file.png").touch()
    with pytest.raises(NotADirectoryError, match=r"file\.png"):
        find_images(tmp_path / "file.png")


@settings(deadline=None)
@given(
    st.tuples(st.integers(0, 3), st.sampled_from([1, 3, 4])),
    st.tuples(st.integers(1, 80), st.integers(1, 80)),
    st.tuples(st.integers(1, 60), st.integers(2, 60)),
    st.sampled_from(["planar", "interleaved", "cropped", "turned", "mirrored"]),
)
def test_bytes_are_the_rounded_values_of_float64(images, size, to_size, layout):
    given_images = torch.randint(0, 256, (*images, *size), dtype=torch.uint8)
    if layout == "interleaved":
        given_images = given_images.to(memory_format=torch.channels_last)
    elif layout == "cropped":
        given_images = F.pad(given_images, (1, 2, 3, 4))[..., 3:-4, 1:-2]
    elif layout == "turned":
        given_images = given_images.mT
    elif layout == "mirrored":
        given_images = given_images.flip(3).to(memory_format=torch.channels_last)
    result = resize(given_images, to_size)
    assert result.dtype == torch.uint8
    assert result.shape == (*images, *to_size)
    if len(given_images):
        exact = F.interpolate(
            given_images.double(), to_size, mode="bilinear", antialias=True, align_corners=False
        )
        assert (result - exact).abs().max() < 0.5 + 1e-4


def test_bytes_do_not_depend_on_the_layout_or_the_threads():
    images = torch.randint(0, 256, (2, 3, 301, 223), dtype=torch.uint8)
    expected = resize(images, (128, 96))
    assert torch.equal(resize(images.to(memory_format=torch.channels_last), (128, 96)), expected)
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert torch.equal(resize(images, (128, 96)), expected)
    finally:
        torch.set_num_threads(threads)


def test_bytes_in_torch():
    images = torch.randint(0, 256, (2, 3, 19, 23), dtype=torch.uint8)
    torch.library.opcheck(torch.ops.fastad.resize_bytes.default, (images, 8, 40))
    for wrong in (images.float(), images[0], images.mT, images[:, :0]):
        with pytest.raises(RuntimeError, match="images"):
            torch.ops.fastad.resize_bytes(wrong, 8, 40)
    with pytest.raises(RuntimeError, match="size must not be empty"):
        torch.ops.fastad.resize_bytes(images, 0, 40)


def test_what_programs_leave_is_no_image(tmp_path):
    for name in (
        "a.png",
        "__MACOSX/a.png",
        "thumbs/a.png",
        "@eaDir/a.png",
        "report/pictures/a.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "report" / "fastad-report.json").touch()
    assert find_images(tmp_path) == [tmp_path / "a.png"]
    # A folder that is named itself is searched.
    assert find_images(tmp_path / "thumbs") == [tmp_path / "thumbs/a.png"]
    assert find_images(tmp_path / "report") == [tmp_path / "report/pictures/a.png"]
