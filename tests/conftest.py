"""Fixtures shared by all tests."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes beside each other share the processors: threads of one that wait for each other
    # while another's run take several times as long.
    beside = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // beside)))

# Of every model a small configuration without pretrained weights, for what all models promise.
SMALL = {
    "stpm": {"backbone": "resnet18", "layers": ("layer1", "layer2")},
    "rstpm": {
        "teacher1": "resnet18",
        "teacher2": "resnet18",
        "bottleneck": "learned",
        "discriminator_width": 8,
    },
    "prn": {"backbone": "resnet18", "bottleneck": "learned"},
    "gtrans": {"backbone": "resnet18", "token_width": 16, "smoothing": 1.0},
    "utad": {
        "backbone": "resnet18",
        "impression_width": 2,
        "latents": 4,
        "expert_width": 4,
        "discriminator_width": 4,
        "bank": 8,
        "smoothing": 1.0,
    },
    "patchcore": {"backbone": "resnet18", "memory": 16, "neighbours": 3, "smoothing": 1.0},
    "subspace": {"backbone": "resnet18", "smoothing": 1.0},
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
def tiny_stpm():
    """A small STPM with random weights, in eval mode. Shared: copy it before changing it."""
    import torch

    from fastad import models

    torch.manual_seed(0)
    return models.build("stpm", teacher_weights=None, layers=("layer1", "layer2")).eval()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images and weights beside the checkout; tests that need it skip elsewhere."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real images and weights (../shared/data) are not there")
    return folder


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No weights from the user's environment, an empty hub cache, no packages that bring weights
    but those below tmp_path, no network, nothing said yet.

    The list of the attempts to reach the network, by URL.
    """
    import importlib.util

    import torch

    from fastad.backbones import download, weights

    monkeypatch.delenv("FASTAD_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(download, "_failed", {})
    monkeypatch.setattr(weights, "_logged", set())
    attempts = []
    find, modules = (
        importlib.util.find_spec,
        [p.replace("-", "_") for p in weights.PACKAGES.values()],
    )

    def find_others(name, package=None):
        spec = find(name, package)
        hidden = name in modules and spec is not None and tmp_path not in Path(spec.origin).parents
        return None if hidden else spec

    monkeypatch.setattr(importlib.util, "find_spec", find_others)

    def refuse(url, timeout):
        attempts.append(url)
        raise OSError("network is unreachable")

    monkeypatch.setattr(download.urllib.request, "urlopen", refuse)
    return attempts


# Of the training of each, what keeps it short.
SHORT = {
    "stpm": {},
    "rstpm": {"pseudo_anomalies": 8, "stages": {"discriminator": {"batch_size": 50}}},
    "prn": {"pseudo_anomalies": 8},
    "gtrans": {},
    "utad": {},
    "patchcore": {},
    "subspace": {},
}


class TinyModel(NamedTuple):
    """A model by name, with options for which it is built and trained in a second."""

    name: str
    options: dict[str, Any]
    training: dict[str, Any]

    @property
    def trains(self) -> bool:
        from fastad import models

        return models.MODELS[self.name].trains()

    def epochs(self, number: int) -> dict[str, int]:
        """That many epochs as options of a training, none where nothing is trained."""
        return {"epochs": number} if self.trains else {}

    def arguments(self, epochs: int = 1) -> list[str]:
        """The same for ``fastad train``."""
        words = ["--model", self.name]
        settings = {**self.options, **self.training, **self.epochs(epochs)}
        for stage, options in settings.pop("stages", {}).items():
            for key, value in options.items():
                words += ["--stage", f"{stage}.{key}={value}"]
        for key, value in settings.items():
            text = ",".join(map(str, value)) if isinstance(value, tuple) else value
            words += ["--set", f"{key}={text}"]
        return words


@pytest.fixture(scope="module", params=SMALL)
def tiny_model(request) -> TinyModel:
    """Each model in turn, with random teachers: for what is promised of any."""
    from fastad import models

    name = request.param
    return TinyModel(name, SMALL[name] | models.without_weights(name), SHORT[name])
