"""STPM and GTrans whose score goes by a memory of normal images, as PatchCore's."""

import copy

import numpy as np
import pytest
import torch

from fastad import models
from fastad.inference import Artifact, load, save
from fastad.models.map_options import MapChoice

BY_MEMORY = MapChoice("none", "none", 0, score_by="memory")


def draw(count, seed):
    return torch.rand(count, 3, 32, 40, generator=torch.Generator().manual_seed(seed))


def trained(name, **options):
    """Of random weights, with the memory that its training's end gives it."""
    torch.manual_seed(0)
    model = models.build(name, backbone="resnet18", teacher_weights=None, **options).eval()
    normal = draw(6, 0)
    model.enter_stage(model.stages[0])
    with torch.no_grad():
        model.eval().finish_stage(lambda: iter([{"image": normal[:4]}, {"image": normal[4:]}]))
    model.enter_stage(None)
    return model.eval()


@pytest.fixture(scope="module", params=["stpm", "gtrans"])
def prepared(request):
    return trained(request.param)


@pytest.fixture
def model(prepared):
    return copy.deepcopy(prepared)


@torch.no_grad()
def test_score_is_patchcores_and_map_the_students(model):
    patchcore = models.build("patchcore", backbone="resnet18", teacher_weights=None)
    patchcore.teacher.load_state_dict(model.teacher.state_dict())
    normal, images = draw(6, 0), draw(3, 1)
    patchcore.eval().prepare_stage(lambda: iter([{"image": normal}]), lambda: iter([]))
    patchcore.choose(MapChoice())
    by_maps = copy.deepcopy(model)
    by_maps.choose(MapChoice())
    model.choose(BY_MEMORY)
    found, expected = model(images), patchcore(images)
    torch.testing.assert_close(found.score, expected.score, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found.score, by_maps(images).score)
    torch.testing.assert_close(found.anomaly_map, by_maps(images).anomaly_map)
    assert by_maps.memory is None


@torch.no_grad()
def test_kept_features_of_the_teacher_give_the_same(model):
    model.choose(BY_MEMORY)
    batch = {"image": draw(2, 1)}
    found = model.evidence(batch | model.teacher_features(batch["image"])).memory_maps
    for one, other in zip(found, model.evidence(batch).memory_maps, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_a_file_keeps_it(model, tmp_path):
    model.choose(BY_MEMORY)
    path = tmp_path / "part.fastad"
    save(path, Artifact(model, (32, 40), np.empty(0), 0.01, None, {}))
    found, expected = load(path).model(draw(2, 1)), model(draw(2, 1))
    assert torch.equal(found.score, expected.score)
    assert torch.equal(found.anomaly_map, expected.anomaly_map)


def test_no_memory_is_made_where_the_maps_are_asked_for():
    assert trained("stpm", score_by="maps").memory is None
