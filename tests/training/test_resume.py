"""A training that was interrupted and resumed is the same, byte by byte, as one that was not."""

import dataclasses

import pytest
import torch
from toy import RandomToy, Toy, options

from fastad import models
from fastad.training import CheckpointError, Trainer, TrainingConfig, TrainingDivergedError
from fastad.training.checkpoint import load_checkpoint
from fastad.training.stages import plan_stages
from fastad.training.state import TrainingState

pytestmark = pytest.mark.filterwarnings("ignore:this CPU has no")


def stop_at(epoch, step=None):
    """Progress that interrupts after a step, or at the end of an epoch."""

    def stop(event):
        at_end = event.validation_score is not None
        if event.epoch == epoch and (at_end if step is None else event.step == step):
            raise KeyboardInterrupt

    return stop


def fit(images, path=None, config=None, model=None, progress=None, **how):
    model = RandomToy() if model is None else model
    torch.manual_seed(hash(str(how)) % 1000)  # the caller's random state must not matter
    trainer = Trainer(model, options(epochs=6) if config is None else config, progress)
    return model, trainer.fit(images, checkpoint=path, **how)


def assert_same(one, other):
    (model, record), (model_again, record_again) = one, other
    for (name, value), again in zip(
        model.state_dict().items(), model_again.state_dict().values(), strict=True
    ):
        assert torch.equal(value, again), name
    assert facts(record) == facts(record_again)


def facts(record):
    """A record without the times, which differ."""
    content = record.to_dict() | {"seconds": 0}
    return content | {"stages": [stage | {"seconds": 0} for stage in content["stages"]]}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_interrupted_in_an_epoch_and_at_the_end_of_one(
    images, tmp_path, optimizer, precision, channels_last
):
    path = tmp_path / "a.ckpt"
    config = options(
        epochs=6, optimizer=optimizer, precision=precision, channels_last=channels_last
    )
    whole = fit(images, config=config)
    first = fit(images, path, config, progress=stop_at(2, step=2))[1]
    assert (first.interrupted, first.epochs) == (True, 1)
    second = fit(images, path, config, progress=stop_at(4), resume=True)[1]
    assert (second.interrupted, second.epochs) == (True, 4)
    assert load_checkpoint(path).record.epochs == 4  # an epoch that was reported is kept
    kept = load_checkpoint(path).record
    last = fit(images, path, config, resume=True)
    assert_same(whole, last)
    assert last[1].seconds > kept.seconds > 0
    assert last[1].stages[0].seconds > kept.stages[0].seconds > 0


def test_the_scale_of_half_precision_gradients_is_kept(images, tmp_path):
    class Loud(RandomToy):  # its gradients overflow until the scale is lower
        def loss(self, batch):
            return {name: 1000 * value for name, value in super().loss(batch).items()}

    path = tmp_path / "a.ckpt"
    config = options(epochs=8, precision="float16")
    fit(images, path, config, Loud(), stop_at(6))
    assert load_checkpoint(path).steps["step"].scaler["scale"] < 65536
    assert_same(
        fit(images, config=config, model=Loud()), fit(images, path, config, Loud(), resume=True)
    )


def test_the_optimizers_state_is_laid_out_as_the_parameters(images, tmp_path):
    path = tmp_path / "a.ckpt"
    model = Toy().to(memory_format=torch.channels_last)
    fit(images, path, model=Toy())
    found = load_checkpoint(path)
    [plan] = plan_stages(model, options(), images, torch.arange(8), torch.arange(8, 10))
    state = TrainingState(model, torch.device("cpu"), torch.float32, found.record)
    state.restore(plan, found, path)
    moments = state.steps[0].optimizer.state[model.student.conv.weight]["exp_avg"]
    assert moments.stride() == model.student.conv.weight.stride() != (27, 9, 3, 1)


@pytest.mark.parametrize("gib", [4.0, 0.0])
def test_stpm_with_and_without_kept_features(tmp_path, gib):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (10, 3, 32, 32), dtype=torch.uint8, generator=generator)

    def run(path=None, progress=None, resume=False):
        torch.manual_seed(0)
        model = models.build("stpm", teacher_weights=None, layers=("layer1", "layer2"))
        config = TrainingConfig.for_model(
            model,
            epochs=4,
            batch_size=3,
            learning_rate=0.05,
            device="cpu",
            precision="float32",
            feature_cache_gib=gib,
        )
        trainer = Trainer(model, config, progress)
        return model, trainer.fit(images, checkpoint=path, resume=resume)

    path = tmp_path / "a.ckpt"
    run(path, stop_at(3, step=1))
    assert_same(run(), run(path, resume=True))


def test_more_epochs_are_added_to_a_finished_training(images, tmp_path):
    path = tmp_path / "a.ckpt"
    fit(images, path, options(epochs=2))
    assert_same(fit(images), fit(images, path, options(epochs=6), resume=True))


def test_the_best_epoch_before_the_interruption_is_kept(images, tmp_path):
    path = tmp_path / "a.ckpt"
    config = options(epochs=4)
    model, _ = fit(images, path, config, Toy(scores=[2.0, 1.0, 3.0]), stop_at(3))
    # What the second part sees starts from its own list of scores.
    again, record = fit(images, path, config, Toy(scores=[4.0]), resume=True)
    assert record.validation_scores == [2.0, 1.0, 3.0, 4.0]
    assert record.best_epoch == 2
    for name, value in again.student.state_dict().items():
        assert torch.equal(value, model.snapshots[1][name]), name


