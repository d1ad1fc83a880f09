"""Which of several processes this is, by the environment that ``torchrun`` gives each."""

import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

TIMEOUT = "FASTAD_RANK_TIMEOUT"  # in the environment: seconds that a rank waits for another
_SECONDS = 1800.0  # as torch has it
_OF_GLOO = re.compile(r"/gloo/.*\.(cc|h):|monitoredBarrier")  # its errors name their source


class RankError(RuntimeError):
    """Another process is gone, or did not answer in time."""


@dataclass(frozen=True)
class Rank:
    """One of several processes.

    Attributes:
        number: of the process, from 0.
        count: of all processes.
        local: number of the process on its machine, from 0.
    """

    number: int = 0
    count: int = 1
    local: int = 0

    @property
    def is_first(self) -> bool:
        """Whether it is the process that speaks for all."""
        return self.number == 0


def this_rank() -> Rank:
    """The rank of this process; that of a process alone where nothing says another.

    Raises:
        ValueError: the environment holds no numbers, or impossible ones.
    """
    values = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if values["RANK"] is None or values["WORLD_SIZE"] is None:
        return Rank()
    try:
        number, count = int(values["RANK"]), int(values["WORLD_SIZE"])
        local = int(values["LOCAL_RANK"] or 0)
    except ValueError:
        raise ValueError(f"the environment names no rank as torchrun does: {values}") from None
    if not 0 <= number < count or local < 0:
        raise ValueError(f"the environment names an impossible rank: {values}")
    return Rank(number, count, local)


def part() -> None:
    """End the group of `meet`: each rank goes on alone."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def meet() -> None:
    """Wait until all ranks are here. They then form a group of `torch.distributed`.

    Each has the GPU of its number on its machine, where there are GPUs.

    Raises:
        RankError: a rank did not come in time.
        ValueError: the environment names no seconds to wait.
    """
    rank, timeout = this_rank(), timedelta(seconds=_seconds())
    on_gpu = torch.cuda.is_available()
    with lost_ranks():
        if not distributed.is_initialized():
            if on_gpu:
                torch.cuda.set_device(rank.local % torch.cuda.device_count())
            kind = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
            store, *_ = next(distributed.rendezvous("env://", timeout=timeout))
            store = distributed.PrefixStore(_word(store, rank), store)
            distributed.init_process_group(
                kind, store=store, rank=rank.number, world_size=rank.count, timeout=timeout
            )
        if on_gpu:
            distributed.barrier()
        else:
            distributed.monitored_barrier(timeout=timeout, wait_all_ranks=True)  # it names ranks


@contextmanager
def lost_ranks() -> Iterator[None]:
    """Within, say in one sentence that another process is gone: RankError."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and not _OF_GLOO.search(str(error)):
            raise
        said = str(error).partition("\n")[0]
        raise RankError(
            f"another of the {this_rank().count} processes has ended, or did not answer in "
            f"{_seconds():g} s ({TIMEOUT}): {said}"
        ) from error


def _word(store: distributed.Store, rank: Rank) -> str:
    """A word that the ranks of this start share, and those of no earlier one know.

    torchrun's agent keeps its store when it starts ranks again. They would find the addresses of
    those that are gone (pytorch/pytorch#135712). So the first rank answers each other one by name.
    """
    own = uuid.uuid4().hex
    if not rank.is_first:
        store.set(f"fastad/here/{rank.number}", own)
        word = store.get(f"fastad/answer/{own}").decode()
        store.set(f"fastad/{word}/{rank.number}", "")
        return word
    missing, deadline = list(range(1, rank.count)), time.monotonic() + _seconds()
    while missing := [n for n in missing if not store.check([f"fastad/{own}/{n}"])]:
        if time.monotonic() > deadline:
            names = ", ".join(map(str, missing))
            raise RankError(
                f"of {rank.count} ranks {names} did not come in {_seconds():g} s ({TIMEOUT})"
            )
        for number in missing:
            if store.check([f"fastad/here/{number}"]):
                name = store.get(f"fastad/here/{number}").decode()
                store.set(f"fastad/answer/{name}", own)
        time.sleep(0.02)
    return own


def _seconds() -> float:
    """How long to wait for another rank."""
    text = os.environ.get(TIMEOUT, "").strip()
    try:
        seconds = float(text) if text else _SECONDS
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"the environment variable {TIMEOUT} must be seconds; it is {text!r}")
    return seconds
