"""Maps and scores from tiles are those of the whole image."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import fastad
from fastad import models
from fastad.inference import Predictor
from fastad.tiles import Reach, Tiling, reach_of
from fastad.tiles.windows import windows

MANY = ((192, 176), (205, 171), (161, 223))
DEEP = ("layer1", "layer2", "layer3")
SHALLOW = ("layer1", "layer2")


def built(name, **options):
    torch.manual_seed(0)
    options = {"teacher_weights": None, "backbone": "resnet18", "layers": SHALLOW} | options
    if name == "stpm":
        options = {"subspace": False} | options
    model = models.build(name, **options).eval()
    generator = torch.Generator().manual_seed(1)
    model.distance_means.uniform_(0.5, 2, generator=generator)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # zeros at the edge are then no zeros inside
            module.bias.data.normal_(0, 0.2, generator=generator)
    for memory in getattr(model, "memories", ()):
        memory.vectors.normal_(0, 0.1, generator=generator)
    return model


def whole_and_tiles(model, size, tile):
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        tiling = Tiling(model, size, tile)
        return model(images), tiling.predict(model, lambda x: x, images), tiling


def alike(whole, parts):
    torch.testing.assert_close(parts.anomaly_map, whole.anomaly_map, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts.score, whole.score, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", MANY)
@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0"])
def test_maps_are_those_of_the_whole_image(backbone, size):
    model = built("stpm", backbone=backbone, scale_maps="position", pooling=0.01)
    whole, parts, tiling = whole_and_tiles(model, size, (64, 60))
    assert len(tiling.rows) * len(tiling.columns) >= 9
    alike(whole, parts)


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("stpm", {"backbone": "resnet50_caffe", "layers": ("layer1",)}, (133, 161)),
        ("stpm", {"subspace": True, "scale_maps": "position"}, (192, 160)),
        ("stpm", {"aggregate": "sum", "scale_maps": "level"}, (133, 161)),
        ("patchcore", {"memory": 16, "smoothing": 2.0, "scale_maps": "position"}, (133, 161)),
        ("patchcore", {"memory": 16, "joint": True, "neighbours": 0}, (192, 160)),
        ("subspace", {"smoothing": 2.0}, (192, 160)),
        ("stpm", {"overview": 2, "scale_maps": "position"}, (133, 161)),
        ("stpm", {"overview": 4, "subspace": True}, (192, 160)),
        ("patchcore", {"memory": 16, "overview": 4, "scale_maps": "position"}, (133, 161)),
        ("patchcore", {"memory": 16, "overview": 2, "joint": True, "neighbours": 0}, (192, 128)),
        ("subspace", {"overview": 2}, (192, 160)),
        pytest.param("stpm", {"layers": DEEP}, (333, 261), marks=pytest.mark.slow),
        pytest.param("stpm", {"layers": DEEP, "overview": 4}, (333, 261), marks=pytest.mark.slow),
        pytest.param("patchcore", {"layers": DEEP}, (333, 261), marks=pytest.mark.slow),
    ],
)
def test_every_local_model(name, options, size):
    whole, parts, _ = whole_and_tiles(built(name, **options), size, (70, 70))
    alike(whole, parts)


@pytest.mark.parametrize("size", [(640, 32), pytest.param((655, 361), marks=pytest.mark.slow)])
def test_rstpm(size):
    torch.manual_seed(0)
    teachers = {"teacher1": "resnet18", "teacher2": "resnet18", "bottleneck": "learned"}
    weights = {"teacher_weights": None, "teacher2_weights": None, "discriminator_width": 8}
    model = models.build("rstpm", subspace=False, **teachers, **weights).eval()
    torch.nn.init.normal_(model.discriminator.head.weight)  # it says something
    model.distance_means.uniform_(0.5, 2, generator=torch.Generator().manual_seed(1))
    whole, parts, tiling = whole_and_tiles(model, size, (64, 361))
    assert max(row.last - row.first for row in tiling.rows) < size[0]
    alike(whole, parts)


def test_a_score_by_the_memory():
    model = built("stpm", layers=("layer1",), score_by="memory")
    for memory in model.memory.memories:
        memory.vectors = torch.rand(16, memory.vectors.shape[1])
    whole, parts, _ = whole_and_tiles(model, (133, 161), (64, 64))
    alike(whole, parts)
    assert parts.score != parts.anomaly_map.max()


def test_an_overview_sees_further_than_its_tile():
    """As few pixels of the image as without one. Made of the tiles they would have to see more."""
    model, size, tile = built("stpm", overview=4), (520, 520), (64, 64)
    alone, apart, together = (
        Tiling(one, size, tile, **how)
        for one, how in ((built("stpm"), {}), (model, {}), (model, {"apart": False}))
    )
    assert apart.rows == alone.rows
    assert apart.halo < 1.7 * alone.halo < together.halo
    assert apart.strides == together.strides == [(4, 4), (8, 8), (16, 16), (32, 32)]


def test_strides_of_an_odd_length():
    reach = reach_of(built("stpm", overview=4, layers=("layer1",)), 513)
    assert reach.strides == (4, 16)


def test_a_region_of_interest():
    model = built("stpm", pooling=0.05)
    mask = torch.zeros(133, 161, dtype=torch.bool)
    mask[50:100, 40:120] = True
    model.set_roi(mask)
    whole, parts, _ = whole_and_tiles(model, (133, 161), (64, 64))
    alike(whole, parts)
    assert not parts.anomaly_map[0][~mask].any()


@pytest.mark.parametrize("length", [5, 64, 333, 1000])
def test_windows_cover_each_pixel_once(length):
    reach = Reach(step=16, before=20, after=31, strides=(4, 16))
    found = windows(length, 100, reach)
    assert [found[0].begin, found[-1].end] == [0, length]
    assert all(a.end == b.begin for a, b in itertools.pairwise(found))
    for window in found:
        assert window.begin % 16 == window.first % 16 == 0
        assert (window.last - length) % 16 == 0
        assert window.first == 0 or window.begin - window.first >= 20
        assert window.last == length or window.last - window.end >= 31


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """A detector of images of 104x136 pixels, in a file, and two images."""
    folder = tmp_path_factory.mktemp("tiles")
    good = np.random.default_rng(0).integers(100, 156, (8, 104, 136, 3), dtype=np.uint8)
    good[1, 60:90, 40:70] = 0
    for index in range(2):
        Image.fromarray(good[index]).save(folder / f"{index}.png")
    fastad.Detector(
        "stpm",
        image_size=(104, 136),
        teacher_weights="embedded",
        layers=("layer1",),
        false_positive_rate=0.2,
    ).fit(good[2:], epochs=1, min_steps=0, self_check=False).save(folder / "part.fastad")
    return folder


def test_detectors_predict_in_tiles(detector):
    paths = [detector / "0.png", detector / "1.png"]
    loaded = fastad.load(detector / "part.fastad", precision="float32")
    whole, parts = loaded.predict(paths), loaded.predict(paths, tile=32)
    np.testing.assert_allclose(parts.anomaly_map, whole.anomaly_map, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(parts.score, whole.score, rtol=1e-5, atol=1e-5)
    assert parts.is_anomalous.tolist() == whole.is_anomalous.tolist()
    assert parts.paths == paths
    in_tiles = fastad.load(detector / "part.fastad", precision="float32", tile="40x48")
    assert [len(result) for result in in_tiles.stream(paths)] == [1, 1]
    np.testing.assert_allclose(in_tiles.predict(paths).score, whole.score, rtol=1e-5)


def test_networks_see_tiles_alone(detector):
    loaded = fastad.load(detector / "part.fastad", precision="float32")
    seen = []
    predictor = loaded._fitted()
    predictor.fused = False
    hook = loaded.model_.teacher.register_forward_pre_hook(
        lambda _, given: seen.append(given[0].shape[-2:])
    )
    predictor.predict(detector / "0.png", tile=48)
    hook.remove()
    own = [shape for shape in seen if shape[0] != 32 and shape[1] != 32]  # not of the strips
    assert own
    assert max(height * width for height, width in own) < 0.8 * 104 * 136


def test_wrong_tiles_are_refused(detector):
    loaded = fastad.load(detector / "part.fastad")
    with pytest.raises(ValueError, match="size"):
        loaded.predict(detector / "0.png", tile=0)
    model = models.build("gtrans", backbone="resnet18", teacher_weights=None, token_width=16)
    with pytest.raises(ValueError, match="looks further"):
        Predictor(model, (64, 64), tile=32).predict(np.zeros((1, 64, 64, 3), np.uint8))


def test_the_command_line(detector):
    from typer.testing import CliRunner

    from fastad.cli import app

    arguments = ["predict", str(detector / "part.fastad"), str(detector / "1.png")]
    asked = [*arguments, "--precision", "float32", "--csv", "-"]
    whole = CliRunner().invoke(app, asked)
    parts = CliRunner().invoke(app, [*asked, "--tile", "64"])
    assert whole.exit_code == parts.exit_code == 0, parts.output
    rows = [result.stdout.splitlines()[1].split(",") for result in (whole, parts)]
    score = whole.stdout.splitlines()[0].split(",").index("score")
    assert float(rows[0][score]) == pytest.approx(float(rows[1][score]), rel=1e-5)


def test_pooling_in_pieces(monkeypatch):
    maps = torch.rand(2, 70, 90, generator=torch.Generator().manual_seed(0))
    shares = [1e-4, 0.01, 0.3, 1.0]
    expected = models.maps.means_of_highest(maps, shares)
    monkeypatch.setattr(models.maps, "PIECE", 1000)
    for one, other in zip(models.maps.means_of_highest(maps, shares), expected, strict=True):
        torch.testing.assert_close(one, other)


MEASURED = """
import sys
import numpy as np
import torch
from PIL import Image
from fastad import models
from fastad.inference import Predictor

