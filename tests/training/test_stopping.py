"""How a training stops before its end, and what it says of data that it cannot use."""

import math

import pytest
import torch
from toy import Toy, options

from fastad.training import Trainer, TrainingDivergedError


class Diverging(Toy):
    def __init__(self, bad_step, **kwargs):
        super().__init__(**kwargs)
        self.bad_step = bad_step

    def loss(self, batch):
        losses = super().loss(batch)
        if len(self.seen) == self.bad_step:
            losses["squared"] = losses["squared"] * math.nan
        return losses


def test_a_diverging_loss_stops_and_keeps_the_best_before(images):
    model = Diverging(bad_step=8, scores=[2.0, 1.0])  # three steps an epoch
    with pytest.raises(
        TrainingDivergedError,
        match=r"the loss became nan in epoch 3, step 2; try a lower learning rate "
        r"\(--set learning_rate=0\.0025\)$",
    ):
        Trainer(model, options()).fit(images)
    assert torch.equal(model.student.conv.weight, model.snapshots[1]["conv.weight"])
    with pytest.raises(TrainingDivergedError, match=r"epoch 1, step 3"):
        Trainer(Diverging(bad_step=3), options()).fit(images)


@pytest.mark.filterwarnings("ignore:this CPU has no")
def test_in_half_precision_float32_is_offered(images):
    with pytest.raises(TrainingDivergedError, match="or --precision float32"):
        Trainer(Diverging(bad_step=1), options(precision="bfloat16")).fit(images)


def test_a_score_that_is_no_number_stops(images):
    with pytest.raises(
        TrainingDivergedError, match="error on held-out good images became nan in epoch 2; try"
    ):
        Trainer(Toy(scores=[1.0, math.nan]), options()).fit(images)


def test_an_interrupt_keeps_the_best_so_far(images):
    model = Toy(scores=[1.0, 2.0, 3.0])

    def stop(event):
        if (event.epoch, event.step) == (3, 2):
            raise KeyboardInterrupt

    record = Trainer(model, options(), progress=stop).fit(images)
    assert record.interrupted
    assert (record.epochs, record.best_epoch) == (2, 1)
    assert len(record.losses) == len(record.validation_scores) == 2
    assert torch.equal(model.student.conv.weight, model.snapshots[0]["conv.weight"])
    assert not model.training


def test_an_interrupt_in_the_first_epoch_leaves_no_best(images):
    def stop(event):
        raise KeyboardInterrupt

    record = Trainer(Toy(), options(), progress=stop).fit(images)
    assert record.interrupted
    assert (record.epochs, record.best_epoch, record.losses) == (0, None, [])


def test_a_single_image_is_validated_on_and_that_is_said(images):
    record = Trainer(Toy(), options(epochs=1)).fit(images[:1])
    assert (record.n_train, record.n_validation, record.held_out) == (1, 0, [])
    [note] = record.notes
    assert "one image" in note
    assert "no images held out" in note
    assert "chosen by the training images" in note
    assert len(record.validation_scores) == 1
    record = Trainer(Toy(), options(epochs=1, validation_fraction=0.0)).fit(images)
    assert record.n_train == 10
    assert "none asked for" in record.notes[0]


def test_bad_models_and_data_are_named(images):
    class NoDict(Toy):
        def loss(self, batch):
            return torch.zeros(())

    class NotScalar(Toy):
        def loss(self, batch):
            return {"a": torch.zeros(2)}

    class OneScore(Toy):
        def validation_score(self, images):
            return torch.zeros(())

    class Frozen(Toy):
        def __init__(self):
            super().__init__()
            self.requires_grad_(False)

    for model in (NoDict(), NotScalar()):
        with pytest.raises(TypeError, match="loss must be a dict of scalar tensors; got"):
            Trainer(model, options()).fit(images)
    with pytest.raises(
        TypeError, match=r"validation_score of toy must return shape \(2,\); got \(\)"
    ):
        Trainer(OneScore(), options()).fit(images)
    with pytest.raises(ValueError, match="model toy has no parameters to train"):
        Trainer(Frozen(), options()).fit(images)
    with pytest.raises(ValueError, match="dataset: there are no images"):
        Trainer(Toy(), options()).fit(images[:0])
    sizes = [torch.rand(3, 8, 8 + i) for i in range(10)]
    with pytest.raises(ValueError, match="images must have one size"):
        Trainer(Toy(), options()).fit(sizes)


MORE_EPOCHS = (
    "the error on held-out good images was still falling at the last epoch: more epochs would help"
)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([3.0, 2.0, 1.0], True),
        ([3.0, 2.0, 1.81], False),  # 9.5 % in the last epoch
        ([3.0, 2.0, 1.79], True),
        ([1.0, 3.0, 2.0], False),  # not the best
        ([2.0, 1.0], False),  # too few to tell
        ([9.0] * 17 + [2.0, 1.95, 1.7], True),  # 15 % in the last two of twenty
        ([9.0] * 17 + [2.0, 1.75, 1.81], False),
        ([9.0] * 17 + [2.0, 1.95, 1.9], False),
        ([3.0, -1.0, -2.0], True),
    ],
)
def test_a_score_that_still_fell_at_the_end_is_said(images, scores, said):
    record = Trainer(Toy(scores=scores), options(epochs=len(scores))).fit(images)
    assert record.notes == ([MORE_EPOCHS] if said else [])


@pytest.mark.parametrize("kind", ["index", "all"])
def test_images_to_hold_out_are_checked(images, kind):
    held_out = {"index": [10], "all": range(10)}[kind]
    with pytest.raises(ValueError, match=r"^held_out: "):
        Trainer(Toy(), options()).fit(images, held_out=held_out)


def test_images_to_hold_out_are_those_given(images):
    model = Toy()
    record = Trainer(model, options(epochs=2, batch_size=2)).fit(images, held_out=[9, 0, 4])
    assert record.held_out == [0, 4, 9]
    assert (record.n_train, record.n_validation) == (7, 3)
    assert model.seen == [2, 2, 2] * 2  # the seventh would be a batch of one
    record = Trainer(Toy(), options(epochs=1)).fit(images, held_out=[])
    assert record.n_train == 10
    assert "none asked for" in record.notes[0]
