"""A training that goes on from a detector: its networks, and which images it may hold out.

The promise of a threshold asks for images that nothing in the detector was made from. So what any
training before was trained on stays in training. Images are known by their content
(`fastad.data.training_set.image_digests`), and the detector file keeps the digests of all trainings
that led to it.
"""

import copy
import dataclasses
import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastad._values import plain
from fastad.data import PixelRange, parse_size, read_image
from fastad.data.depth import FULL, parse_range
from fastad.data.facts import Expectation
from fastad.data.sizes import is_auto
from fastad.data.training_set import PIXELS, TrainingSet, file_digests, image_digests
from fastad.inference.artifact import Artifact, load
from fastad.inference.holding_out import chosen_to_hold_out
from fastad.inference.known_images import trained_and_apart, trainings
from fastad.models import AnomalyModel, FrozenTeacher
from fastad.models.auto import AUTO
from fastad.training import TrainingConfig
from fastad.training.batches import split_indices
from fastad.training.identity import weights_digest

LEAST_HELD_OUT = 5  # images; a threshold from fewer lets one good image in five stop the line
LOOKED_AT = 8  # images whose files are compared with what the detector expects
# What is kept of the record of a training that another one goes on from.
KEPT = ("model", "seed", "n_train", "n_validation", "held_out", "image_digests", "defects", "data")


