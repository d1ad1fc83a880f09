"""What teachers are compared by: nearest neighbours, validation, the record of the measurements."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from fastad import backbones
from fastad.data.rendered.products import Counts, render, write_dataset
from fastad.models.base import IMAGENET_MEAN, IMAGENET_STD
from research.embedded_teacher import measure, summary, validation
from research.embedded_teacher.nearest_neighbour import NearestNeighbour


class Tiny(nn.Module):
    """Two levels of 5 and 7 channels, strides 4 and 8; their sizes round up."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 5, 7, stride=4, padding=3)
        self.second = nn.Conv2d(5, 7, 3, stride=2, padding=1)

    def forward(self, images):
        first = self.first(images)
        return [first, self.second(first)]


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return Tiny()


def random_images(number, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (number, 3, height, width), generator=generator).byte()


def patches(backbone, images):
    """The definition, in float64: (N, h, w, C)."""
    mean, std = (torch.tensor(v).double().view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    levels = []
    for level in backbone.double()((images.double() / 255 - mean) / std):
        padded = F.pad(torch.cat([level, torch.ones_like(level[:, :1])], 1), (1, 1, 1, 1))
        sums = (
            F.unfold(padded, 3)
            .unflatten(1, (-1, 9))
            .sum(2)
            .view(*padded.shape[:2], *level.shape[2:])
        )
        means = sums[:, :-1] / sums[:, -1:]
        means = means / means.norm(dim=1, keepdim=True)
        size = (levels or [level])[0].shape[2:]
        levels.append(F.interpolate(means, size, mode="bilinear"))
    return torch.cat(levels, 1).permute(0, 2, 3, 1)


@pytest.mark.parametrize("size", [(32, 32), (37, 45), (5, 64)])
def test_maps_are_distances_to_the_nearest_patch(tiny, size):
    train, test = random_images(9, *size), random_images(10, *size, seed=1)
    maps = NearestNeighbour(tiny).fit(train).predict(test)
    with torch.no_grad():
        known, new = patches(tiny, train), patches(tiny, test)
    distances = torch.cdist(new.flatten(0, 2), known.flatten(0, 2)).amin(1).view(new.shape[:3])
    expected = F.interpolate(distances[:, None], size, mode="bilinear")[:, 0]
    torch.testing.assert_close(maps.double(), expected, rtol=1e-4, atol=1e-5)


def test_known_images_are_normal_though_features_hardly_differ(tiny):
    with torch.no_grad():
        tiny.first.bias.fill_(100.0)  # an untrained network's features point in one direction
    images = random_images(4, 32, 32)
    detector = NearestNeighbour(tiny).fit(images)
    known, new = detector.predict(images), detector.predict(random_images(4, 32, 32, seed=1))
    assert known.median() < 0.01 * new.median()


def test_memory_is_bounded_and_drawn_by_seed(tiny):
    images = random_images(20, 32, 32)
    detectors = [NearestNeighbour(tiny, 100, seed).fit(images) for seed in (0, 0, 1)]
    maps = [detector.predict(images[:2]) for detector in detectors]
    assert all(len(detector._memory) == 100 for detector in detectors)
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])
    with pytest.raises(ValueError, match="memory"):
        NearestNeighbour(tiny, 0)


def test_normalised_images_are_refused(tiny):
    with pytest.raises(TypeError, match="uint8"):
        NearestNeighbour(tiny).fit(torch.rand(2, 3, 32, 32))


def product(name):
    rng = np.random.default_rng(0)
    images = rng.integers(100, 120, (16, 64, 64, 3), dtype=np.uint8)
    masks = np.zeros((6, 64, 64), bool)
    masks[3:, 20:40, 20:40] = True
    images[10:][masks] = 255
    return SimpleNamespace(name=name, train=images[:10], test=images[10:], masks=masks)


def test_validation_measures_products_and_leaves_the_trunk_alone(monkeypatch):
    for name, value in (("SIZE", 64), ("STPM_SIZE", 64), ("STPM_TRAINING", {"epochs": 1})):
        monkeypatch.setattr(validation, name, value)
    torch.manual_seed(0)
    trunk = backbones.build("resnet18", validation.LAYERS).train()
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    sets = [list(map(product, ("one", "two"))) for _ in range(2)]
    result = validation.validate(trunk, *sets)
    after = trunk.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert trunk.training
    assert all(parameter.requires_grad for parameter in trunk.parameters())
    assert list(result) == ["nearest_neighbour", "stpm"]
    for found in result.values():
        rows = found["products"]
        assert list(rows) == ["one", "two"]
        assert rows["one"] == rows["two"]  # nothing is drawn anew
        assert found["image_auroc"] == pytest.approx(rows["one"]["image_auroc"])
    assert result["nearest_neighbour"]["image_auroc"] == 1
    assert result["nearest_neighbour"]["pixel_auroc"] > 0.6
    assert validation.table(result).count("\n") == 11
    assert list(validation.validate(trunk, sets[0])) == ["nearest_neighbour"]
    assert json.loads(json.dumps(result)) == result


def test_validation_trains_stpm_on_flanges_that_the_demo_does_not_show(monkeypatch):
    monkeypatch.setattr(validation, "STPM_SEEDS", (3,))
    (found,) = validation.stpm_sets()
    assert found.name == "flange, seed 3"
    assert (len(found.train), len(found.test)) == (48, len(found.masks))
    good = ~found.masks.any((1, 2))
    assert 0 < good.sum() < len(good)
    image, _ = render("flange", None, (3, 0, 47))
    assert (found.train[-1] == image).all()
    assert not (found.train[0] == render("flange", None, (0, 0, 0))[0]).all()


