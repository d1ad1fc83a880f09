"""Bad input of every kind to every command: one line that says what is wrong, nothing lost.

After each of these commands the whole folder is compared byte by byte with what it was before.
"""

import os
import re
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

DEFECTIVE_FILES = {
    "empty.png": b"",
    "text.png": b"this is no image\n",
    "truncated.png": "png",
    "truncated.jpg": "jpeg",
    "truncated.bmp": "bmp",
    "truncated.tif": "tiff",
    "truncated.webp": "webp",
    "header.png": b"\x89PNG\r\n\x1a\n",
    "zeros.jpg": bytes(3000),
    "html.jpg": b"<html><body>404</body></html>",
    "pickle.png": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07os.name\x94.",
}


def encoded(kind):
    import io

    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory, images, detector, weights):
    """A folder with everything that the commands below name; they start inside it."""
    root = tmp_path_factory.mktemp("bad")
    shutil.copytree(images, root / "data")
    shutil.copy(detector, root / "good.fastad")
    shutil.copy(weights, root / "weights.pth")
    for name, content in DEFECTIVE_FILES.items():
        if isinstance(content, str):
            whole = encoded(content)
            content = whole[: len(whole) // 2]
        for folder in ("broken_train/train/good", "broken_test/test/hole", "broken"):
            target = root / f"{folder}_{name.replace('.', '_')}" / name
            if "/" in folder:
                first, rest = folder.split("/", 1)
                target = root / f"{first}_{name.replace('.', '_')}" / rest / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            shutil.copy(images / "train/good/0.png", target.parent / "whole.png")
    (root / "empty").mkdir()
    (root / "only_text").mkdir()
    (root / "only_text" / "readme.txt").write_text("no image")
    (root / "no_train" / "test" / "good").mkdir(parents=True)
    shutil.copy(images / "train/good/0.png", root / "no_train/test/good/0.png")
    (root / "empty_test" / "test" / "good").mkdir(parents=True)
    (root / "mixed" / "bad").mkdir(parents=True)
    shutil.copy(images / "train/good/0.png", root / "mixed/0.png")
    shutil.copy(images / "train/good/0.png", root / "mixed/bad/0.png")
    (root / "file.txt").write_text("some text")
    data = (root / "good.fastad").read_bytes()
    (root / "cut.fastad").write_bytes(data[: len(data) // 2])
    (root / "empty.fastad").write_bytes(b"")
    (root / "flipped.fastad").write_bytes(data[:-500] + bytes([data[-500] ^ 4]) + data[-499:])
    weights_data = (root / "weights.pth").read_bytes()
    (root / "cut.pth").write_bytes(weights_data[: len(weights_data) // 2])
    (root / "text.pth").write_text("no weights")
    (root / "text.safetensors").write_text("no weights")
    (root / "left.fastad.checkpoint").write_bytes(b"from another training")
    (root / "damaged.fastad.checkpoint").write_bytes(b"from another training")
    os.mkfifo(root / "pipe")
    return root


def snapshot(root):
    return {
        path.relative_to(root): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


NEW = "--teacher-weights weights.pth --image-size 64 --epochs 1 --output new.fastad"
TRAIN = f"train data --model stpm {NEW}"
RSTPM = f"train data --model rstpm --set teacher2=resnet18 --set bottleneck=learned {NEW}"
USAGE = 2

CASES = [
    # No such command, option or argument.
    (USAGE, "fit data"),
    (USAGE, "train"),
    (USAGE, "evaluate good.fastad"),
    (USAGE, "evaluate"),
    (USAGE, "predict good.fastad"),
    (USAGE, "predict"),
    (USAGE, "--frobnicate"),
    (USAGE, f"{TRAIN} --frobnicate"),
    (USAGE, f"{TRAIN} another_argument"),
    (USAGE, "info good.fastad good.fastad"),
    # Data to train on.
    (1, "train nowhere --teacher-weights weights.pth"),
    (1, "train file.txt --teacher-weights weights.pth"),
    (1, "train empty --teacher-weights weights.pth"),
    (1, "train only_text --teacher-weights weights.pth"),
    (1, "train no_train --teacher-weights weights.pth"),
    (1, "train mixed --teacher-weights weights.pth"),
    (1, "train data/test/hole/../../ground_truth --teacher-weights nowhere.pth"),
    (1, "train pipe --teacher-weights weights.pth"),
    # Values of options.
    *[(USAGE, f"{TRAIN} --epochs {value}") for value in ("0", "-1", "x", "1.5", "''", "1e2")],
    *[(USAGE, f"{TRAIN} --batch-size {value}") for value in ("0", "-3", "x", "2.5")],
    *[
        (USAGE, f"{TRAIN} --image-size {value}")
        for value in ("0", "-64", "x", "64x", "x64", "0x64", "64x0", "64x64x64", "6.4", "100000")
    ],
    *[(USAGE, f"{TRAIN} --image-size {value}") for value in ("3", "8x256", "256x31")],
    *[(USAGE, f"{TRAIN} --seed {value}") for value in ("-1", "x", "0.5", "36893488147419103232")],
    *[(USAGE, f"{TRAIN} --precision {value}") for value in ("int8", "FLOAT32", "half", "''")],
    *[(USAGE, f"{TRAIN} --model {value}") for value in ("stmp", "''", "STPM", "resnet18")],
    *[
        (USAGE, f"{TRAIN} --false-positive-rate {value}")
        for value in ("0", "1", "-0.1", "2", "nan", "inf", "x", "1%")
    ],
    *[(1, f"{TRAIN} --device {value}") for value in ("tpu", "cuda:99", "cuda:x", "''", "cpu:x")],
    # Any field of a config.
    *[
        (USAGE, f"{TRAIN} --set {setting}")
        for setting in (
            "''", "x", "=", "=3", "x=3", "epochs", "epochs=", "epochs=x", "epochs=0", "epochs=1.5",
            "batch_size=0", "optimizer=foo", "optimizer=", "learning_rate=0", "learning_rate=-1",
            "learning_rate=nan", "learning_rate=inf", "learning_rate=fast", "momentum=1",
            "momentum=-0.1", "weight_decay=-1", "betas=1", "betas=0.9,1", "betas=0.9,0.9,0.9",
            "validation_fraction=1", "validation_fraction=-0.2", "validation_fraction=x",
            "seed=-1", "precision=int4", "channels_last=maybe", "deterministic=2", "workers=-1",
            "workers=many", "feature_cache_gib=-1", "feature_disk_gib=x", "aggregate=max",
            "aggregate_size=output",
            "eps=0", "eps=-1", "eps=nan", "weights=1", "weights=1,2", "weights=a,b,c",
            "weights=1,nan,1", "layers=", "layers=layer9", "layers=layer1,layer1,x", "student=x",
            "backbone=resnet17",
        )
    ],
    *[
        (USAGE, f"{RSTPM} --set {setting}")
        for setting in (
            "teacher1=resnet17", "teacher2=", "bottleneck=layer3", "attention=maybe",
            "attention_reduction=0", "decoder_blocks=2,2", "decoder_blocks=1,2,2",
            "decoder_blocks=x", "scale_maps=2", "aggregate=max", "discriminator=x",
            "discriminator_stride=3", "discriminator_width=0", "focal_gamma=-1", "l1_weight=nan",
            "smoothing=101", "smoothing=-1", "pooling=2", "pooling=x", "eps=0", "layers=layer1",
            "pseudo_anomalies=0",
        )
    ],
    # Weights.
    # The file ends before the bottleneck.
    (1, f"train data --model rstpm {NEW} --set bottleneck=layer4"),
    (1, f"{RSTPM} --set teacher2_weights=nowhere.pth"),
    (1, f"{RSTPM} --set teacher2_weights=empty"),
    (1, f"{RSTPM} --set teacher2_weights=text.pth"),
    (1, f"{RSTPM} --set teacher2=resnet34 --set teacher2_weights=weights.pth"),
    *[
        (1, f"train data --image-size 64 --epochs 1 --output new.fastad --teacher-weights {value}")
        for value in (
            "nowhere.pth", "empty", "file.txt", "cut.pth", "text.pth", "text.safetensors", "data",
            "good.fastad", "empty.fastad", "pipe", "data/train/good/0.png",
        )
    ],
    (1, f"{TRAIN} --set backbone=resnet50"),  # the file is another network's
    (1, f"{TRAIN} --set backbone=wide_resnet50_2"),
    # Where results go.
    *[
        (1, f"{TRAIN.replace('new.fastad', target)}")
        for target in (
            "no/such/folder.fastad", "empty", "data/train/good/0.png", "pipe", "file.txt/x.fastad",
            "/dev/null", "/proc/x.fastad",
        )
    ],
    # Resuming.
    (1, f"{TRAIN} --resume"),
    (1, TRAIN.replace("new.fastad", "left.fastad")),
    (1, f"{TRAIN.replace('new.fastad', 'damaged.fastad')} --resume"),
    # Detector files, wherever one is read.
    *[
        (1, command.replace("DETECTOR", name))
        for command in (
            "evaluate DETECTOR data", "predict DETECTOR data/test/hole", "info DETECTOR",
            "predict DETECTOR data/test/hole --output out.png --heatmaps",
        )
        for name in (
            "nowhere.fastad", "data", "file.txt", "cut.fastad", "empty.fastad", "flipped.fastad",
            "weights.pth", "pipe", "data/train/good/0.png",
        )
        if "out.png" not in command or name == "cut.fastad"
    ],
    # Data to evaluate on.
    *[
        (1, f"evaluate good.fastad {name}")
        for name in (
            "nowhere", "file.txt", "empty", "only_text", "data/train", "empty_test", "pipe",
            "data/ground_truth",
        )
    ],
    # Images to predict.
    *[
        (1, f"predict good.fastad {name}")
        for name in ("nowhere.png", "empty", "only_text", "file.txt", "pipe", "data nowhere.png")
    ],
    # Images that cannot be read, by every command that reads them.
    *[
        (1, command.replace("BAD", name.replace(".", "_")))
        for name in DEFECTIVE_FILES
        for command in (
            f"{TRAIN.replace('train data', 'train broken_train_BAD')}",
            "evaluate good.fastad broken_test_BAD",
            "predict good.fastad broken_BAD",
        )
    ],
    # Options of evaluate and predict.
    *[
        (code, f"{command} {option}")
        for command in ("evaluate good.fastad data", "predict good.fastad data/test/hole")
        for code, option in (
            (USAGE, "--batch-size 0"), (USAGE, "--batch-size x"), (1, "--device tpu"),
            (1, "--device cuda:7"), (USAGE, "--precision int8"),
            (USAGE, "--false-positive-rate 0"), (USAGE, "--false-positive-rate nan"),
            (USAGE, "--false-positive-rate 1.5"), (USAGE, "--false-positive-rate x"),
            (1, "--json no/such/folder.json"), (1, "--json empty"), (1, "--json pipe"),
            (1, "--json /dev/null"), (USAGE, "--json"), (USAGE, "--frobnicate"),
        )
    ],
    (USAGE, "predict good.fastad data --heatmaps"),
    (USAGE, "predict good.fastad data --masks"),
    (USAGE, "predict good.fastad data --json - --csv -"),
    (1, "predict good.fastad data --csv no/such/folder.csv"),
    (1, "predict good.fastad data --csv data/train/good/0.png"),
    (1, "predict good.fastad data --json good.fastad"),
    (1, "predict good.fastad data/train/good --output data/train/good --heatmaps"),
    (1, "predict good.fastad data --output file.txt"),
    (1, "predict good.fastad data --output file.txt/out"),
    # Bench.
    (USAGE, "bench --batch-size 0"),
    (USAGE, "bench --seconds -1"),
    (USAGE, "bench --model stmp --seconds 0"),
    (USAGE, "bench --image-size x"),
    (1, "bench --device tpu"),
    (USAGE, "bench --precision int8"),
    (1, "bench --json no/such/folder.json"),
    (USAGE, "bench --frames 0"),
    (USAGE, "bench --compare one.json"),
    (1, "bench --compare no.json missing.json"),
    (1, "bench --compare good.fastad good.fastad"),
]  # fmt: skip


def test_there_are_enough():
    assert len({command for _, command in CASES}) == len(CASES) >= 200


@pytest.mark.parametrize(("code", "command"), CASES, ids=[command for _, command in CASES])
def test_one_line_and_nothing_lost(fastad, place, monkeypatch, code, command):
    monkeypatch.chdir(place)
    monkeypatch.delenv("FASTAD_WEIGHTS", raising=False)
    before = snapshot(place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result, out, err = fastad(*re.sub("''", "", command).split(" "))
    assert result == code, err
    assert "Traceback" not in err + out
    lines = err.strip().splitlines()
    if code == 1:
        assert lines[-1].startswith("error: ")
        assert len(lines[-1]) > len("error: ") + 10
        assert sum(line.startswith("error: ") for line in lines) == 1
    assert snapshot(place) == before
