"""What fastad needs of anomalib's checkpoints: two networks, a size, and thresholds.

Lightning's ``.ckpt`` and the ``.pt`` of ``Engine.export`` are read alike. The former has a state
dict, hyperparameters and, since anomalib 2.7, the transform as plain data. The latter is a pickle
of the whole module, which is read as an inert tree (`fastad.compat.anomalib.pickles`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from fastad.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from fastad.backbones.resnet import ARCHITECTURES
from fastad.compat.anomalib.pickles import Inert, class_of, read_tree, state_of

TEACHER = "model.teacher_model.feature_extractor."
STUDENT = "model.student_model.feature_extractor."
DEFAULT_SIZE = (256, 256)  # of anomalib, where a file has no transform
IGNORED = ("Compose", "ToTensor", "ToImage", "ToDtype", "Grayscale")


@dataclass
class Checkpoint:
    """What a file of anomalib's STFPM says.

    Attributes:
        path: of the file.
        backbone: of teacher and student, a name of `fastad.backbones.NAMES`.
        layers: whose features are compared.
        teacher, student: their state dicts, with torchvision's keys.
        image_size: (height, width) that its transform resizes to. None where that depends on the
            image.
        image_threshold, pixel_threshold: of its validation, on the scale of scores. None without.
        differences: in what fastad will differ from anomalib with this file.
    """

    path: Path
    backbone: str
    layers: tuple[str, ...]
    teacher: dict[str, Tensor]
    student: dict[str, Tensor]
    image_size: tuple[int, int] | None
    image_threshold: float | None = None
    pixel_threshold: float | None = None
    differences: list[str] = field(default_factory=list)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a ``.ckpt`` or ``.pt`` of anomalib's STFPM without running anything in it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is something else or damaged, its backbone is no ResNet, or it
            normalises images otherwise than by ImageNet's mean and deviation.
    """
    path, tree = Path(path), read_tree(path)
    held = tree if isinstance(tree, dict) else {}
    module = held.get("model")
    if isinstance(module, Inert):
        state = state_of(module)
        options = module.__dict__.get("_hparams") or module.__dict__.get("_hparams_initial")
        processor = _child(module, "pre_processor")
        transforms = None if processor is None else _of_object(_child(processor, "transform"))
    else:
        given = held.get("state_dict")
        given = given if isinstance(given, dict) else {}
        state = {k: v for k, v in given.items() if isinstance(v, Tensor)}
        options = held.get("hyper_parameters")
        config = held.get("anomalib_pre_processor_config")
        transforms = _of_spec(config.get("transform")) if isinstance(config, dict) else None
    teacher, student = (
        {str(k)[len(start) :]: v for k, v in state.items() if str(k).startswith(start)}
        for start in (TEACHER, STUDENT)
    )
    if not (teacher and student):
        names = ", ".join(sorted({".".join(str(k).split(".")[:2]) for k in state})) or "no tensors"
        raise ValueError(
            f"{path} holds no teacher and student of anomalib's STFPM, the model that can be "
            f"imported; it holds {names[:200]}"
        )
    options = options if isinstance(options, dict) else {}
    checkpoint = Checkpoint(
        path,
        _backbone(path, options.get("backbone", "resnet18")),
        _layers(path, options.get("layers", ("layer1", "layer2", "layer3"))),
        teacher,
        student,
        DEFAULT_SIZE,
        _threshold(state, "post_processor._image_threshold"),
        _threshold(state, "post_processor._pixel_threshold"),
    )
    if transforms is None:
        checkpoint.differences.append(
            "the file has no transform, so its image size is not known: anomalib's default, "
            "256x256, is taken"
        )
    else:
        _take_transforms(checkpoint, transforms)
    return checkpoint


