"""The one training loop, for every model."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

import fastad
from fastad.models import AnomalyModel
from fastad.training.batches import (
    is_fixed,
    shuffled_batches,
    split_indices,
    split_off,
    to_device,
)
from fastad.training.checkpoint import load_checkpoint, save_checkpoint
from fastad.training.config import TrainingConfig
from fastad.training.divergence import require_finite
from fastad.training.features import TeacherFeatures
from fastad.training.identity import changes, identify, require_same
from fastad.training.precision import resolve_device, resolve_precision
from fastad.training.progress import Clock, EpochProgress
from fastad.training.reader import BatchReader, resolve_workers
from fastad.training.record import TrainingRecord
from fastad.training.state import TrainingState

log = logging.getLogger("fastad")


class Trainer:
    """Trains a model's students on normal images and keeps the best epoch.

    A share of the images is held out; after every epoch the model's own `validation_score` is
    averaged over them, and at the end the weights of the epoch with the lowest mean are restored.
    The same seed, machine and number of threads give the same bytes, also after an interruption.

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
        if progress is not None and not callable(progress):
            raise TypeError(f"progress must be a function or None; got {progress!r}")
        self.model = model
        self.config = TrainingConfig.for_model(model) if config is None else config
        self.progress = progress
        self.device = resolve_device(self.config.device)
        self.dtype = resolve_precision(self.config.precision, self.device)
        self._memory_format = (
            torch.channels_last if self.config.channels_last else torch.contiguous_format
        )
        # While training: how images are read, and what teachers say of them.
        self._reader: BatchReader | None = None
        self._features: TeacherFeatures | None = None

    def fit(
        self,
        dataset: Dataset | Tensor,
        *,
        held_out: Sequence[int] | None = None,
        checkpoint: str | Path | None = None,
        resume: bool = False,
    ) -> TrainingRecord:
        """Train on a map-style data set of normal images, or a tensor (N, 3, H, W) of them.

        An item is an image (3, H, W), uint8 or float in [0, 1], or a dict with one as "image". All
        images have one size. What frozen teachers say of a tensor's images, or of those of a data
        set whose ``is_fixed`` is True, is computed once and kept. Of a data set with a string as
        ``fingerprint``, a resumed training checks that. A KeyboardInterrupt ends the training
        early, keeps the best epoch so far and is said in the record.

        Args:
            dataset: the images.
            held_out: indices of the images to hold out, instead of a random share; empty for none.
            checkpoint: a file to write after every epoch, atomically; it stays at the end.
            resume: go on from ``checkpoint``, with more epochs if the config says so. The weights
                are then the same bytes as after a training without interruption.

        Raises:
            ValueError: no images, images of several sizes, or ``held_out`` that cannot be.
            TypeError: items that are no images, or a model whose loss is no dict of scalars.
            FileNotFoundError: no checkpoint to resume, or no folder to write it to.
            CheckpointError: the checkpoint is damaged or of another training, or the file to write
                it to is there and is none.
            OSError: the checkpoint cannot be written; the one written before stays as it was.
            TrainingDivergedError: a loss or score became NaN or infinite; the model keeps the best
                epoch before it, if there was one, and the checkpoint the last good epoch.
        """
        if len(dataset) == 0:
            raise ValueError("dataset: there are no images to train on")
        if checkpoint is None and resume:
            raise ValueError("resume: name the checkpoint to resume from")
        if checkpoint is not None and not Path(checkpoint).parent.is_dir():
            raise FileNotFoundError(f"checkpoint {checkpoint}: there is no such folder")
        if checkpoint is not None and not resume and Path(checkpoint).exists():
            load_checkpoint(checkpoint)  # only a checkpoint is replaced, no file of another kind
        config = self.config
        log.debug(f"{len(dataset)} images, {torch.get_num_threads()} threads, {config}")
        if held_out is None:
            train, validation = split_indices(len(dataset), config.validation_fraction, config.seed)
        else:
            train, validation = split_off(len(dataset), held_out)
        record = TrainingRecord(
            model=self.model.name,
            config=dataclasses.asdict(config),
            seed=config.seed,
            device=str(self.device),
            precision=str(self.dtype).removeprefix("torch."),
            versions={"torch": torch.__version__, "fastad": fastad.__version__},
            threads=torch.get_num_threads(),
            n_train=len(train),
            n_validation=len(validation),
            held_out=validation.tolist(),
        )
        if len(validation) == 0:
            one = len(dataset) == 1 and config.validation_fraction > 0 and held_out is None
            reason = "the data set has one image" if one else "none asked for"
            record.notes.append(
                f"no images held out ({reason}): the epoch was chosen by the training images"
            )

        self.model.to(self.device)
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)
        state = TrainingState(self.model, config, self.device, self.dtype, record)
        devices = [self.device] if self.device.type == "cuda" else []
        cudnn = torch.backends.cudnn.flags(
            enabled=True, benchmark=not config.deterministic, deterministic=config.deterministic
        )
        with torch.random.fork_rng(devices), cudnn:
            torch.manual_seed(config.seed)  # for random layers
            save = None
            if checkpoint is not None:
                identity = identify(self.model, config, dataset, validation)
                if resume:
                    self._resume(state, checkpoint, identity)

                def save() -> None:
                    save_checkpoint(checkpoint, state.capture(identity))

            self._run(dataset, train, validation if len(validation) else train, state, save)
        if record.still_falling and not record.interrupted:
            record.notes.append(
                "the validation score was still falling at the last epoch: more epochs would help"
            )
        return record

    def _resume(self, state: TrainingState, path: str | Path, identity: dict[str, Any]) -> None:
        found = load_checkpoint(path)
        require_same(path, found.identity, identity, found.record.epochs, self.config.epochs)
        state.restore(found, path)
        state.record.notes += changes(found.record, state.record)

    def _run(
        self,
        dataset: Dataset | Tensor,
        train: Tensor,
        held_out: Tensor,
        state: TrainingState,
        save: Callable[[], None] | None,
    ) -> None:
        config, record = self.config, state.record
        first, before, start = record.epochs + 1, record.seconds, time.monotonic()
        if first > config.epochs:
            state.restore_best()
            return
        self._reader = BatchReader(dataset, resolve_workers(config.workers, dataset), config.seed)
        try:
            self._features = self._teacher_features(dataset)
            for epoch in range(first, config.epochs + 1):
                clock = Clock(start, epoch, first, config.epochs)
                batches = shuffled_batches(train, config.batch_size, state.shuffle)
                losses = self._train_epoch(batches, state, clock)
                score = self._validate(held_out, epoch)
                is_best = state.end_epoch(losses, score)
                record.seconds = before + time.monotonic() - start
                if save is not None:
                    save()
                self._report(clock, len(batches), len(batches), losses, score, is_best)
        except KeyboardInterrupt:
            record.interrupted = True
        finally:
            self._reader.close()
            self._features = None
            state.restore_best()
            record.seconds = before + time.monotonic() - start

    def _teacher_features(self, dataset: Dataset | Tensor) -> TeacherFeatures | None:
        max_bytes = self.config.feature_cache_gib * 2**30
        if max_bytes == 0 or not is_fixed(dataset):
            return None
        batches = torch.arange(len(dataset)).split(self.config.batch_size)
        loaded = self._loaded(batches, epoch=0)
        with self._autocast():
            features = TeacherFeatures(self.model, loaded, len(dataset), max_bytes)
        log.debug(f"teachers' features kept: {features.bytes / 2**20:.0f} MiB")
        return features

    def _loaded(
        self, batches: Sequence[Tensor], epoch: int
    ) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Indices and the batch of them on the device, with teachers' features that were kept."""
        for indices, batch in zip(batches, self._reader.read(batches, epoch), strict=True):
            batch = to_device(batch, self.device, self._memory_format)
            if self._features is not None:
                batch |= self._features.of(indices)
            yield indices, batch

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32)

    def _train_epoch(
        self, batches: list[Tensor], state: TrainingState, clock: Clock
    ) -> dict[str, float]:
        """Mean of each loss over the images."""
        self.model.train()
        optimizer, scaler = state.optimizer, state.scaler
        sums: dict[str, Tensor] = {}
        last_total = None
        loaded = self._loaded(batches, clock.epoch)
        for step, (indices, batch) in enumerate(loaded, start=1):
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
                self._require_finite(last_total, "loss", f"epoch {clock.epoch}, step {step - 1}")
            last_total = total.detach()
            clock.images += len(indices)
            self._report(clock, step, len(batches))
        self._require_finite(last_total, "loss", f"epoch {clock.epoch}, step {len(batches)}")
        return {name: float(value) / clock.images for name, value in sums.items()}

    @torch.inference_mode()
    def _validate(self, held_out: Tensor, epoch: int) -> float:
        """Mean of the model's validation score over the held-out images."""
        self.model.eval()
        total = torch.zeros((), dtype=torch.float64)
        batches = held_out.split(self.config.batch_size)
        # The same draws in every epoch, so that their scores can be compared.
        for indices, batch in self._loaded(batches, epoch=0):
            with self._autocast():
                scores = self.model.validation_score(batch)
            if scores.shape != (len(indices),):
                raise TypeError(
                    f"validation_score of {self.model.name} must return shape ({len(indices)},); "
                    f"got {tuple(scores.shape)}"
                )
            total += scores.double().sum().cpu()
        self._require_finite(total, "validation score", f"epoch {epoch}")
        return float(total) / len(held_out)

    def _require_finite(self, value: Tensor, what: str, where: str) -> None:
        require_finite(value, what, where, self.config.learning_rate, self.dtype)

    def _report(
        self,
        clock: Clock,
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


def _checked(losses: object) -> Mapping[str, Tensor]:
    is_dict = isinstance(losses, Mapping) and len(losses) > 0
    if is_dict and all(isinstance(v, Tensor) and v.dim() == 0 for v in losses.values()):
        return losses
    raise TypeError(f"a model's loss must be a dict of scalar tensors; got {losses!r:.200}")