def mebibytes(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

class Backbone(torch.nn.Sequential):  # a quick one
    def __init__(self):
        super().__init__(torch.nn.Conv2d(3, 8, 8, 8), torch.nn.Conv2d(8, 32, 3, 1, 1))

    def forward(self, images):
        return [super().forward(images)]

model = models.build("stpm", backbone=Backbone(), subspace=False, pooling=0.001)
options = {"threshold": 0.5, "pixel_threshold": 0.5, "precision": "float32"}
Predictor(model, 128, tile=64, **options).predict(np.zeros((1, 128, 128, 3), np.uint8))
predictor = Predictor(model, (3648, 5472), tile=512, **options)
predictor.tiling()
before = mebibytes("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
for result in predictor.stream([sys.argv[1]]):
    assert result.anomaly_map.shape == (1, 3648, 5472)
print(mebibytes("VmHWM") - before)
"""


@pytest.mark.slow
def test_the_memory_of_20_megapixels(tmp_path):
    """Of a file of 80: beyond the weights a quarter of a GiB, with the result's own 95 MiB."""
    clear = "/proc/self/clear_refs"
    if not os.access(clear, os.W_OK):
        pytest.skip(f"the peak of the memory is read from {clear}")
    rows = np.random.default_rng(0).integers(0, 256, (7296, 1), dtype=np.uint8)
    image = Image.fromarray(np.ascontiguousarray(np.broadcast_to(rows, (7296, 10944))))
    image.save(tmp_path / "part.tif", compression="packbits", tiffinfo={278: 64})
    arguments = [sys.executable, "-c", MEASURED, str(tmp_path / "part.tif")]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 256
