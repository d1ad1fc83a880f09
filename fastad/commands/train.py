"""``fastad train``: a folder of normal images to a detector file."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastad import models
from fastad.commands.output import check_writable, note, progress, refuse_overwriting
from fastad.commands.settings import parse_settings
from fastad.data import ImageDataset, parse_size, training_images
from fastad.inference import Artifact, Predictor, conformal_threshold, save
from fastad.training import ConsoleProgress, Trainer, TrainingConfig, resolve_device

IN_MEMORY_BYTES = 4 * 2**30  # larger sets are decoded again in every epoch


class SettingsError(ValueError):
    """An option of the command line is wrong, as against something found while working."""


def train(
    data: str,
    *,
    model: str,
    output: str,
    image_size: str,
    false_positive_rate: float,
    settings: list[str],
    model_options: dict[str, Any],
    training_options: dict[str, Any],
) -> None:
    """Train, calibrate on the held-out images, save.

    ``settings`` are ``KEY=VALUE`` texts and win over the options, whose None means the model's
    own default.
    """
    try:
        kind = models.model_class(model)
        size = parse_size(image_size)
        for_model, for_training = parse_settings(settings, kind.Config, TrainingConfig)
        chosen = {k: v for k, v in training_options.items() if v is not None} | for_training
        config = TrainingConfig.for_model(kind, **chosen)
        given = {k: v for k, v in model_options.items() if v is not None} | for_model
        kind.Config(**given)  # refuses wrong values before any file is read
        if not 0 < false_positive_rate < 1:
            raise ValueError(
                f"the false-positive rate must be between 0 and 1; got {false_positive_rate}"
            )
    except ValueError as error:
        raise SettingsError(str(error)) from error
    resolve_device(config.device)
    check_writable(output)
    paths = training_images(data)
    refuse_overwriting([Path(output)], paths)
    torch.manual_seed(config.seed)
    detector = models.build(model, **given)

    note(f"reading {len(paths)} normal images from {data}")
    in_memory = len(paths) * 3 * size[0] * size[1] <= IN_MEMORY_BYTES
    dataset = ImageDataset(paths, size, in_memory)
    with ConsoleProgress() as listener:
        trainer = Trainer(detector, config, listener)
        note(f"training {model} on {trainer.device}, {str(trainer.dtype).removeprefix('torch.')}")
        record = trainer.fit(dataset)
    for line in record.notes:
        note(f"note: {line}")
    if record.best_epoch is None:
        raise RuntimeError("stopped before the end of the first epoch: there is nothing to save")

    calibration, threshold = np.empty(0), None
    if record.held_out:
        predictor = Predictor(
            detector,
            size,
            device=config.device,
            precision=config.precision,
            batch_size=config.batch_size,
        )
        with progress("calibrating") as report:
            parts = []
            for indices in torch.tensor(record.held_out).split(config.batch_size):
                images = torch.stack([dataset[index] for index in indices.tolist()])
                parts.append(predictor.predict_batch(images).score)
                report(sum(map(len, parts)), len(record.held_out))
        calibration = np.concatenate(parts).astype(np.float64)
        threshold = conformal_threshold(calibration, false_positive_rate)
    training = record.to_dict() | {"data": Path(data).resolve().name, "images": len(paths)}
    save(output, Artifact(detector, size, calibration, false_positive_rate, threshold, training))
    stopped = " (stopped by the user)" if record.interrupted else ""
    limit = "no threshold" if threshold is None else f"threshold {threshold:.4g}"
    note(
        f"saved {output}: epoch {record.best_epoch} of {record.epochs}{stopped}, {limit} from "
        f"{len(calibration)} held-out images, {record.seconds:.0f} s of training"
    )
