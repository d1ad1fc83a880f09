"""The training loop: what it keeps, what it reports, how it stops."""

import dataclasses
import json
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from fastad import models
from fastad.models import AnomalyModel, FrozenTeacher, Prediction
from fastad.training import Trainer, TrainingConfig, TrainingDivergedError


@dataclass
class Options:
    pass


class Toy(AnomalyModel):
    """A student pixel map that learns a teacher's; ``scores`` dictates the validation scores."""

    name = "toy"
    Config = Options

    def __init__(self, scores=None):
        super().__init__(Options())
        torch.manual_seed(0)
        self.teacher = FrozenTeacher(Features())
        self.student = Features()
        self.scores = scores
        self.snapshots = []  # the student's weight at each validation
        self.modes = set()
        self.dtypes = set()
        self.seen = []

    def loss(self, batch):
        self.modes.add((self.training, self.student.norm.training, self.teacher.backbone.training))
        images = self.normalize(batch["image"])
        self.seen.append(len(images))
        [teacher], [student] = self.teacher(images), self.student(images)
        self.dtypes.add(student.dtype)
        difference = (teacher - student).float()
        return {"squared": difference.square().mean(), "absolute": 0.1 * difference.abs().mean()}

    def forward(self, images):
        images = self.normalize(images)
        [teacher], [student] = self.teacher(images), self.student(images)
        anomaly_map = (teacher - student).float().square().mean(1)
        return Prediction(anomaly_map.amax((1, 2)), anomaly_map)

    def validation_score(self, batch):
        assert not self.training
        assert torch.is_inference_mode_enabled()
        images = batch["image"]
        if self.scores is None:
            return super().validation_score(batch)
        self.snapshots.append({k: v.clone() for k, v in self.student.state_dict().items()})
        return torch.full((len(images),), self.scores[len(self.snapshots) - 1])


class Features(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images):
        return [self.norm(self.conv(images))]


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8, generator=generator)


def options(**changes):
    defaults = {"epochs": 4, "batch_size": 3, "learning_rate": 0.01, "device": "cpu"}
    return TrainingConfig(**{**defaults, "precision": "float32", **changes})


def test_training_learns_and_reports(images):
    events = []
    model = Toy()
    record = Trainer(model, options(epochs=30), progress=events.append).fit(images)
    assert record.validation_scores[-1] < 0.5 * record.validation_scores[0]
    assert record.losses[-1]["squared"] < 0.5 * record.losses[0]["squared"]
    assert set(record.losses[0]) == {"squared", "absolute"}
    assert (record.n_train, record.n_validation, record.epochs) == (8, 2, 30)
    assert record.model == "toy"
    assert record.notes == []
    assert not record.interrupted
    assert not model.training
    assert json.loads(json.dumps(record.to_dict())) == record.to_dict()
    assert record.to_dict()["config"]["betas"] == [0.9, 0.999]

    steps = [e for e in events if e.validation_score is None]
    epochs = [e for e in events if e.validation_score is not None]
    assert [(e.epoch, e.step, e.steps) for e in steps[:4]] == [
        (1, 1, 3),
        (1, 2, 3),
        (1, 3, 3),
        (2, 1, 3),
    ]
    assert [e.validation_score for e in epochs] == record.validation_scores
    assert [e.losses for e in epochs] == record.losses
    assert [e.epoch for e in epochs if e.is_best][-1] == record.best_epoch
    assert all(e.images_per_second > 0 for e in events)
    assert epochs[-1].seconds_left == 0 < steps[0].seconds_left


def test_modes_batches_and_the_teacher(images):
    model = Toy()
    teacher = {k: v.clone() for k, v in model.teacher.state_dict().items()}
    running_mean = model.student.norm.running_mean.clone()
    Trainer(model, options(epochs=1, batch_size=7)).fit(images)
    assert model.modes == {(True, True, False)}
    assert model.seen == [7]  # the eighth would be a batch of one
    for key, value in model.teacher.state_dict().items():
        assert torch.equal(value, teacher[key]), key
    assert not torch.equal(model.student.norm.running_mean, running_mean)
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_the_best_epoch_is_restored_with_its_buffers(images):
    model = Toy(scores=[3.0, 1.0, 2.0, 1.0])
    record = Trainer(model, options()).fit(images)
    assert record.best_epoch == 2
    assert record.validation_scores == [3.0, 1.0, 2.0, 1.0]
    for key, value in model.student.state_dict().items():
        assert torch.equal(value, model.snapshots[1][key]), key
    assert not torch.equal(model.snapshots[1]["conv.weight"], model.snapshots[3]["conv.weight"])


def test_the_score_averages_over_images_not_batches():
    class ByBrightness(Toy):
        def validation_score(self, batch):
            return batch["image"].mean((1, 2, 3))

    images = torch.rand(9, 3, 8, 8)
    trainer = Trainer(ByBrightness(), options(epochs=1, batch_size=3, validation_fraction=0.45))
    record = trainer.fit(images)
    assert record.n_validation == 4
    expected = images[record.held_out].double().mean().item()
    assert record.validation_scores[0] == pytest.approx(expected, rel=1e-6)


