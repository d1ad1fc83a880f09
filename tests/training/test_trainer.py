"""The training loop: what it learns, keeps and reports."""

import dataclasses
import json

import pytest
import torch
from torch import nn
from toy import Toy, options

from fastad import models
from fastad.training import Trainer, TrainingConfig


def test_training_learns_and_reports(images):
    events = []
    model = Toy()
    record = Trainer(model, options(epochs=30), progress=events.append).fit(images)
    assert record.validation_scores[-1] < 0.5 * record.validation_scores[0]
    assert record.losses[-1]["squared"] < 0.5 * record.losses[0]["squared"]
    assert set(record.losses[0]) == {"squared", "absolute"}
    assert (record.n_train, record.n_validation, record.epochs) == (8, 2, 30)
    assert record.model == "toy"
    assert len(record.notes) == 1
    assert "more epochs would help" in record.notes[0]
    assert not record.interrupted
    assert not model.training
    assert json.loads(json.dumps(record.to_dict())) == record.to_dict()
    assert record.to_dict()["config"]["betas"] == [0.9, 0.999]

    steps = [e for e in events if e.validation_score is None and not e.phase]
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
    assert all(e.images_per_second > 0 for e in events if not e.phase)
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
