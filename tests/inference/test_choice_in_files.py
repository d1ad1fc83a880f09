"""What was chosen of a model's maps is in its file; older files say nothing of it."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fastad import models
from fastad._safe_file import digest
from fastad.inference import Artifact, ArtifactError, load, save
from fastad.models.map_options import MapChoice

IMAGES = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
RSTPM = {"teacher2": "resnet18", "bottleneck": "learned", "discriminator_width": 8}


def build(name="stpm", **options):
    """With a fitted subspace, where the options have one, and means of the maps."""
    torch.manual_seed(0)
    options = (
        {"layers": ("layer1", "layer2"), **options} if name == "stpm" else {**RSTPM, **options}
    )
    model = models.build(name, **options, **models.without_weights(name)).eval()
    if model.subspace is not None:
        width = model.subspace.directions.shape[1]
        model.subspace.fit([torch.rand(4, width, 4, 6)])
    model.distance_means.copy_(0.1 + torch.rand_like(model.distance_means))
    return model


def written(model, path):
    none = np.empty(0)
    save(path, Artifact(model, (32, 48), none, 0.01, None, {}))
    return path


def answer(model):
    with torch.no_grad():
        return model(IMAGES)


def assert_same(model, other):
    for name in ("score", "anomaly_map"):
        assert torch.equal(getattr(answer(model), name), getattr(answer(other), name))


def change(path, **changes):
    """Change entries of a file's object and options; None removes one. Its checksum is right."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors, content = load_file(path), json.loads(metadata["detector"])
    for name, value in changes.items():
        place = content if name in content else content["config"]
        place[name] = value
        if value is None:
            del place[name]
    metadata["detector"] = json.dumps(content)
    metadata["sha256"] = digest(metadata["detector"], tensors)
    save_file(tensors, path, metadata)


CHOICES = [
    MapChoice("position", "none", 0.02, (), True),
    MapChoice("none", "position", 0.0, (), False),
    MapChoice("level", "level", 0.01, (), True),
]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_is_read_again(tmp_path, choice):
    model = build()
    model.choose(choice)
    loaded = load(written(model, tmp_path / "d.fastad")).model
    assert loaded.choice() == loaded.chosen == choice
    assert loaded.config.scale_maps == "auto"  # what was asked for stays
    assert_same(loaded, model)


def test_weights_of_pairs_are_read_again(tmp_path):
    model = build("rstpm", subspace=False)
    model.choose(MapChoice("level", "position", 0.01, (0.0, 1.0)))
    loaded = load(written(model, tmp_path / "d.fastad")).model
    assert loaded.choice() == model.chosen
    assert_same(loaded, model)


def test_a_subspace_that_is_not_used_takes_no_room(tmp_path):
    sizes = {}
    for used in (True, False):
        model = build()
        model.choose(MapChoice(subspace=used))
        sizes[used] = written(model, tmp_path / f"{used}.fastad").stat().st_size
        loaded = load(tmp_path / f"{used}.fastad").model
        assert ("subspace.directions" in loaded.state_dict()) == used
    kept = build()
    numbers = kept.subspace.directions.numel() + kept.subspace.offset.numel() + 64 * 64
    assert sizes[True] - sizes[False] == pytest.approx(4 * numbers, abs=400)  # and their names


def test_what_was_never_chosen_stays_open(tmp_path):
    model = build()
    loaded = load(written(model, tmp_path / "d.fastad")).model
    assert loaded.chosen is None
    assert loaded.subspace is not None
    assert_same(loaded, model)


def test_a_file_from_before_there_was_a_choice(tmp_path):
    """Such a file has no entry, no options of it, and no subspace."""
    model = build()
    model.choose(MapChoice())
    path = written(model, tmp_path / "d.fastad")
    options = dict.fromkeys(["scale_maps", "scale_score", "pooling", "subspace"])
    change(path, choice=None, **options)
    loaded = load(path).model
    assert loaded.choice() == MapChoice()
    assert_same(loaded, model)


@pytest.mark.parametrize("scale", ["none", "level", "position"])
def test_an_older_rstpm_has_one_scale_for_map_and_score(tmp_path, scale):
    model = build("rstpm", subspace=False)
    model.choose(MapChoice(scale, scale, 0.003, (1.0, 1.0)))
    path = written(model, tmp_path / "d.fastad")
    missing = dict.fromkeys(["scale_score", "pair_weights", "subspace"])
    change(path, choice=None, scale_maps=scale, pooling=0.003, **missing)
    loaded = load(path).model
    assert loaded.choice() == model.chosen
    assert_same(loaded, model)


@pytest.mark.parametrize(
    "choice", [{"scale_maps": "image"}, {"pooling": 2}, {"subspace": 1}, {"other": 1}, "none", [1]]
)
def test_a_choice_that_cannot_be_is_refused(tmp_path, choice):
    model = build()
    model.choose(MapChoice())
    path = written(model, tmp_path / "d.fastad")
    change(path, choice=choice)
    with pytest.raises(ArtifactError, match=r"d\.fastad"):
        load(path)
