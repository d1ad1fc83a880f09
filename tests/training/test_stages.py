"""Trainings of several stages: what each sees, keeps, reports and leaves to the next."""

import itertools
import json
import multiprocessing
import sys

import pytest
import torch
from toy import Toy
from toy_stages import TwoStages, two_options

from fastad.models import AnomalyModel, Stage
from fastad.training import Trainer, TrainingDivergedError


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 200, (20, 3, 32, 32), dtype=torch.uint8, generator=generator)


def train(images, model=None, progress=None, held_out=None, **changes):
    model = model or TwoStages()
    return model, Trainer(model, two_options(**changes), progress).fit(images, held_out=held_out)


def test_a_model_has_one_stage_unless_it_says_otherwise():
    assert AnomalyModel.stages == (Stage(),)
    model = Toy()
    assert model.stage is None
    model.enter_stage(model.stages[0])
    assert model.stage.name == "training"


def test_each_stage_trains_its_own_part_on_the_best_of_the_one_before(images):
    model = TwoStages(scores=[3.0, 1.0, 2.0, 4.0], head_scores=[2.0, 1.0, 3.0])
    head = model.head.weight.detach().clone()
    students = []

    def progress(event):
        students.append((event.stage, model.student.conv.weight.detach().clone()))

    record = train(images, model, progress, stages={"head": {"epochs": 3}})[1]
    first, second = record.stages
    assert (first.name, first.epochs, first.best_epoch) == ("students", 4, 2)
    assert (second.name, second.epochs, second.best_epoch) == ("head", 3, 2)
    for name, value in model.student.state_dict().items():
        assert torch.equal(value, model.snapshots[1][name]), name
    for stage, weight in students:
        assert stage == "students" or torch.equal(weight, model.snapshots[1]["conv.weight"])
    assert torch.equal(model.head.weight, model.heads[1])
    assert not torch.equal(model.heads[1], model.heads[2])
    assert not torch.equal(model.head.weight, head)
    assert model.entered == ["students", "head", None]
    assert model.stage is None
    assert (True, False) in model.modes  # the head trains, the student stays in eval mode
    assert model.prepared == 1
    assert not model.training


def test_what_the_record_says_of_stages(images):
    record = train(images)[1]
    first, second = record.stages
    assert (first.epochs, second.epochs) == (4, 2)
    assert (first.n_train, second.n_train) == (16, 32)
    assert set(first.losses[0]) == {"squared", "absolute"}
    assert set(second.losses[0]) == {"entropy"}
    assert len(first.validation_scores) == 4
    assert first.seconds > 0 < second.seconds
    assert record.seconds >= first.seconds + second.seconds
    assert (first.config["learning_rate"], second.config["learning_rate"]) == (0.01, 0.1)
    # The old names: all epochs, and the last stage.
    assert record.epochs == 6
    assert record.best_epoch == second.best_epoch
    assert record.losses == second.losses
    assert record.validation_scores == second.validation_scores
    content = record.to_dict()
    assert json.loads(json.dumps(content)) == content
    assert content["epochs"] == 6
    assert content["losses"] == second.losses
    assert type(record).from_dict(content).to_dict() == content


def test_half_of_the_held_out_images_is_seen_by_the_second_stage(images):
    model, record = train(images, held_out=[1, 3, 5, 7, 9])
    again = train(images, held_out=[1, 3, 5, 7, 9])[1]
    assert record.held_out == again.held_out
    assert len(record.held_out) == record.n_validation == 3
    assert record.n_train == 17
    assert set(record.held_out) < {1, 3, 5, 7, 9}
    seen = sorted({1, 3, 5, 7, 9} - set(record.held_out))
    train_images, unseen = model.prepared_with
    assert torch.equal(unseen, images[seen] / 255)
    rest = [i for i in range(20) if i not in (1, 3, 5, 7, 9)]
    assert torch.equal(train_images, images[rest] / 255)
    assert record.notes[0] == (
        "stage head was trained on 2 of 5 held-out images: the other 3 chose its "
        "epoch and set the threshold"
    )
    halves = {
        tuple(train(images, held_out=range(10), seed=seed, epochs=1)[1].held_out)
        for seed in range(4)
    }
    assert len(halves) > 1


