"""Textures from a folder: windows of its images, few reads, clear errors."""

import numpy as np
import pytest
from PIL import Image

from fastad.data.synthesis import TextureFolder, texture_folder


@pytest.fixture
def folder(tmp_path):
    """Images whose red tells the column, green the row and blue the image."""
    for i, (height, width) in enumerate([(60, 90), (40, 40), (300, 100)]):
        y, x = np.mgrid[:height, :width]
        pixels = np.stack([x * 250 // width, y * 250 // height, np.full_like(x, 60 * i)], -1)
        path = tmp_path / ("banded" if i else "") / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.uint8(pixels)).save(path)
    return tmp_path


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (200, 50), (32, 400)])
def test_a_texture_is_a_window_of_an_image(folder, size):
    textures = TextureFolder(folder)
    assert [path.name for path in textures.paths] == ["0.png", "1.png", "2.png"]
    images, mirrored, tops, lefts = set(), set(), set(), set()
    for seed in range(60):
        texture = textures(np.random.default_rng(seed), *size)
        assert (texture.dtype, texture.shape) == (np.uint8, (*size, 3))
        assert texture.flags.c_contiguous
        images.add(int(texture[0, 0, 2]) // 60)
        assert np.ptp(texture[..., 2]) == 0
        assert (np.diff(texture[..., 1].astype(int), axis=0) >= -1).all()  # upright
        step = np.diff(texture[..., 0].astype(int), axis=1).sum()
        mirrored.add(bool(step < 0))
        lefts.add(int(texture[..., 0].min()))
        tops.add(int(texture[..., 1].min()))
        again = textures(np.random.default_rng(seed), *size)
        assert np.array_equal(texture, again)
    assert images == {0, 1, 2}
    assert mirrored == {False, True}
    assert max(lefts) > 60
    assert max(tops) > 60


def test_files_are_checked_at_first_and_then_read_once(folder, monkeypatch):
    read, original = [], texture_folder.read_image
    monkeypatch.setattr(
        texture_folder, "read_image", lambda path: read.append(path) or original(path)
    )
    textures = TextureFolder(folder)
    assert read == textures.paths
    read.clear()
    for seed in range(30):
        textures(np.random.default_rng(seed), 32, 32)
    assert sorted(read) == sorted(textures.paths)


def test_no_more_is_kept_than_the_bound(folder, monkeypatch):
    monkeypatch.setattr(texture_folder, "_CACHE_BYTES", 60 * 90 * 3)
    textures = TextureFolder(folder)
    for seed in range(30):
        textures(np.random.default_rng(seed), 32, 32)
    assert 0 < sum(image.nbytes for image in textures._cache.values()) <= 60 * 90 * 3


def test_the_fingerprint_is_of_names_and_contents(folder, tmp_path):
    first = TextureFolder(folder).fingerprint
    assert first == TextureFolder(folder).fingerprint
    Image.new("RGB", (40, 40), (1, 2, 3)).save(folder / "banded" / "1.png")
    second = TextureFolder(folder).fingerprint
    (folder / "0.png").rename(folder / "7.png")
    assert len({first, second, TextureFolder(folder).fingerprint}) == 3


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"textures: no such folder: .*nowhere"):
        TextureFolder(tmp_path / "nowhere")


def test_a_file_is_no_folder(folder):
    with pytest.raises(NotADirectoryError, match=r"textures: not a folder: .*0\.png"):
        TextureFolder(folder / "0.png")


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / "readme.txt").write_text("no image")
    with pytest.raises(ValueError, match="textures: there are no images below"):
        TextureFolder(tmp_path)


def test_unreadable_images_are_left_out_with_a_warning(folder):
    whole = TextureFolder(folder)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    truncated = (folder / "0.png").read_bytes()[:-40]
    (folder / "truncated.png").write_bytes(truncated)
    said = r"unreadable images left out \(2 of 5\): broken\.png, truncated\.png"
    with pytest.warns(UserWarning, match=said):
        textures = TextureFolder(folder)
    assert textures.paths == whole.paths
    assert textures.fingerprint == whole.fingerprint


def test_a_folder_without_a_readable_image_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(ValueError, match="textures: there are no readable images below"):
        TextureFolder(tmp_path)


def test_masks_are_no_textures(tmp_path):
    for name in ("1.png", "1_Maske.png", "masks/1.png", "2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    assert [path.name for path in TextureFolder(tmp_path).paths] == ["1.png", "2.png"]
