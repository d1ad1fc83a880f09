"""Reading batches: in this process, or ahead of the training in processes of their own."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastad.data.folder import Images
from fastad.training.batches import read_batch

MAX_WORKERS = 4


def resolve_workers(workers: int | str, dataset: Images) -> int:
    """How many processes read a data set: none where its images are in memory.

    That is a tensor, a list, or a data set whose ``images`` are a tensor. "auto" otherwise takes
    one a processor, at most `MAX_WORKERS`, and none where a process cannot be forked, since there
    the caller's script would have to be written for it.
    """
    in_memory = isinstance(getattr(dataset, "images", None), Tensor)
    if isinstance(dataset, (Tensor, list, tuple)) or in_memory:
        return 0
    if workers != "auto":
        return cast(int, workers)
    return min(MAX_WORKERS, len(os.sched_getaffinity(0))) if sys.platform == "linux" else 0


class BatchReader:
    """Batches of a data set on the CPU, the same whoever reads them.

    Args:
        dataset: with ``workers`` > 0 it is sent to them, so it must be picklable where processes
            are not forked.
        workers: processes that read ahead, two batches each; 0 reads in this one, when asked.
        seed: of data sets that draw at random; see `read_batch`.
    """

    def __init__(self, dataset: Images, workers: int = 0, seed: int = 0):
        self._dataset, self._seed = dataset, seed
        self._tasks: list[tuple[list[int], int]] = []
        self._loader = None
        if workers > 0:
            self._loader = DataLoader(
                _Batches(dataset, seed),
                # Tasks, which `_Batches` turns into whole batches: more than torch's types know.
                batch_sampler=cast(Any, self._tasks),
                collate_fn=_identity,
                num_workers=workers,
                worker_init_fn=_ignore_interrupts,
                persistent_workers=True,
                # Otherwise it draws from the generator of the model's random layers.
                generator=torch.Generator(),
            )

    def read(self, batches: Sequence[Tensor], epoch: int = 0) -> Iterator[dict[str, Tensor]]:
        """One batch after another, each a sequence of indices.

        Raises:
            TypeError, ValueError: as `read_batch`; what the data set raises comes through.
            RuntimeError: a reading process died.
        """
        tasks = [(indices.tolist(), epoch) for indices in batches]
        if self._loader is None:
            for indices, _ in tasks:
                yield read_batch(self._dataset, indices, self._seed, epoch)
            return
        self._tasks[:] = tasks
        ahead = iter(self._loader)
        try:
            for indices, _ in tasks:
                # What a process could not read is read again here: where that fails too, the error
                # is the original one.
                batch = _next(ahead)
                yield batch or read_batch(self._dataset, indices, self._seed, epoch)
        finally:
            # The processes end with the last reference to this, which a traceback would keep.
            del ahead

    def close(self) -> None:
        """End the processes."""
        self._loader = None


class _Batches(Dataset):
    """Data set whose items are whole batches, None where one cannot be read."""

    def __init__(self, dataset: Images, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitems__(self, task: tuple[list[int], int]) -> dict[str, Tensor] | None:
        indices, epoch = task
        try:
            return read_batch(self.dataset, indices, self.seed, epoch)
        except Exception:
            return None

    def __len__(self) -> int:
        return len(self.dataset)


def _next(ahead: Iterator) -> dict[str, Tensor] | None:
    try:
        return next(ahead)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise RuntimeError(
            f"a process that reads images ended ({reason}): --set workers=0 reads them in the "
            "training's own"
        ) from error


def _identity(batch: Any) -> Any:
    return batch


def _ignore_interrupts(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal; the training's own ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
