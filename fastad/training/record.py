"""What a training did, to keep beside its result."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrainingRecord:
    """Everything needed to tell how a model came about; `to_dict` is JSON.

    Attributes:
        model: its name in the registry.
        epochs: epochs run to their end.
        best_epoch: the one whose weights were kept, from 1; None if none ran to its end.
        losses: for each epoch, the mean of each named loss over the images trained on.
        validation_scores: for each epoch, the mean of the model's own score on held-out normals.
        n_train, n_validation: images.
        held_out: indices into the data set of the images not trained on.
        seconds: of the whole training, the parts before and after an interruption added up.
        seed: of split, order and random layers.
        config: the training options asked for.
        device, precision: what they came to.
        versions: of torch and fastad.
        threads: of torch on the CPU; another number rounds differently.
        interrupted: stopped by the user before the last epoch.
        notes: what was done otherwise than asked for, and why.
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
    epochs: int = 0
    best_epoch: int | None = None
    losses: list[dict[str, float]] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def still_falling(self) -> bool:
        """Whether the last epoch is the best and the last tenth of them brought more than 10 %."""
        if self.epochs < 3 or self.best_epoch != self.epochs:
            return False
        last = max(1, round(self.epochs / 10))
        before, after = self.validation_scores[-1 - last], self.validation_scores[-1]
        return before - after > 0.1 * abs(before)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, numbers and strings."""
        record = dataclasses.asdict(self)
        return {k: _plain(v) for k, v in record.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
