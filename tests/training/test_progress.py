"""Progress in a log and on a terminal."""

import io
import math
import re
import time
from dataclasses import replace

import pytest

from fastad.training import ConsoleProgress, EpochProgress, heartbeat
from fastad.training.agenda import Agenda

STEP = EpochProgress(3, 60, 2, 6, images_per_second=12.34, seconds_left=3725)
EPOCH = replace(STEP, step=6, losses={"distillation": 0.25}, validation_score=0.125, is_best=True)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_one_line_an_epoch():
    stream = io.StringIO()
    with ConsoleProgress(stream) as progress:
        progress(STEP)
        assert stream.getvalue() == ""
        progress(EPOCH)
        progress(replace(EPOCH, epoch=4, is_best=False, seconds_left=59.7))
    first, when, second = stream.getvalue().splitlines()
    assert first == (
        "epoch  3/60  distillation 0.25  held-out error 0.125 (best)  12.3 images/s  1:02:05 left"
    )
    assert (
        second == "epoch  4/60  distillation 0.25  held-out error 0.125  12.3 images/s  1:00 left"
    )
    assert re.fullmatch(r"about 62 min for all of it, done at (\S+ )?\d\d:\d\d", when)


def test_of_several_stages_lines_and_bar_name_theirs():
    head = replace(EPOCH, stage="head", stages=2)
    stream = io.StringIO()
    with ConsoleProgress(stream) as progress:
        progress(head)
    assert stream.getvalue().startswith("head epoch  3/60  distillation 0.25  ")
    stream = Terminal()
    with ConsoleProgress(stream) as progress:
        progress(replace(STEP, stage="students", stages=2))
        assert progress._bar.tasks[0].fields["epoch"] == "students epoch 3/60"
        progress(replace(EPOCH, stage="students", stages=2, epoch=60))
        assert progress._bar is None  # the next stage has a bar of its own
        progress(head)
        assert progress._bar.tasks[0].fields["epoch"] == "head epoch 3/60"


def test_a_terminal_gets_a_bar_that_goes_away():
    stream = Terminal()
    with ConsoleProgress(stream) as progress:
        progress(STEP)
        progress(EPOCH)
        assert progress._bar is not None
        progress(replace(EPOCH, epoch=60))
        assert progress._bar is None
    assert "held-out error 0.125 (best)" in stream.getvalue()
    with ConsoleProgress(stream) as progress:
        progress(STEP)
    assert progress._bar is None


def test_a_log_is_never_silent_for_long(monkeypatch):
    monkeypatch.setattr(heartbeat, "SILENCE", 0.2)
    stream = io.StringIO()
    phase = EpochProgress(0, 0, 0, 0, 0.0, math.nan, phase="reading images")
    with ConsoleProgress(stream) as progress:
        progress(phase)
        time.sleep(1)
        progress(replace(phase, phase="teachers' features for pairs", step=2, steps=9))
        time.sleep(0.5)
    lines = stream.getvalue().splitlines()
    assert len(lines) >= 3
    assert re.fullmatch(r"reading images  \(at work for \d s\)", lines[0])
    assert lines[-1].startswith("teachers' features for pairs 2/9  (at work for ")
    time.sleep(0.5)
    assert stream.getvalue().splitlines() == lines  # the thread has ended


def test_what_takes_no_time_gets_no_forecast():
    stream = io.StringIO()
    with ConsoleProgress(stream) as progress:
        progress(replace(EPOCH, seconds_left=2.0))
    assert "done at" not in stream.getvalue()


def test_a_phase_has_a_bar_without_an_end():
    with ConsoleProgress(Terminal()) as progress:
        progress(EpochProgress(0, 0, 0, 0, 0.0, math.nan, phase="final examination"))
        (task,) = progress._bar.tasks
        assert task.total is None
        assert (task.fields["epoch"], task.fields["text"]) == ("final examination", "")
        progress(STEP)
        assert task.total == 360


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_is_that_of_all_phases(clock):
    agenda = Agenda({"features": 10, "pairs": 60, "head": 30, "examination": 10})
    assert math.isnan(agenda.enter("features"))
    clock[0] += 5
    assert agenda.reach(0.5) == 5 + 100  # a second a pass
    clock[0] += 5
    assert agenda.reach(1.0) == 100
    assert agenda.enter("pairs") == 100
    clock[0] += 20
    # A tenth of the stage took 20 s. The phases after it have the price of all 16 passes so far.
    assert agenda.reach(0.1) == pytest.approx(20 * 9 + 40 * 30 / 16)
    clock[0] += 180
    assert agenda.reach(1.0) == pytest.approx(40 * 210 / 70)
    agenda.enter("head", done=0.5)  # resumed
    clock[0] += 30
    assert agenda.reach(0.75) == pytest.approx(30 + 10 * 240 / 77.5)
    agenda.enter("examination")
    clock[0] += 7
    assert agenda.reach(1.0) == 0


def test_a_phase_that_never_comes_is_left_out(clock):
    agenda = Agenda({"features": 10, "pairs": 60, "head": 30})
    agenda.enter("pairs")
    clock[0] += 30
    assert agenda.reach(0.5) == 30 + 30
