"""A data set as a training sees it: batches on the device, with what teachers say of them."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastad.data.folder import Images
from fastad.models import AnomalyModel, Stage
from fastad.training.batches import is_fixed, to_device
from fastad.training.features import TeacherFeatures, as_kept
from fastad.training.machine import ALONE, Machine, SharingError
from fastad.training.on_disk import DiskError
from fastad.training.reader import BatchReader, resolve_workers

log = logging.getLogger("fastad")


Batches = Iterator[tuple[Tensor, dict[str, Any]]]
Watch = Callable[[Batches, int], Batches]


def _unwatched(batches: Batches, number: int) -> Batches:
    return batches


@dataclass(frozen=True)
class Placement:
    """Where a training computes, and in what."""

    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format

    def autocast(self) -> torch.autocast:
        """Convolutions and products in ``dtype``."""
        return torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32)


@dataclass
class FeatureBudget:
    """Bytes that kept features may still take, of the processes that keep them together."""

    memory: float
    disk: float
    machine: Machine = ALONE


class Source:
    """Batches of a data set for one stage, with what teachers say of their images, kept or not.

    Args:
        model: in that stage.
        workers: as of `fastad.training.TrainingConfig`.
        seed: of data sets that draw at random.
    """

    def __init__(
        self,
        model: AnomalyModel,
        stage: Stage,
        dataset: Images,
        placement: Placement,
        workers: int | str,
        seed: int,
    ):
        self._model, self._stage, self._dataset, self._placement = model, stage, dataset, placement
        self._reader = BatchReader(dataset, resolve_workers(workers, dataset), seed)
        self._features: TeacherFeatures | None = None

    def keep_features(
        self, batch_size: int, room: FeatureBudget, watch: Watch = _unwatched
    ) -> None:
        """Compute teachers' features now, for all items, where they stay the same and fit.

        What they take is taken from the room. For a stage that reads no images nothing is read or
        synthesised from then on.
        ``watch`` is given the batches and their number, and gives them on.
        """
        if max(room.memory, room.disk) <= 0 or not is_fixed(self._dataset):
            return
        size, machine = len(self._dataset), room.machine
        # The same batches for any number of processes, so that their features have the same bits.
        batches = machine.share(torch.arange(size).split(batch_size))
        entries = () if self._stage.reads_images else ("mask",)
        self._model.eval()
        try:
            with self._placement.autocast():
                features = TeacherFeatures(
                    self._model,
                    watch(self._read(batches, epoch=0), len(batches)),
                    size,
                    room.memory,
                    room.disk,
                    entries,
                    machine,
                )
        except SharingError as error:
            log.info(f"each process keeps all teachers' features: {error}")
            room.machine = ALONE
            return self.keep_features(batch_size, room, watch)
        except DiskError as error:
            log.info(f"teachers' features are computed in every step: {error}")
            return
        if features.bytes:
            self._features = features
            place = "on disk" if features.on_disk else "in memory"
            shared = f", {machine.count} processes together" * (machine.count > 1)
            log.debug(f"teachers' features kept {place}: {features.bytes / 2**20:.0f} MiB{shared}")
            if features.on_disk:
                room.disk -= features.bytes
            else:
                room.memory -= features.bytes
            if not self._stage.reads_images:
                self._reader.close()

    def passes(self, items: Tensor, batch_size: int) -> Callable[[], Iterator[dict[str, Any]]]:
        """A function each call of which is a pass over the batches of some items."""
        pieces = items.split(batch_size)
        return lambda: (batch for _, batch in self.batches(pieces))

    def batches(
        self, batches: Sequence[Tensor], epoch: int = 0
    ) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Indices and the batch of them on the device, with teachers' features."""
        features: Mapping[str, Any]
        if self._features is not None and not self._stage.reads_images:
            for indices in batches:
                yield indices, self._features.of(indices)
            return
        for indices, batch in self._read(batches, epoch):
            if self._features is None:
                with torch.no_grad(), self._placement.autocast():
                    features = as_kept(self._model.teacher_features(batch["image"]))
            else:
                features = self._features.of(indices)
            yield indices, {**batch, **features}

    def _read(
        self, batches: Sequence[Tensor], epoch: int
    ) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        for indices, batch in zip(batches, self._reader.read(batches, epoch), strict=True):
            yield (
                indices,
                to_device(batch, self._placement.device, self._placement.memory_format),
            )

    def autocast(self) -> torch.autocast:
        """That of the placement."""
        return self._placement.autocast()

    def close(self) -> None:
        """End the processes that read, and forget the features."""
        self._reader.close()
        self._features = None
