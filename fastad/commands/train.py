"""``fastad train``: a folder of normal images to a detector file."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from fastad import models
from fastad._files import remove_left
from fastad.commands import StoppedError, UsageError
from fastad.commands.output import check_writable, log, note, refuse_overwriting
from fastad.commands.settings import parse_settings, parse_stages
from fastad.commands.training_summary import outcome
from fastad.data import TrainingImages, training_images
from fastad.data.depth import parse_range
from fastad.data.roi import read_roi
from fastad.data.sizes import is_auto, scaled_size
from fastad.data.training_set import training_size
from fastad.detector import Detector
from fastad.distributed import lost_ranks, meet, this_rank
from fastad.inference import Artifact, ArtifactError
from fastad.inference import load as load_artifact
from fastad.inference.advice import with_path
from fastad.training import CheckpointError, ConsoleProgress, TrainingConfig
from fastad.training.checkpoint import load_checkpoint
from fastad.training.config import options_of


def defaults() -> dict[str, Any]:
    """What an option is where it is left out: the arguments of `Detector`.

    Those of the model's and the training's config are the model's own.
    """
    own = Detector().get_params()
    del own["batch_size"]  # of prediction; the training's is the model's own
    return own


def defaults_by_model() -> dict[str, str]:
    """What those are of each model, as the help shows it."""
    found: dict[str, list[str]] = {"epochs": [], "batch_size": [], "pseudo_anomalies": []}
    for name, kind in models.MODELS.items():
        config = TrainingConfig.for_model(kind)
        stages = [(stage, config.for_stage(kind, stage)) for stage in kind.stages]
        first, own = stages[0]
        if first.trains:
            found["epochs"].append(f"{name} {own.epochs}")
        found["batch_size"].append(f"{name} {own.batch_size}")
        drawn = [own.pseudo_anomalies for stage, own in stages if stage.pseudo_anomalies]
        found["pseudo_anomalies"] += [f"{name} {drawn[0]}"] if drawn else []
    return {option: ", ".join(values) for option, values in found.items()}


def train(
    data: str,
    *,
    good: list[str],
    masks: list[str],
    output: str,
    report: str | None,
    resume: bool,
    force: bool,
    skip_bad: bool,
    settings: list[str],
    stages: list[str],
    detector_options: dict[str, Any],
    model_options: dict[str, Any],
    training_options: dict[str, Any],
    named: Collection[str] = (),
    exclude: str | None = None,
    roi: str | None = None,
    start_from: str | None = None,
    scale: float | None = None,
    tile: str | None = None,
    found: TrainingImages | None = None,
    is_one_of_many: bool = False,
) -> Detector:
    """Train, calibrate on the held-out images, save; the detector that was saved.

    ``settings`` are ``KEY=VALUE`` texts. An option's None means the model's own default. Those
    ``named`` on the command line must not contradict a setting. ``stages`` are
    ``NAME.OPTION=VALUE`` texts. ``OUTPUT.checkpoint`` is written after every epoch, goes away at
    the end, and is what ``resume`` continues from. ``force`` lets the detector replace a file that
    is not of the same training. ``exclude`` is a file that names images to leave out. ``roi`` is
    one as of `Detector.fit`. ``report`` is a folder for a page on a training that came to its end.
    ``start_from`` is a detector file to go on from: what is not named is as in it. ``scale`` gives
    the image size as a share of the images' own. ``tile`` is as of `Detector.fit`. ``found`` are
    the images of ``data`` where they are known. Several processes train together, and the first one
    writes. For them ``resume`` begins where there is no checkpoint, so that they may start again at
    any time. One of many this process trains alone.
    """
    if start_from is not None:
        _take_over(load_artifact(start_from), detector_options, named)
    try:
        detector, training = _checked(
            settings,
            stages,
            detector_options,
            _given(model_options),
            _given(training_options),
            named,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    region = None if roi is None else read_roi(roi)
    if start_from is not None:
        training["start_from"] = start_from
    together = not is_one_of_many and this_rank().count > 1
    resume &= not together or Path(f"{output}.checkpoint").is_file()  # none at their first start
    checkpoint = _checked_checkpoint(output, resume)
    if Path(output).exists() and not force:
        _require_same_training(output, checkpoint if resume else None)
    is_whole = found is None
    if found is None:
        found = training_images(data, good=good, masks=masks, exclude=exclude)
    if exclude is not None:
        note(f"{len(found.excluded)} images in {exclude} are left out")
    read = [*found.paths, *found.held_out, *([] if roi is None else [Path(roi)])]
    refuse_overwriting([Path(output), checkpoint], read)
    if report is not None:
        from fastad.commands.training_page import prepare_report, write_report  # it takes a second

        prepare_report(report, output)
    training |= {"roi": region, "tile": tile}
    if scale is not None:
        detector.image_size = scaled_size([*found.paths, *found.held_out], scale)
    if together:
        meet()  # now that nothing is in the way of any
    _fit(detector, found, checkpoint, resume=resume, skip_bad=skip_bad, training=training)
    if together and not this_rank().is_first:
        meet()  # the first one keeps the checkpoint until then
        return detector
    interrupted = detector.training_record_["interrupted"]
    # Not where the user stopped it while the first one was being written.
    goes_on = f": --resume goes on from {checkpoint}" if checkpoint.is_file() else ""
    if interrupted and Path(output).exists():
        raise StoppedError(f"stopped by the user; {output} is left as it was{goes_on}")
    step = with_path(detector.training_record_["next_step"], data)
    detector.training_record_["next_step"] = step
    detector.save(output)
    note(f"saved {output}: {outcome(detector)}")
    if interrupted:
        raise StoppedError(f"stopped by the user{goes_on}")
    if report is not None:
        title = f"{Path(output).name}, trained on {found.name or Path(data).resolve().name}"
        note(f"report: {write_report(report, detector, found, title)}")
    if together:
        meet()  # if one fails before this, all begin again from the checkpoint
    checkpoint.unlink(missing_ok=True)
    remove_left([Path(output), checkpoint])
    if is_whole:
        note(f"next: {step or f'fastad predict {output} IMAGES'}")
    return detector


def _take_over(start: Artifact, options: dict[str, Any], named: Collection[str]) -> None:
    """Put the model and the rate of a detector in place of defaults."""
    own = {"model": start.model.name, "false_positive_rate": start.false_positive_rate}
    options |= {name: value for name, value in own.items() if name not in named}


def check_options(options: Mapping[str, Any]) -> tuple[Detector, dict[str, Any]]:
    """The detector that `train` will train, and options of its `Detector.fit`.

    Raises UsageError for what cannot be, before any file is read.
    """
    try:
        return _checked(
            options["settings"],
            options["stages"],
            dict(options["detector_options"]),
            _given(options["model_options"]),
            _given(options["training_options"]),
            options["named"],
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _checked(
    settings: list[str],
    stages: list[str],
    detector_options: dict[str, Any],
    model_options: dict[str, Any],
    training_options: dict[str, Any],
    named: Collection[str],
) -> tuple[Detector, dict[str, Any]]:
    """The detector and the options of its `Detector.fit`; ValueError before any file is read."""
    name = detector_options["model"]
    own_config = models.config_class(name)
    if not is_auto(detector_options["image_size"]):
        training_size(detector_options["image_size"])
    parse_range(detector_options["bit_depth"])
    if name == models.AUTO:
        _refuse_own_options(settings)
    for_model, for_training = parse_settings(settings, own_config, TrainingConfig)
    _refuse_contradictions(
        for_model | for_training, detector_options | model_options | training_options, named
    )
    shared = {name: detector_options[name] for name in ("device", "precision", "seed")}
    training = shared | training_options | for_training
    training["stages"] = parse_stages(stages, TrainingConfig)
    for candidate in models.candidates(name):
        kind = models.model_class(candidate)
        used = options_of(kind, training) if name == models.AUTO else training
        config = TrainingConfig.for_model(kind, **used)
        _check_folders("--", vars(config))
        for stage, options in config.stages.items():
            _check_folders(f"--stage {stage}.", options)
    own_config(**model_options | for_model)
    detector_options |= {name: training.pop(name) for name in shared}
    return Detector(**detector_options, **model_options | for_model), training


def _refuse_own_options(settings: list[str]) -> None:
    """ValueError for a setting that some candidate of auto has, and not all."""
    shared = {
        field.name for config in (models.AutoConfig, TrainingConfig) for field in fields(config)
    }
    for setting in settings:
        key = setting.partition("=")[0].strip()
        for candidate in models.candidates(models.AUTO):
            own = {field.name for field in fields(models.config_class(candidate))}
            if key in own - shared:
                raise ValueError(
                    f"--set {key}: auto takes the options that all its models have; --model "
                    f"{candidate} has {key}"
                )


def _refuse_contradictions(
    settings: Mapping[str, Any], options: Mapping[str, Any], named: Collection[str]
) -> None:
    for name, value in settings.items():
        if name in named and name in options and options[name] != value:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"{option} {options[name]} and --set {name}={value} contradict each other: leave "
                "one of them out"
            )


def _checked_checkpoint(output: str, resume: bool) -> Path:
    """The file to resume from; an error where it, or ``output``, cannot be what it must be."""
    check_writable(output)
    checkpoint = Path(f"{output}.checkpoint")
    if resume and not checkpoint.is_file():
        raise FileNotFoundError(f"there is no {checkpoint} to resume from: leave out --resume")
    if checkpoint.exists() and not resume:
        raise ValueError(
            f"{checkpoint} is left from a training that was interrupted: continue it with "
            "--resume, or delete it to start anew"
        )
    return checkpoint


def _require_same_training(output: str, checkpoint: Path | None) -> None:
    """FileExistsError where a file is not what the checkpoint's training wrote when it stopped."""
    if checkpoint is None:
        raise FileExistsError(f"{output} exists: --force replaces it, another --output keeps it")
    try:
        before = load_artifact(output).training
        before = before.get("stopped_candidate", before)
    except (OSError, ArtifactError):
        before = {}
    now = load_checkpoint(checkpoint).record.to_dict()
    told_apart_by = [(r.get("model"), r.get("seed"), _first_losses(r)) for r in (before, now)]
    if told_apart_by[0] != told_apart_by[1]:
        raise FileExistsError(
            f"{output} exists, and is not of the training in {checkpoint}: --force replaces it"
        )


