"""The one training loop, for every model."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

import fastad
from fastad.models import AnomalyModel
from fastad.training.batches import load_batch, shuffled_batches, split_indices
from fastad.training.config import TrainingConfig
from fastad.training.features import TeacherFeatures, is_fixed
from fastad.training.precision import resolve_device, resolve_precision
from fastad.training.progress import EpochProgress
from fastad.training.record import TrainingRecord


class TrainingDivergedError(RuntimeError):
    """A loss or a validation score is no longer a finite number."""


class Trainer:
    """Trains a model's students on normal images and keeps the best epoch.

    A share of the images is held out; after every epoch the model's own `validation_score` is
    averaged over them, and at the end the weights of the epoch with the lowest mean are restored.
    The same seed, machine and number of threads give the same bytes.

    Args:
        model: trained in place; afterwards in eval mode, on the device that was trained on.
        config: None for the model's own defaults.
        progress: called after every step and every epoch; None for a silent training, a
            `ConsoleProgress` for a terminal or a log.

    Raises:
        ValueError: the device or precision is not to be had.
    """

    def __init__(
        self,
        model: AnomalyModel,
        config: TrainingConfig | None = None,
        progress: Callable[[EpochProgress], None] | None = None,
    ):
        self.model = model
        self.config = TrainingConfig.for_model(model) if config is None else config
        self.progress = progress
        self.device = resolve_device(self.config.device)
        self.dtype = resolve_precision(self.config.precision, self.device)
        self._memory_format = (
            torch.channels_last if self.config.channels_last else torch.contiguous_format
        )
        self._features: TeacherFeatures | None = None

    def fit(self, dataset: Dataset | Tensor) -> TrainingRecord:
        """Train on a map-style data set of normal images, or a tensor (N, 3, H, W) of them.

        An item is an image (3, H, W), uint8 or float in [0, 1], or a dict with one as "image". All
        images have one size. What frozen teachers say of a tensor's images, or of those of a data
        set whose ``is_fixed`` is True, is computed once and kept. A KeyboardInterrupt ends the
        training early, keeps the best epoch so far and is said in the record.

        Raises:
            ValueError: no images, or images of several sizes.
            TypeError: items that are no images, or a model whose loss is no dict of scalars.
            TrainingDivergedError: a loss or score became NaN or infinite; the model keeps the best
                epoch before it, if there was one.
        """
        if len(dataset) == 0:
            raise ValueError("dataset: there are no images to train on")
        config = self.config
        train, held_out = split_indices(len(dataset), config.validation_fraction, config.seed)
        record = TrainingRecord(
            model=self.model.name,
            config=dataclasses.asdict(config),
            seed=config.seed,
            device=str(self.device),
            precision=str(self.dtype).removeprefix("torch."),
            versions={"torch": torch.__version__, "fastad": fastad.__version__},
            threads=torch.get_num_threads(),
            n_train=len(train),
            n_validation=len(held_out),
            held_out=held_out.tolist(),
        )
        if len(held_out) == 0:
            reason = (
                "the data set has one image" if config.validation_fraction else "none asked for"
            )
            record.notes.append(
                f"no images held out ({reason}): the epoch was chosen by the training images"
            )
            held_out = train

        devices = [self.device] if self.device.type == "cuda" else []
        cudnn = torch.backends.cudnn.flags(
            enabled=True, benchmark=not config.deterministic, deterministic=config.deterministic
        )
        with torch.random.fork_rng(devices), cudnn:
            torch.manual_seed(config.seed)  # for random layers
            self._run(dataset, train, held_out, record)
        return record

    def _run(
        self, dataset: Dataset | Tensor, train: Tensor, held_out: Tensor, record: TrainingRecord
    ) -> None:
        config, model = self.config, self.model
        model.to(self.device)
        if config.channels_last:
            model.to(memory_format=torch.channels_last)
        optimizer = _optimizer(config, model)
        # Half precision loses small gradients below its range; scaling keeps them in it.
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        shuffle = torch.Generator().manual_seed(config.seed)
        best, best_score, start = None, math.inf, time.monotonic()
        try:
            self._features = self._teacher_features(dataset)
            for epoch in range(1, config.epochs + 1):
                clock = _Clock(start, epoch, config.epochs)
                batches = shuffled_batches(train, config.batch_size, shuffle)
                losses = self._train_epoch(dataset, batches, optimizer, scaler, clock)
                score = self._validate(dataset, held_out, epoch)
                is_best = score < best_score
                if is_best:
                    # Only what was trained: the teacher does not change.
                    best_score = score
                    best = {k: v.to("cpu", copy=True) for k, v in model.trained_state().items()}
                    record.best_epoch = epoch
                record.losses.append(losses)
                record.validation_scores.append(score)
                record.epochs = epoch
                self._report(clock, len(batches), len(batches), losses, score, is_best)
        except KeyboardInterrupt:
            record.interrupted = True
        finally:
            if best is not None:
                model.load_state_dict(best, strict=False)
            model.eval()
            record.seconds = time.monotonic() - start

    def _teacher_features(self, dataset: Dataset | Tensor) -> TeacherFeatures | None:
        max_bytes = self.config.feature_cache_gib * 2**30
        if max_bytes == 0 or not is_fixed(dataset):
            return None

        def load(indices: Tensor) -> dict[str, Any]:
            return load_batch(dataset, indices, self.device, self._memory_format)

        with self._autocast():
            return TeacherFeatures(
                self.model, load, len(dataset), self.config.batch_size, max_bytes
            )

    def _load(self, dataset: Dataset | Tensor, indices: Tensor) -> dict[str, Any]:
        batch = load_batch(dataset, indices, self.device, self._memory_format)
        return batch if self._features is None else batch | self._features.of(indices)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32)

    def _train_epoch(
        self,
        dataset: Dataset | Tensor,
        batches: list[Tensor],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        clock: "_Clock",
    ) -> dict[str, float]:
        """Mean of each loss over the images."""
        self.model.train()
        sums: dict[str, Tensor] = {}
        last_total = None
        for step, indices in enumerate(batches, start=1):
            batch = self._load(dataset, indices)
            with self._autocast():
                losses = _checked(self.model.loss(batch))
            total = sum(losses.values())
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(total).backward()
            scaler.step(optimizer)
            scaler.update()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach().double() * len(indices)
            # One step late, so that a CUDA device always has the next step queued.
            if last_total is not None:
                self._require_finite(last_total, "loss", clock.epoch, step - 1)
            last_total = total.detach()
            clock.images += len(indices)
            self._report(clock, step, len(batches))
        self._require_finite(last_total, "loss", clock.epoch, len(batches))
        return {name: float(value) / clock.images for name, value in sums.items()}

    @torch.inference_mode()
    def _validate(self, dataset: Dataset | Tensor, held_out: Tensor, epoch: int) -> float:
        """Mean of the model's validation score over the held-out images."""
        self.model.eval()
        total = torch.zeros((), dtype=torch.float64)
        for indices in held_out.split(self.config.batch_size):
            batch = self._load(dataset, indices)
            with self._autocast():
                scores = self.model.validation_score(batch)
            if scores.shape != (len(indices),):
                raise TypeError(
                    f"validation_score of {self.model.name} must return shape ({len(indices)},); "
                    f"got {tuple(scores.shape)}"
                )
            total += scores.double().sum().cpu()
        self._require_finite(total, "validation score", epoch)
        return float(total) / len(held_out)

    def _require_finite(
        self, value: Tensor, what: str, epoch: int, step: int | None = None
    ) -> None:
        if math.isfinite(value.item()):
            return
        where = f"epoch {epoch}" if step is None else f"epoch {epoch}, step {step}"
        cures = [f"a lower learning rate (--set learning_rate={self.config.learning_rate / 4:g})"]
        if self.dtype != torch.float32:
            cures.append("--precision float32")
        raise TrainingDivergedError(
            f"the {what} became {value.item()} in {where}; try {' or '.join(cures)}"
        )

    def _report(
        self,
        clock: "_Clock",
        step: int,
        steps: int,
        losses: dict[str, float] | None = None,
        score: float | None = None,
        is_best: bool = False,
    ) -> None:
        if self.progress is None:
            return
        rate, left = clock.read(step / steps)
        epoch, epochs = clock.epoch, clock.epochs
        self.progress(EpochProgress(epoch, epochs, step, steps, rate, left, losses, score, is_best))


