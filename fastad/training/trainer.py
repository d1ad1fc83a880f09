"""The one training loop, for every model."""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

import fastad
from fastad.data.depth import PixelRange
from fastad.data.folder import Images
from fastad.models import AnomalyModel
from fastad.models.base import Batches
from fastad.models.map_model import MapModel
from fastad.training.agenda import CHOICE, Agenda, features_of, in_words, phases_of
from fastad.training.batches import split_of
from fastad.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fastad.training.closing import close, defects_of
from fastad.training.composing import note_composition, settle
from fastad.training.config import TrainingConfig, used_options
from fastad.training.features import memory_limit
from fastad.training.identity import changes, found_again, identify
from fastad.training.judging import FastCopy, Sources
from fastad.training.loop import StageLoop
from fastad.training.map_choice import choose_by_defects, leave_plain
from fastad.training.memory import freed_memory_kept
from fastad.training.precision import resolve_device, resolve_precision
from fastad.training.progress import EpochProgress, reported
from fastad.training.record import TrainingRecord
from fastad.training.shares import Shares
from fastad.training.small_sets import step_notes
from fastad.training.source import FeatureBudget, Placement, Source
from fastad.training.stages import StagePlan, plan_stages
from fastad.training.state import TrainingState
from fastad.training.trial import KeptDefects

log = logging.getLogger("fastad")


