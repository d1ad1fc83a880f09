"""What to do after a training whose self-check is not satisfying."""

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from fastad.evaluation.check import CHANCE, VERDICTS
from fastad.models import AnomalyModel
from fastad.training import TrainingConfig, TrainingRecord
from fastad.training.config import defaults_of
from fastad.training.progress import spoken
from fastad.training.record import StageRecord

FEW = 3  # epochs: with fewer nobody sees whether a stage improves
STRONG, WEAK = VERDICTS[0][1], VERDICTS[-1][1]
OTHER_MODELS = "see whether another model finds more: fastad compare "
IN_A_FOLDER = "FOLDER, with the images in a folder"


def next_step(training: Mapping[str, Any], model: AnomalyModel) -> str | None:
    """What may help, in a line. None where nothing is known to, or where nothing is amiss.

    Twice the epochs, where a stage was still improving at its last one. Its usual epochs, where it
    had too few to tell. Otherwise other models, where few defects are found.

    Args:
        training: the record of a training as a dict, with its "self_check".
        model: that was trained.
    """
    checked = training.get("self_check")
    if checked is None or checked["verdict"] == STRONG:
        return None
    record = TrainingRecord.from_dict(training)
    usual = _usual_epochs(model)
    if improving := [
        stage
        for stage in record.stages
        if stage.still_improving or 0 < stage.epochs < min(FEW, usual[stage.name])
    ]:
        rows = training.get("candidates", ())
        others = sum(row["seconds"] for row in rows if row["model"] != record.model)
        return _more_epochs(record, improving, model, others)
    if checked["verdict"] not in (WEAK, CHANCE):
        return None
    name = training.get("data")
    return OTHER_MODELS + (IN_A_FOLDER if name is None else shlex.quote(name))


def with_path(step: str | None, data: str) -> str | None:
    """The next step with the folder as a command takes it: a record knows its name alone."""
    is_of_folder = step is not None and step.startswith(OTHER_MODELS)
    return OTHER_MODELS + shlex.quote(data) if is_of_folder else step


def _more_epochs(
    record: TrainingRecord, improving: Sequence[StageRecord], model: AnomalyModel, others: float
) -> str:
    """The options that double the epochs of some stages, and the time of such a training.

    A stage has a number of its own, or a share of the whole training's. ``others`` are the seconds
    of other candidates, which are trained again, too.
    """
    config = TrainingConfig(**record.config)
    stages = {stage.name: stage for stage in model.stages}
    whole, usual = _whole(model), _usual_epochs(model)
    epochs, own = 0, {}
    for stage in improving:
        wanted = 2 * stage.epochs if stage.epochs >= FEW else usual[stage.name]
        if "epochs" in config.stages.get(stage.name, {}):
            own[stage.name] = {"epochs": wanted}
        else:
            epochs = max(epochs, math.ceil(wanted * whole / usual[stage.name]))
    options = [f"--epochs {epochs}"] if epochs else []
    options += [f"--stage {name}.epochs={value['epochs']}" for name, value in own.items()]
    arguments = [f"epochs={epochs}"] if epochs else []
    arguments += [f"stages={own}"] if own else []
    of_stages = {name: given | own.get(name, {}) for name, given in config.stages.items()}
    longer = dataclasses.replace(config, epochs=epochs or config.epochs, stages=of_stages)
    seconds = others + record.seconds
    for stage in record.stages:
        if stage.epochs:
            new = longer.for_stage(model, stages[stage.name]).epochs
            seconds += stage.seconds * (new / stage.epochs - 1)
    return (
        f"more epochs would help: {' '.join(options)}, about {spoken(seconds)} "
        f"(in Python {', '.join(arguments)})"
    )


def _whole(model: AnomalyModel) -> int:
    return defaults_of(model).get("epochs", TrainingConfig.epochs)


def _usual_epochs(model: AnomalyModel) -> dict[str, int]:
    """Epochs of each stage, where nothing else is asked for."""
    whole = _whole(model)
    return {s.name: dict(s.training_defaults).get("epochs", whole) for s in model.stages}
