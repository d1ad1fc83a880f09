"""Progress in a log and on a terminal."""

import io
from dataclasses import replace

from fastad.training import ConsoleProgress, EpochProgress

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
    assert stream.getvalue().splitlines() == [
        "epoch  3/60  distillation 0.25  validation 0.125 (best)  12.3 images/s  1:02:05 left",
        "epoch  4/60  distillation 0.25  validation 0.125  12.3 images/s  1:00 left",
    ]


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
    assert "validation 0.125 (best)" in stream.getvalue()
    with ConsoleProgress(stream) as progress:
        progress(STEP)
    assert progress._bar is None
