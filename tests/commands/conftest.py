"""The command line in this process, and small synthetic images for it."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastad import backbones, cli

TRAIN = ["--image-size", "64", "--batch-size", "4", "--precision", "float32"]
STPM = ["--model", "stpm", "--epochs", "1", "--set", "weights=1,1,0.5"]


@pytest.fixture
def fastad(capsys):
    """Call the command line in this process: exit code, stdout, stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return run


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder in MVTec layout: grey noise, defects with a bright square."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)

    def noise():
        return rng.integers(80, 120, (72, 64, 3), dtype=np.uint8)

    for i in range(10):
        write(root / f"train/good/{i}.png", noise())
    for i in range(2):
        write(root / f"test/good/{i}.png", noise())
        pixels, mask = noise(), np.zeros((72, 64), np.uint8)
        pixels[20:40, 10:30], mask[20:40, 10:30] = (250, 10, 10), 255
        write(root / f"test/hole/{i}.png", pixels)
        write(root / f"ground_truth/hole/{i}_mask.png", mask)
    return root


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "resnet18_random.pth"
    torch.save(backbones.build("resnet18").state_dict(), path)
    return path


@pytest.fixture(scope="session")
def detector(images, weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("detector") / "small.fastad"
    options = ["--teacher-weights", weights, "--seed", 3, *STPM]
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in ("train", images, *TRAIN, *options, "--output", path)])
    assert stop.value.code == 0
    return path


@pytest.fixture(scope="module")
def tiny_detector(tiny_model, images, tmp_path_factory):
    """A detector file of each model in turn."""
    path = tmp_path_factory.mktemp("tiny") / f"{tiny_model.name}.fastad"
    with pytest.raises(SystemExit) as stop:
        cli.main([*map(str, ("train", images, *TRAIN, *tiny_model.arguments(), "--output", path))])
    assert stop.value.code == 0
    return path
