"""Fixtures shared by all tests."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

# Of every model a small configuration without pretrained weights, for what all models promise.
SMALL = {
    "stpm": {"layers": ("layer1", "layer2")},
    "rstpm": {
        "teacher2": "resnet18",
        "bottleneck": "learned",
        "decoder_blocks": (2, 2, 2),
        "discriminator_width": 8,
    },
}


@pytest.fixture(scope="session", params=SMALL)
def small_model(request):
    """Each model in turn, random weights, in eval mode. Shared: copy it before changing it."""
    import torch

    from fastad import models

    name = request.param
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.build(name, **SMALL[name], **models.without_weights(name)).eval()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images and weights beside the checkout; tests that need it skip elsewhere."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real images and weights (../shared/data) are not there")
    return folder


class TinyModel(NamedTuple):
    """A model that is built and trained in a second; its teachers are random."""

    name: str
    options: dict[str, Any]
    training: dict[str, Any]

    @property
    def arguments(self) -> list[str]:
        """The same for ``fastad train``."""
        settings = {k: ",".join(v) if isinstance(v, tuple) else v for k, v in self.options.items()}
        settings = [f"{key}={value}" for key, value in {**settings, **self.training}.items()]
        return ["--model", self.name, *(word for s in settings for word in ("--set", s))]


TINY_MODELS = {
    model.name: model
    for model in (
        TinyModel("stpm", {"layers": ("layer1",), "teacher_weights": None}, {}),
        TinyModel(
            "rstpm",
            {
                "teacher2": "resnet18",
                "bottleneck": "learned",
                "teacher_weights": None,
                "teacher2_weights": None,
                "discriminator_width": 4,
            },
            {"pseudo_anomalies": 8},
        ),
    )
}


@pytest.fixture(scope="module", params=TINY_MODELS)
def tiny_model(request) -> TinyModel:
    """Each model in turn: for what is promised of any."""
    return TINY_MODELS[request.param]
