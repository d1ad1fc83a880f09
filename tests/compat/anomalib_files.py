"""Files and modules with the layout of anomalib 2.7's, where the package itself is not there.

The names of keys, classes and attributes are anomalib's. `tools/check_anomalib.py` holds the code
against the real package.
"""

import sys
from contextlib import contextmanager
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import nn

from fastad import backbones

LAYERS = ("layer1", "layer2", "layer3")


class AnomalyMapGenerator(nn.Module):
    """STFPM's, by its formula."""

    def __init__(self):
        super().__init__()
        self.distance = nn.PairwiseDistance(p=2, keepdim=True)

    def forward(self, **kwargs):
        size, result = kwargs["image_size"], 1
        for name, t in kwargs["teacher_features"].items():
            difference = F.normalize(t) - F.normalize(kwargs["student_features"][name])
            layer = 0.5 * torch.norm(difference, p=2, dim=-3, keepdim=True) ** 2
            result = result * F.interpolate(layer, size=size, mode="bilinear")
        return result


class STFPMLoss(nn.Module):
    """STFPM's, by its formula."""

    def __init__(self):
        super().__init__()
        self.mse_loss = nn.MSELoss(reduction="sum")

    def forward(self, teacher_features, student_features):
        losses = [
            0.5
            / (t.shape[2] * t.shape[3])
            * self.mse_loss(F.normalize(t), F.normalize(student_features[name]))
            for name, t in teacher_features.items()
        ]
        return torch.stack(losses).sum()


class ReverseMapGenerator(nn.Module):
    """ReverseDistillation's, by its formula."""

    def __init__(self, image_size, sigma=4, mode="multiply"):
        super().__init__()
        self.image_size, self.sigma, self.mode = image_size, sigma, mode

    def forward(self, student_features, teacher_features):
        maps = []
        for s, t in zip(student_features, teacher_features, strict=True):
            distance = (1 - F.cosine_similarity(s, t))[:, None]
            maps.append(
                F.interpolate(distance, self.image_size, mode="bilinear", align_corners=True)
            )
        stacked = torch.stack(maps)
        joined = stacked.prod(dim=0) if self.mode == "multiply" else stacked.sum(dim=0)
        radius = int(4.0 * self.sigma + 0.5)
        offsets = torch.arange(-radius, radius + 1).to(joined)
        kernel = torch.exp(-(offsets**2) / (2 * self.sigma**2))
        kernel = kernel / kernel.sum()
        padded = F.pad(joined, (radius,) * 4, mode="reflect")
        return F.conv2d(padded, (kernel[:, None] * kernel)[None, None])


class FeatureExtractor(nn.Module):
    """What anomalib calls TimmFeatureExtractor."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers
        self.feature_extractor = backbones.build("resnet18", layers)

    def forward(self, images):
        return dict(zip(self.layers, self.feature_extractor(images), strict=True))


class STFPMModel(nn.Module):
    """Teacher, student and map."""

    def __init__(self, layers):
        super().__init__()
        self.teacher_model = FeatureExtractor(layers).eval()
        self.student_model = FeatureExtractor(layers)
        self.anomaly_map_generator = AnomalyMapGenerator()

    def forward(self, images):
        features = {"teacher_features": self.teacher_model(images)}
        features["student_features"] = self.student_model(images)
        return self.anomaly_map_generator(**features, image_size=images.shape[-2:])


class ReverseDistillationModel(nn.Module):
    """The part that is replaced."""

    def __init__(self, mode, size=(64, 48)):
        super().__init__()
        self.anomaly_map_generator = ReverseMapGenerator(size, mode=mode)


class Resize(nn.Module):
    """torchvision.transforms.v2's, as far as a file shows it."""

    def __init__(self, size, antialias=True):
        super().__init__()
        self.size, self.interpolation, self.antialias = size, "bilinear", antialias


class Normalize(nn.Module):
    """torchvision.transforms.v2's, as far as a file shows it."""

    def __init__(self, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
        super().__init__()
        self.mean, self.std, self.inplace = list(mean), list(std), False


class CenterCrop(nn.Module):
    """torchvision.transforms.v2's, as far as a file shows it."""

    def __init__(self, size):
        super().__init__()
        self.size = size


class Compose(nn.Module):
    """torchvision.transforms.v2's, as far as a file shows it."""

    def __init__(self, transforms):
        super().__init__()
        self.transforms = transforms


class PreProcessor(nn.Module):
    """anomalib's."""

    def __init__(self, transform):
        super().__init__()
        self.transform = transform


class PostProcessor(nn.Module):
    """anomalib's."""

    def __init__(self, threshold):
        super().__init__()
        for name in ("_image_threshold", "_pixel_threshold", "image_min", "image_max"):
            self.register_buffer(name, torch.tensor(threshold))


class AttributeDict(dict):
    """Lightning's."""


class Stfpm(nn.Module):
    """The Lightning module: networks, loss, processors and hyperparameters."""

    def __init__(self, *steps, backbone="resnet18", layers=LAYERS, threshold=0.25):
        super().__init__()
        self.model, self.loss = STFPMModel(layers), STFPMLoss()
        self.pre_processor = PreProcessor(Compose([*(steps or (Resize([64, 96]), Normalize()))]))
        self.post_processor = PostProcessor(threshold)
        self._hparams = AttributeDict(backbone=backbone, layers=list(layers))


def spec(transform):
    """A transform as anomalib writes it since 2.7."""
    fields = {
        "Compose": ("transforms",),
        "Resize": ("size", "interpolation", "antialias"),
        "Normalize": ("mean", "std", "inplace"),
        "CenterCrop": ("size",),
    }
    name = type(transform).__name__
    held = {field: getattr(transform, field) for field in fields[name]}
    if name == "Compose":
        held["transforms"] = [spec(one) for one in held["transforms"]]
    return {"class_path": f"torchvision.transforms.v2.{name}", "init_args": held}


def write_ckpt(path, model, with_transform=True):
    """A checkpoint as Lightning writes it."""
    content = {
        "epoch": 1,
        "global_step": 2,
        "pytorch-lightning_version": "2.6.1",
        "state_dict": model.state_dict(),
        "loops": {},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": dict(model._hparams),
    }
    if with_transform:
        transform = spec(model.pre_processor.transform)
        content["anomalib_pre_processor_config"] = {"transform": transform}
    torch.save(content, path)
    return path


@contextmanager
def foreign_module(name):
    """This file's classes under another module's name, which is gone afterwards."""
    module = ModuleType(name)
    own = [v for v in globals().values() if isinstance(v, type) and v.__module__ == __name__]
    for kind in own:
        setattr(module, kind.__name__, kind)
        kind.__module__ = name
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]
        for kind in own:
            kind.__module__ = __name__


def write_pt(path, model):
    """A checkpoint as anomalib's ``Engine.export`` writes it; its classes cannot be imported."""
    with foreign_module("foreign_anomalib"):
        torch.save({"model": model}, path)
    return path
