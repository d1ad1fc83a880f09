"""Ctrl-C and SIGTERM: an answer at once, also while a long computation holds up everything else.

Python raises KeyboardInterrupt between two of its own steps, and a step of a training may take many
seconds. A thread waits for the byte that each signal leaves in a socket, and answers meanwhile.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from fastad._files import remove_unfinished

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it
FIRST = "stopping: finishing this step; again to leave at once"
SECOND = "error: stopped by the user at once"


@contextmanager
def answered_interrupts() -> Iterator[None]:
    """A first signal raises KeyboardInterrupt as soon as it can. A second one ends the process.

    A file that is half written then is removed. What the parent process ignores, as of a command in
    the background, stays ignored. Outside the main thread nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    watcher = threading.Thread(target=_watch, args=(ours,), daemon=True)
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    wakes = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakes)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.shutdown(socket.SHUT_RDWR)  # a forked process may hold a copy of it
        watcher.join()
        theirs.close()
        ours.close()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _watch(ours: socket.socket) -> None:
    """Answer each signal by its number, until the other end is shut down."""
    heard = 0
    while numbers := ours.recv(1):
        if numbers[0] not in SIGNALS:
            continue
        heard += 1
        if heard > 1:
            remove_unfinished()
            show = SHOW_CURSOR if sys.stderr.isatty() else ""
            _say(f"{show}{SECOND}")
            os._exit(1)
        _say(FIRST)


def _say(text: str) -> None:
    # Past the locks of Python's streams, which what is interrupted may hold.
    with suppress(OSError):
        os.write(2, f"\r{text}\n".encode() if sys.stderr.isatty() else f"{text}\n".encode())


def _forget() -> None:
    """In a forked process: its signals are no concern of ours, and SIGTERM ends it as ever."""
    if signal.getsignal(signal.SIGTERM) is _interrupt:
        with suppress(ValueError):  # not in the main thread
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
