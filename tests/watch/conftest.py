"""Watchers of small folders, with a detector that costs nothing."""

import contextlib
import importlib.util
import threading
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("crashing.py")


@pytest.fixture(scope="session")
def crashing():
    spec = importlib.util.spec_from_file_location("crashing", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "line"
    path.mkdir()
    return path


@pytest.fixture
def until():
    """Wait for something to be true."""

    def wait(condition, seconds=10.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.02)

    return wait


class _EndOfTestError(Exception):
    pass


@pytest.fixture
def running(crashing, folder, tmp_path):
    """Run a watcher in a thread; it ends with the test. Gives the function that starts it."""
    started = []

    def start(**options):
        pytest.importorskip("watchfiles")
        watcher = crashing.watcher(folder, tmp_path / "state.db", **options)
        step, ends = watcher.step, threading.Event()
        begun = threading.Event()

        def stepped():
            step()
            begun.set()
            if ends.is_set():
                raise _EndOfTestError

        watcher.step = stepped

        def run():
            with contextlib.suppress(_EndOfTestError):
                watcher.run()

        thread = threading.Thread(target=run)
        thread.start()
        assert begun.wait(10)

        def stop():
            ends.set()
            thread.join()
            watcher._places.close()
            watcher._places._journal.close()

        started.append(stop)
        return stop

    yield start
    for stop in started:
        stop()
