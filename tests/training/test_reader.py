"""Batches read by other processes: the same bytes, the original errors."""

import os
import signal
import sys
import time

import pytest
import torch
from torch.utils.data import Dataset
from toy import RandomToy, options

from fastad.data import ImageDataset, ImageError
from fastad.training import Trainer
from fastad.training.reader import BatchReader, resolve_workers

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems cannot fork a test's own classes"
)


class Noisy(Dataset):
    """Images with noise drawn anew on every access."""

    def __init__(self, images):
        self.stored = images

    def __len__(self):
        return len(self.stored)

    def __getitem__(self, index):
        noise = torch.randint(0, 9, self.stored[index].shape, dtype=torch.uint8)
        return {"image": self.stored[index] // 2 + noise, "process": torch.tensor(os.getpid())}


class Bad(Noisy):
    def __getitem__(self, index):
        if index == 7:
            raise ImageError("seven.png: is empty")
        return super().__getitem__(index)


def fit(dataset, workers, path=None, progress=None, **how):
    model = RandomToy()
    trainer = Trainer(model, options(workers=workers), progress)
    return model, trainer.fit(dataset, checkpoint=path, **how)


def assert_same(one, other):
    assert one[1].losses == other[1].losses
    assert one[1].validation_scores == other[1].validation_scores
    for name, value in one[0].state_dict().items():
        assert torch.equal(value, other[0].state_dict()[name]), name


def test_batches_come_in_order_from_other_processes(images):
    reader = BatchReader(Noisy(images), workers=2, seed=1)
    batches = list(torch.randperm(10).split(3))
    own = list(BatchReader(Noisy(images), workers=0, seed=1).read(batches, epoch=4))
    for _ in range(2):
        processes = set()
        for batch, expected in zip(reader.read(batches, epoch=4), own, strict=True):
            assert torch.equal(batch["image"], expected["image"])
            processes |= set(batch["process"].tolist())
        assert len(processes) == 2
        assert os.getpid() not in processes
    # A pass that is given up leaves nothing of it to the next.
    next(reader.read(batches, epoch=4))
    again = next(reader.read(batches[1:], epoch=4))
    assert torch.equal(again["image"], own[1]["image"])
    reader.close()
    assert_all_gone(processes)


def assert_all_gone(processes):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(os.path.exists(f"/proc/{p}") for p in processes):
        time.sleep(0.05)
    assert not any(os.path.exists(f"/proc/{p}") for p in processes)


def test_training_is_the_same_with_workers(images):
    assert_same(fit(Noisy(images), 0), fit(Noisy(images), 2))


def test_a_random_data_set_is_the_same_after_resuming_with_other_workers(images, tmp_path):
    def stop(event):
        if (event.epoch, event.step) == (3, 2):
            raise KeyboardInterrupt

    path = tmp_path / "a.ckpt"
    whole = fit(Noisy(images), 0)
    assert fit(Noisy(images), 2, path, stop)[1].epochs == 2
    resumed = fit(Noisy(images), 1, path, resume=True)
    assert_same(whole, resumed)
    assert resumed[1].notes == whole[1].notes


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_the_data_sets_own(images, workers):
    with pytest.raises(ImageError) as caught:
        fit(Bad(images), workers)
    assert str(caught.value) == "seven.png: is empty"


def test_images_of_several_sizes_are_named(images):
    class Sizes(Noisy):
        def __getitem__(self, index):
            return self.stored[index][..., : 8 - index % 2]

    with pytest.raises(ValueError, match=r"^images must have one size: item \d+ is \(3, 8, \d\)"):
        fit(Sizes(images), 2)


def test_a_process_that_dies_is_said(images):
    class Deadly(Noisy):
        def __getitem__(self, index):
            if torch.utils.data.get_worker_info():
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__getitem__(index)

    with pytest.raises(RuntimeError, match=r"a process that reads images ended \(.*workers=0"):
        fit(Deadly(images), 2)


def test_interrupts_are_the_trainings_alone(images):
    class Interrupted(Noisy):
        def __getitem__(self, index):
            if torch.utils.data.get_worker_info():
                os.kill(os.getpid(), signal.SIGINT)
            return super().__getitem__(index)

    record = fit(Interrupted(images), 2)[1]
    assert record.epochs == 4


def test_auto_is_none_for_images_in_memory(images, tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    paths = [tmp_path / "a.png"]
    for dataset in (images, list(images), ImageDataset(paths, 8)):
        assert resolve_workers("auto", dataset) == resolve_workers(3, dataset) == 0
    for dataset in (Noisy(images), ImageDataset(paths, 8, in_memory=False)):
        assert resolve_workers("auto", dataset) == min(4, len(os.sched_getaffinity(0)))
        assert resolve_workers(3, dataset) == 3