def test_the_same_seed_gives_the_same_bytes(images):
    class RandomLayer(Toy):
        def loss(self, batch):
            return super().loss({"image": nn.functional.dropout(batch["image"], 0.1)})

    def run(seed, noise):
        model = RandomLayer()
        torch.manual_seed(noise)  # the caller's random state must not matter
        record = Trainer(model, options(seed=seed)).fit(images)
        return model.state_dict(), record

    (first, a), (again, b), (other, c) = run(1, 5), run(1, 6), run(2, 5)
    for key, value in first.items():
        assert torch.equal(value, again[key]), key
    assert a.losses == b.losses
    assert a.held_out == b.held_out != c.held_out
    assert not torch.equal(first["student.conv.weight"], other["student.conv.weight"])


def test_the_callers_random_state_is_left_alone(images):
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    model = Toy.__new__(Toy)
    state = torch.get_rng_state()
    model.__init__()
    torch.set_rng_state(state)
    Trainer(model, options(epochs=1)).fit(images)
    assert torch.equal(torch.rand(3), expected)


def test_more_epochs_change_neither_split_nor_the_first_ones(images):
    short = Trainer(Toy(), options(epochs=2)).fit(images)
    long = Trainer(Toy(), options(epochs=5)).fit(images)
    assert short.held_out == long.held_out
    assert short.losses == long.losses[:2]


def test_layouts_and_data_sets_are_equivalent(images):
    def scores(dataset, channels_last):
        # Not Adam, which blows the rounding of a zero gradient up to a whole step.
        config = options(optimizer="sgd", channels_last=channels_last)
        return Trainer(Toy(), config).fit(dataset).validation_scores

    plain = scores(images, channels_last=False)
    items = [{"image": image, "path": "x"} for image in images]
    assert scores(items, channels_last=False) == plain
    assert scores(images / 255, channels_last=False) == pytest.approx(plain, rel=1e-5)
    assert scores(images, channels_last=True) == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
@pytest.mark.filterwarnings("ignore:this CPU has no")
def test_optimizers_and_precisions(images, optimizer, kind):
    model = Toy()
    record = Trainer(model, options(optimizer=optimizer, precision=kind, epochs=8)).fit(images)
    assert record.precision == kind
    assert model.student.conv.weight.dtype == torch.float32
    assert model.dtypes == {getattr(torch, kind)}
    assert record.validation_scores[-1] < record.validation_scores[0]


def test_parameter_groups_of_the_model_are_used(images):
    class OnlyBias(Toy):
        def parameter_groups(self):
            return [
                {"params": [self.student.conv.weight], "lr": 0.0},
                {"params": [self.student.conv.bias]},
            ]

    model = OnlyBias()
    before = {k: v.clone() for k, v in model.student.named_parameters()}
    Trainer(model, options(epochs=1)).fit(images)
    after = dict(model.student.named_parameters())
    assert torch.equal(before["conv.weight"], after["conv.weight"])
    assert not torch.equal(before["conv.bias"], after["conv.bias"])


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
    with pytest.raises(TrainingDivergedError, match="validation score became nan in epoch 2; try"):
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


def test_stpm_trains_and_is_the_same_again():
    def run():
        torch.manual_seed(0)
        model = models.build("stpm", teacher_weights=None, layers=("layer1", "layer2"))
        config = TrainingConfig.for_model(
            model, epochs=4, batch_size=4, learning_rate=0.05, device="cpu", precision="float32"
        )
        generator = torch.Generator().manual_seed(1)
        images = torch.randint(0, 256, (10, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return model, Trainer(model, config).fit(images)

    (model, record), (again, _) = run(), run()
    assert record.losses[-1]["distillation"] < 0.9 * record.losses[0]["distillation"]
    assert record.config == dataclasses.asdict(TrainingConfig(**record.config))
    for (key, value), other in zip(
        model.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), key


@pytest.mark.slow
def test_stpm_finds_broken_bottles(shared_data):
    """Twelve short epochs at 64 x 64; the full recipe takes minutes."""
    from numpy import asarray
    from PIL import Image

    def load(folder, count):
        paths = sorted((shared_data / "mvtec_ad" / "bottle" / folder).iterdir())[:count]
        images = [Image.open(p).convert("RGB").resize((64, 64)) for p in paths]
        return torch.stack([torch.from_numpy(asarray(i).copy()).permute(2, 0, 1) for i in images])

    torch.manual_seed(0)
    weights = shared_data / "weights" / "resnet18_imagenet_layers1-3_bnfolded.pth"
    model = models.build("stpm", teacher_weights=str(weights))
    config = TrainingConfig.for_model(model, epochs=12, batch_size=16, precision="float32")
    record = Trainer(model, config).fit(load("train/good", 100))
    assert record.validation_scores[-1] < record.validation_scores[0]
    with torch.inference_mode():
        normal, broken = (
            model(load(f"test/{kind}", 20).to(record.device) / 255).score
            for kind in ("good", "broken_large")
        )
    auroc = (broken[:, None] > normal[None]).float().mean()
    assert auroc >= 0.9
