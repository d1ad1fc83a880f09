"""Frames of a video file, of a live source, and of a class of the user's."""

import csv
import threading
import time

import numpy as np
import pytest
from PIL import Image

from fastad.watch.frames import FrameWatcher
from fastad.watch.journal import Journal, Stamp
from fastad.watch.judge import Judge
from fastad.watch.moves import PLACE, Moves
from fastad.watch.places import Places
from fastad.watch.result_files import CsvLines, ResultFile
from fastad.watch.sources import Newest, Source, Video, opened

LEVELS = [20 * i for i in range(12)]  # of the frames of a video, 10 a second


@pytest.fixture
def video(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "line.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)  # without loss
        stream.width, stream.height, stream.pix_fmt = 32, 24, "bgr0"
        for level in LEVELS:
            pixels = np.full((24, 32, 3), level, np.uint8)
            pixels[:, :, 0] //= 2  # red, so that the order of the channels shows
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


class Frames:
    """A source of given frames; a live one gives each after a pause."""

    def __init__(self, frames, name="camera", is_live=False, pause=0.0):
        self.name, self.is_live = name, is_live
        self._frames, self._pause, self.is_closed = frames, pause, False

    def __iter__(self):
        for frame in self._frames:
            time.sleep(self._pause)
            yield frame

    def close(self):
        self.is_closed = True


def grey(level):
    return np.full((4, 4, 3), level, np.uint8)


@pytest.fixture
def frame_watcher(crashing, tmp_path):
    """A watcher of a source with its journal; each call is a new start."""
    open_now = []

    def start(source, stamp=None, moves=False, judge=None):
        for journal in open_now:
            journal.close()
        journal = Journal(tmp_path / "state.db", "source")
        open_now[:] = [journal]
        if journal.is_new:
            journal.begin("source", [])
        spool = tmp_path / "spool"
        spool.mkdir(exist_ok=True)
        on_disk = {"csv": ResultFile(str(tmp_path / "out.csv"), "csv", CsvLines(), journal)}
        mover = Moves(spool, tmp_path / "good", tmp_path / "bad", journal) if moves else None
        on_disk |= {PLACE: mover} if moves else {}
        places = Places(journal, on_disk, (), mover)
        judge = judge or Judge(crashing.MeanDetector())
        options = {"progress": tmp_path / "progress", "spool": spool if moves else None}
        return FrameWatcher(source, judge, journal, places, stamp=stamp, **options)

    yield start
    for journal in open_now:
        journal.close()


def rows(tmp_path):
    with open(tmp_path / "out.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_video_gives_its_frames_in_rgb(video):
    source = Video(str(video))
    assert isinstance(source, Source)
    assert (source.name, source.is_live) == (str(video), False)
    frames = list(source)
    assert [frame.shape for frame in frames] == [(24, 32, 3)] * 12
    assert [frame[0, 0].tolist() for frame in frames] == [[v // 2, v, v] for v in LEVELS]


@pytest.mark.parametrize(("every", "kept"), [(0.1, range(12)), (0.3, [0, 3, 6, 9]), (9.0, [0])])
def test_frames_are_taken_so_often(video, every, kept):
    assert [frame[0, 0, 1] for frame in Video(str(video), every)] == [LEVELS[i] for i in kept]


def test_an_address_hides_its_password():
    pytest.importorskip("av")
    source = Video("rtsp://user:word@host:8554/live?key=1")
    assert (source.name, source.is_live) == ("rtsp://host:8554/live", True)
    assert Video("0").is_live


def test_a_video_that_is_not_there_is_said(tmp_path):
    pytest.importorskip("av")
    with pytest.raises(FileNotFoundError, match="there is no video"):
        Video(str(tmp_path / "none.mp4"))


def test_a_stream_that_fails_is_opened_again(until, caplog):
    pytest.importorskip("av")
    source = Video("tcp://127.0.0.1:9")  # nobody listens there
    thread = threading.Thread(target=lambda: list(source))
    thread.start()
    until(lambda: "tcp://127.0.0.1:9: Connection refused; it is opened again" in caplog.text)
    source.close()
    thread.join(5)
    assert not thread.is_alive()


def test_every_frame_of_a_video_has_a_row_and_a_restart_goes_on(frame_watcher, tmp_path):
    stamp = Stamp(100, 7)
    frames = [grey(level) for level in LEVELS]
    source = Frames(frames, name="line.mp4")

    class Interrupted(Judge):
        def __init__(self, judge):
            self.judge, self.left = judge, 5

        def frame(self, image):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return self.judge.frame(image)

    watcher = frame_watcher(source, stamp)
    watcher._judge = Interrupted(watcher._judge)
    with pytest.raises(KeyboardInterrupt):
        watcher.run()
    assert source.is_closed
    assert len(rows(tmp_path)) == 5
    frame_watcher(source, stamp).run()
    assert [row["path"] for row in rows(tmp_path)] == [f"line.mp4#{i:06d}" for i in range(1, 13)]
    scores = [round(float(row["score"]) * 255) for row in rows(tmp_path)]
    assert scores == LEVELS
    frame_watcher(source, stamp).run()
    assert len(rows(tmp_path)) == 12
    frame_watcher(source, Stamp(100, 8)).run()  # another file of that name
    assert len(rows(tmp_path)) == 24


def test_frames_are_saved_by_their_verdicts(frame_watcher, tmp_path):
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "left_by_a_crash.png").write_bytes(b"")
    frame_watcher(Frames([grey(10), grey(250)], name="line.mp4"), Stamp(1, 1), moves=True).run()
    [good], [bad] = (list((tmp_path / name).iterdir()) for name in ("good", "bad"))
    assert (good.name, bad.name) == ("line-000001.png", "line-000002.png")
    assert np.array_equal(np.asarray(Image.open(bad)), grey(250))
    assert [row["moved_to"] for row in rows(tmp_path)] == [str(good), str(bad)]
    assert list((tmp_path / "spool").iterdir()) == []


def test_of_a_live_source_the_newest_frame_is_taken():
    source = Frames([grey(level) for level in range(50)], is_live=True, pause=0.01)
    seen = []
    for frame in Newest(source):
        seen.append(int(frame[0, 0, 0]))
        time.sleep(0.1)
    assert seen == sorted(set(seen))
    assert 3 <= len(seen) <= 15
    assert seen[-1] == 49


def test_an_error_of_a_live_source_is_raised(frame_watcher):
    def broken():
        yield grey(1)
        raise OSError("the camera is gone")

    source = Frames(broken(), is_live=True)
    with pytest.raises(OSError, match="the camera is gone"):
        frame_watcher(source).run()
    assert source.is_closed


def test_a_class_of_the_user_is_a_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_camera_of_a_test.py").write_text(
        "import numpy as np\n"
        "class Camera:\n"
        "    name, is_live = 'mine', True\n"
        "    def __iter__(self):\n"
        "        yield np.zeros((2, 2, 3), np.uint8)\n"
        "    def close(self): pass\n"
        "class Nothing: pass\n"
    )
    assert [frame.shape for frame in opened("my_camera_of_a_test:Camera", 0.0)] == [(2, 2, 3)]
    with pytest.raises(TypeError, match="needs name, is_live, __iter__ and close"):
        opened("my_camera_of_a_test:Nothing", 0.0)
    with pytest.raises(AttributeError):
        opened("my_camera_of_a_test:None", 0.0)
