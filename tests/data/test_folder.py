"""Images from many files: batches and data sets."""

import os
import pickle
import threading
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from fastad.data import ImageDataset, ImageError, iterate_batches, read_image, resize

SIZE = (6, 5)


def put(path, seed=0, size=(9, 12)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "set").mkdir()
    return [put(tmp_path / "set" / f"{i}.png", i, (9 + i, 12)) for i in range(4)]


@pytest.fixture
def broken(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"x")
    return tmp_path / "broken.png"


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_batches_keep_the_order(tmp_path, batch_size):
    paths = [put(tmp_path / f"{i}.png", i) for i in range(7)]
    batches = list(iterate_batches(paths, (9, 12), batch_size))
    assert [len(b) for _, b in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert [i for positions, _ in batches for i in positions] == list(range(7))
    expected = torch.stack([read_image(p) for p in paths])
    assert torch.equal(torch.cat([b for _, b in batches]), expected)
    assert list(iterate_batches([], (9, 12), batch_size)) == []


@settings(deadline=None, max_examples=60)
@given(bad=st.lists(st.booleans(), max_size=20), batch_size=st.integers(1, 8))
def test_unreadable_items_are_reported_and_left_out(bad, batch_size):
    def read(item):
        if bad[item]:
            raise (ImageError if item % 2 else FileNotFoundError)(f"item {item}")
        return torch.full((3, 1, 1), item, dtype=torch.uint8)

    skipped = []
    batches = list(
        iterate_batches(
            range(len(bad)), (1, 1), batch_size, read, lambda i, e: skipped.append((i, str(e)))
        )
    )
    assert skipped == [(i, f"item {i}") for i, is_bad in enumerate(bad) if is_bad]
    good = [i for i, is_bad in enumerate(bad) if not is_bad]
    assert [i for positions, _ in batches for i in positions] == good
    for positions, batch in batches:
        assert 1 <= len(positions) <= batch_size
        assert batch[:, 0, 0, 0].tolist() == positions


def test_without_skip_the_error_is_raised(paths, broken):
    batches = iterate_batches([*paths, broken], SIZE, 2)
    assert next(batches)[0] == [0, 1]
    assert next(batches)[0] == [2, 3]
    with pytest.raises(ImageError, match=r"broken\.png"):
        next(batches)


def test_other_errors_are_never_skipped():
    def read(item):
        raise TypeError("a programming error")

    with pytest.raises(TypeError, match="a programming error"):
        list(iterate_batches([0], SIZE, 2, read, lambda i, e: None))


def test_no_more_than_two_batches_are_read_and_threads_end_with_the_consumer():
    seen, before = [], threading.active_count()

    def read(item):
        seen.append(item)
        return torch.zeros(3, 1, 1, dtype=torch.uint8)

    batches = iterate_batches(iter(range(1000)), (1, 1), 4, read)
    next(batches)
    assert len(seen) <= 8
    batches.close()
    assert threading.active_count() == before


def test_batch_size_is_checked(paths):
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        next(iterate_batches(paths, SIZE, 0))


@pytest.mark.parametrize("in_memory", [True, False])
def test_dataset_items_are_the_resized_images(paths, in_memory):
    dataset = ImageDataset(paths, "6x5", in_memory)
    assert len(dataset) == 4
    assert dataset.paths == paths
    assert dataset.skipped == []
    assert (dataset.images is not None) == in_memory
    for path, item in zip(paths, dataset, strict=False):
        assert item.dtype == torch.uint8
        assert torch.equal(item, resize(read_image(path), SIZE))


def test_dataset_iteration_ends(paths):
    with pytest.raises(IndexError):
        ImageDataset(paths, 4, in_memory=False)[4]


@pytest.mark.parametrize("in_memory", [True, False])
def test_bad_files_are_skipped_and_counted(paths, broken, tmp_path, in_memory):
    cut = tmp_path / "cut.png"
    cut.write_bytes(paths[0].read_bytes()[:-60])  # the header is whole: only decoding shows it
    gone = tmp_path / "gone.png"
    given = [broken, *paths[:2], cut, *paths[2:], gone]
    dataset = ImageDataset([str(path) for path in given], SIZE, in_memory, skip_bad=True)
    assert dataset.paths == paths
    assert [path for path, _ in dataset.skipped] == [broken, cut, gone]
    for path, reason in dataset.skipped:
        assert path.name in reason
    assert len(dataset) == 4
    assert torch.equal(torch.stack(list(dataset)), torch.stack(list(ImageDataset(paths, SIZE))))
    if in_memory:
        assert dataset.images.shape == (4, 3, *SIZE)


@pytest.mark.parametrize("in_memory", [True, False])
def test_dataset_errors(broken, in_memory):
    with pytest.raises(ValueError, match="paths: at least one image"):
        ImageDataset([], 8, in_memory)
    with pytest.raises(ValueError, match=r"none of the 2 images can be read; .*broken\.png"):
        ImageDataset([broken, broken], 8, in_memory, skip_bad=True)
    with pytest.raises(ImageError, match=r"broken\.png"):
        ImageDataset([broken], 8, in_memory)[0]


@pytest.mark.parametrize("in_memory", [True, False])
def test_fingerprint_changes_with_the_set_alone(paths, tmp_path, in_memory):
    def fingerprint(chosen, size=SIZE):
        return ImageDataset(chosen, size, in_memory).fingerprint

    first = fingerprint(paths)
    assert first == fingerprint(paths)
    moved = paths[0].parent.rename(tmp_path / "moved")
    paths = [moved / path.name for path in paths]
    assert first == fingerprint(paths)
    assert first != fingerprint(paths[:-1])
    assert first != fingerprint(paths[::-1])
    assert first != fingerprint(paths, (5, 6))
    put(paths[1], 99, (10, 12))
    os.utime(paths[1], ns=(10**18, 10**18))
    changed = fingerprint(paths)
    assert first != changed
    paths[2].rename(moved / "other.png")
    assert changed != fingerprint([*paths[:2], moved / "other.png", paths[3]])


@pytest.mark.parametrize("in_memory", [True, False])
def test_dataset_travels_to_other_processes(paths, broken, in_memory):
    dataset = ImageDataset([*paths, broken], SIZE, in_memory, skip_bad=True)
    copy = pickle.loads(ForkingPickler.dumps(dataset))
    assert copy.paths == paths
    assert copy.skipped == dataset.skipped
    assert copy.fingerprint == dataset.fingerprint
    assert all(torch.equal(a, b) for a, b in zip(copy, dataset, strict=True))


def test_dataset_streams_through_worker_processes(paths, broken):
    loader = DataLoader(ImageDataset(paths, SIZE, False), 2, num_workers=1)
    expected = torch.stack(list(ImageDataset(paths, SIZE)))
    assert torch.equal(torch.cat(list(loader)), expected)
    with pytest.raises(ImageError, match=r"broken\.png"):
        list(DataLoader(ImageDataset([broken], SIZE, False), 2, num_workers=1))


@pytest.mark.slow
def test_dataset_streams_through_spawned_processes(paths):
    loader = DataLoader(
        ImageDataset(paths, SIZE, False), 2, num_workers=1, multiprocessing_context="spawn"
    )
    assert torch.equal(torch.cat(list(loader)), torch.stack(list(ImageDataset(paths, SIZE))))
