"""What ranks of the tests run: the command line, with a rank that dies on the way."""

import os
import signal
import time

from fastad import cli
from fastad.commands import evaluate_shared
from fastad.distributed import parts
from fastad.training.shares import Shares


def command(*arguments):
    cli.main(list(arguments))


def dies_after(rank, done, *arguments):
    """A rank is killed while it writes the part after so many; the others wait for that."""
    is_dying, written, atomic_path = int(os.environ["RANK"]) == rank, [], parts.atomic_path

    def kills(path):
        half = path.with_suffix(".half")
        if is_dying and len(written) == done:
            half.write_text("half of a p")
            os.kill(os.getpid(), signal.SIGKILL)
        deadline = time.monotonic() + 60
        while not is_dying and not list(path.parent.glob("*.half")) and time.monotonic() < deadline:
            time.sleep(0.01)
        written.append(path)
        return atomic_path(path)

    parts.atomic_path = kills
    command(*arguments)


def dies_in_step(rank, steps, *arguments):
    """A rank is killed in the step after so many of a training."""
    done, add_gradients = [], Shares.add_gradients

    def kills(self, parameters):
        done.append(self)
        if len(done) > steps and self.number == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        add_gradients(self, parameters)

    Shares.add_gradients = kills
    command(*arguments)


def does_nothing(*arguments):
    """No part may be written."""

    def refuses(path):
        raise RuntimeError(f"{path} is written once more")

    parts.atomic_path = refuses
    command(*arguments)


def small_parts(call, *arguments):
    """As ``call``, with parts of one batch."""
    from fastad.commands import predict

    predict.SHARED = evaluate_shared.SHARED = 1
    globals()[call](*arguments)


def in_environment(names, call, *arguments):
    """As ``call``, with these variables of the environment."""
    os.environ |= names
    globals()[call](*arguments)