@dataclass(frozen=True)
class Start:
    """The detector that a training goes on from.

    Attributes:
        artifact: all that it is. It stays as it is.
        file: the name of its file. None for a detector in memory.
        digest: 16 hexadecimal digits of the file, as ``b2sum -l 64`` gives them.
        date: when the file was written, UTC, as ISO 8601 writes it.
    """

    artifact: Artifact
    file: str | None = None
    digest: str | None = None
    date: str | None = None

    @classmethod
    def read(cls, path: str | Path) -> "Start":
        """From a file; errors as `fastad.inference.load`."""
        path = Path(path)
        artifact = load(path)
        written = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.timezone.utc)
        date = written.isoformat(timespec="seconds")
        return cls(artifact, path.name, file_digests([path])[0], date)

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.file or "the detector"

    @property
    def pixel_range(self) -> PixelRange:
        """By which images of 16 bits are read: as a prediction reads them."""
        return self.artifact.pixel_range or FULL

    @property
    def training(self) -> dict[str, Any]:
        """Options of the old training that the new one takes over: the share held out."""
        share = self.artifact.training.get("config", {}).get("validation_fraction")
        return {} if share is None else {"validation_fraction": share}

    def require_same(self, options: Mapping[str, Any]) -> None:
        """Refuse options of a detector that contradict this one; "auto" never does.

        Raises:
            ValueError: the message names the option, and has both values.
        """
        own = dict(vars(self.artifact.model.config))
        own |= {"model": self.artifact.model.name, "image_size": self.artifact.image_size}
        own["bit_depth"] = self.pixel_range.option
        for name, value in plain(dict(options)).items():
            if value == "auto" or (name == "model" and value == AUTO):
                continue
            given = value
            if name == "image_size" and not is_auto(value):
                given = parse_size(value)
            elif name == "bit_depth":
                given = (parse_range(value) or FULL).option
            if name not in own or _listed(given) != _listed(own[name]):
                has = f"has {own[name]!r}" if name in own else "has no such option"
                raise ValueError(
                    f"{name}: {value!r} contradicts start_from: {self.name} {has}. Leave {name} "
                    "out, or train without start_from"
                )

    def model(self) -> AnomalyModel:
        """A copy of the networks to train.

        Raises:
            ValueError: the model has nothing that a training could go on with.
        """
        kept = self.artifact.model
        if not kept.trains():
            raise ValueError(
                f"start_from: {kept.name} trains nothing, so there is nothing to go on from. fit "
                "without start_from, on old and new images, does the same in seconds"
            )
        model = copy.deepcopy(kept)
        model.started_from = weights_digest(model)
        origins = self.artifact.training.get("teachers", {})
        for name, module in model.named_modules():
            if isinstance(module, FrozenTeacher) and name in origins:
                # The file brought the weights; these are the ones that they once were.
                module.backbone.origin = origins[name]
        return model

    def prepared(self, source: TrainingSet, config: TrainingConfig) -> tuple[TrainingSet, list]:
        """The images with those that may be held out, and notes on what was trained on before.

        Args:
            source: the images, read at this detector's size.
            config: of the new training.

        Raises:
            ValueError: too few images may be held out, none is left to train on, or one is a real
                defect that the old training learned from.
        """
        digests = image_digests(source.dataset)
        self._look(source)
        held_out, notes = self._split(digests, source, config)
        own_range = self.artifact.pixel_range
        return dataclasses.replace(source, held_out=held_out, pixel_range=own_range), notes

    def _look(self, source: TrainingSet) -> None:
        """Warn of images that are unlike the old training's, as a prediction does."""
        expectation = Expectation(self.artifact.facts, source.size)
        paths: Sequence[Path] = getattr(source.dataset, "paths", ())
        for path in paths[:: max(1, len(paths) // LOOKED_AT)]:
            expectation.look(path, read_image(path, self.artifact.pixel_range))

    def _split(
        self, digests: Sequence[str], source: TrainingSet, config: TrainingConfig
    ) -> tuple[list[int], list[str]]:
        count, share = len(source.dataset), config.validation_fraction
        known = {d for t in trainings(self.artifact) for d in t.get("image_digests", ())}
        if not digests or {_of_pixels(d) for d in digests} != {_of_pixels(d) for d in known}:
            held_out = source.held_out
            if held_out is None:
                held_out = split_indices(count, share, config.seed)[1].tolist()
            note = (
                "which of the images were trained on before is not known: thresholds from those "
                "held out may be too low. Give files where the old training was given files"
            )
            return held_out, [note]
        bad = {d for t in trainings(self.artifact) for d in t.get("defects", ())} & {*digests}
        if bad:
            paths = getattr(source.dataset, "paths", digests)
            raise ValueError(
                f"images: {paths[digests.index(min(bad))]} is a real defect that the training of "
                f"{self.name} learned from, and no good image"
            )
        trained, apart = trained_and_apart(self.artifact)
        apart_before = apart & known
        apart_now = None if source.held_out is None else {digests[i] for i in source.held_out}
        chosen = chosen_to_hold_out(digests, trained, apart_before, share, config.seed, apart_now)
        held_out = [i for i, digest in enumerate(digests) if digest in chosen]
        unseen = {*digests} - known
        if (share > 0 or apart_now is not None) and len(chosen) < LEAST_HELD_OUT:
            missing = LEAST_HELD_OUT - len(chosen)
            new = missing if apart_now is not None else _enough(len(chosen & known), share)
            raise ValueError(
                f"images: {len(chosen)} of {count} may be held out, which is too few: at least "
                f"{LEAST_HELD_OUT} images must set the threshold that no training has seen. "
                f"{len(trained & {*digests})} of them were trained on before, {len(unseen)} are "
                f"new. Give {new} new ones, or all images of the old training, too"
            )
        if len(held_out) == count:
            raise ValueError(
                f"images: the training of {self.name} held out all {count}, none is left to train "
                "on: give new good images, too"
            )
        return held_out, [*self._notes(digests, trained, apart_before, chosen, known)]

    def _notes(
        self,
        digests: Sequence[str],
        trained: set[str],
        apart: set[str],
        chosen: set[str],
        known: set[str],
    ) -> Iterator[str]:
        given = {*digests}
        yield (
            f"goes on from {self.name}: of {len(given)} images {len(given & trained)} were "
            f"trained on before, {len(given & apart)} held out, {len(given - known)} are new. "
            f"{len(chosen)} are held out now, none of which was ever trained on"
        )
        if not given & known:
            yield (
                f"none of the {len(known)} images of the training before are given: what it "
                "learned of them will be forgotten. Give old and new images together"
            )
        elif known - given:
            yield (
                f"{len(known - given)} of the {len(known)} images of the training before are not "
                "given: what only they show will be forgotten"
            )

    def enter(self, training: dict[str, Any], notes: Sequence[str]) -> None:
        """Write into the record of the new training what it went on from.

        Real defects that an earlier training learned from stay part of the supervision.
        """
        before = self.artifact.training
        kept = {name: before[name] for name in KEPT if name in before}
        kept["epochs"] = {s["name"]: s["epochs"] for s in before.get("stages", ())}
        kept |= {"file": self.file, "digest": self.digest, "date": self.date}
        kept["start_from"] = before.get("start_from")
        training["start_from"] = kept
        training["notes"] = [*notes, *training["notes"]]
        if before.get("roi"):  # the networks keep it, unless another one was given
            training.setdefault("roi", before["roi"])
        if before.get("defects"):
            training["defects"] = sorted({*before["defects"], *training["defects"]})
            count = len(training["defects"])
            training["supervision"] = f"supervised, {count} images of real defects"


def lineage(training: Mapping[str, Any]) -> list[str]:
    """What a training went on from, a line each, the last one first."""
    lines = []
    start = training.get("start_from")
    while start is not None:
        epochs = ", ".join(f"{name} {count}" for name, count in start["epochs"].items() if count)
        of = start["file"] or "a detector in memory"
        known = f" of {start['date']}, digest {start['digest']}" if start["digest"] else ""
        lines.append(f"{of}{known}: epochs {epochs}, {start['n_train']} images trained on")
        start = start.get("start_from")
    return lines


def _enough(again: int, share: float) -> int:
    """How many new images there must be, so that enough may be held out."""
    new = 2
    while again + max(1, round(share * new)) < LEAST_HELD_OUT:
        new += 1
    return new


def _of_pixels(digest: str) -> bool:
    return digest.startswith(PIXELS)


def _listed(value: Any) -> Any:
    value = plain(value)
    return list(value) if isinstance(value, (list, tuple)) else value
