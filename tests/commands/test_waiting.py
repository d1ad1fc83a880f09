"""Work of which no part can be counted: a line in a log, a bar on a terminal, nothing if quiet."""

import logging
import time

import pytest

from fastad.commands.messages import set_up_log
from fastad.commands.output import waiting
from fastad.training import heartbeat


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(heartbeat, "SILENCE", 0.1)
    yield
    logging.getLogger("fastad").handlers.clear()


def test_a_log_hears_that_work_goes_on(soon, capsys):
    set_up_log(0)
    with waiting("exporting"):
        time.sleep(0.8)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith("exporting: at work for ") for line in lines)


def test_what_is_done_at_once_needs_no_line(soon, capsys):
    set_up_log(0)
    with waiting("exporting"):
        pass
    assert capsys.readouterr().err == ""


def test_quiet_is_quiet(soon, capsys):
    set_up_log(-1)
    with waiting("exporting"):
        time.sleep(0.4)
    assert capsys.readouterr().err == ""
