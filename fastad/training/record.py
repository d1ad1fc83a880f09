"""What a training did, to keep beside its result."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastad.training.choice import MARGIN, reason, replaces

NORMAL_ONLY = "normal images only"


@dataclass
class StageRecord:
    """What one stage of a training did.

    Attributes:
        name: of the `fastad.models.Stage`.
        n_train: images an epoch, those with synthesised defects where the stage has such.
        config: the options that held for this stage, where stages may differ.
        epochs: epochs run to their end, 0 of a stage that trains nothing.
        best_epoch: the one whose weights were kept, from 1; None if none ran to its end.
        losses: for each epoch, the mean of each named loss over the images trained on.
        validation_scores: for each epoch, the mean of the model's own score of this stage.
        qualities: for each epoch, the mean of the AUROC of images and of pixels on synthesised
            defects and held-out images; empty for a stage that is not judged by them.
        reason: why that epoch was kept, in a line.
        seconds: from its begin to the end of its last epoch, without interruptions.
    """

    name: str
    n_train: int
    config: dict[str, Any] = field(default_factory=dict)
    epochs: int = 0
    best_epoch: int | None = None
    losses: list[dict[str, float]] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    qualities: list[float] = field(default_factory=list)
    reason: str = ""
    seconds: float = 0.0

    def end_epoch(self, losses: dict[str, float], score: float, quality: float | None) -> bool:
        """Enter an epoch; True where it is the one to keep."""
        self.losses.append(losses)
        self.validation_scores.append(score)
        if quality is not None:
            self.qualities.append(quality)
        self.epochs += 1
        is_kept = replaces(self.best_epoch, self.validation_scores, self.qualities)
        if is_kept:
            self.best_epoch = self.epochs
        assert self.best_epoch is not None  # the first one is kept
        self.reason = reason(self.best_epoch, self.validation_scores, self.qualities)
        return is_kept

    @property
    def is_early(self) -> bool:
        """Whether the epoch kept is of the first fifth: what came after was for nothing."""
        return self.best_epoch is not None and 5 * self.best_epoch <= self.epochs

    @property
    def still_improving(self) -> bool:
        """Whether the last epoch is kept and the last tenth of them brought much.

        That is more quality by `choice.MARGIN`, or a score lower by 10 % where there is none.
        """
        if self.epochs < 3 or self.best_epoch != self.epochs:
            return False
        last = max(1, round(self.epochs / 10))
        if self.qualities:
            return self.qualities[-1] - self.qualities[-1 - last] > MARGIN
        before, after = self.validation_scores[-1 - last], self.validation_scores[-1]
        return before - after > 0.1 * abs(before)


@dataclass
class TrainingRecord:
    """Everything needed to tell how a model came about; `to_dict` is JSON.

    Attributes:
        model: its name in the registry.
        n_train, n_validation: images that were trained on in any stage, and all others.
        held_out: indices into the data set of the images not trained on.
        seconds: of the whole training, the parts before and after an interruption added up.
        seed: of split, order and random layers.
        config: the training options asked for.
        device, precision: what they came to.
        versions: of torch and fastad.
        threads: of torch on the CPU; another number rounds differently.
        processes: that trained together; another number rounds differently.
        teachers: of each frozen teacher where its weights came from: "embedded", the name of a
            file, None where nothing was loaded into it; of a module of your own its class.
        defects: digests of the images of real defects that it learned from
            (`fastad.data.training_set.file_digests`).
        supervision: "normal images only", or "supervised" and how many of those.
        interrupted: stopped by the user before the last epoch.
        notes: what was done otherwise than asked for, and why.
        choice: how maps are scaled and pooled where that was "auto", and by which numbers; see
            `fastad.training.ChoiceRecord`. None where nothing was chosen.
        stages: those with an epoch that ran to its end or that train nothing, in order.
    """

    model: str
    config: dict[str, Any]
    seed: int
    device: str
    precision: str
    versions: dict[str, str]
    threads: int
    n_train: int
    n_validation: int
    held_out: list[int]
    teachers: dict[str, str | None] = field(default_factory=dict)
    defects: list[str] = field(default_factory=list)
    supervision: str = NORMAL_ONLY
    seconds: float = 0.0
    interrupted: bool = False
    notes: list[str] = field(default_factory=list)
    choice: dict[str, Any] | None = None
    stages: list[StageRecord] = field(default_factory=list)
    processes: int = 1

    @property
    def epochs(self) -> int:
        """Epochs run to their end, of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def best_epoch(self) -> int | None:
        """That of the last stage; None if no epoch ran to its end."""
        return self.stages[-1].best_epoch if self.stages else None

    @property
    def losses(self) -> list[dict[str, float]]:
        """Those of the last stage."""
        return self.stages[-1].losses if self.stages else []

    @property
    def validation_scores(self) -> list[float]:
        """Those of the last stage."""
        return self.stages[-1].validation_scores if self.stages else []

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, numbers and strings; what the last stage says at the top, too."""
        last = ("epochs", "best_epoch", "losses", "validation_scores")
        record = dataclasses.asdict(self) | {name: getattr(self, name) for name in last}
        return {k: _plain(v) for k, v in record.items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "TrainingRecord":
        """Read `to_dict`, also that of a version that knew of no stages."""
        if "stages" in content:
            stages = [_known_fields(StageRecord, stage) for stage in content["stages"]]
        else:
            stages = [_known_fields(StageRecord, {"name": "training", **content})]
        return _known_fields(cls, {**content, "stages": stages})


def _known_fields(kind: type, content: Mapping[str, Any]) -> Any:
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**{name: content[name] for name in names if name in content})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
