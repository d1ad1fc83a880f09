"""The processes of one training that share a machine, and tensors that all of them see."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from fastad.training.on_disk import DiskError, disk_file, mapped, memory_file, size_of

BOOT, PROCESSES = Path("/proc/sys/kernel/random/boot_id"), "/proc/self/ns/pid"

Item = TypeVar("Item")


class SharingError(DiskError):
    """The processes of this machine cannot see one tensor; the message says why."""


class Machine:
    """This process alone, or those of the training on this machine: see `found`.

    Attributes:
        number, count: of this process among them, from 0, and of all.
    """

    def __init__(self, group: Any = None):
        self._group = group
        self.number = 0 if group is None else distributed.get_rank(group)
        self.count = 1 if group is None else distributed.get_world_size(group)

    @classmethod
    def found(cls) -> "Machine":
        """That of a process of a training; all processes call it at the same time.

        Containers on one machine count as machines, where one does not see the other's processes.
        """
        together = distributed.is_available() and distributed.is_initialized()
        if not together or distributed.get_world_size() == 1:
            return cls()
        places: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(places, _place())
        own = None
        for place in dict.fromkeys(filter(None, places)):
            ranks = [rank for rank, other in enumerate(places) if other == place]
            group = distributed.new_group(ranks, backend="gloo")  # all make the groups of all
            if distributed.get_rank() in ranks and len(ranks) > 1:
                own = group
        return cls(own)

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's items of a list; the first process has one wherever there is one."""
        return items[self.number :: self.count]

    def agreed(self, value: Any) -> Any:
        """The value of the first process."""
        if self._group is None:
            return value
        values = [value]
        first = distributed.get_global_rank(self._group, 0)
        distributed.broadcast_object_list(values, src=first, group=self._group)
        return values[0]

    def of_all(self, value: Any) -> list[Any]:
        """The values of all processes, in their order; it waits for them."""
        if self._group is None:
            return [value]
        values = [None] * self.count
        distributed.all_gather_object(values, value, group=self._group)
        return values

    def tensor(self, shape: Sequence[int], dtype: torch.dtype, *, on_disk: bool) -> Tensor:
        """An uninitialised tensor on the CPU that all processes see. It takes its bytes once.

        It is free again when the last process lets it go or ends, however it ends.

        Args:
            shape, dtype: of the tensor.
            on_disk: in a file of the folder for temporary files; in memory otherwise.

        Raises:
            DiskError: there is no such room on disk; in all processes.
            SharingError: there is none in memory, or a process cannot see it; in all processes.
        """
        make, error = (disk_file if on_disk else memory_file), None
        with ExitStack() as stack:
            name, problem = "", None
            if self.number == 0:
                try:
                    name = stack.enter_context(make(size_of(shape, dtype)))
                except DiskError as raised:
                    problem = str(raised)
            name, problem = self.agreed((name, problem))
            if problem is not None:
                raise (DiskError if on_disk else SharingError)(problem)
            try:
                found = mapped(name, shape, dtype)
            except (OSError, RuntimeError) as raised:
                error = f"process {self.number} of this machine cannot see it: {raised}"
            errors = [*filter(None, self.of_all(error))]  # the file has its name until all have it
        if errors:
            raise SharingError(errors[0])
        return found


ALONE = Machine()


def _place() -> Any:
    """What processes have in common that see each other's open files. None where it is not known,
    which Linux alone tells."""
    try:
        return BOOT.read_text(), os.readlink(PROCESSES), os.getuid()
    except (OSError, AttributeError):
        return None
