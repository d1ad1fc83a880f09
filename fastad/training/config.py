"""How to train: one dataclass for every model."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastad._suggest import did_you_mean
from fastad._values import Options, is_integer, is_number
from fastad.models import AnomalyModel, Stage, Step
from fastad.training.precision import PRECISIONS
from fastad.training.schedule import SCHEDULES

OPTIMIZERS = ("sgd", "adam", "adamw")
# What one stage of a training may have otherwise than the others.
STAGE_OPTIONS = (
    "epochs",
    "batch_size",
    "optimizer",
    "learning_rate",
    "schedule",
    "momentum",
    "betas",
    "weight_decay",
    "min_steps",
    "min_batches",
    "pseudo_anomalies",
    "textures",
    "own_patches",
    "on_foreground",
    "defects",
    "defect_images",
)
OF_ONE_STUDENT = ("corrupt", "foreign")  # what a student alone sees
OF_PSEUDO_ANOMALIES = STAGE_OPTIONS[STAGE_OPTIONS.index("pseudo_anomalies") :]
# What nothing but a stage that trains has.
OF_EPOCHS = tuple(
    name for name in STAGE_OPTIONS if name not in ("batch_size", *OF_PSEUDO_ANOMALIES)
)
# What one step of a stage may have otherwise than the others.
STEP_OPTIONS = ("optimizer", "learning_rate", "momentum", "betas", "weight_decay")
# Which floor falls away where an option is given: what is asked for is taken as it is.
FLOORS = {"epochs": "min_steps", "batch_size": "min_batches"}
# What part of the usual epochs and steps a training takes that goes on from a detector.
GOING_ON = 4


@dataclass
class TrainingConfig(Options):
    """Options of `fastad.training.Trainer`; `for_model` fills in what a model's authors chose.

    Attributes:
        epochs: passes over the training images. In a training of several stages it is the number of
            the first one. The others are scaled with it, in the proportion of their defaults.
        batch_size: images a step. A last batch of a single image is left out unless it is the only
            one: batch norm learns nothing useful from it.
        optimizer: "sgd", "adam" or "adamw".
        learning_rate: the highest that the schedule gives.
        schedule: "constant", "cosine" or "exponential". "cosine" rises over the first twentieth of
            a stage's steps, then falls to zero on half a cosine. "exponential" falls to 0.9. A
            training with one of the latter two cannot be resumed with more epochs.
        momentum: of "sgd".
        betas: of "adam" and "adamw".
        weight_decay: of the optimizer.
        min_steps: fewest steps of a stage. On a small set of images its epochs become more until
            there are as many. 0 for none, also where ``epochs`` is given and this is not.
        min_batches: fewest steps of an epoch. On a small set of images batches get smaller until
            there are as many, down to 4 images. 0 for none, also where ``batch_size`` is given and
            this is not.
        validation_fraction: share of the images held out to choose the epoch by, in [0, 1). Without
            effect where the layout of the folder sets images apart.
        variants: copies of each training image under other light and contrast, at a slightly other
            position, a little blurred or with noise. They are drawn once, so that the teachers'
            features of them are kept as well. An epoch takes each image once, as itself or as one
            of its copies. A model that trains nothing looks at all of them. 0 for none. Held-out
            images have none.
        corrupt: share of the training images that the student of STPM, and the first one of RSTPM,
            sees with a synthesised defect, from 0 to 1. It must give the teacher's features of the
            image without. Each epoch draws other defects.
        foreign: also show generated textures to the student of STPM, and to the first one of
            RSTPM: one of a quarter of the pixels beside each image. Where it gives the teacher's
            features there, too, it is told not to.
        seed: of the split, the order of the images, and random layers.
        precision: "auto", "float32", "bfloat16" or "float16" of convolutions and products.
            Parameters and their updates stay float32. "auto" is bfloat16 where the device has units
            for it, float16 on an older GPU, else float32. It is float32 for a model that trains
            nothing.
        channels_last: memory format of the model and the images.
        device: "auto", "cpu", "cuda" or "cuda:N". "auto" is CUDA where there is a device.
        feature_cache_gib: memory in which the teachers' features of all images are kept, where they
            fit and nothing changes the images. At most half of the memory of the machine (or of the
            CUDA device) is taken. 0 keeps none, also not on disk: every step computes them.
        feature_disk_gib: space in the folder for temporary files (TMPDIR) in which they are kept
            where memory has no room for them. 0 for none.
        workers: processes that read images of a data set that is too large for memory. 0 reads them
            in the training's own process. "auto" takes one for each processor, at most four. The
            result is the same.
        deterministic: on CUDA, let cuDNN take only algorithms that give the same bits every time.
        pseudo_anomalies: images with synthesised defects in an epoch of a stage that learns from
            such images. They are the same in every epoch.
        textures: folder of images that these defects are made of. None generates textures.
        own_patches: share of these defects that are made of the image's own patches in another
            order.
        on_foreground: keep these defects on the product, where it stands out from its background.
        defects: folder of real defects with masks. Half of the images that get a defect get one of
            these. The training is then supervised, and an evaluation leaves these images out. The
            layouts are those of `fastad.data.defect_samples`.
        defect_images: how many of that folder's images to take, about as many of each type, by
            ``seed``. None takes all.
        stages: options of single stages by name, as ``{"discriminator": {"epochs": 30}}``. They win
            over the stage's own defaults, and those over the fields above. The name of one of a
            stage's several steps is "STAGE.STEP". On the command line it is ``--stage``.

    Raises:
        ValueError: a value out of range; the message names the field.

    Examples:
        >>> from fastad.models import STPM
        >>> from fastad.training import TrainingConfig
        >>> config = TrainingConfig.for_model(STPM, epochs=10)
        >>> config.epochs, config.optimizer, config.learning_rate  # the last two are the authors'
        (10, 'sgd', 0.4)
    """

    epochs: int = 100
    batch_size: int = 32
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "constant"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    min_steps: int = 0
    min_batches: int = 0
    validation_fraction: float = 0.2
    variants: int = 0
    corrupt: float = 0.0
    foreign: bool = False
    seed: int = 0
    precision: str = "auto"
    channels_last: bool = True
    device: str = "auto"
    feature_cache_gib: float = 8.0
    feature_disk_gib: float = 32.0
    workers: int | str = "auto"
    deterministic: bool = True
    pseudo_anomalies: int = 1000
    textures: str | None = None
    own_patches: float = 0.0
    on_foreground: bool = False
    defects: str | None = None
    defect_images: int | None = None
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._make_plain()
        for name in ("epochs", "batch_size", "pseudo_anomalies"):
            self._require(name, is_integer(getattr(self, name), 1), "an integer of at least 1")
        for name in ("seed", "min_steps", "min_batches", "variants"):
            self._require(name, is_integer(getattr(self, name), 0), "an integer of at least 0")
        self._require("seed", self.seed < 2**63, "below 2**63")
        self._require(
            "workers",
            self.workers == "auto" or is_integer(self.workers, 0),
            "'auto' or an integer of at least 0",
        )
        self._require("schedule", self.schedule in SCHEDULES, _one_of(SCHEDULES))
        self._require("optimizer", self.optimizer in OPTIMIZERS, _one_of(OPTIMIZERS))
        self._require("precision", self.precision in PRECISIONS, _one_of(PRECISIONS))
        self._require(
            "learning_rate", is_number(self.learning_rate) and self.learning_rate > 0, "above 0"
        )
        self._require("momentum", _is_fraction(self.momentum), "in [0, 1)")
        self._require(
            "weight_decay", is_number(self.weight_decay) and self.weight_decay >= 0, "at least 0"
        )
        for name in ("feature_cache_gib", "feature_disk_gib"):
            value = getattr(self, name)
            self._require(name, is_number(value) and value >= 0, "at least 0")
        self._require("validation_fraction", _is_fraction(self.validation_fraction), "in [0, 1)")
        two_fractions = (
            isinstance(self.betas, (list, tuple))
            and len(self.betas) == 2
            and all(map(_is_fraction, self.betas))
        )
        self._require("betas", two_fractions, "two numbers in [0, 1)")
        self.betas = (self.betas[0], self.betas[1])
        for name in ("channels_last", "deterministic", "foreign", "on_foreground"):
            self._require(name, isinstance(getattr(self, name), bool), "True or False")
        self.device = str(self.device)
        for name in ("textures", "defects"):
            value = getattr(self, name)
            is_path = isinstance(value, str) and value != ""
            self._require(name, value is None or is_path, "a folder or None")
        share = self.own_patches
        self._require("own_patches", is_number(share) and 0 <= share <= 1, "from 0 to 1")
        share = self.corrupt
        self._require("corrupt", is_number(share) and 0 <= share <= 1, "from 0 to 1")
        count = self.defect_images
        is_count = count is None or is_integer(count, 1)
        self._require("defect_images", is_count, "an integer of at least 1, or None")
        self._require(
            "defect_images", count is None or self.defects is not None, "None without defects"
        )
        self._check_stages()

    def _check_stages(self) -> None:
        are_dicts = isinstance(self.stages, Mapping) and all(
            isinstance(options, Mapping) for options in self.stages.values()
        )
        self._require("stages", are_dicts, "a dict like {'NAME': {'epochs': 30}}")
        self.stages = {name: dict(options) for name, options in self.stages.items()}
        for stage, options in self.stages.items():
            for option in options:
                if option not in STAGE_OPTIONS:
                    whole = option in (field.name for field in dataclasses.fields(self))
                    raise ValueError(
                        f"stages: {option} of {stage!r} "
                        f"{'is the same for the whole training' if whole else 'is no option'}; "
                        f"a stage can have: {', '.join(STAGE_OPTIONS)}"
                    )
            try:
                dataclasses.replace(self, stages={}, **options)
            except ValueError as error:
                raise ValueError(f"stages: of {stage!r}, {error}") from None

    @classmethod
    def for_model(
        cls, model: AnomalyModel | type[AnomalyModel], **overrides: Any
    ) -> "TrainingConfig":
        """The model's own defaults, replaced where ``overrides`` says so.

        A built model's may follow its options (`AnomalyModel.training_defaults_for`), a class's
        cannot.

        Raises:
            TypeError: an override that is no field.
            ValueError: a value out of range, a stage that the model does not have, or options of
                pseudo-anomalies or of epochs for a model that has no use for them.
        """
        fields = [field.name for field in dataclasses.fields(cls)]
        for name in overrides:
            if name not in fields:
                raise TypeError(
                    f"unknown training option {name!r}{did_you_mean(name, fields)}; there are: "
                    f"{', '.join(fields)}"
                )
        as_asked = {floor: 0 for option, floor in FLOORS.items() if option in overrides}
        config = cls(**{**usual_options(model), **as_asked, **overrides})
        config.check_stages(model)
        if not any(stage.pseudo_anomalies for stage in model.stages):
            for name in OF_PSEUDO_ANOMALIES:
                if name in overrides and getattr(config, name) != getattr(cls, name):
                    raise ValueError(f"{name}: the training of {model.name} has no use for it")
        if not any(stage.sees_past_defects for stage in model.stages):
            for name in OF_ONE_STUDENT:
                if getattr(config, name):
                    raise ValueError(f"{name}: the training of {model.name} has no use for it")
        if not model.trains():
            for name in OF_EPOCHS:
                if name in overrides:
                    raise ValueError(
                        f"{name}: {model.name} trains nothing, it looks at every image once"
                    )
        return config

    def check_stages(self, model: AnomalyModel | type[AnomalyModel]) -> None:
        """Raise ValueError where ``stages`` names one that the model does not have, or gives one
        options of pseudo-anomalies or of epochs that has no use for them."""
        known = {stage.name: stage for stage in model.stages}
        steps = {
            f"{stage.name}.{step.name}"
            for stage in model.stages
            for step in stage.steps
            if len(stage.steps) > 1
        }
        for name, options in self.stages.items():
            if name in steps:
                for option in options:
                    if option not in STEP_OPTIONS:
                        raise ValueError(
                            f"stages: {option} is the same for all steps of a stage; {name!r} can "
                            f"have: {', '.join(STEP_OPTIONS)}"
                        )
                continue
            if name not in known:
                raise ValueError(
                    f"stages: {model.name} has no stage {name!r}; there are: "
                    f"{', '.join([*known, *sorted(steps)])}"
                )
            unused = () if known[name].pseudo_anomalies else OF_PSEUDO_ANOMALIES
            unused += () if known[name].trains else OF_EPOCHS
            for option in unused:
                if option in options:
                    raise ValueError(f"stages: {name!r} has no use for {option}")

    def for_stage(self, model: AnomalyModel | type[AnomalyModel], stage: Stage) -> "TrainingConfig":
        """The options of one stage, with no ``stages`` of its own.

        Its epochs, where ``stages`` does not give them: ``epochs`` times the stage's default over
        the model's, at least one.
        """
        defaults = dict(stage.training_defaults)
        whole = defaults_of(model).get("epochs", type(self).epochs)
        epochs = max(1, round(self.epochs * defaults.pop("epochs", whole) / whole))
        own = self.stages.get(stage.name, {})
        as_asked = {floor: 0 for option, floor in FLOORS.items() if option in own}
        options = {**defaults, "epochs": epochs, **as_asked, **own}
        return dataclasses.replace(self, stages={}, **options)

    def for_step(
        self, model: AnomalyModel | type[AnomalyModel], stage: Stage, step: Step
    ) -> "TrainingConfig":
        """The options of one step of a stage: those of the stage, but for what the step has of its
        own by default, or by ``stages`` as "STAGE.STEP"."""
        own = self.stages.get(f"{stage.name}.{step.name}", {})
        options = {**step.training_defaults, **own}
        return dataclasses.replace(self.for_stage(model, stage), **options)


def defaults_of(model: AnomalyModel | type[AnomalyModel]) -> dict[str, Any]:
    """What a model's authors chose of `TrainingConfig`, as far as its options are known."""
    if isinstance(model, type):
        return model.training_defaults
    return model.training_defaults_for(model.config)


