"""Models that train nothing: one look at the images, no epochs, nothing to resume."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import fastad
from fastad.models import AnomalyModel, Prediction, Stage
from fastad.training import ConsoleProgress, Trainer, TrainingConfig, TrainingRecord

IMAGES = torch.randint(0, 256, (10, 3, 16, 16), dtype=torch.uint8)


@dataclass
class Nothing:
    """No options."""


class Mean(AnomalyModel):
    """The distance from the mean of the normal images, in units of the largest one among them."""

    name = "mean"
    Config = Nothing
    stages = (Stage(steps=()),)

    def __init__(self):
        super().__init__(Nothing())
        self.teacher = nn.Identity()
        self.register_buffer("level", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.seen = []

    def prepare_stage(self, train, unseen):
        assert not self.training
        assert not torch.is_grad_enabled()
        batches = [batch["image"] for batch in train()]
        self.seen = [len(batch) for batch in batches]
        self.level.copy_(torch.cat(batches).mean())

    def finish_stage(self, train):
        self.scale.copy_(torch.stack([self(b["image"]).score.max() for b in train()]).max())

    def forward(self, images):
        anomaly_map = (images.mean(dim=1) - self.level).abs() / self.scale
        return Prediction(anomaly_map.amax((1, 2)), anomaly_map)


@pytest.fixture
def model():
    return Mean()


def options(**changes):
    return TrainingConfig.for_model(Mean, device="cpu", **{"batch_size": 3, **changes})


def fit(model, config=None, progress=None, **arguments):
    return Trainer(model, config or options(), progress).fit(IMAGES, **arguments)


def test_a_look_at_the_training_images_is_all(model):
    record = fit(model)
    assert model.seen == [3, 3, 2]
    train = [i for i in range(10) if i not in record.held_out]
    torch.testing.assert_close(model.level, IMAGES[train].float().mean() / 255)
    assert model.scale != 1
    assert (record.n_train, record.n_validation) == (8, 2)
    assert (record.epochs, record.best_epoch, record.losses, record.notes) == (0, None, [], [])
    assert not record.interrupted
    assert [(s.name, s.n_train, s.config) for s in record.stages] == [
        ("training", 8, {"batch_size": 3})
    ]
    assert 0 < record.stages[0].seconds <= record.seconds
    assert "epochs" not in record.config
    assert TrainingRecord.from_dict(record.to_dict()) == record
    assert model.stage is None


def test_it_is_exact_unless_asked_otherwise(model):
    assert fit(model, options(precision="auto")).precision == "float32"
    assert fit(model, options(precision="bfloat16")).precision == "bfloat16"


def test_without_held_out_images_the_note_names_the_threshold(model):
    record = fit(model, options(validation_fraction=0.0))
    assert record.notes == ["no images held out (none asked for): there is no threshold"]


def test_every_batch_is_reported(model):
    events = []
    fit(model, progress=events.append)
    assert [(e.epoch, e.epochs, e.step, e.steps) for e in events] == [
        (0, 0, 1, 3),
        (0, 0, 2, 3),
        (0, 0, 3, 3),
    ]
    assert all(e.images_per_second > 0 for e in events)
    assert events[0].seconds_left > events[-1].seconds_left == 0


def test_a_log_gets_one_line(model):
    stream = io.StringIO()
    with ConsoleProgress(stream) as progress:
        fit(model, progress=progress)
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("batch 3/3  ")
    assert line.endswith(" images/s")


def test_a_terminal_gets_a_bar_that_goes_away(model):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    progress = ConsoleProgress(stream)
    fit(model, progress=progress)
    assert "batch 3/3" in stream.getvalue()
    assert progress._bar is None


@pytest.mark.parametrize(
    "given",
    [
        {"epochs": 1},
        {"optimizer": "sgd"},
        {"learning_rate": 0.1},
        {"schedule": "constant"},
        {"momentum": 0.5},
        {"betas": (0.5, 0.9)},
        {"weight_decay": 0.0},
    ],
)
def test_options_of_epochs_are_refused_by_name(given):
    (name,) = given
    with pytest.raises(ValueError, match=f"^{name}: mean trains nothing, it looks at every image"):
        options(**given)


def test_options_of_epochs_of_its_stage_are_refused():
    with pytest.raises(ValueError, match="stages: 'training' has no use for epochs"):
        options(stages={"training": {"epochs": 3}})
    assert options(stages={"training": {"batch_size": 2}}).stages


def test_there_is_nothing_to_resume_and_no_checkpoint(model, tmp_path):
    checkpoint = tmp_path / "c"
    fit(model, checkpoint=checkpoint)
    assert not checkpoint.exists()
    with pytest.raises(ValueError, match="resume: mean trains nothing, there is nothing to go on"):
        fit(model, checkpoint=checkpoint, resume=True)


def test_ctrl_c_while_images_are_read(model):
    def stop(event):
        raise KeyboardInterrupt

    record = fit(model, progress=stop)
    assert record.interrupted
    assert record.stages == []


@pytest.mark.parametrize("name", ["patchcore", "subspace"])
def test_ten_images_make_a_detector(name, tmp_path):
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(100, 156, (10, 40, 48, 3), dtype=np.uint8)
    detector = fastad.Detector(
        name, image_size=(40, 48), teacher_weights="embedded", device="cpu", seed=1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ten images are few
        detector.set_params(false_positive_rate=0.4).fit(images)
    assert len(detector.calibration_scores_) == 2
    defect = images[:1].copy()
    defect[:, 10:30, 10:30] = 0
    assert detector.predict(defect).is_anomalous.all()
    path = tmp_path / "d.fastad"
    detector.save(path)
    loaded = fastad.load(path, device="cpu")
    found, expected = loaded.predict(defect), detector.predict(defect)
    assert np.array_equal(found.anomaly_map, expected.anomaly_map)
    assert found.score == expected.score
    assert loaded.training_record_["epochs"] == 0
    # The same again: sample and coreset come from the seed.
    again = fastad.Detector(**detector.get_params())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again.fit(images)
    assert np.array_equal(again.calibration_scores_, detector.calibration_scores_)


def test_a_detector_refuses_epochs_before_it_reads(tmp_path):
    with pytest.raises(ValueError, match="epochs: patchcore trains nothing"):
        fastad.Detector("patchcore", teacher_weights=None).fit(tmp_path / "nowhere", epochs=2)
