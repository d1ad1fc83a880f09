"""What the stages of a training are given: images, defects, epochs and options."""

import pytest
import torch
from toy import Toy
from toy_stages import TwoStages, two_options

from fastad.models import Stage
from fastad.training import TrainingConfig
from fastad.training.stages import plan_stages


@pytest.fixture
def images():
    return torch.zeros(20, 3, 32, 32, dtype=torch.uint8)


def plans(images, held_out, model=TwoStages, **changes):
    held_out = torch.tensor(held_out, dtype=torch.int64)
    everything = torch.arange(len(images))
    rest = everything[~torch.isin(everything, held_out)]
    return plan_stages(model(), two_options(**changes), images, rest, held_out)


def base(dataset):
    """How often each image is there."""
    return torch.bincount(torch.tensor(list(dataset.indices)), minlength=20)


def test_which_images_get_defects(images):
    first, second = plans(images, [1, 3, 5, 7], pseudo_anomalies=33)
    assert first.train_set is first.validation_set is images
    assert second.train_items.tolist() == list(range(33))
    counts = base(second.train_set)
    assert counts[second.unseen].sum() == 17
    assert counts[second.train].sum() == 16  # all of the sixteen training images
    assert (counts[second.train] == 1).all()
    assert (counts[second.held_out] == 0).all()
    counts = base(second.validation_set)
    assert counts[second.held_out].tolist() == [50, 50]
    assert counts.sum() == len(second.validation_items) == 100
    assert second.train_set.seed != second.validation_set.seed
    assert [p.tolist() for p in (second.unseen, second.held_out)] == [
        p.tolist() for p in (plans(images, [1, 3, 5, 7])[1].unseen, second.held_out)
    ]


def test_validation_shows_each_held_out_image_four_times():
    images = torch.zeros(160, 3, 32, 32, dtype=torch.uint8)
    counts = base(plans(images, list(range(60)))[1].validation_set)
    assert counts[counts > 0].tolist() == [4] * 30


def test_without_held_out_images_defects_are_made_on_training_images(images):
    second = plans(images, [], pseudo_anomalies=7)[1]
    assert base(second.train_set).sum() == 7
    assert base(second.train_set).max() == 1
    assert base(second.validation_set).tolist() == [5] * 20


def test_epochs_of_stages_keep_their_proportion():
    def epochs(**changes):
        config = two_options(**changes)
        return [config.for_stage(TwoStages, stage).epochs for stage in TwoStages.stages]

    assert epochs(epochs=4) == [4, 2]
    assert epochs(epochs=7) == [7, 4]
    assert epochs(epochs=1) == [1, 1]
    assert epochs(epochs=10, stages={"head": {"epochs": 3}}) == [10, 3]
    assert epochs(epochs=10, stages={"students": {"epochs": 3}}) == [3, 5]


def test_options_of_a_stage_win_over_its_defaults_and_those_over_the_models():
    config = two_options(learning_rate=0.5, stages={"head": {"batch_size": 2, "betas": (0.5, 0.9)}})
    students, head = (config.for_stage(TwoStages, stage) for stage in TwoStages.stages)
    assert (students.learning_rate, head.learning_rate) == (0.5, 0.1)
    assert (students.batch_size, head.batch_size) == (3, 2)
    assert (students.betas, head.betas) == ((0.9, 0.999), (0.5, 0.9))


def test_later_stages_know_the_images_of_earlier_ones(images):
    class Three(TwoStages):
        stages = (*TwoStages.stages, Stage("last"), Stage("again", unseen=True))

    _, second, third, fourth = plans(images, list(range(8)), Three)
    assert sorted([*second.train.tolist(), *second.unseen.tolist()]) == third.train.tolist()
    assert third.train_items.tolist() == third.train.tolist()
    assert third.held_out.tolist() == second.held_out.tolist() == third.validation_items.tolist()
    assert len(fourth.unseen) == len(fourth.held_out) == 2
    assert sorted([*fourth.train.tolist(), *fourth.unseen.tolist()]) == fourth.train_items.tolist()
    seeds = [p.seed for p in plans(images, [1, 2], Three)]
    assert len(set(seeds)) == 4


def test_config_for_a_model_without_such_stages():
    with pytest.raises(ValueError, match="textures: the training of toy has no use for it"):
        TrainingConfig.for_model(Toy, textures="somewhere")
    with pytest.raises(ValueError, match="pseudo_anomalies: the training of toy has no use"):
        TrainingConfig.for_model(Toy, pseudo_anomalies=5)
    assert TrainingConfig.for_model(TwoStages, textures="there").textures == "there"
