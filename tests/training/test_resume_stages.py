"""A training of several stages that was interrupted in any of them ends with the same bytes."""

import pytest
import torch
from PIL import Image
from test_resume import assert_same, stop_at
from toy_stages import TwoStages, two_options

from fastad.training import CheckpointError, Trainer
from fastad.training.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:this CPU has no")


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 200, (20, 3, 32, 32), dtype=torch.uint8, generator=generator)


def stop_in(stage, epoch, step=None):
    stop = stop_at(epoch, step)
    return lambda event: stop(event) if event.stage == stage else None


def fit(images, path=None, config=None, progress=None, model=None, **how):
    model = model or TwoStages()
    torch.manual_seed(hash(str(how)) % 1000)  # the caller's random state must not matter
    trainer = Trainer(model, config or two_options(), progress)
    return model, trainer.fit(images, checkpoint=path, **how)


STOPS = [
    ("students", 1, 2),
    ("students", 2, 1),
    ("students", 2, None),
    ("students", 4, None),  # the last: nothing of the head is there yet
    ("head", 1, 1),
    ("head", 1, None),
    ("head", 2, 2),
    ("head", 2, None),
]


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd", "channels_last": False},
        {"precision": "bfloat16"},
        {"precision": "float16", "feature_cache_gib": 0},
        {"feature_cache_gib": 0},
    ],
    ids=str,
)
def test_interrupted_in_any_stage(images, tmp_path, stop, changes):
    path = tmp_path / "a.ckpt"
    config = two_options(**changes)
    whole = fit(images, config=config)
    first = fit(images, path, config, stop_in(*stop))[1]
    assert first.interrupted
    begun = stop != ("students", 1, 2)
    last = fit(images, path, config, resume=begun)
    assert_same(whole, last)
    assert last[0].prepared == 1
    in_head = stop[0] == "head" and stop[1:] != (1, 1)
    assert (last[0].prepared_with is None) == in_head  # once, and not again within the stage
    assert last[0].entered == ["students", "head", None][in_head:]


def test_interrupted_many_times(images, tmp_path):
    path = tmp_path / "a.ckpt"
    whole = fit(images)
    for turn, stop in enumerate(STOPS[1:]):
        fit(images, path, progress=stop_in(*stop), resume=turn > 0)
    assert_same(whole, fit(images, path, resume=True))


def test_the_best_epoch_of_the_first_stage_is_kept_over_the_interruption(images, tmp_path):
    path = tmp_path / "a.ckpt"
    model = TwoStages(scores=[2.0, 1.0, 3.0, 4.0])
    fit(images, path, progress=stop_in("students", 4), model=model)
    again = fit(images, path, model=TwoStages(), resume=True)[0]
    for name, value in again.student.state_dict().items():
        assert torch.equal(value, model.snapshots[1][name]), name


def test_a_finished_training_returns_at_once(images, tmp_path):
    path, events = tmp_path / "a.ckpt", []
    whole = fit(images, path)
    before = path.read_bytes()
    again = fit(images, path, progress=events.append, resume=True)
    assert_same(whole, again)
    assert events == again[0].batches == []
    assert path.read_bytes() == before


@pytest.mark.parametrize("stop", [("students", 3, None), ("students", 4, None)])
def test_more_epochs_of_the_stage_it_is_in(images, tmp_path, stop):
    path = tmp_path / "a.ckpt"
    fit(images, path, progress=stop_in(*stop))
    longer = two_options(epochs=6)  # six of the students, three of the head
    assert_same(fit(images, config=longer), fit(images, path, longer, resume=True))


def test_more_epochs_of_the_last_stage(images, tmp_path):
    path = tmp_path / "a.ckpt"
    fit(images, path)
    longer = two_options(stages={"head": {"epochs": 5}})
    assert_same(fit(images, config=longer), fit(images, path, longer, resume=True))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"epochs": 6},
            r"stage students is over after 4 epochs and the next stage was trained on its result, "
            r"but 6 are asked for now: keep them with --stage students\.epochs=4",
        ),
        ({"stages": {"students": {"epochs": 3}}}, "over after 4 epochs .* but 3 are asked for"),
        ({"stages": {"head": {"epochs": 1}}}, r"2 epochs of stage head done, more than the 1 ask"),
        (
            {"stages": {"head": {"learning_rate": 0.5}}},
            r"stage head: training option learning_rate 0\.1 in the file, 0\.5 now",
        ),
        ({"learning_rate": 0.5}, r"stage students: training option learning_rate 0\.01 in the"),
        ({"pseudo_anomalies": 33}, r"stage head: training option pseudo_anomalies 32 in the file"),
    ],
)
def test_what_cannot_be_resumed(images, tmp_path, changes, said):
    path = tmp_path / "a.ckpt"
    fit(images, path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=rf"a\.ckpt.*{said}"):
        fit(images, path, two_options(**changes), resume=True)
    assert path.read_bytes() == before


class Fingerprinted(list):
    fingerprint = "images"


def test_a_stage_that_has_not_begun_may_change(images, tmp_path):
    path = tmp_path / "a.ckpt"
    fit(images, path, progress=stop_in("students", 4))
    other = two_options(pseudo_anomalies=33, stages={"head": {"learning_rate": 0.05}})
    assert_same(fit(images, config=other), fit(images, path, other, resume=True))


def test_textures_are_told_by_their_contents(images, tmp_path, monkeypatch):
    folder = tmp_path / "textures"
    folder.mkdir()
    Image.new("RGB", (40, 40), (200, 10, 10)).save(folder / "red.png")
    path, dataset = tmp_path / "a.ckpt", Fingerprinted(images)
    fit(dataset, path, two_options(textures=str(folder)))
    monkeypatch.chdir(tmp_path)
    fit(dataset, path, two_options(textures="textures"), resume=True)
    Image.new("RGB", (40, 40), (10, 200, 10)).save(folder / "green.png")
    with pytest.raises(CheckpointError, match="stage head: training option textures differ"):
        fit(dataset, path, two_options(textures="textures"), resume=True)


def test_other_pseudo_anomalies_are_refused(images, tmp_path):
    path = tmp_path / "a.ckpt"
    dataset = Fingerprinted(images)
    fit(dataset, path)
    found = load_checkpoint(path)
    assert found.identity["stage head: pseudo-anomalies"]
    found.identity["stage head: pseudo-anomalies"] = "of other files"
    save_checkpoint(path, found)
    with pytest.raises(CheckpointError, match=r"another training: stage head: pseudo-anomalies di"):
        fit(dataset, path, resume=True)


def test_what_changes_the_rounding_names_the_stage(images, tmp_path):
    path = tmp_path / "a.ckpt"
    fit(images, path, progress=stop_in("head", 1))
    record = fit(images, path, two_options(feature_cache_gib=1.0), resume=True)[1]
    assert any(
        note.startswith("resumed after epoch 1 of stage head with feature_cache_gib 1.0")
        for note in record.notes
    )


def test_a_checkpoint_between_the_stages_holds_the_first_alone(images, tmp_path):
    path = tmp_path / "a.ckpt"
    fit(images, path, progress=stop_in("head", 1, 1))
    found = load_checkpoint(path)
    assert [stage.name for stage in found.record.stages] == ["students"]
    assert int(found.model["prepared"]) == 0
    fit(images, path, progress=stop_in("head", 1), resume=True)
    found = load_checkpoint(path)
    assert [stage.name for stage in found.record.stages] == ["students", "head"]
    assert int(found.model["prepared"]) == 1
