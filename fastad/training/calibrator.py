"""All of a training but the learning: a trained model fitted to the images of one product."""

from typing import Any

from fastad.data.folder import Images
from fastad.models import Stage
from fastad.training.record import TrainingRecord
from fastad.training.stages import StagePlan
from fastad.training.trainer import Trainer

CALIBRATION = Stage(steps=(), is_static=True)


class Calibrator(Trainer):
    """Takes from normal images what a `Trainer` takes from them after the epochs.

    That is position means, subspace, memory and composition of the images that are not held out,
    and how maps are scaled and pooled by synthesised defects on those that are. The networks stay
    as they are, and so does what they were prepared with, such as scales of the teacher's channels.

    The model is one of one stage. The arguments are those of `Trainer`.

    Examples:
        >>> import torch
        >>> from fastad import models
        >>> from fastad.training import Calibrator, Trainer, TrainingConfig
        >>> model = models.build("stpm", teacher_weights="embedded")
        >>> config = TrainingConfig.for_model(model, epochs=1)
        >>> images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
        >>> _ = Trainer(model, config).fit(images)
        >>> student = model.student.conv1.weight.clone()
        >>> record = Calibrator(model, config).fit(images[:20])
        >>> record.epochs, record.n_train, bool((model.student.conv1.weight == student).all())
        (0, 16, True)
    """

    def fit(self, dataset: Images, **options: Any) -> TrainingRecord:
        """As `Trainer.fit`, without epochs, and so without a checkpoint."""
        # Of this instance, while it lasts: plans, phases and record follow from them.
        self.model.stages = (CALIBRATION,)  # type: ignore[misc]
        try:
            return super().fit(dataset, **options)
        finally:
            del self.model.stages

    def _prepare(self, plan: StagePlan) -> None:
        """Leave what the networks were trained with."""
        self._agenda.enter(plan.stage.name)