def fill(checkpoint: Checkpoint, name: str, module: nn.Module) -> None:
    """Give ``module`` the weights of the "teacher" or the "student".

    Raises:
        ValueError: a tensor is missing, or has another shape.
    """
    given: dict[str, Tensor] = getattr(checkpoint, name)
    wanted = module.state_dict()
    for key, value in wanted.items():
        shape = tuple(given[key].shape) if key in given else None
        if shape != tuple(value.shape):
            found = "is missing" if shape is None else f"has the shape {shape}"
            raise ValueError(
                f"{checkpoint.path}: {key} of the {name} {found}; "
                f"{checkpoint.backbone} needs {tuple(value.shape)}"
            )
    module.load_state_dict({key: given[key] for key in wanted})


def _backbone(path: Path, given: Any) -> str:
    name = str(given).partition(".")[0]  # timm puts the weights' tag behind a dot
    if name not in ARCHITECTURES:
        allowed = ", ".join(name for name in ARCHITECTURES if not name.endswith("caffe"))
        raise ValueError(f"{path}: its backbone is {given!r:.100}; {allowed} can be imported")
    return name


def _layers(path: Path, given: Any) -> tuple[str, ...]:
    if not isinstance(given, Sequence) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"{path}: its layers are no list of names, but {given!r:.100}")
    return tuple(given)


def _threshold(state: Mapping[str, Tensor], key: str) -> float | None:
    """A number; anomalib writes NaN where nothing was validated."""
    value = state.get(key)
    number = math.nan if value is None or value.numel() != 1 else float(value)
    return number if math.isfinite(number) else None


def _child(module: Inert, name: str) -> Inert | None:
    modules = module.__dict__.get("_modules")
    child = modules.get(name) if isinstance(modules, dict) else None
    return child if isinstance(child, Inert) else None


Step = tuple[str, Mapping[str, Any]]  # name of a transform's class, and its arguments


def _of_object(transform: Any) -> list[Step] | None:
    """The steps of a transform that was pickled; None without."""
    if not isinstance(transform, Inert):
        return None
    held = transform.__dict__
    inside = [step for one in _listed(held.get("transforms")) for step in _of_object(one) or ()]
    return [(class_of(transform), held), *inside]


def _of_spec(spec: Any) -> list[Step] | None:
    """The steps of a transform that was written as plain data; None without."""
    if not isinstance(spec, dict):
        return None
    held = spec.get("init_args")
    held = held if isinstance(held, dict) else {}
    inside = [step for one in _listed(held.get("transforms")) for step in _of_spec(one) or ()]
    return [(str(spec.get("class_path")).rpartition(".")[2], held), *inside]


def _listed(value: Any) -> list[Any]:
    return [*value] if isinstance(value, (list, tuple)) else []


def _take_transforms(checkpoint: Checkpoint, steps: Iterable[Step]) -> None:
    """The image size, and what fastad does otherwise than the transform."""
    say = checkpoint.differences.append
    resized = False
    for name, held in steps:
        if name == "Resize":
            resized = True
            checkpoint.image_size = _size(held.get("size"))
            if held.get("antialias") is not True:
                say(
                    "the file's Resize is not antialiased, fastad's is: scores are not those that "
                    "anomalib gave"
                )
            way = _interpolation(held.get("interpolation", "bilinear"))
            if way != "bilinear":
                say(f"the file's Resize is {way}, fastad's is bilinear")
        elif name == "Normalize":
            for what, of_imagenet in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
                given = [v for v in _listed(held.get(what)) if isinstance(v, (int, float))]
                if len(given) != 3 or not np.allclose(given, of_imagenet, rtol=0, atol=1e-6):
                    raise ValueError(
                        f"{checkpoint.path}: its transform normalises by the {what} {given}, which "
                        f"fastad cannot; it normalises by ImageNet's, {list(of_imagenet)}"
                    )
        elif name not in IGNORED:
            say(f"the file's transform has {name}, which fastad leaves out")
    if not resized:
        checkpoint.image_size = None


def _size(given: Any) -> tuple[int, int] | None:
    """None for one number, to which the shorter side is resized."""
    sides = [side for side in _listed(given) if isinstance(side, int) and side > 0]
    return (sides[0], sides[1]) if len(sides) == 2 else None


def _interpolation(given: Any) -> str:
    given = given.arguments[0] if isinstance(given, Inert) and given.arguments else given
    return str(given).rpartition(".")[2].lower()
