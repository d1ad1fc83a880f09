"""A training in TensorBoard, MLflow or Weights & Biases: a class each, given as ``progress=``.

They log at the end of each epoch. A model that trains nothing has no epochs, and logs nothing.
"""

import math
import os
from typing import Any

from fastad.training import EpochProgress


def epoch_metrics(event: EpochProgress) -> dict[str, float]:
    """Numbers of an epoch by "STAGE/NAME": losses, validation score, quality, images a second.

    Empty for an event inside an epoch. What was not measured is missing.

    Examples:
        >>> from fastad.integrations import epoch_metrics
        >>> from fastad.training import EpochProgress
        >>> event = EpochProgress(1, 9, 4, 4, 50.0, 9.0, {"loss": 2.5}, 0.25, stage="pairs")
        >>> epoch_metrics(event)
        {'pairs/loss': 2.5, 'pairs/validation_score': 0.25, 'pairs/images_per_second': 50.0}
    """
    if event.validation_score is None and event.losses is None:
        return {}
    found = {
        **(event.losses or {}),
        "validation_score": event.validation_score,
        "quality": event.quality,
        "images_per_second": event.images_per_second,
    }
    return {
        f"{event.stage}/{name}": float(value)
        for name, value in found.items()
        if value is not None and math.isfinite(value)
    }


class TensorBoard:
    """Writes a training to a folder that ``tensorboard --logdir`` shows.

    Needs ``pip install tensorboard``.

    Args:
        folder: of the event file.

    Examples:
        ``detector.fit("bottle", progress=TensorBoard("runs/bottle"))``
    """

    def __init__(self, folder: str | os.PathLike[str]):
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(folder)

    def __call__(self, event: EpochProgress) -> None:
        metrics = epoch_metrics(event)
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, event.epoch)
        if metrics:
            self.writer.flush()


class MLflow:
    """Logs a training to a run of MLflow, its active one if none is named.

    Needs ``pip install mlflow`` or ``mlflow-skinny``.

    Args:
        run_id: of the run. None for the active one, which MLflow starts where there is none.

    Examples:
        ``detector.fit("bottle", progress=MLflow())``
    """

    def __init__(self, run_id: str | None = None):
        import mlflow

        active = mlflow.active_run()
        if run_id is None:
            run_id = (active or mlflow.start_run()).info.run_id
        self.run_id, self.client = run_id, mlflow.MlflowClient()

    def __call__(self, event: EpochProgress) -> None:
        for name, value in epoch_metrics(event).items():
            self.client.log_metric(self.run_id, name, value, step=event.epoch)


class WeightsAndBiases:
    """Logs a training to a run of Weights & Biases.

    Needs ``pip install wandb``. ``mode="offline"`` needs no account.

    Args:
        run: what ``wandb.init`` gave. None starts one.
        **options: of ``wandb.init``, for a new run.

    Examples:
        ``detector.fit("bottle", progress=WeightsAndBiases(project="bottle"))``
    """

    def __init__(self, run: Any = None, **options: Any):
        import wandb

        self.run = wandb.init(**options) if run is None else run

    def __call__(self, event: EpochProgress) -> None:
        if metrics := epoch_metrics(event):
            self.run.log(metrics | {f"{event.stage}/epoch": event.epoch})