@pytest.mark.parametrize("held_out", [[4], []])
def test_nothing_is_taken_from_at_most_one_held_out_image(images, held_out):
    model, record = train(images, held_out=held_out)
    assert record.held_out == held_out
    train_images, unseen = model.prepared_with
    assert torch.equal(train_images, unseen)
    what = "one image is" if held_out else "no images are"
    assert (
        f"stage head was trained on images that the stages before it had seen: {what} held out"
    ) in record.notes


@pytest.mark.parametrize("reads_images", [False, True])
@pytest.mark.parametrize("gib", [8.0, 0.0])
def test_kept_features_spare_images(images, monkeypatch, reads_images, gib):
    class Reading(TwoStages):
        stages = (
            TwoStages.stages[0],
            Stage("head", {"epochs": 2}, True, True, reads_images=reads_images),
        )

        def loss(self, batch):
            if self.stage is self.stages[1] and "maps" not in batch:
                batch = batch | self.teacher_features(batch["image"])
            return super().loss(batch)

        def validation_score(self, batch):
            if self.stage is self.stages[1] and "maps" not in batch:
                batch = batch | self.teacher_features(batch["image"])
            return super().validation_score(batch)

    model, mapped = Reading(), []

    def progress(event):
        mapped.append((event.stage, event.validation_score is not None, model.mapped))

    record = train(images, model, progress, feature_cache_gib=gib, epochs=8)[1]
    at_ends = [count for stage, end, count in mapped if stage == "head" and end]
    in_an_epoch = [b - a for a, b in itertools.pairwise(at_ends)]
    assert in_an_epoch == ([0] if gib else [32 + 100]) * (len(at_ends) - 1)
    assert len(at_ends) == record.stages[1].epochs > 1
    with_image = ("image", "maps", "mask")
    assert set(model.batches) == {with_image if reads_images or not gib else ("maps", "mask")}


def test_no_image_is_read_again_once_all_is_kept(images):
    class Counted(list):
        is_fixed, read = True, 0

        def __getitem__(self, index):
            self.read += 1
            return super().__getitem__(index)

    dataset, counts = Counted(images), []

    def progress(event):
        if event.stage == "head" and not event.phase:  # in a phase they are read to be kept
            counts.append(dataset.read)

    train(dataset, progress=progress, stages={"head": {"epochs": 4}})
    assert len(set(counts)) == 1
    # A pass over the first stage's validation and training images was needed in every epoch.
    assert counts[0] > 4 * 20 + 32 + 100


def test_the_second_stage_is_the_same_with_and_without_kept_features(images):
    kept, computed = (train(images, feature_cache_gib=gib)[1].stages for gib in (8.0, 0.0))
    assert kept[0].losses == computed[0].losses
    for one, other in zip(kept[1].losses, computed[1].losses, strict=True):
        assert one["entropy"] == pytest.approx(other["entropy"], rel=1e-4)


def test_a_head_learns_to_find_squares(images):
    record = train(images, pseudo_anomalies=100, stages={"head": {"epochs": 20}})[1]
    losses = [loss["entropy"] for loss in record.stages[1].losses]
    assert losses[-1] < 0.5 * losses[0]


def test_the_same_seed_gives_the_same_bytes(images):
    (one, a), (again, b), (other, _) = (train(images, seed=seed) for seed in (1, 1, 2))
    for name, value in one.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert [s.losses for s in a.stages] == [s.losses for s in b.stages]
    assert not torch.equal(one.head.weight, other.head.weight)


def test_the_second_stage_depends_on_the_first_by_its_result_alone(images):
    """Not by how many random numbers it drew: here it has one epoch more, which is not the best."""
    scores = [2.0, 1.0, 3.0, 4.0]
    (short, a), (long, b) = (
        train(images, TwoStages(scores), stages={"students": {"epochs": epochs}})
        for epochs in (2, 4)
    )
    assert a.stages[1].losses == b.stages[1].losses
    for name, value in short.state_dict().items():
        assert torch.equal(value, long.state_dict()[name]), name


def test_progress_names_the_stage(images):
    events = []
    train(images, progress=events.append)
    assert {event.stages for event in events} == {2}
    ends = [(e.stage, e.epoch, e.epochs) for e in events if e.validation_score is not None]
    assert ends == [("students", i, 4) for i in (1, 2, 3, 4)] + [("head", i, 2) for i in (1, 2)]
    first, second = [e.seconds_left for e in events if e.epoch == e.epochs and e.losses]
    assert first > second == 0  # of the whole training, not of a stage