class Trainer:
    """Trains a model's students on normal images and keeps the best epoch.

    A share of the images is held out. After each epoch the model's own `validation_score` is
    averaged over them, and where the stage can, the model tells them from synthesised defects on
    them. `fastad.training.choice` says which epoch's weights are restored at the end.

    A model with several ``stages`` is trained in one after the other, each on the best epoch of the
    one before. `fastad.training.stages` says which images they see. The same seed, machine and
    number of threads give the same bytes, also after an interruption.

    Where `torch.distributed` has a group of processes, they train together: each computes a share
    of every batch (`fastad.training.shares`). All make the same trainer and call `fit`.

    Args:
        model: trained in place. Afterwards it is in eval mode, on the device of the training.
        config: None for the model's own defaults.
        progress: called after every step and every epoch, as a `ConsoleProgress`. None for a silent
            training.
        followed_by: what the caller does after it, which the time left counts: `EXAMINATION` and
            `SELF_CHECK` of `fastad.training.agenda`.
        fast_copy: gives a copy of a model that computes the same faster, or None, as
            `fastad.engine.fast_copy.FastCopy`. It looks at the held-out images after an epoch.

    Raises:
        ValueError: the device or the precision is not available.
        TypeError: ``progress`` is no function.

    Examples:
        >>> import torch
        >>> from fastad import models
        >>> from fastad.training import Trainer, TrainingConfig
        >>> model = models.build("stpm", teacher_weights="embedded")
        >>> trainer = Trainer(model, TrainingConfig.for_model(model, epochs=2))
        >>> record = trainer.fit(torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8))
        >>> record.n_train, record.n_validation, record.epochs
        (16, 4, 2)
        >>> model.eval()(torch.rand(1, 3, 32, 32)).score.shape
        torch.Size([1])
    """

    def __init__(
        self,
        model: AnomalyModel,
        config: TrainingConfig | None = None,
        progress: Callable[[EpochProgress], None] | None = None,
        *,
        followed_by: Sequence[str] = (),
        fast_copy: FastCopy | None = None,
    ):
        if progress is not None and not callable(progress):
            raise TypeError(f"progress must be a function or None; got {progress!r}")
        self.model = model
        self.config = TrainingConfig.for_model(model) if config is None else config
        self.progress = progress
        self._followed_by = followed_by
        self._fast_copy = fast_copy
        self.device = resolve_device(self.config.device)
        precision = self.config.precision
        if precision == "auto" and not model.trains():
            precision = "float32"  # one pass gains little time, and all distances have its rounding
        self.dtype = resolve_precision(precision, self.device)
        channels_last = self.config.channels_last
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.said: list[str] = []  # notes of the record that the log has had already
        self._shares = Shares()
        self._placement = Placement(self.device, self.dtype, memory_format)

    def fit(
        self,
        dataset: Images,
        *,
        held_out: Sequence[int] | None = None,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        pixel_range: PixelRange | None = None,
    ) -> TrainingRecord:
        """Train on normal images: a map-style data set, or a tensor (N, 3, H, W).

        An item is an image (3, H, W), uint8 or float in [0, 1], or a dict with one as "image". All
        images have one size. Ctrl-C ends the training early and keeps the best epoch so far. The
        record says so, and later stages are missing.

        The features of frozen teachers are computed once for a stage and kept. This holds for a
        tensor, and for a data set whose ``is_fixed`` is True. Where a data set has a string as
        ``fingerprint``, a resumed training compares it.

        Args:
            dataset: the images.
            held_out: indices of the images to hold out, instead of a random share. Empty for none.
            checkpoint: a file to write after every epoch, atomically. It stays at the end.
            resume: go on from ``checkpoint``. The config may ask for more epochs of its stage and
                of later ones. The weights are the same bytes as without an interruption.
            pixel_range: by which 16-bit images were read (`fastad.data.read_image`). Real defects
                are read by it, too.

        Raises:
            ValueError: there are no images, they differ in size, ``held_out`` is impossible, or the
                model has no such stage.
            TypeError: items are no images, or the model's loss is no dict of scalars.
            FileNotFoundError: there is no checkpoint to resume, or no folder to write it to.
            CheckpointError: the checkpoint is damaged or of another training. Or the file to write
                it to exists and is no checkpoint.
            OSError: the checkpoint cannot be written. The one written before stays as it was.
            TrainingDivergedError: a loss or score became NaN or infinite. The model keeps the best
                epoch before it, if there was one, and the checkpoint the last good epoch.
        """
        _check(self.model, dataset, checkpoint, resume)
        config = self.config
        log.debug(f"{len(dataset)} images, {torch.get_num_threads()} threads, {config}")
        fraction, seed = config.validation_fraction, config.seed
        train, validation = split_of(len(dataset), held_out, fraction, seed)
        plans = plan_stages(self.model, config, dataset, train, validation, pixel_range)
        phases = phases_of(self.model, plans, self._followed_by)
        self._agenda = Agenda(phases, self.model, self.progress)
        counts = f"{len(train)} images and {len(validation)} held out"
        log.info(f"plan: {counts}, {in_words(phases, plans)}")
        self.said = step_notes(self.model, config, plans)
        for note in self.said:
            log.info(note)
        if defects := defects_of(plans):
            log.info(f"learning from {len(defects)} images of real defects, too")
        record = TrainingRecord(
            model=self.model.name,
            config=used_options(dataclasses.asdict(config), self.model),
            seed=config.seed,
            device=str(self.device),
            precision=str(self.dtype).removeprefix("torch."),
            versions={"torch": torch.__version__, "fastad": fastad.__version__},
            threads=torch.get_num_threads(),
            processes=self._shares.count,
            n_train=len(train),
            n_validation=len(validation),
            held_out=validation.tolist(),
            teachers=self.model.teacher_origins(),
        )
        if len(validation) == 0:
            one = len(dataset) == 1 and config.validation_fraction > 0 and held_out is None
            reason = "the data set has one image" if one else "none asked for"
            record.notes.append(
                f"no images held out ({reason}): the epoch was chosen by the training images"
                if self.model.trains()
                else f"no images held out ({reason}): there is no threshold"
            )

        if isinstance(self.model, MapModel):
            self.model.forget_choice()  # of a training before
        self.model.to(self.device)
        if config.channels_last:
            # torch's types lack this form.
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        state = TrainingState(self.model, self.device, self.dtype, record)
        devices = [self.device] if self.device.type == "cuda" else []
        cudnn = torch.backends.cudnn.flags(
            enabled=True, benchmark=not config.deterministic, deterministic=config.deterministic
        )
        with torch.random.fork_rng(devices), cudnn, freed_memory_kept(self.device):
            found, save = None, lambda: None
            if checkpoint is not None:
                identity = identify(self.model, config, plans, dataset, validation, pixel_range)
                if resume:
                    found = found_again(checkpoint, identity, plans)
                    self._shares.wait()  # before it is written anew

                def save() -> None:
                    save_checkpoint(checkpoint, state.capture(identity))

            self._run(dataset, plans, state, found, checkpoint, save)
        close(record, self.model, config, plans, len(dataset))
        return record

    def _run(
        self,
        dataset: Images,
        plans: Sequence[StagePlan],
        state: TrainingState,
        found: Checkpoint | None,
        path: str | Path | None,
        save: Callable[[], None],
    ) -> None:
        """Run the stages, from that of the checkpoint ``found`` where there is one."""
        record, start = state.record, time.monotonic()
        before = 0.0 if found is None else found.record.seconds

        def save_with_seconds() -> None:
            record.seconds = before + time.monotonic() - start
            save()

        try:
            for plan in plans if found is None else plans[len(found.record.stages) - 1 :]:
                begin = time.monotonic()
                self.model.enter_stage(plan.stage)
                if found is None:
                    torch.manual_seed(plan.seed)  # for random layers
                    self._prepare(plan)
                    state.begin(plan)
                else:
                    state.restore(plan, found, path)
                    of_stage = f" of stage {plan.stage.name}" if len(plans) > 1 else ""
                    record.notes += changes(found.record, record, of_stage)
                    found = None
                if not plan.stage.trains:
                    state.end_without_epochs(time.monotonic() - begin)
                elif state.stage.epochs < plan.config.epochs:
                    self._run_stage(plan, state, begin, save_with_seconds)
                    continue
                self._finish(plan, state)
            self._choose(plans[-1], dataset, state)
        except KeyboardInterrupt:
            record.interrupted = True
            if record.stages and self.model.stage is plans[len(record.stages) - 1].stage:
                self._finish(plans[len(record.stages) - 1], state)
        finally:
            state.restore_best()
            self.model.enter_stage(None)
            if isinstance(self.model, MapModel):
                leave_plain(self.model, record, "the training was stopped")
                note_composition(self.model, record)
            record.seconds = before + time.monotonic() - start

    def begin(self, phase: str) -> None:
        """Say that the training is over, and a phase that follows it begins."""
        self._agenda.announce(phase)

    def follow(self, phase: str) -> Callable[[int, int], None]:
        """As `begin`; gives a function to be called with the images done and of all."""
        return self._agenda.follow(phase)

    def _prepare(self, plan: StagePlan) -> None:
        """Let the model see images before the first epoch of a stage."""
        source = self._source(plan, plan.images)

        progress = None if plan.stage.trains else self.progress
        if not plan.stage.trains:
            self._agenda.enter(plan.stage.name)
        reach = self._agenda.reach if not plan.stage.trains else lambda share: 0.0

        def batches(items: Tensor) -> Batches:
            pieces = items.split(plan.config.batch_size)
            parts = plan.stage.name, len(self.model.stages)
            return lambda: reported(source.batches(pieces), len(pieces), progress, reach, *parts)

        unseen = plan.unseen if len(plan.unseen) else plan.train
        self.model.eval()
        try:
            with torch.no_grad(), self._placement.autocast():
                self.model.prepare_stage(batches(plan.looked_at), batches(unseen))
        finally:
            source.close()

    def _finish(self, plan: StagePlan, state: TrainingState, source: Source | None = None) -> None:
        """Let the model take from the images what the best epoch of a stage asks for.

        ``source`` of the data set, where one is open: it has kept the teachers' features.
        """
        state.restore_best()
        opened = source or self._source(plan, plan.images)
        look = opened.passes(plan.looked_at, plan.config.batch_size)
        try:
            with torch.no_grad(), self._placement.autocast():
                self.model.finish_stage(look)
                # Held-out images would look better than new ones: the threshold is theirs.
                self.model.calibrate_maps(look)
        finally:
            if source is None:
                opened.close()
        state.keep()

    def _choose(self, plan: StagePlan, dataset: Images, state: TrainingState) -> None:
        """Let the trained model choose how its maps are scaled and pooled."""
        if not isinstance(self.model, MapModel):
            return
        open_source = functools.partial(self._source, plan)
        self._agenda.announce(CHOICE)
        try:
            watch = functools.partial(self._agenda.watch, CHOICE, parts=2)
            choose_by_defects(self.model, plan, dataset, open_source, state.record, watch)
            settle(self.model, plan, dataset, open_source)
        except KeyboardInterrupt:  # all epochs ran: nothing else is missing
            leave_plain(self.model, state.record, "it was stopped by the user")
        state.keep()

    def _run_stage(
        self,
        plan: StagePlan,
        state: TrainingState,
        begin: float,
        save: Callable[[], None],
    ) -> None:
        if len(self.model.stages) > 1:
            epochs = f"epochs {state.stage.epochs + 1} to {plan.config.epochs}"
            log.info(f"stage {plan.stage.name}: {epochs}, {len(plan.train_items)} images each")
        train = self._source(plan, plan.train_set)
        validation, trial = train, None
        try:
            # Two sets of synthesised defects; otherwise one set holds all images.
            if plan.validation_set is not plan.train_set:
                validation = self._source(plan, plan.validation_set)
            if plan.trial is not None:
                trial = self._source(plan, KeptDefects(plan.trial, plan.seed))
            memory, disk = self.config.feature_cache_gib, self.config.feature_disk_gib
            room = FeatureBudget(
                min(memory * 2**30, memory_limit(self.device)),
                disk * 2**30 if memory > 0 else 0.0,
                self._shares.machine(self.device),
            )
            opened = list(filter(None, dict.fromkeys((train, validation, trial))))
            for number, source in enumerate(opened):
                watch = self._agenda.watch(features_of(plan.stage.name), number, len(opened))
                source.keep_features(plan.config.batch_size, room, watch)
            sources = Sources(train, validation, trial)
            own = self._placement, sources, self.progress, self._agenda, self._shares
            StageLoop(self.model, plan, *own, self._fast_copy).run(state, begin, save)
            self._finish(plan, state, train if plan.train_set is plan.images else None)
        finally:
            for source in filter(None, (train, validation, trial)):
                source.close()

    def _source(self, plan: StagePlan, dataset: Images) -> Source:
        workers = plan.config.workers
        return Source(self.model, plan.stage, dataset, self._placement, workers, plan.seed)


def _check(
    model: AnomalyModel, dataset: Images, checkpoint: str | Path | None, resume: bool
) -> None:
    if len(dataset) == 0:
        raise ValueError("dataset: there are no images to train on")
    if resume and not model.trains():
        raise ValueError(f"resume: {model.name} trains nothing, there is nothing to go on with")
    if checkpoint is None and resume:
        raise ValueError("resume: name the checkpoint to resume from")
    if checkpoint is not None and not Path(checkpoint).parent.is_dir():
        raise FileNotFoundError(f"checkpoint {checkpoint}: there is no such folder")
    if checkpoint is not None and not resume and Path(checkpoint).exists():
        load_checkpoint(checkpoint)  # only a checkpoint is replaced, no file of another kind