def test_a_finished_training_returns_at_once(images, tmp_path):
    path = tmp_path / "a.ckpt"
    whole = fit(images, path)
    before = path.read_bytes()
    events = []
    again = fit(images, path, progress=events.append, resume=True)
    assert_same(whole, again)
    assert events == []
    assert again[0].seen == []
    assert not again[0].training
    assert path.read_bytes() == before


def test_a_training_that_diverged_leaves_the_last_good_epoch(images, tmp_path):
    class Diverging(Toy):
        def loss(self, batch):
            losses = super().loss(batch)
            if len(self.seen) == 8:  # three steps an epoch
                losses["squared"] = losses["squared"] * torch.nan
            return losses

    path = tmp_path / "a.ckpt"
    with pytest.raises(TrainingDivergedError, match="in epoch 3, step 2"):
        fit(images, path, model=Diverging())
    found = load_checkpoint(path)
    assert found.record.epochs == 2
    assert all(value.isfinite().all() for value in found.model.values())
    assert_same(fit(images, model=Toy()), fit(images, path, model=Toy(), resume=True))


def test_resuming_starts_over_without_being_asked_to(images, tmp_path):
    path = tmp_path / "a.ckpt"
    fit(images, path, options(epochs=2, seed=5))
    model, record = fit(images, path)
    assert_same(fit(images), (model, record))
    assert load_checkpoint(path).record.seed == 0


@dataclasses.dataclass
class Layered:
    layers: tuple[str, ...] = ("a",)
    path: object = None


def changed_teacher():
    model = RandomToy()
    with torch.no_grad():
        model.teacher.backbone.conv.bias += 1
    return model


def other_model():
    class Other(RandomToy):
        name = "other"

    return Other()


def other_options():
    model = RandomToy()
    model.config = Layered(layers=("b", "c"))
    return model


def wider_student():
    model = RandomToy()
    model.student.register_buffer("extra", torch.zeros(2))
    return model


def test_fewer_epochs_than_are_done_are_refused(images, tmp_path):
    fit(images, tmp_path / "a.ckpt", options(epochs=2))
    with pytest.raises(CheckpointError, match=r"a\.ckpt has 2 epochs done, more than the 1 asked"):
        fit(images, tmp_path / "a.ckpt", options(epochs=1), resume=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": {"learning_rate": 0.02}}, r"learning_rate 0\.01 in the file, 0\.02 now"),
        (
            {"config": {"betas": (0.5, 0.9)}},
            r"betas \[0\.9, 0\.999\] in the file, \[0\.5",
        ),
        (
            {"config": {"seed": 1, "batch_size": 2}},
            r"held-out images differ; training option batch_size 3 in the file, 2 now; .*seed 0 in",
        ),
        ({"held_out": [1, 2]}, r"held-out images differ"),
        ({"model": other_model}, 'model "toy" in the file, "other" now'),
        ({"model": other_options}, r'option layers null in the file, \["b", "c"\] now'),
        ({"model": changed_teacher}, "untrained weights differ"),
        ({"model": wider_student}, r"student\.extra has shape None in the file, \(2,\) now"),
        ({"images": lambda x: x[:9]}, "number of images 10 in the file, 9 now"),
        ({"images": lambda x: x[..., :6]}, r"image shape \[3, 8, 8\] in the file, \[3, 8, 6\] now"),
        ({"images": lambda x: x.flip(0)}, "images differ$"),
    ],
)
def test_another_training_is_refused(images, tmp_path, change, said):
    path = tmp_path / "a.ckpt"
    fit(images, path, options(epochs=2))
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=rf"a\.ckpt belongs to another .*?:.*{said}"):
        fit(
            change.get("images", lambda x: x)(images),
            path,
            options(**change.get("config", {})),
            change.get("model", RandomToy)(),
            resume=True,
            held_out=change.get("held_out"),
        )
    assert path.read_bytes() == before


def test_a_data_set_is_known_by_its_fingerprint(images, tmp_path):
    class Fingerprinted(list):
        fingerprint = "first"

    path = tmp_path / "a.ckpt"
    dataset = Fingerprinted(images)
    fit(dataset, path, options(epochs=2))
    assert fit(dataset, path, resume=True)[1].epochs == 6
    dataset.fingerprint = "second"
    with pytest.raises(CheckpointError, match="images differ"):
        fit(dataset, path, resume=True)


def test_what_changes_the_rounding_alone_is_noted(images, tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    fit(images, path, options(epochs=2))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    config = options(epochs=3, precision="bfloat16", feature_cache_gib=1.0, workers=3)
    record = fit(images, path, config, resume=True)[1]
    notes = [note for note in record.notes if note.startswith("resumed after epoch 2 with ")]
    for note, words in zip(
        notes,
        ("precision bfloat16 instead of float32", "threads 99 instead of", "feature_cache_gib 1.0"),
        strict=True,
    ):
        assert words in note
    assert record.precision == "bfloat16"
    # Those notes stay, and nothing has changed since.
    config.epochs = 4
    record = fit(images, path, config, resume=True)[1]
    assert [note for note in record.notes if note.startswith("resumed")] == notes
