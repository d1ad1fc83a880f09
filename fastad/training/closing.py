"""What a training's record says at the end: what came of its stages, and what to mind."""

import logging
import warnings
from collections.abc import Sequence

from fastad.models import AnomalyModel
from fastad.training.config import TrainingConfig
from fastad.training.map_choice import choice_lines
from fastad.training.record import StageRecord, TrainingRecord
from fastad.training.small_sets import step_notes
from fastad.training.stages import StagePlan, held_out_notes

log = logging.getLogger("fastad")


def close(
    record: TrainingRecord,
    model: AnomalyModel,
    config: TrainingConfig,
    plans: Sequence[StagePlan],
    size: int,
) -> None:
    """Say in the record what came of the stages."""

    def of(stage: StageRecord) -> str:
        return f" of stage {stage.name}" if len(plans) > 1 else ""

    ran, missing = plans[: len(record.stages)], plans[len(record.stages) :]
    if ran:
        record.held_out = ran[-1].held_out.tolist()
        record.n_validation = len(record.held_out)
        record.n_train = size - record.n_validation
        record.defects = defects_of(ran)
        if record.defects:
            record.supervision = f"supervised, {len(record.defects)} images of real defects"
    record.notes += held_out_notes(ran) + step_notes(model, config, ran)
    for stage in record.stages:
        if stage.epochs > 0:
            log.info(f"kept epoch {stage.best_epoch} of {stage.epochs}{of(stage)}: {stage.reason}")
    for name, line in choice_lines(record.choice):
        log.info(f"{name}: {line}")
    if record.interrupted:
        if len(plans) > 1 and missing:
            names = ", ".join(plan.stage.name for plan in missing)
            record.notes.append(f"stopped by the user: stage {names} is missing")
        return
    for stage in record.stages:
        if stage.still_improving:
            improving = (
                f"synthesised defects{of(stage)} were told apart better and better"
                if stage.qualities
                else f"the error on held-out good images{of(stage)} was still falling"
            )
            record.notes.append(f"{improving} at the last epoch: more epochs would help")
        if stage.is_early:
            warnings.warn(
                f"epoch {stage.best_epoch} of {stage.epochs}{of(stage)} is kept: no later "
                "one was better; a lower learning rate or other images may help",
                stacklevel=3,
            )


def defects_of(plans: Sequence[StagePlan]) -> list[str]:
    """Digests of the images of real defects that stages learn from."""
    return sorted({digest for plan in plans for digest in plan.defects})