def usual_options(model: AnomalyModel | type[AnomalyModel]) -> dict[str, Any]:
    """`defaults_of`, with a quarter of the epochs and steps where a training goes on from a
    detector: its students know most already."""
    usual = defaults_of(model)
    if isinstance(model, type) or model.started_from is None or not model.trains():
        return usual
    whole = {"epochs": TrainingConfig.epochs, "min_steps": TrainingConfig.min_steps} | usual
    return usual | {name: -(-whole[name] // GOING_ON) for name in ("epochs", "min_steps")}


def _one_of(names: tuple[str, ...]) -> str:
    return f"one of {', '.join(names)}"


def _is_fraction(value: object) -> bool:
    return is_number(value) and 0 <= value < 1


def used_options(
    options: dict[str, Any], model: AnomalyModel | type[AnomalyModel]
) -> dict[str, Any]:
    """The options of a training without those that the model has no use for."""
    return options if model.trains() else {k: options[k] for k in options if k not in OF_EPOCHS}


def options_of(model: type[AnomalyModel], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a training's ``options`` that a model has a use for, of one of several candidates.

    What is no option at all stays, to be refused.
    """
    unused = () if model.trains() else (*OF_EPOCHS, "stages")
    if not any(stage.pseudo_anomalies for stage in model.stages):
        unused += OF_PSEUDO_ANOMALIES
    if not any(stage.sees_past_defects for stage in model.stages):
        unused += OF_ONE_STUDENT
    return {name: value for name, value in options.items() if name not in unused}