def test_an_interrupt_in_the_first_stage_leaves_out_the_second(images):
    def stop(event):
        if (event.epoch, event.step) == (3, 2):
            raise KeyboardInterrupt

    model, record = train(images, TwoStages(scores=[1.0, 2.0]), stop, held_out=[1, 2, 3, 4])
    assert record.interrupted
    assert [stage.name for stage in record.stages] == ["students"]
    assert (record.epochs, record.best_epoch) == (2, 1)
    assert torch.equal(model.student.conv.weight, model.snapshots[0]["conv.weight"])
    assert record.held_out == [1, 2, 3, 4]  # no stage has taken any
    assert record.notes == ["stopped by the user: stage head is missing"]
    assert model.entered == ["students", None]
    assert model(images[:2] / 255).score.shape == (2,)


@pytest.mark.parametrize("where", ["prepare", "step"])
def test_an_interrupt_in_the_first_epoch_of_the_second_leaves_the_first(images, where):
    class Interrupted(TwoStages):
        def prepare_stage(self, train, unseen):
            super().prepare_stage(train, unseen)
            if self.stage is self.stages[1] and where == "prepare":
                raise KeyboardInterrupt

    def stop(event):
        if event.stage == "head":
            raise KeyboardInterrupt

    untouched = TwoStages().head.weight
    model, record = train(images, Interrupted(), stop)
    assert record.interrupted
    assert [stage.name for stage in record.stages] == ["students"]
    assert record.n_validation == 4
    assert model.prepared == 0
    assert torch.equal(model.head.weight, untouched)
    assert model.stage is None


def test_a_stage_that_diverges_is_named(images):
    class Diverging(TwoStages):
        def loss(self, batch):
            losses = super().loss(batch)
            return {
                name: value * (torch.nan if len(self.batches) == 4 else 1)
                for name, value in losses.items()
            }

    model = Diverging(head_scores=[1.0])
    with pytest.raises(
        TrainingDivergedError,
        match=r"the loss became nan in epoch 2, step 2 of stage head; try a lower learning rate "
        r"\(--stage head\.learning_rate=0\.025\)$",
    ):
        train(images, model)
    assert torch.equal(model.head.weight, model.heads[0])
    assert model.stage is None
    with pytest.raises(TrainingDivergedError, match=r"images became nan in epoch 1 of stage head;"):
        train(images, TwoStages(head_scores=[torch.nan]))
    with pytest.raises(TrainingDivergedError, match=r"epoch 2 of stage students; .*--stage stude"):
        train(images, TwoStages(scores=[1.0, torch.nan]))


def test_each_stage_that_could_go_on_is_named(images):
    model = TwoStages(scores=[9.0, 8.0, 6.0, 3.0], head_scores=[4.0, 3.0, 1.0])
    notes = train(images, model, stages={"head": {"epochs": 3}}, held_out=[])[1].notes
    what = "was still falling at the last epoch: more epochs would help"
    assert notes[-2:] == [
        f"the error on held-out good images of stage {name} {what}" for name in ("students", "head")
    ]


def test_a_stage_without_parameters_is_named(images):
    class Frozen(TwoStages):
        def enter_stage(self, stage):
            super().enter_stage(stage)
            self.head.requires_grad_(False)

    with pytest.raises(ValueError, match="model two has no parameters to train in stage head"):
        train(images, Frozen())


def test_images_that_change_are_not_kept(images):
    class Noisy(list):
        def __getitem__(self, index):
            return super().__getitem__(index) // 2 + torch.randint(0, 9, (3, 32, 32)).byte()

    (_, a), (_, b) = (train(Noisy(images), epochs=2) for _ in range(2))
    assert [s.losses for s in a.stages] == [s.losses for s in b.stages]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot fork a test's classes")
def test_defects_are_the_same_from_other_processes(images):
    class OnDisk(list):
        is_fixed = True

    processes, others = {}, set(multiprocessing.active_children())  # those of tests before

    def progress(event):
        processes[event.stage] = len(set(multiprocessing.active_children()) - others)

    one = train(images)[1]
    other = train(OnDisk(images), progress=progress, workers=2)[1]
    assert [s.losses for s in one.stages] == [s.losses for s in other.stages]
    assert processes["head"] == 0  # all is kept by then
    one = train(images, feature_cache_gib=0)[1]
    other = train(OnDisk(images), progress=progress, workers=2, feature_cache_gib=0)[1]
    assert [s.losses for s in one.stages] == [s.losses for s in other.stages]
    assert processes["head"] == 4
