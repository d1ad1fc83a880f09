"""``fastad train``: a folder of normal images to a detector file."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastad import models
from fastad.commands import UsageError
from fastad.commands.output import check_writable, log, note, refuse_overwriting
from fastad.commands.settings import parse_settings, parse_stages
from fastad.data import training_images
from fastad.data.training_set import training_size
from fastad.detector import Detector
from fastad.training import CheckpointError, ConsoleProgress, TrainingConfig


def train(
    data: str,
    *,
    model: str,
    output: str,
    image_size: str,
    false_positive_rate: float,
    resume: bool,
    skip_bad: bool,
    settings: list[str],
    stages: list[str],
    model_options: dict[str, Any],
    training_options: dict[str, Any],
) -> None:
    """Train, calibrate on the held-out images, save.

    ``settings`` are ``KEY=VALUE`` texts and win over the options, whose None means the model's
    own default; ``stages`` are ``NAME.OPTION=VALUE`` texts. ``OUTPUT.checkpoint`` is written after
    every epoch, goes away at the end, and is what ``resume`` continues from.
    """
    try:
        kind = models.model_class(model)
        if image_size != "auto":
            training_size(image_size)
        for_model, for_training = parse_settings(settings, kind.Config, TrainingConfig)
        chosen = {k: v for k, v in training_options.items() if v is not None} | for_training
        chosen["stages"] = parse_stages(stages, TrainingConfig)
        config = TrainingConfig.for_model(kind, **chosen)
        _check_folders("--", vars(config))
        for stage, options in config.stages.items():
            _check_folders(f"--stage {stage}.", options)
        given = {k: v for k, v in model_options.items() if v is not None} | for_model
        kind.Config(**given)  # refuses wrong values before any file is read
    except ValueError as error:
        raise UsageError(str(error)) from error
    check_writable(output)
    checkpoint = Path(f"{output}.checkpoint")
    if resume and not checkpoint.is_file():
        raise FileNotFoundError(f"there is no {checkpoint} to resume from: leave out --resume")
    if checkpoint.exists() and not resume:
        raise ValueError(
            f"{checkpoint} is left from a training that was interrupted: continue it with "
            "--resume, or delete it to start anew"
        )
    found = training_images(data)
    refuse_overwriting([Path(output), checkpoint], [*found.paths, *found.held_out])

    detector = Detector(
        model,
        image_size=image_size,
        device=chosen.pop("device"),
        precision=chosen.pop("precision"),
        seed=chosen.pop("seed"),
        false_positive_rate=false_positive_rate,
        **given,
    )
    try:
        with ConsoleProgress() as listener:
            detector.fit(
                data,
                progress=listener if log.isEnabledFor(logging.INFO) else None,
                checkpoint=checkpoint,
                resume=resume,
                skip_bad=skip_bad,
                **chosen,
            )
    except CheckpointError as error:
        raise ValueError(f"{error}; to start anew, delete {checkpoint}") from error
    except KeyboardInterrupt as error:
        kept = f": --resume goes on from {checkpoint}" if checkpoint.is_file() else ""
        raise RuntimeError(
            f"{str(error) or 'stopped by the user'}, nothing was saved{kept}"
        ) from error
    record = detector.training_record_
    # Not where the user stopped it while the first one was being written.
    goes_on = f": --resume goes on from {checkpoint}" if checkpoint.is_file() else ""
    if record["interrupted"] and Path(output).exists():
        raise RuntimeError(f"stopped by the user; {output} is left as it was{goes_on}")
    detector.save(output)
    held_out = len(detector.calibration_scores_)
    limit = (
        "no threshold (no image was held out)"
        if detector.threshold_ is None
        else f"threshold {detector.threshold_:.4g} from {held_out} held-out "
        f"image{'s' * (held_out != 1)}"
    )
    epochs = ", ".join(
        f"epoch {stage['best_epoch']} of {stage['config']['epochs']}"
        + (f" ({stage['name']})" if len(kind.stages) > 1 else "")
        for stage in record["stages"]
    )
    note(f"saved {output}: {epochs}, {limit}, {record['seconds']:.0f} s of training")
    if record["interrupted"]:
        raise RuntimeError(f"stopped by the user{goes_on}")
    checkpoint.unlink(missing_ok=True)


def _check_folders(prefix: str, options: Mapping[str, Any]) -> None:
    for name in ("textures", "defects"):
        folder = options.get(name)
        if folder is not None and not Path(folder).is_dir():
            raise ValueError(f"{prefix}{name}: there is no folder {folder}")
