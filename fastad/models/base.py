"""What every model shares: its prediction, its checks, its frozen teachers.

A model takes RGB images (N, 3, H, W), floating, in [0, 1], and normalises them itself, so that an
exported graph carries its preprocessing.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastad import backbones
from fastad.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from fastad.models.roi import RegionOfInterest, mean_inside

Batches = Callable[[], Iterable[Mapping[str, Any]]]  # iterates anew every time

Images = Tensor | tuple[Tensor, Tensor]  # or a tile, and what its overview sees of the image

PROBE = 64  # pixels a side of the image on which teachers show their channels


@dataclass
class Prediction:
    """What a model says about a batch; higher is more anomalous.

    Attributes:
        score: (N,), one number an image.
        anomaly_map: (N, H, W), one number a pixel of the input.
    """

    score: Tensor
    anomaly_map: Tensor


# torch.export has to know how to take a result apart.
torch.export.register_dataclass(Prediction)


@dataclass(frozen=True)
class Step:
    """A part of every step of a stage, with parameters, losses and an optimizer of its own.

    Attributes:
        name: among the steps of its stage, in options and records.
        training_defaults: what replaces the stage's options here: of the optimizer alone.
    """

    name: str = "step"
    training_defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A part of a model's training with parameters, loss and error on held-out images of its own.

    Attributes:
        name: of this part in progress, record and options.
        training_defaults: what replaces the model's own here (epochs, optimizer, ...).
        pseudo_anomalies: batches are of images with synthesised defects and hold "image" and
            "mask" (N, H, W) bool.
        unseen: trains on half of the held-out images too, which no earlier stage has seen; that
            half is then no longer held out.
        reads_images: False where the loss and the score need `AnomalyModel.teacher_features` and
            "mask" alone: "image" is then missing from batches whose features were kept.
        is_static: whether the losses are the same operations of torch on every batch of a size,
            with no number that Python draws or counts in them: on CUDA they may be recorded.
        judged_by_defects: whether `AnomalyModel.answer` tells defects apart in this stage already:
            its epoch is then chosen by synthesised ones on held-out images, too.
        sees_past_defects: whether the loss takes "corrupted" of a batch (N, 3, H, W), where it is
            there: images with a synthesised defect for the student alone. And "foreign"
            (N, 3, h, w): images on which it must not follow the teacher.
        steps: what is done in turn with every batch, as where a generator and a discriminator
            learn from each other. Empty for a stage that trains nothing: it is
            `AnomalyModel.prepare_stage` and `AnomalyModel.finish_stage` alone, without epochs.
    """

    name: str = "training"
    training_defaults: Mapping[str, Any] = field(default_factory=dict)
    pseudo_anomalies: bool = False
    unseen: bool = False
    reads_images: bool = True
    is_static: bool = False
    judged_by_defects: bool = False
    sees_past_defects: bool = False
    steps: tuple[Step, ...] = (Step(),)

    @property
    def trains(self) -> bool:
        """Whether there is anything to train, and so epochs and an optimizer."""
        return len(self.steps) > 0


class FrozenTeacher(nn.Module):
    """A backbone that nothing changes: always in eval mode, no gradient, no graph.

    Input (N, 3, H, W), output the backbone's list of feature maps (N, C_l, H_l, W_l).
    """

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "FrozenTeacher":
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Images) -> list[Tensor]:
        return backbones.extract(self.backbone, images)

    def shapes(self) -> list[tuple[int, int, int]]:
        """(C, H, W) of the feature maps of an image of `PROBE` x `PROBE` pixels."""
        like = next(self.parameters(), torch.empty(0))
        return [tuple(feature.shape[1:]) for feature in self(like.new_zeros(1, 3, PROBE, PROBE))]


