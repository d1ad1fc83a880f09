"""Exit codes: 1 for a failure, with one line on stderr; 2 for wrong usage."""

import pytest

from fastad import cli


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["train"], "DATA"),
        (["nothing"], "No such command"),
        (["train", "IMAGES", "--epochs", "0"], "epochs"),
        (["train", "IMAGES", "--image-size", "big"], "image size must be like 256"),
        (["train", "IMAGES", "--model", "big"], "unknown model"),
        (["train", "IMAGES", "--set", "epoch=1"], "unknown key 'epoch'"),
        (
            ["train", "IMAGES", "--epochs", "2", "--set", "epochs=3"],
            "--epochs 2 and --set epochs=3 contradict each other",
        ),
        (["train", "IMAGES", "--seed", "0", "--set", "seed=3"], "--seed 0 and --set seed=3"),
        (["train", "IMAGES", "--model", "rstpm", "--set", "aggregate=mean"], "aggregate must be"),
        (["train", "IMAGES", "--model", "rstpm", "--set", "bottleneck=x"], "bottleneck must be"),
        (["train", "IMAGES", "--set", "bottleneck=learned"], "--model rstpm has bottleneck"),
        (["train", "IMAGES", "--model", "stpm", "--set", "bottleneck=learned"], "unknown key"),
        (["train", "IMAGES", "--set", "learning_rate=-1"], "learning_rate must be"),
        (["train", "IMAGES", "--false-positive-rate", "2"], "must be between 0 and 1"),
        (["predict", "x.fastad", "IMAGES", "--heatmaps"], "--heatmaps needs --output"),
        (["predict", "x.fastad", "IMAGES", "--json", "-", "--csv", "-"], "only one of --json and"),
    ],
)
def test_wrong_usage_exits_with_2(fastad, images, arguments, match):
    code, _, err = fastad(*(images if a == "IMAGES" else a for a in arguments))
    assert code == 2
    assert match in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["train", "nowhere"], "no such folder: nowhere"),
        (["train", "IMAGES/train", "--output", "OUT/x/y.fastad"], "no folder"),
        (["train", "IMAGES", "--output", "OUT"], "folder"),
        (["train", "IMAGES", "--teacher-weights", "nowhere.pth"], "nowhere.pth"),
        (["train", "IMAGES/test", "--teacher-weights", "nowhere.pth"], "nowhere.pth"),
        (["train", "IMAGES", "--device", "cuda:99"], "cuda:99"),
        (["evaluate", "nowhere.fastad", "IMAGES"], "nowhere.fastad"),
        (["evaluate", "DETECTOR", "IMAGES/train"], "has no folder 'test'"),
        (["predict", "DETECTOR", "nowhere.png"], "no image nowhere.png"),
        (["predict", "DETECTOR", "OUT"], "no images in the folder"),
        (["predict", "DETECTOR", "IMAGES", "--csv", "OUT/no/x.csv"], "no folder"),
        (["info", "nowhere.fastad"], "nowhere.fastad"),
        (["info", "IMAGES/train/good/0.png"], "no fastad detector"),
    ],
)
def test_failures_exit_with_1_and_one_line(fastad, images, detector, tmp_path, arguments, match):
    places = {"IMAGES": images, "OUT": tmp_path, "DETECTOR": detector}
    for name, path in places.items():
        arguments = [a.replace(name, str(path), 1) if a.startswith(name) else a for a in arguments]
    code, out, err = fastad(*arguments)
    assert code == 1
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert match in lines[0]
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_traceback_on_request(capsys):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        cli.main(["train", "nowhere", "--traceback"])
