"""What a training leaves in TensorBoard, MLflow and Weights & Biases, by the real packages.

Nothing is sent anywhere: each writes to a folder.
"""

import inspect

import numpy as np
import pytest

from fastad import Detector, integrations
from fastad.training import EpochProgress

TRACKERS = (integrations.TensorBoard, integrations.MLflow, integrations.WeightsAndBiases)


@pytest.fixture(scope="module")
def train():
    """Train for two epochs with a callback; returns what the epochs said."""
    good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)

    def run(callback):
        said = []

        def both(event):
            callback(event)
            if metrics := integrations.epoch_metrics(event):
                said.append(metrics)

        detector = Detector(
            "stpm",
            image_size=32,
            layers=("layer1",),
            teacher_weights="embedded",
            false_positive_rate=0.2,
        )
        detector.fit(good, epochs=2, self_check=False, progress=both)
        assert len(said) == 2
        return said

    return run


def test_metrics_of_an_epoch():
    step = EpochProgress(1, 2, 3, 4, 50.0, 9.0)
    assert integrations.epoch_metrics(step) == {}
    losses = {"a": 2.0, "b": float("nan")}
    epoch = EpochProgress(1, 2, 4, 4, 50.0, 9.0, losses, 0.25, stage="pairs", quality=0.75)
    assert integrations.epoch_metrics(epoch) == {
        "pairs/a": 2.0,
        "pairs/validation_score": 0.25,
        "pairs/quality": 0.75,
        "pairs/images_per_second": 50.0,
    }


def test_tensorboard(train, tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    said = train(integrations.TensorBoard(tmp_path))
    read = EventAccumulator(str(tmp_path)).Reload()
    assert set(read.Tags()["scalars"]) == set(said[0])
    for name in said[0]:
        written = [(event.step, event.value) for event in read.Scalars(name)]
        assert [step for step, _ in written] == [1, 2]
        assert [value for _, value in written] == pytest.approx([m[name] for m in said])


@pytest.mark.parametrize("named", [True, False])
def test_mlflow(train, tmp_path, named, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow or mlflow-skinny")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(tmp_path.as_uri())
    experiment = mlflow.set_experiment("bottle").experiment_id
    client = mlflow.MlflowClient()
    run_id = client.create_run(experiment).info.run_id if named else None
    tracker = integrations.MLflow(run_id)
    try:
        said = train(tracker)
    finally:
        mlflow.end_run()
    assert run_id in (None, tracker.run_id)
    for name in said[0]:
        history = client.get_metric_history(tracker.run_id, name)
        assert [point.step for point in history] == [1, 2]
        assert [point.value for point in history] == pytest.approx([m[name] for m in said])


def test_weights_and_biases(train, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="needs wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(mode="offline", dir=tmp_path, project="bottle")
    said = train(integrations.WeightsAndBiases(run))
    summary = {name: run.summary[name] for name in said[1]}
    epoch = run.summary["training/epoch"]
    run.finish()
    assert (summary, epoch) == (pytest.approx(said[1]), 2)
    assert [*tmp_path.glob("wandb/offline-run-*/*.wandb")]


def test_weights_and_biases_starts_a_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracker = integrations.WeightsAndBiases(mode="disabled", dir=tmp_path)
    tracker(EpochProgress(1, 2, 4, 4, 50.0, 9.0, {"distillation": 2.0}, 0.25))
    tracker.run.finish()


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_is_short(tracker):
    assert len(inspect.getsource(tracker).splitlines()) < 30
    assert "detector.fit(" in tracker.__doc__
