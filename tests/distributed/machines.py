"""What ranks of the tests run in network namespaces: "machines" whose link is cut on the way.

A rank is on the machine of its number. Machines are namespaces joined by a pair of veth.
"""

import ctypes
import os
import signal
import subprocess
import time

from commands import command, small_parts  # noqa: F401  called by its name
from torch import distributed
from trainings import train  # noqa: F401  called by its name

from fastad.commands import predict
from fastad.distributed import claims, meet, parts
from fastad.training.shares import Shares

CLONE_NEWNET = 0x40000000


def enter(names):
    """Go to the namespace of this rank."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{names[int(os.environ['RANK'])]}") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def on_machines(names, address, seconds, cut, call, *arguments):
    """Call a function on machines; after ``cut`` parts or steps the first cuts its link."""
    enter(names)
    os.environ["MASTER_ADDR"] = address
    os.environ["FASTAD_RANK_TIMEOUT"] = str(seconds)
    os.environ["GLOO_SOCKET_IFNAME"] = names[int(os.environ["RANK"])]
    done = []

    def cuts(function):
        def called(*arguments):
            done.append(function)
            if len(done) == cut and os.environ["RANK"] == "0":
                link(names[0], "down")
            return function(*arguments)

        return called

    Shares.add_gradients = cuts(Shares.add_gradients)
    parts.atomic_path = cuts(parts.atomic_path)
    globals()[call](*arguments)


def link(name, state):
    """Take the link of the machine that this process is on up or down."""
    subprocess.run(["ip", "link", "set", name, state], check=True)


def is_slow(rank, seconds, *arguments):
    """A rank is stopped in its first part, for so long; the other waits for it."""
    claims.SAID_AFTER = 0.2
    predict.SHARED = 1
    is_stopped, atomic_path, own = int(os.environ["RANK"]) == rank, parts.atomic_path, os.getpid()

    def stops(path):
        parts.atomic_path = atomic_path
        mark = path.with_name("stopped")
        if is_stopped:
            subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -CONT {own}"])
            mark.write_text("")
            os.kill(own, signal.SIGSTOP)
        deadline = time.monotonic() + 60
        while not mark.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return atomic_path(path)

    parts.atomic_path = stops
    command(*arguments)


def meets_without(rank, seconds):
    """All ranks but one meet; that one ends when it has found them."""
    os.environ["FASTAD_RANK_TIMEOUT"] = str(seconds)
    if int(os.environ["RANK"]) == rank:
        next(distributed.rendezvous("env://"))
    else:
        meet()
