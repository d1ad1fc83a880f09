"""Atomic writes: the whole new file, or the old one."""

import errno
import os
import stat

import pytest

from fastad._files import atomic_path, remove_left, write_atomically


def test_the_file_appears_whole_and_alone(tmp_path):
    target = tmp_path / "out.json"
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".json"
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["out.json"]


def test_an_error_leaves_the_old_file_and_no_temporary(tmp_path):
    target = tmp_path / "out.json"
    target.write_text("old")

    def fail(path):
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(target, fail)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.json"]


def test_a_writer_that_replaces_the_temporary_is_kept(tmp_path):
    def replace(path):
        path.unlink()
        path.write_text("again")

    write_atomically(tmp_path / "a", replace)
    assert (tmp_path / "a").read_text() == "again"


@pytest.mark.skipif(os.name != "posix", reason="POSIX file modes")
def test_the_mode_is_that_of_the_old_file_or_the_usual_one(tmp_path):
    target = tmp_path / "a"
    old = os.umask(0o027)
    try:
        write_atomically(target, lambda p: p.write_text("1"))
    finally:
        os.umask(old)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    target.chmod(0o604)
    write_atomically(target, lambda p: p.write_text("2"))
    assert stat.S_IMODE(target.stat().st_mode) == 0o604


def test_a_link_stays_a_link(tmp_path):
    target, link = tmp_path / "a", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_atomically(link, lambda p: p.write_text("new"))
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_clear_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        write_atomically(tmp_path / "nowhere" / "a", lambda p: None)
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        write_atomically(tmp_path, lambda p: None)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(PermissionError, match=r"cannot write .*out.json: Permission denied"):
        write_atomically(tmp_path / "out.json", lambda p: None)


def test_a_pipe_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="no regular file"):
        write_atomically(pipe, lambda path: path.write_text("new"))
    assert pipe.is_fifo()


def test_a_full_disk_names_the_file(tmp_path):
    (tmp_path / "old.txt").write_text("old")

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomically(tmp_path / "old.txt", full)
    assert caught.value.filename == str(tmp_path / "old.txt")
    assert (tmp_path / "old.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "old.txt"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_killed_process_left_is_removed(tmp_path):
    """And nothing that only looks like it, or is of another file."""
    target, plain = tmp_path / "a.b.json", tmp_path / ("long" * 40)
    kept = [".a.b.12345678.csv", ".other.12345678.json", "a.b.12345678.json", ".a.b.1234.json"]
    for name in kept:
        (tmp_path / name).write_text("")
    for path in (target, plain):
        path.write_text("")
        if (child := os.fork()) == 0:
            with atomic_path(path):
                os._exit(0)  # as if it were killed: nothing is cleaned up
        os.waitpid(child, 0)
    assert len(os.listdir(tmp_path)) == len(kept) + 4
    remove_left([target, plain])
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, target.name, plain.name])
