"""The maps of anomalib's STFPM and ReverseDistillation, and STFPM's loss, by the fused ops.

The modules put nothing into a state dict, as anomalib's put nothing: its keys stay as they are.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastad import ops

Features = Mapping[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)

TOLERANCE = 1e-5  # by which a map or a loss may differ from anomalib's, relative to the largest


class STFPMMap(nn.Module):
    """anomalib's ``stfpm.anomaly_map.AnomalyMapGenerator`` in one sweep over the features.

    Examples:
        >>> import torch
        >>> from fastad.compat.anomalib import STFPMMap
        >>> teacher = {"layer1": torch.rand(2, 64, 32, 32), "layer2": torch.rand(2, 128, 16, 16)}
        >>> student = {name: torch.rand_like(level) for name, level in teacher.items()}
        >>> STFPMMap()(
        ...     teacher_features=teacher, student_features=student, image_size=(128, 128)
        ... ).shape
        torch.Size([2, 1, 128, 128])
    """

    def forward(self, **kwargs: Any) -> Tensor:
        """Keywords ``teacher_features``, ``student_features`` and ``image_size`` of anomalib."""
        missing = {"teacher_features", "student_features", "image_size"} - kwargs.keys()
        if missing:
            raise ValueError(f"there is no {', '.join(sorted(missing))} among {sorted(kwargs)}")
        return self.compute_anomaly_map(**kwargs)

    def compute_anomaly_map(
        self, teacher_features: Features, student_features: Features, image_size: Sequence[int]
    ) -> Tensor:
        """Features by layer, each (B, C_l, H_l, W_l) -> (B, 1, H, W), a product of the layers."""
        teacher, student = _levels(teacher_features, student_features)
        height, width = image_size
        return _ops().anomaly_map(teacher, student, (height, width))[:, None]

    @staticmethod
    def compute_layer_map(
        teacher_features: Tensor, student_features: Tensor, image_size: Sequence[int]
    ) -> Tensor:
        """One layer (B, C, H_l, W_l) -> (B, 1, H, W)."""
        height, width = image_size
        return _ops().anomaly_map([teacher_features], [student_features], (height, width))[:, None]


class STFPMLoss(nn.Module):
    """anomalib's ``stfpm.loss.STFPMLoss``, forward and backward in one sweep over the features.

    The batch is summed up, not averaged, as anomalib does.

    Examples:
        >>> import torch
        >>> from fastad.compat.anomalib import STFPMLoss
        >>> teacher = {"layer1": torch.rand(2, 64, 32, 32)}
        >>> student = {"layer1": (-teacher["layer1"]).requires_grad_()}
        >>> round(STFPMLoss()(teacher, student).item(), 3)  # a distance of 2, from two images
        4.0
    """

    def forward(self, teacher_features: Features, student_features: Features) -> Tensor:
        """Features by layer, each (B, C_l, H_l, W_l) -> scalar, the sum of the layers."""
        teacher, student = _levels(teacher_features, student_features)
        per_position = [1 / (level.shape[-2] * level.shape[-1]) for level in teacher]
        return _ops().distillation_loss(
            teacher, student, level_weights=per_position, reduction="sum"
        )

    def compute_layer_loss(self, teacher_feats: Tensor, student_feats: Tensor) -> Tensor:
        """One layer (B, C, H, W) -> scalar."""
        return self({"layer": teacher_feats}, {"layer": student_feats})


class ReverseDistillationMap(nn.Module):
    """anomalib's ``reverse_distillation.anomaly_map.AnomalyMapGenerator``, faster.

    Fused distances, and a Gaussian blur of two matrix products instead of a convolution with a
    kernel of 33x33. The map is float32, under autocast too.

    Args:
        image_size: (H, W) of the map, in pixels.
        sigma: standard deviation of the blur, in pixels.
        mode: "add" or "multiply" the layers.

    Examples:
        >>> import torch
        >>> from fastad.compat.anomalib import ReverseDistillationMap
        >>> features = [torch.rand(2, 64, 32, 32), torch.rand(2, 128, 16, 16)]
        >>> ReverseDistillationMap((128, 128), mode="add")(features, features).abs().max()
        tensor(0.)
    """

    down: Tensor
    across: Tensor

    def __init__(self, image_size: Sequence[int], sigma: float = 4, mode: str = "multiply"):
        super().__init__()
        mode = str(getattr(mode, "value", mode))  # anomalib gives an enum
        if mode not in ("add", "multiply"):
            raise ValueError(f"mode must be 'add' or 'multiply'; got {mode!r}")
        height, width = map(int, image_size)
        self.image_size, self.sigma, self.mode = (height, width), sigma, mode
        self.register_buffer("down", _blur(height, sigma), persistent=False)
        self.register_buffer("across", _blur(width, sigma).T.contiguous(), persistent=False)

    def forward(
        self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]
    ) -> Tensor:
        """Lists of (B, C_l, H_l, W_l) -> (B, 1, H, W)."""
        levels = _ops().distances(list(teacher_features), list(student_features))
        maps = [
            F.interpolate(level[:, None], self.image_size, mode="bilinear", align_corners=True)
            for level in levels
        ]
        join = torch.mul if self.mode == "multiply" else torch.add
        joined = reduce(join, maps)
        with torch.autocast(joined.device.type, enabled=False):  # half precision loses small values
            return self.down.to(joined) @ joined @ self.across.to(joined)


def accelerate(model: Model) -> Model:
    """Replace the anomaly map, and STFPM's loss, of an anomalib model by fused ones, in place.

    The keys of the state dict stay as they are. Both are tried on drawn features before anything is
    replaced. An exported graph holds plain operations of torch.

    Args:
        model: anomalib's ``Stfpm`` or ``ReverseDistillation``, or the torch model inside it.

    Returns:
        The model itself.

    Raises:
        TypeError: it is no such model.
        ValueError: the model computes something else than anomalib 2.7 does: its map or its loss
            differs by more than 1e-5. Nothing is replaced then.

    Examples:
        ``model = fastad.compat.anomalib.accelerate(anomalib.models.Stfpm())``
    """
    inner: Any = model if hasattr(model, "anomaly_map_generator") else getattr(model, "model", None)
    old_map: Any = getattr(inner, "anomaly_map_generator", None)
    names = {kind.__name__ for kind in type(inner).__mro__}
    new_map: STFPMMap | ReverseDistillationMap
    new_loss: STFPMLoss | None = None
    if isinstance(old_map, (STFPMMap, ReverseDistillationMap)):
        return model  # it is done already
    if "STFPMModel" in names:
        new_map = STFPMMap()
        _require_same("anomaly map", _stfpm_map, old_map, new_map)
        if inner is not model and hasattr(model, "loss"):
            new_loss = STFPMLoss()
            _require_same("loss", _stfpm_loss, model.loss, new_loss)
    elif "ReverseDistillationModel" in names:
        new_map = ReverseDistillationMap(old_map.image_size, old_map.sigma, old_map.mode)
        _require_same("anomaly map", _reverse_map, old_map, new_map)
    else:
        raise TypeError(
            "model must be anomalib's Stfpm or ReverseDistillation, or the torch model inside it; "
            f"got {type(model).__name__}"
        )
    inner.anomaly_map_generator = new_map.train(old_map.training)
    if new_loss is not None:
        model.loss = new_loss
    return model


def _ops() -> Any:
    """The fused ops; where a graph for elsewhere is being made, their plain definition."""
    exporting = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
    return ops.reference if exporting or torch.jit.is_tracing() else ops


def _levels(teacher: Features, student: Features) -> tuple[list[Tensor], list[Tensor]]:
    return list(teacher.values()), [student[name] for name in teacher]


def _blur(side: int, sigma: float) -> Tensor:
    """(side, side): the matrix of a Gaussian of anomalib's width, with reflected borders."""
    radius = int(4.0 * sigma + 0.5)
    if side <= radius:
        raise ValueError(f"image_size: a blur of sigma {sigma:g} needs sides above {radius} pixels")
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    padded = F.pad(torch.eye(side, dtype=torch.float64), (radius, radius), mode="reflect")
    columns = F.conv1d(padded[:, None], (kernel / kernel.sum())[None, None])[:, 0]
    return columns.T.contiguous().float()


def _drawn() -> tuple[list[Tensor], list[Tensor]]:
    """Features of two images that any formula but the right one tells apart."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 5, 13, 9), (2, 7, 6, 5))
    teacher = [torch.randn(shape, generator=generator) for shape in shapes]
    return teacher, [level + torch.randn(level.shape, generator=generator) for level in teacher]


def _stfpm_map(generator: Any) -> Tensor:
    teacher, student = (dict(enumerate(levels)) for levels in _drawn())
    return generator(teacher_features=teacher, student_features=student, image_size=(40, 33))


def _stfpm_loss(loss: Any) -> Tensor:
    teacher, student = (dict(enumerate(levels)) for levels in _drawn())
    return loss(teacher, student)


def _reverse_map(generator: Any) -> Tensor:
    return generator(*_drawn())


def _require_same(what: str, answer: Any, old: Any, new: Any) -> None:
    with torch.no_grad():
        expected, found = answer(old), answer(new)
    difference = float((expected - found).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:
        raise ValueError(
            f"model: its {what} differs from anomalib 2.7's by {difference:.1e}, relative to the "
            f"largest value; {TOLERANCE:g} is allowed, and nothing was replaced"
        )
