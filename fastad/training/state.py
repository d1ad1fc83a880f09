"""Everything that changes while a model is trained."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastad.models import AnomalyModel, Step
from fastad.training.checkpoint import Checkpoint, CheckpointError, StepState
from fastad.training.config import STAGE_OPTIONS, STEP_OPTIONS, TrainingConfig
from fastad.training.record import StageRecord, TrainingRecord
from fastad.training.stages import StagePlan


@dataclass(frozen=True)
class RunningStep:
    """One of the steps of a running stage: what it trains, and by what.

    Attributes:
        step: of the model.
        config: its options.
        optimizer, scaler: of its parameters and their gradients.
    """

    step: Step
    config: TrainingConfig
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    @property
    def parameters(self) -> list[Tensor]:
        """All that the step changes."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]


class TrainingState:
    """Model, optimizers, generators, the best epoch and the record of a running training.

    Args:
        model: on the device, in the memory format, that it is trained in.
        dtype: of the convolutions.
        record: without stages; filled by the training.

    Attributes:
        stage: what the running stage did; part of ``record`` from the end of its first epoch.
        steps, shuffle: of the running stage; the latter draws the order of the images.
    """

    steps: list[RunningStep]
    shuffle: torch.Generator
    stage: StageRecord

    def __init__(
        self,
        model: AnomalyModel,
        device: torch.device,
        dtype: torch.dtype,
        record: TrainingRecord,
    ):
        self.model, self.record, self.device, self.dtype = model, record, device, dtype
        # Before the first epoch of a stage, what the stage before it came to.
        self._best: dict[str, Tensor] | None = None

    def begin(self, plan: StagePlan) -> None:
        """Begin a stage; the model has entered it.

        Raises:
            ValueError: the model has nothing to train.
        """
        config, half = plan.config, self.dtype == torch.float16
        self.steps = [
            RunningStep(
                step,
                own,
                _optimizer(own, self.model, step),
                # Half precision loses small gradients below its range; scaling keeps them in it.
                torch.amp.GradScaler(self.device.type, enabled=half),
            )
            for step, own in zip(plan.stage.steps, plan.steps, strict=True)
        ]
        for step in self.steps:
            for group in step.optimizer.param_groups:
                group["initial_lr"] = group["lr"]  # which a schedule changes
        self.shuffle = torch.Generator().manual_seed(plan.seed)
        names = STAGE_OPTIONS if plan.stage.trains else ("batch_size",)
        options = {name: getattr(config, name) for name in names}
        if len(self.steps) > 1:
            options["steps"] = {
                step.step.name: {name: getattr(step.config, name) for name in STEP_OPTIONS}
                for step in self.steps
            }
        self.stage = StageRecord(plan.stage.name, plan.train_items.shape[-1], options)

    def end_epoch(
        self, losses: dict[str, float], score: float, quality: float | None, seconds: float
    ) -> bool:
        """Enter an epoch in the record; keep its weights and return True where it is the best."""
        if self.stage.epochs == 0:
            self.record.stages.append(self.stage)
        self.stage.seconds = seconds
        is_best = self.stage.end_epoch(losses, score, quality)
        if is_best:
            self.keep()
        return is_best

    def end_without_epochs(self, seconds: float) -> None:
        """Enter a stage that trains nothing in the record."""
        self.stage.seconds = seconds
        self.record.stages.append(self.stage)

    def keep(self) -> None:
        """Take the model as it is for the best."""
        # Only what was trained: the teacher does not change.
        trained = self.model.trained_state()
        self._best = {name: value.to("cpu", copy=True) for name, value in trained.items()}

    def restore_best(self) -> None:
        """Give the model the weights of the best epoch, if there was one, and end training mode."""
        if self._best is not None:
            self.model.load_state_dict(self._best, strict=False)
        self.model.eval()

    def capture(self, identity: dict[str, Any]) -> Checkpoint:
        """The state after an epoch; tensors are not copied."""
        assert self._best is not None  # an epoch has ended
        generators = {"shuffle": self.shuffle.get_state(), "cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        return Checkpoint(
            identity=identity,
            record=self.record,
            model=self.model.trained_state(),
            best=self._best,
            steps={
                step.step.name: StepState(step.optimizer.state_dict(), step.scaler.state_dict())
                for step in self.steps
            },
            generators=generators,
        )

    def restore(self, plan: StagePlan, checkpoint: Checkpoint, path: object) -> None:
        """Go back to a captured state: the next epoch is the one that followed it.

        ``plan`` is that of the checkpoint's last stage, which the model has entered. The record
        keeps its own description of the training and takes over what has happened.

        Raises:
            CheckpointError: the checkpoint, read from ``path``, is of a model of other tensors.
            ValueError: the model has nothing to train.
        """
        self.begin(plan)
        self._require_same_tensors(checkpoint, path)
        self.model.load_state_dict(checkpoint.model, strict=False)
        self._best = checkpoint.best
        # A stage of one step has it under whatever name that had when the file was written.
        for step, then in zip(self.steps, checkpoint.steps.values(), strict=True):
            step.optimizer.load_state_dict(_like_parameters(then.optimizer, step.optimizer))
            if then.scaler and step.scaler.is_enabled():
                step.scaler.load_state_dict(then.scaler)
        self.shuffle.set_state(checkpoint.generators["shuffle"])
        torch.set_rng_state(checkpoint.generators["cpu"])
        if self.device.type == "cuda" and "cuda" in checkpoint.generators:
            torch.cuda.set_rng_state(checkpoint.generators["cuda"], self.device)
        record, past = self.record, checkpoint.record
        record.seconds, record.notes, record.stages = past.seconds, past.notes, past.stages
        record.stages[-1].config = self.stage.config
        self.stage = record.stages[-1]

    def _require_same_tensors(self, checkpoint: Checkpoint, path: object) -> None:
        own = {name: tuple(value.shape) for name, value in self.model.trained_state().items()}
        found = {name: tuple(value.shape) for name, value in checkpoint.model.items()}
        empty = {name for name, value in self.model.trained_state().items() if not value.numel()}
        for name in [*own, *found]:
            # Where there is nothing yet, the training images decide how much there will be.
            if name in found and name in empty:
                continue
            if own.get(name) != found.get(name):
                raise CheckpointError(
                    f"{path} belongs to another model: {name} has shape {found.get(name)} in the "
                    f"file, {own.get(name)} now"
                )


def _like_parameters(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state with tensors laid out in memory as its parameters are.

    As they were when it was captured: another layout takes other loops, which may round otherwise.
    """
    groups = optimizer.param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]
    entries = {
        index: {name: _laid_out_as(parameters[index], value) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    # JSON knows no tuples.
    options = [
        {k: tuple(v) if isinstance(own.get(k), tuple) else v for k, v in group.items()}
        for own, group in zip(groups, state["param_groups"], strict=True)
    ]
    return {"state": entries, "param_groups": options}


def _laid_out_as(parameter: Tensor, value: Any) -> Any:
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _optimizer(config: TrainingConfig, model: AnomalyModel, step: Step) -> torch.optim.Optimizer:
    groups = model.step_parameter_groups(step)
    if not any(group["params"] for group in groups):
        stage = model.stage
        assert stage is not None  # the model has entered it
        of_stage = f" in stage {stage.name}" if len(model.stages) > 1 else ""
        of_stage += f", step {step.name}" if len(stage.steps) > 1 else ""
        raise ValueError(f"model {model.name} has no parameters to train{of_stage}")
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=config.momentum, weight_decay=decay)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=rate, betas=config.betas, weight_decay=decay)
