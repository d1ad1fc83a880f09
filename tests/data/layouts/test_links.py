"""Symbolic links in folders of images."""

import os

import pytest

from fastad.data import find_images


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "above" / "images"
    (folder / "sub").mkdir(parents=True)
    for name in ("above/outside.png", "above/images/a.png", "above/images/sub/b.png"):
        (tmp_path / name).write_bytes(b"x")
    return folder


def names(folder):
    return [path.relative_to(folder).as_posix() for path in find_images(folder)]


def test_a_link_upwards_is_not_followed(place):
    os.symlink("..", place / "up")
    os.symlink("/", place / "root")
    os.symlink(place, place / "self")
    assert names(place) == ["a.png", "sub/b.png"]


def test_links_to_other_folders_are(place, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "c.png").write_bytes(b"x")
    os.symlink(tmp_path / "other", place / "linked")
    assert names(place) == ["a.png", "linked/c.png", "sub/b.png"]


def test_a_file_counts_once(place, tmp_path):
    os.symlink(place / "a.png", place / "0 link to a.png")
    os.symlink(tmp_path / "above" / "outside.png", place / "first.png")
    os.symlink(tmp_path / "above" / "outside.png", place / "second.png")
    os.symlink(tmp_path / "nowhere.png", place / "dangling.png")
    found = names(place)
    assert "a.png" in found
    assert "0 link to a.png" not in found
    assert len({"first.png", "second.png"} & set(found)) == 1
    assert "dangling.png" in found  # reading it says what is wrong
