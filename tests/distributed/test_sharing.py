"""Processes of one machine compute teachers' features together, once, and all see them."""

import json

import pytest
import torch
from sharing import kept

ROUNDING = 1e-3  # of losses, as in test_training


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """For temporary files, of this process, too."""
    from fastad.training import on_disk

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(on_disk, "MOUNTS", on_disk.MOUNTS)
    return tmp_path / "temporary"


@pytest.fixture(autouse=True)
def at_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def facts(target, rank=0):
    return json.loads(target.with_name(f"{target.name}.{rank}.json").read_text())


def assert_alike(one, two):
    for name in ("losses", "scores"):
        for a, b in zip(one[name], two[name], strict=True):
            assert a == pytest.approx(b, rel=ROUNDING)


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_each_image_passes_the_teacher_once(ranks, tmp_path, folder, place):
    options = {"feature_cache_gib": 1e-6} if place == "disk" else {}
    kept(tmp_path / "one", folder, options)
    codes, said = ranks(2, "sharing:kept", tmp_path / "two", folder, options)
    assert codes == [0, 0], said
    one, two = facts(tmp_path / "one"), [facts(tmp_path / "two", rank) for rank in range(2)]
    assert one["seen"] == 12
    assert [each["seen"] for each in two] == [6, 6]
    assert_alike(one, two[0])
    assert not list(folder.glob("fastad*"))


def test_what_float16_cannot_hold_in_one_batch_is_computed_in_every_step(ranks, tmp_path, folder):
    """One process turns to float32, of which the other would know nothing."""
    kept(tmp_path / "one", folder, {}, 1e8)
    codes, said = ranks(2, "sharing:kept", tmp_path / "two", folder, {}, 1e8)
    assert codes == [0, 0], said
    one, two = facts(tmp_path / "one"), [facts(tmp_path / "two", rank) for rank in range(2)]
    assert one["seen"] == 12
    assert min(each["seen"] for each in two) > 12
    assert_alike(one, two[0])


def test_killed_while_features_are_computed_and_resumed(ranks, tmp_path, folder):
    """First after two epochs, then in the pass over the images of the training that goes on."""
    path = tmp_path / "training.ckpt"
    kept(tmp_path / "one", folder, {})
    codes, said = ranks(2, "sharing:kept", tmp_path / "two", folder, {"epochs": 2}, 1.0, None, path)
    assert codes == [0, 0], said
    arguments = tmp_path / "two", folder, {"feature_cache_gib": 1e-6}, 1.0
    codes, _ = ranks(2, "sharing:kept", *arguments, [1, 3], path, True)
    assert codes[1] == -9
    assert codes[0] != 0  # it hears that the other is gone
    left = list(folder.glob("fastad*"))
    codes, said = ranks(2, "sharing:kept", *arguments, None, path, True)
    assert codes == [0, 0], said
    assert_alike(facts(tmp_path / "one"), facts(tmp_path / "two"))
    assert left == list(folder.glob("fastad*")) == []


@pytest.mark.parametrize("on_disk", [False, True])
def test_all_see_one_tensor_or_all_hear_why_not(ranks, tmp_path, folder, on_disk):
    codes, said = ranks(2, "sharing:rows", tmp_path / "rows", folder, on_disk)
    assert codes == [0, 0], said
    for rank in range(2):
        found = facts(tmp_path / "rows", rank)
        assert found["rows"] == [[1, 1], [2, 2], [1, 1]]
        assert found["said"] == "process 1 of this machine cannot see it: it is not here"
        assert found["left"] == []
