"""What a training record says of its stages, in words."""

from typing import Any

from fastad.commands.threshold import false_alarms
from fastad.detector import Detector
from fastad.models import Stage

# Of a training in stages these are the last one's, or all together: the stages say more.
OF_STAGES = ("epochs", "best_epoch")


def has_stages(training: dict[str, Any]) -> bool:
    """Whether a training record is of several stages, of which an interruption may leave one."""
    return [stage["name"] for stage in training.get("stages", ())] not in ([], [Stage.name])


def epochs_kept(training: dict[str, Any]) -> str:
    """Like "9 of 12", of a training in stages like "pairs 9 of 12, discriminator 5 of 5"."""
    if training.get("epochs") == 0:
        return "none"
    if not has_stages(training):
        return f"{training.get('best_epoch')} of {training.get('epochs')}"
    return ", ".join(
        f"{stage['name']} {stage['best_epoch']} of {stage['config']['epochs']}"
        for stage in training["stages"]
        if stage["epochs"]
    )


def kept_by(training: dict[str, Any]) -> list[tuple[str, str]]:
    """A line on why the epoch of a training in one stage was kept; of several `stage_lines` say it.

    None of a file from before there was a reason.
    """
    reasons = [stage.get("reason") for stage in training.get("stages", ())]
    return [] if has_stages(training) else [("epoch kept by", why) for why in reasons if why]


def stage_lines(training: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and a line for each of several stages; none for a training in one."""
    if not has_stages(training):
        return []
    lines = []
    for stage in training["stages"]:
        config = stage["config"]
        if not stage["epochs"]:
            line = f"no epochs, {stage['n_train']} images, {stage['seconds']:.0f} s"
            lines.append((stage["name"], line))
            continue
        planned = config["epochs"]
        why = f"; kept by {stage['reason']}" if stage.get("reason") else ""
        stopped = f", stopped after {stage['epochs']}" if stage["epochs"] < planned else ""
        lines.append(
            (
                stage["name"],
                f"epoch {stage['best_epoch']} of {planned} kept{stopped}, {stage['n_train']} "
                f"images an epoch, {config.get('optimizer')} at {config.get('learning_rate'):g}, "
                f"{stage['seconds']:.0f} s{why}",
            )
        )
    return lines


def outcome(detector: Detector) -> str:
    """Epochs, threshold and time of a training, in a line."""
    record = detector.training_record_
    limit = (
        "no threshold (no image was held out)"
        if detector.threshold_ is None
        else f"threshold {detector.threshold_:.4g}, {false_alarms(detector._artifact)}"
    )
    stages = detector.model_.stages
    epochs = ", ".join(
        f"epoch {stage['best_epoch']} of {stage['config']['epochs']}"
        + (f" ({stage['name']})" if len(stages) > 1 else "")
        for stage in record["stages"]
        if stage["epochs"]
    )
    return f"{epochs or 'no epochs'}, {limit}, {record['seconds']:.0f} s of training"
