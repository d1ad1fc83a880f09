"""A slow rank, a full disk, a cut link, a rank that never comes, and what an earlier start left."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time

import pytest
import torch
from scorings import alone, files, prediction
from test_training import STPM, result
from torch import distributed
from trainings import epochs_of

from fastad import load
from fastad.distributed import Rank, meet
from fastad.distributed import ranks as own_ranks

LEFT = 100_000  # bytes on the full disk
ADDRESSES = "10.213.7.1", "10.213.7.2"


def run(*words):
    return subprocess.run(words, capture_output=True, text=True)


@pytest.fixture
def machines():
    """The names of two network namespaces that are joined, each with a link of its name."""
    names = [f"fa{os.getpid() % 10000}{letter}" for letter in "ab"]
    try:
        for name in names:
            if os.geteuid() or run("ip", "netns", "add", name).returncode:
                pytest.skip("network namespaces cannot be made here")
        joined = ("ip", "link", "add", names[0], "netns", names[0], "type", "veth")
        if run(*joined, "peer", "name", names[1], "netns", names[1]).returncode:
            pytest.skip("pairs of veth cannot be made here")
        for name, address in zip(names, ADDRESSES, strict=True):
            own = "ip", "-n", name
            subprocess.run([*own, "address", "add", f"{address}/24", "dev", name], check=True)
            for link in ("lo", name):
                subprocess.run([*own, "link", "set", link, "up"], check=True)
        yield names
    finally:
        for name in names:
            run("ip", "netns", "delete", name)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)
    if os.geteuid() != 0 or run(*command).returncode:
        pytest.skip("a disk cannot be mounted here")
    yield disk
    run("umount", "-l", str(disk))


def test_a_slow_rank_is_waited_for_by_its_name(desk, ranks, tmp_path):
    alone(*prediction(desk, tmp_path / "one"))
    codes, said = ranks(2, "machines:is_slow", 1, 1.5, *prediction(desk, tmp_path / "two"))
    assert codes == [4, 0], said
    assert re.search(r"waiting for rank 1, process \d+ on .*, which has .*\.lock", said[0])
    assert files(tmp_path / "two") == files(tmp_path / "one")


@pytest.mark.slow
def test_a_full_disk_ends_the_work_and_costs_no_part(desk, ranks, tmp_path, small_disk):
    alone(*prediction(desk, tmp_path / "one"))
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - LEFT))
    arguments = prediction(desk, small_disk / "two")
    call = "commands:small_parts", "command"
    codes, said = ranks(2, *call, *arguments)
    assert codes[0] == 1, said
    assert re.search("error: rank 0: .*disk/two/.*: No space left on device", said[0]), said
    ballast.unlink()
    kept = {path: path.read_bytes() for path in (small_disk / "two").glob(".scores*/*.json")}
    assert kept
    codes, said = ranks(2, *call, *arguments)
    assert codes == [4, 0], said
    assert files(small_disk / "two") == files(tmp_path / "one")


@pytest.mark.slow
def test_scoring_goes_on_where_the_link_is_cut(desk, ranks, machines, tmp_path):
    """Both machines see the folder: nothing is lost or doubled."""
    alone(*prediction(desk, tmp_path / "one"))
    call = "machines:on_machines", machines, ADDRESSES[0], 5.0, 1, "small_parts", "command"
    codes, said = ranks(2, *call, *prediction(desk, tmp_path / "two"))
    assert codes == [4, 0], said
    assert files(tmp_path / "two") == files(tmp_path / "one")


@pytest.mark.slow
def test_training_goes_on_after_the_link_was_cut(ranks, machines, tmp_path):
    """Both ranks give up in time; the same call then ends as if nothing had been."""
    path = tmp_path / "training.ckpt"
    call = "machines:on_machines", machines, ADDRESSES[0]
    codes, said = ranks(2, *call, 10.0, 0, "train", *STPM, tmp_path / "whole")
    assert codes == [0, 0], said
    codes, said = ranks(2, *call, 2.0, 8, "train", *STPM, tmp_path / "cut", True, path)
    assert codes == [1, 1], said
    assert epochs_of(path) == 2
    subprocess.run(["ip", "-n", machines[0], "link", "set", machines[0], "up"], check=True)
    codes, said = ranks(2, *call, 10.0, 0, "train", *STPM, tmp_path / "cut", True, path, True)
    assert codes == [0, 0], said
    whole, cut = result(tmp_path / "whole"), result(tmp_path / "cut")
    assert whole[0]["stages"] == cut[0]["stages"]
    assert all(torch.equal(value, cut[1][name]) for name, value in whole[1].items())


@pytest.mark.slow
def test_the_same_command_begins_and_goes_on(desk, ranks, tmp_path):
    """With --resume, as torchrun starts it again by --max-restarts."""
    target = tmp_path / "cap.fastad"
    words = ["train", desk / "cap", "--model", "stpm", "--teacher-weights", "embedded", "--resume"]
    words += ["--image-size", "32", "--epochs", "3", "--set", "batch_size=4", "--device", "cpu"]
    words += ["--set", "learning_rate=0.05", "--output", target, "--quiet"]
    codes, said = ranks(2, "commands:dies_in_step", 1, 4, *words)
    assert codes == [1, -9], said
    assert "error: rank 0: another of the 2 processes has ended, or did not answer" in said[0]
    assert epochs_of(f"{target}.checkpoint") == 2
    left = tmp_path / ".cap.fastad.abcdefgh.checkpoint"
    left.write_text("half of a checkpoint, of a killed process")
    codes, said = ranks(2, "commands:command", *words)
    assert codes == [0, 0], said
    assert ["is promised" in text for text in said] == [True, False]  # a warning, once
    assert sorted(os.listdir(tmp_path)) == ["cap.fastad", "said"]
    record = load(target).training_record_
    assert len(record["stages"][0]["losses"]) == 3
    codes, said = ranks(2, "commands:command", *words)
    assert codes == [1, 1]
    assert "cap.fastad exists: --force replaces it" in said[0]


def test_who_does_not_come_is_named(ranks):
    codes, said = ranks(3, "machines:meets_without", 1, 1.0)
    assert codes == [1, 0, 1]
    assert "RankError: of 3 ranks 1 did not come in 1 s (FASTAD_RANK_TIMEOUT)" in said[0]


def test_what_an_earlier_start_left_is_not_taken(monkeypatch):
    """torchrun's store still names a rank that is gone: the word is that of the new ones."""
    store, words = distributed.HashStore(), {}
    store.set("fastad/here/1", "gone")
    store.set("fastad/answer/gone", "old")

    def come(number):
        words[number] = own_ranks._word(store, Rank(number, 3))

    threads = [threading.Thread(target=come, args=(n,), daemon=True) for n in (1, 2, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(words) == 3
    assert len(set(words.values())) == 1
    assert words[0] != "old"


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan", "inf"])
def test_the_seconds_to_wait_are_checked(monkeypatch, seconds):
    monkeypatch.setenv("FASTAD_RANK_TIMEOUT", seconds)
    with pytest.raises(ValueError, match="FASTAD_RANK_TIMEOUT must be seconds; it is"):
        meet()


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux alone")
def test_a_rank_ends_with_its_agent(tmp_path):
    """The agent is killed; its rank would sleep for a minute."""
    rank = "import time; from fastad.commands.processors import end_with_agent; end_with_agent(); "
    rank += "print('ready', flush=True); time.sleep(60)"
    agent = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    environment = os.environ | {"TORCHELASTIC_RUN_ID": "1"}
    words = [sys.executable, "-c", agent, rank]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"ready\n"
        process.kill()
        begin = time.monotonic()
        assert process.stdout.read() == b""  # nobody has its other end any more
        assert time.monotonic() - begin < 50