class _Clock:
    """Rate of an epoch and time left of the training, which began at ``start``."""

    def __init__(self, start: float, epoch: int, epochs: int):
        self.start, self.epoch, self.epochs = start, epoch, epochs
        self.epoch_start, self.images = time.monotonic(), 0
        self._rate, self._counted = 0.0, 0

    def read(self, epoch_done: float) -> tuple[float, float]:
        now = time.monotonic()
        if self.images != self._counted:  # validation does not count
            self._counted = self.images
            self._rate = self.images / max(now - self.epoch_start, 1e-9)
        done = (self.epoch - 1 + epoch_done) / self.epochs
        return self._rate, (now - self.start) * (1 - done) / done


def _optimizer(config: TrainingConfig, model: AnomalyModel) -> torch.optim.Optimizer:
    groups = model.parameter_groups()
    if not any(group["params"] for group in groups):
        raise ValueError(f"model {model.name} has no parameters to train")
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=config.momentum, weight_decay=decay)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=rate, betas=config.betas, weight_decay=decay)


def _checked(losses: object) -> Mapping[str, Tensor]:
    is_dict = isinstance(losses, Mapping) and len(losses) > 0
    if is_dict and all(isinstance(v, Tensor) and v.dim() == 0 for v in losses.values()):
        return losses
    raise TypeError(f"a model's loss must be a dict of scalar tensors; got {losses!r:.200}")
