"""The stages of a training: their options, which images they see, what they are validated on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastad.data.depth import PixelRange
from fastad.data.folder import Images
from fastad.data.synthesis import (
    Corrupted,
    Foreign,
    PseudoAnomalies,
    RealDefects,
    TextureFolder,
    TrialDefects,
    Variants,
    chosen_defects,
)
from fastad.data.training_set import file_digests
from fastad.models import AnomalyModel, Stage
from fastad.training.config import TrainingConfig
from fastad.training.small_sets import fitted
from fastad.training.trial import pixels_inside, trial_defects

# Validation of a stage that learns from synthesised defects: enough items that chance does not
# choose the epoch, and each held-out image with and without defects.
MIN_VALIDATION_ITEMS = 100
MIN_VALIDATION_REPEATS = 4
TRAINING, VALIDATION, TRIAL, VARIANTS, CORRUPTED, FOREIGN = 1, 2, 3, 4, 5, 6  # seeds differ


@dataclass(frozen=True)
class StagePlan:
    """What a stage works with, known before the first one begins.

    Attributes:
        stage: of the model.
        config: the options of this stage, epochs and batches fitted to the number of its items.
        steps: the options of each of the stage's steps.
        seed: of its order, random layers and synthesised defects.
        train: indices of the images that were not held out before this stage.
        unseen: indices of those taken from the held-out images by this stage; most often empty.
        held_out: indices of the images that stay held out.
        images, looked_at: the normal images with their variants, and what a model looks at before
            and after the epochs: items of the training images and of their variants.
        train_set, train_items: what an epoch goes through: items of a data set. Of items (1 + k, n)
            an epoch takes one a column: an image or one of its k variants.
        validation_set, validation_items: what the epoch is chosen by.
        trial: defects that it is chosen by, too; None for a stage that is not.
    """

    stage: Stage
    config: TrainingConfig
    steps: tuple[TrainingConfig, ...]
    seed: int
    train: Tensor
    unseen: Tensor
    held_out: Tensor
    images: Images
    looked_at: Tensor
    train_set: Images
    train_items: Tensor
    validation_set: Images
    validation_items: Tensor
    trial: TrialDefects | None = None

    @property
    def defects(self) -> list[str]:
        """Digests of the images of real defects that the stage learns from."""
        defects = getattr(self.train_set, "defects", None)
        return [] if defects is None else defects.digests


def plan_stages(
    model: AnomalyModel,
    config: TrainingConfig,
    images: Images,
    train: Tensor,
    held_out: Tensor,
    pixel_range: PixelRange | None = None,
) -> list[StagePlan]:
    """The model's stages in order; a function of the arguments alone.

    A stage with ``unseen`` takes half of the images still held out, rounded down; stages after it
    count them among the training images. Without held-out images a stage is validated on its
    training images.

    Raises:
        ValueError: options of a stage that the model does not have, or textures or defects that
            cannot be.
    """
    config.check_stages(model)
    plans = []
    for index, stage in enumerate(model.stages):
        own = config.for_stage(model, stage)
        seed = config.seed if index == 0 else derived_seed(config.seed, index, 0)
        unseen = held_out[:0]
        made, looked_at = images, train
        if stage.unseen:
            order = held_out[torch.randperm(len(held_out), generator=_generator(seed))]
            unseen, held_out = (half.sort().values for half in _halves(order))
        if stage.pseudo_anomalies:
            base, base_validation = _base_images(own.pseudo_anomalies, train, unseen, held_out)
            textures = None if own.textures is None else TextureFolder(own.textures)
            defects = None
            if own.defects is not None:
                defects = RealDefects(own.defects, own.defect_images, config.seed, pixel_range)
                _refuse_normal(defects, images)
            train_set: Images
            validation_set: Images
            train_set, validation_set = (
                PseudoAnomalies(
                    images,
                    chosen.tolist(),
                    textures=textures,
                    seed=derived_seed(config.seed, index, purpose),
                    own_patches=own.own_patches,
                    on_foreground=own.on_foreground,
                    # The same ones again would only be remembered.
                    defects=defects if purpose == TRAINING else None,
                    inside=pixels_inside(model.roi),
                )
                for purpose, chosen in ((TRAINING, base), (VALIDATION, base_validation))
            )
            items = torch.arange(len(base)), torch.arange(len(base_validation))
        else:
            seen = torch.cat([train, unseen]).sort().values
            items = seen, held_out if len(held_out) else seen
            if own.variants > 0:
                seed_of_variants = derived_seed(config.seed, index, VARIANTS)
                made = Variants(
                    images, seen, own.variants, seed_of_variants, inside=pixels_inside(model.roi)
                )
                items = made.rows(), items[1]
                looked_at = items[0].flatten()
            if own.corrupt > 0 and stage.sees_past_defects:
                made = Corrupted(
                    made,
                    items[0].flatten().tolist(),
                    own.corrupt,
                    derived_seed(config.seed, index, CORRUPTED),
                    pixels_inside(model.roi),
                )
            if own.foreign and stage.sees_past_defects:
                made = Foreign(made, derived_seed(config.seed, index, FOREIGN))
            train_set = validation_set = made
        trial = None
        if stage.judged_by_defects:
            trial = trial_defects(
                images, held_out, derived_seed(config.seed, index, TRIAL), roi=model.roi
            )
        plans.append(
            StagePlan(
                stage=stage,
                config=fitted(own, items[0].shape[-1]),
                steps=tuple(config.for_step(model, stage, step) for step in stage.steps),
                seed=seed,
                train=train,
                unseen=unseen,
                held_out=held_out,
                images=made,
                looked_at=looked_at,
                train_set=train_set,
                train_items=items[0],
                validation_set=validation_set,
                validation_items=items[1],
                trial=trial,
            )
        )
        train = torch.cat([train, unseen]).sort().values
    return plans


def check_defects(model: AnomalyModel | type[AnomalyModel], config: TrainingConfig) -> None:
    """Raise what `plan_stages` would for a folder of too few real defects, before images are read.

    Files are listed, none is read.
    """
    for stage in model.stages:
        own = config.for_stage(model, stage)
        if stage.pseudo_anomalies and own.defects is not None:
            chosen_defects(own.defects, own.defect_images, config.seed)


def _halves(order: Tensor) -> tuple[Tensor, Tensor]:
    return order[: len(order) // 2], order[len(order) // 2 :]


def _base_images(
    count: int, train: Tensor, unseen: Tensor, held_out: Tensor
) -> tuple[Tensor, Tensor]:
    """Indices of the images that get defects, for training and for validation.

    Half of the training items are of unseen images, where there are any: earlier stages were fitted
    to the training images, so what they make of those is cleaner than what they make of any new
    image, and a stage that saw nothing else would take every new image for defective. The other
    half keeps the variety of the many training images.
    """
    new = count - count // 2 if len(unseen) else 0
    base = torch.cat([_spread(unseen, new), _spread(train, count - new)])
    if len(held_out) == 0:
        return base, _spread(train, MIN_VALIDATION_ITEMS)
    repeats = max(MIN_VALIDATION_REPEATS, -(-MIN_VALIDATION_ITEMS // len(held_out)))
    return base, _spread(held_out, repeats * len(held_out))


def _spread(indices: Tensor, count: int) -> Tensor:
    """``count`` of the indices, each as often as any other within one, repetitions in succession.

    Of successive items half stay clean: so an image that comes several times is there as both.
    """
    return indices[torch.arange(count) * len(indices) // max(count, 1)]


def _refuse_normal(defects: RealDefects, images: Images) -> None:
    normal = dict(zip(file_digests(paths := getattr(images, "paths", ())), paths, strict=True))
    for path, digest in zip(defects.paths, defects.digests, strict=True):
        if digest in normal:
            raise ValueError(f"defects: {path} is among the normal images, too: {normal[digest]}")


def derived_seed(*key: int) -> int:
    """A seed of its own for every key of whole numbers from 0."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def held_out_notes(plans: Sequence[StagePlan]) -> list[str]:
    """Notes on what the stages that ran took from the held-out images."""
    notes = []
    for plan in plans:
        taken, left = len(plan.unseen), len(plan.held_out)
        if taken:
            notes.append(
                f"stage {plan.stage.name} was trained on {taken} of {taken + left} held-out "
                f"images: the other {left} chose its epoch and set the threshold"
            )
        elif plan.stage.unseen:
            what = "one image is" if left else "no images are"
            notes.append(
                f"stage {plan.stage.name} was trained on images that the stages before it had "
                f"seen: {what} held out"
            )
    return notes