def _first_losses(record: dict[str, Any]) -> Any:
    """Of the first epoch, by which two trainings that are otherwise alike can be told apart."""
    return next((stage["losses"][0] for stage in record.get("stages", ()) if stage["losses"]), None)


def _fit(
    detector: Detector,
    found: TrainingImages,
    checkpoint: Path,
    *,
    resume: bool,
    skip_bad: bool,
    training: dict[str, Any],
) -> None:
    try:
        with lost_ranks(), ConsoleProgress() as listener:
            detector.fit(
                found,
                progress=listener if log.isEnabledFor(logging.INFO) else None,
                checkpoint=checkpoint,
                resume=resume,
                skip_bad=skip_bad,
                **training,
            )
    except CheckpointError as error:
        raise ValueError(f"{error}; to start anew, delete {checkpoint}") from error
    except KeyboardInterrupt as error:
        kept = f": --resume goes on from {checkpoint}" if checkpoint.is_file() else ""
        raise StoppedError(
            f"{str(error) or 'stopped by the user'}, nothing was saved{kept}"
        ) from error


def _check_folders(prefix: str, options: Mapping[str, Any]) -> None:
    for name in ("textures", "defects"):
        folder = options.get(name)
        if folder is not None and not Path(folder).is_dir():
            raise ValueError(f"{prefix}{name}: there is no folder {folder}")