class AnomalyModel(nn.Module):
    """Base of all models: subclasses give ``name``, ``Config``, ``forward`` and ``loss``.

    Attributes:
        name: the name in the registry.
        Config: dataclass of the model's options.
        training_defaults: what its authors chose of `fastad.training.TrainingConfig`.
        stages: the parts of its training, one after the other.
        pair: names of a `FrozenTeacher` and a student that look at the same images; None without.
        stage: the one that it is in; None outside training.
        started_from: digest of the trained weights that its training goes on from. None for new
            ones.
        config: the options of this instance.
        roi: which pixels count. None for all. What a subclass makes of images must go by it: maps
            are 0 outside, and scores, losses and statistics are of what is inside.
        learns_roi: whether the networks must know the region from the training on.
    """

    name: ClassVar[str]
    Config: ClassVar[type]
    training_defaults: ClassVar[dict[str, Any]] = {}
    stages: ClassVar[tuple[Stage, ...]] = (Stage(),)
    pair: ClassVar[tuple[str, str] | None] = None
    stage: Stage | None = None
    learns_roi: ClassVar[bool] = False
    roi: RegionOfInterest | None
    started_from: str | None = None
    mean: Tensor
    std: Tensor

    def __init__(self, config: Any):
        super().__init__()
        self.config = config
        self.register_module("roi", None)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def set_roi(self, mask: Tensor | None) -> None:
        """Let only the pixels of a mask (H, W) bool count; None for all."""
        self.roi = None if mask is None else RegionOfInterest(mask.to(self.mean.device))

    def places(self, features: Tensor) -> Tensor:
        """Features (N, C, h, w) at the places that count: (N, C, 1, n). All without a region."""
        return features if self.roi is None else self.roi.places(features)

    def falls_with_roi(self) -> bool:
        """Whether a region that is set after the training raises no score of any image."""
        return False

    def build_backbone(self, layers: Sequence[str]) -> nn.Module:
        """The backbone that the options name, with their ``teacher_weights``; these become
        "embedded" in ``self.config`` where "auto" came to that. Raises as `backbones.build`."""
        config = self.config
        backbone = backbones.build(config.backbone, layers, config.teacher_weights)
        if config.teacher_weights == "auto" and backbone.origin == "embedded":
            self.config = dataclasses.replace(config, teacher_weights="embedded")
        return backbone

    def build_pair(self, layers: Sequence[str]) -> tuple[FrozenTeacher, nn.Module]:
        """Teacher and student of the options' ``backbone``, a name or a module.

        The student is another network of that name; of a module it is the options' ``student``, or
        a copy with newly drawn parameters. With ``overview`` both look at that, too. Raises as
        `build_backbone`.
        """
        backbone, student = self.config.backbone, self.config.student
        if isinstance(backbone, nn.Module):
            teacher, student = backbone, student or backbones.fresh_copy(backbone)
        else:
            teacher, student = self.build_backbone(layers), backbones.build(backbone, layers)
        return FrozenTeacher(self.at_scales(teacher)), self.at_scales(student)

    @property
    def overview(self) -> int:
        """How many times smaller the overview of an image is that is looked at, too; 0 for none."""
        return getattr(self.config, "overview", 0)

    @property
    def scales_apart(self) -> bool:
        """Whether the overview has distance maps of its own: the second half of them."""
        return self.overview > 0

    def of_scales(self, levels: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        """Maps or features apart: of the image, and of the overview where that has its own."""
        half = len(levels) // 2
        return [levels[:half], levels[half:]] if self.scales_apart else [levels]

    def at_scales(self, backbone: nn.Module) -> nn.Module:
        """The backbone, or with ``overview`` the same at two scales."""
        return backbones.TwoScales(backbone, self.overview) if self.overview else backbone

    def extract_pair(self, images: Images) -> tuple[list[Tensor], list[Tensor]]:
        """Feature maps of the teacher and of the student of ``pair``, for normalised images."""
        assert self.pair is not None  # only models with one call it
        teacher, student = map(self.get_submodule, self.pair)
        return teacher(images), backbones.extract(student, images)

    def normalize(self, images: Tensor) -> Tensor:
        """Check a batch (N, 3, H, W) and bring it to ImageNet's mean and standard deviation.

        Raises:
            ValueError: another shape.
            TypeError: not floating point.
        """
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images must be RGB of shape (N, 3, H, W); got shape {tuple(images.shape)}"
            )
        if not images.is_floating_point():
            raise TypeError(
                f"images must be floating point in [0, 1]; got {images.dtype} of shape "
                f"{tuple(images.shape)} (divide uint8 by 255)"
            )
        return (images - self.mean) / self.std

    def seen(self, batch: Mapping[str, Any]) -> Images:
        """Of a batch the normalised "image" (N, 3, H, W). Behind it "overview" (N, 3, h, w) where a
        tile has one, which sees more than the tile."""
        if "overview" in batch:
            return self.normalize(batch["image"]), self.normalize(batch["overview"])
        return self.normalize(batch["image"])

    def forward(self, images: Tensor) -> Prediction:
        """Score images (N, 3, H, W) in [0, 1]."""
        raise NotImplementedError

    def answer(self, batch: Mapping[str, Any]) -> Prediction:
        """What `forward` says of ``batch["image"]``, in training too.

        ``batch`` as in `loss`. A model with `teacher_features` takes those that are kept in it.
        """
        return self(batch["image"])

    def calibrate_maps(self, good: Batches) -> None:
        """Take what maps are scaled by from good images.

        Called in eval mode, without gradients; results belong into buffers. ``good()`` iterates
        batches as in `prepare_stage`: of held-out images before an epoch is judged by `answer`, of
        training images at the end of a stage.
        """

    @classmethod
    def training_defaults_for(cls, config: Any) -> dict[str, Any]:
        """`training_defaults` where the model has these options; a model may replace some."""
        return cls.training_defaults

    @classmethod
    def options_of_file(cls, options: dict[str, Any]) -> dict[str, Any]:
        """The options in a detector file, and those that its version did not have yet."""
        return options

    @classmethod
    def trains(cls) -> bool:
        """Whether any stage does; a model of no such stage learns in one look at the images."""
        return any(stage.trains for stage in cls.stages)

    def enter_stage(self, stage: Stage | None) -> None:
        """Be ready for a stage of the training, a new or a resumed one; None: training is over.

        A model of several stages says here what is trained (``requires_grad``); what is not must
        stay in eval mode whatever `train` is called with. Loss, validation score, parameter groups
        and teachers' features are from then on those of the stage.
        """
        self.stage = stage

    def prepare_stage(self, train: Batches, unseen: Batches) -> None:
        """Compute what a stage needs before its first epoch, such as the scale of its inputs.

        Called once, in eval mode, without gradients; not when a training is resumed within the
        stage, so results belong into buffers or parameters. ``train()`` and ``unseen()`` each
        iterate batches like those of `loss`, without synthesised defects: of training images, and
        of images that earlier stages were not fitted to (training images where there are none).
        """

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Named scalars whose sum training minimises.

        ``batch["image"]``: (N, 3, H, W) floating in [0, 1]; more entries as the data set gives.
        While training also those of `teacher_features`; where these were kept and the stage has
        ``reads_images=False``, "image" is missing.
        """
        raise NotImplementedError

    def step_loss(self, batch: dict[str, Any], step: Step) -> dict[str, Tensor]:
        """The losses of one step of the stage; of a stage with one, those of `loss`.

        While a step is computed, parameters of the stage's other steps take no gradient. Entries
        that it puts into ``batch`` are there for the steps after it. Names of losses differ between
        steps.
        """
        return self.loss(batch)

    def finish_stage(self, train: Batches) -> None:
        """Compute what the trained stage asks for, such as the scale of its scores.

        Called at the end of a stage, also of one that the user stopped, with its best epoch, in
        eval mode, without gradients; results belong into buffers. ``train()`` iterates batches of
        training images as in `prepare_stage`.
        """

    def explain(self, images: Tensor) -> dict[str, Tensor]:
        """Pictures that tell why images (N, 3, H, W) in [0, 1] are scored as they are.

        By name, each (N, 3, H, W) in [0, 1]. Empty for a model that makes none.
        """
        return {}

    def teacher_features(self, images: Tensor) -> dict[str, list[Tensor]]:
        """What frozen teachers make of images (N, 3, H, W): name -> list of (N, C_l, H_l, W_l).

        Training adds it to the batches, and where images come again in every epoch computes it once
        for a stage. Networks that the stage does not train count as teachers. Empty for a
        model that has no use for that.
        """
        return {}

    def student_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that training changes."""
        return (p for p in self.parameters() if p.requires_grad)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for a torch optimizer; a group may set options of its own, such as ``lr``."""
        return [{"params": list(self.student_parameters())}]

    def step_parameter_groups(self, step: Step) -> list[dict[str, Any]]:
        """Groups for the optimizer of one step of the stage; of a stage with one, all."""
        return self.parameter_groups()

    def trained_state(self) -> dict[str, Tensor]:
        """The part of the state dict outside frozen teachers (tensors not copied)."""
        frozen = tuple(
            f"{name}." for name, m in self.named_modules() if isinstance(m, FrozenTeacher)
        )
        return {k: v for k, v in self.state_dict().items() if not k.startswith(frozen)}

    def teacher_origins(self) -> dict[str, str | None]:
        """Of each frozen teacher where its weights came from; see `fastad.backbones.Backbone`.

        Of a module of another class the name of that.
        """
        return {
            name: getattr(module.backbone, "origin", type(module.backbone).__name__)
            for name, module in self.named_modules()
            if isinstance(module, FrozenTeacher)
        }

    def validation_score(self, batch: Mapping[str, Any]) -> Tensor:
        """The model's own score on a batch of held-out normal images: (N,), lower is better.

        The mean of an image's anomaly map, unless a model knows better. ``batch`` as in `loss`.
        """
        return mean_inside(self.answer(batch).anomaly_map, self.roi)
