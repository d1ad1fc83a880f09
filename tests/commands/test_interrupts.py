"""Ctrl-C and SIGTERM in a process of its own, in the middle of a computation that blocks Python."""

import os
import signal
import subprocess
import sys
import time

import pytest

from fastad.commands.interrupts import FIRST, SECOND, SHOW_CURSOR, answered_interrupts

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

# Derives a key in C, which lets other threads run, but no exception in: about a minute.
PROGRAM = """
import hashlib, sys
from pathlib import Path
from fastad._files import atomic_path
from fastad.commands.interrupts import answered_interrupts

rounds, folder = int(sys.argv[1]), Path(sys.argv[2])
try:
    with answered_interrupts(), atomic_path(folder / "result") as temporary:
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", rounds)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 100)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.fixture
def started(tmp_path):
    """Start the program; it is in its computation when this returns."""
    processes = []

    def start(rounds, **options):
        # A shell's job in the background ignores Ctrl-C, and so would what it starts.
        heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | heard | options
        command = [sys.executable, "-c", PROGRAM, str(rounds), str(tmp_path)]
        process = subprocess.Popen(command, **options)
        processes.append(process)
        assert process.stdout.readline().strip() == b"ready"
        time.sleep(0.2)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_answered_at_once_and_the_second_leaves(started, tmp_path, number):
    process = started(100_000_000)
    process.send_signal(number)
    begin = time.monotonic()
    assert process.stderr.readline().decode().strip() == FIRST
    answered = time.monotonic() - begin
    assert process.poll() is None
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(number)
    assert process.wait(10) == 1
    assert process.stderr.read().decode().strip() == SECOND
    assert process.stdout.read() == b""
    assert list(tmp_path.iterdir()) == []  # nothing half written
    assert answered < 1


def test_one_of_them_ends_the_step_only(started, tmp_path):
    process = started(3_000_000)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.decode().strip() == "interrupted"
    assert err.decode().strip() == FIRST
    assert list(tmp_path.iterdir()) == []


def everything(terminal):
    """What was written to a terminal that nobody writes to any more: it comes in pieces."""
    pieces = []
    try:
        while piece := os.read(terminal, 1000):
            pieces.append(piece)
    except OSError:  # Linux says so at the end
        pass
    return b"".join(pieces).decode()


def test_the_cursor_of_a_terminal_comes_back(started):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    process = started(100_000_000, stderr=theirs)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 1
    os.close(theirs)
    assert SHOW_CURSOR in everything(ours)
    os.close(ours)


def test_what_is_ignored_stays_ignored(started):
    process = started(3_000_000, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, err) == (b"", b"")


def test_signals_of_a_forked_process_are_its_own():
    before = signal.getsignal(signal.SIGTERM)
    with answered_interrupts():
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        time.sleep(0.1)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("module", ["typer", "fastad.commands.messages"])
def test_one_line_where_it_comes_before_a_command_begins(tmp_path, module):
    """In the middle of an import, which takes a second on a busy machine."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stop())\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    found = subprocess.run(
        [sys.executable, "-m", "fastad", "info"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 130
    assert found.stderr == "error: stopped by the user\n"
    assert found.stdout == ""