@pytest.fixture
def small_world(tmp_path, monkeypatch):
    """A photographed set and a rendered one, both tiny, and two weight files; main's arguments."""
    rng = np.random.default_rng(0)
    folders = {"train/good": 4, "test/good": 3, "test/hole": 3, "ground_truth/hole": 3}
    for folder, number in folders.items():
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for i in range(number):
            pixels = rng.integers(100, 120, (40, 48, 3), dtype=np.uint8)
            if folder.startswith("ground_truth"):
                pixels[:] = 0
            if folder.endswith("hole"):
                pixels[10:20, 10:20] = 255
            Image.fromarray(pixels).save(tmp_path / "photos" / folder / f"{i}.png")
    monkeypatch.setattr(measure, "SETS", {"tile": ("photos", 1), "denim": (None, 1)})
    monkeypatch.setattr(measure, "NN_SIZE", 32)
    monkeypatch.setattr(measure, "STPM_SIZE", 32)
    monkeypatch.setattr(measure, "write_dataset", partial(write_dataset, counts=Counts(4, 2, 1)))
    for seed, name in ((5, "own"), (6, "imagenet")):
        torch.manual_seed(seed)
        trunk = backbones.build("resnet18", validation.LAYERS)
        save_file(trunk.state_dict(), tmp_path / f"{name}.safetensors")
    arguments = ["--data", tmp_path, "--weights", tmp_path / "own.safetensors"]
    arguments += ["--imagenet", tmp_path / "imagenet.safetensors", "--json", tmp_path / "r.json"]
    return tmp_path, list(map(str, arguments))


@pytest.mark.filterwarnings("ignore::UserWarning")  # thresholds of one held-out image
def test_measure_fills_a_record_and_goes_on_with_it(small_world, monkeypatch, capsys):
    folder, arguments = small_world
    measured = []
    for name in ("nearest_neighbour", "stpm"):
        function = getattr(measure, name)
        monkeypatch.setattr(
            measure,
            name,
            lambda teacher, *rest, function=function: (
                measured.append(teacher.name),
                function(teacher, *rest),
            )[1],
        )
    untrained = [f"random {seed}" for seed in (0, 1, 2)]
    measure.main([*arguments, "--detectors", "nn", "--sets", "tile"])
    assert measured == [*untrained, "embedded", "imagenet"]
    measured.clear()
    measure.main(arguments)
    of_stpm = ["random 0", "embedded", "imagenet"]
    assert measured == [*untrained, "embedded", "imagenet", *of_stpm, *of_stpm]

    record = json.loads((folder / "r.json").read_text())
    assert len(record["cells"]) == 16
    assert len(record["commands"]) == 2
    for cell in record["cells"]:
        assert all(0 <= cell[score] <= 1 for score in summary.SCORES)
        assert cell["epochs"] == (1 if cell["detector"] == "stpm" else None)
    assert "1 of 4 good images, by seed 0" in record["cells"][-1]["held_out"]
    assert "| random, mean of 3 seeds |" in capsys.readouterr().out

    measured.clear()
    measure.main(arguments)
    assert measured == []
    torch.manual_seed(7)
    trunk = backbones.build("resnet18", validation.LAYERS)
    save_file(trunk.state_dict(), folder / "own.safetensors")
    measure.main([*arguments, "--epochs", "tile=2"])
    assert measured == ["embedded", "embedded", *of_stpm, "embedded"]
    assert len(json.loads((folder / "r.json").read_text())["cells"]) == 16


def test_unknown_sets_are_refused(small_world, capsys):
    _, arguments = small_world
    for wrong in (["--epochs", "tile=0"], ["--epochs", "wood=3"], ["--sets", "wood"]):
        with pytest.raises(SystemExit):
            measure.main([*arguments, *wrong])
        assert "tile" in capsys.readouterr().err


def cell(detector, name, teacher, auroc):
    scores = dict.fromkeys(summary.SCORES, auroc)
    return {"detector": detector, "set": name, "teacher": teacher, **scores}


def test_halfway_is_of_the_hard_sets_and_the_mean_of_the_untrained():
    cells = [cell("nn", "bottle", teacher, 0.1) for teacher in ("random 0", "embedded", "imagenet")]
    for name in summary.HARD:
        for teacher, auroc in (("random 0", 0.4), ("random 1", 0.6), ("embedded", 0.6)):
            cells.append(cell("nn", name, teacher, auroc))
        cells.append(cell("nn", name, "imagenet", 0.9))
    found = summary.summary(cells)["halfway"]
    assert found == {"nn": pytest.approx(0.25), "stpm": None, "both": None}
    for name in summary.HARD:
        for teacher, auroc in (("random 0", 0.3), ("embedded", 0.6), ("imagenet", 0.5)):
            cells.append(cell("stpm", name, teacher, auroc))
    found = summary.summary(cells)["halfway"]
    assert found["stpm"] == pytest.approx(1.5)
    assert found["both"] == pytest.approx(0.2 / 0.3)
    text = summary.tables(cells)
    assert "| embedded | 0.100 / 0.100 / 0.100 | 0.600 / 0.600 / 0.600 |" in text
    assert text.endswith("both: 0.67")
