"""RSTPM whose score goes by a memory of normal images, as PatchCore's."""

import copy

import numpy as np
import pytest
import torch

from fastad import models
from fastad.inference import Artifact, load, save
from fastad.models.map_options import MapChoice

SMALL = {
    "teacher1": "resnet18",
    "teacher_weights": None,
    "teacher2_weights": None,
    "teacher2": "resnet18",
    "bottleneck": "learned",
    "discriminator_width": 8,
}


def draw(count, seed):
    return torch.rand(count, 3, 32, 40, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def prepared():
    """After its first stage."""
    torch.manual_seed(0)
    model = models.build("rstpm", **SMALL).eval()
    normal = draw(6, 0)
    model.enter_stage(model.stages[0])
    with torch.no_grad():
        model.finish_stage(lambda: iter([{"image": normal[:4]}, {"image": normal[4:]}]))
    model.enter_stage(None)
    return model.eval()


@pytest.fixture
def model(prepared):
    return copy.deepcopy(prepared)


def test_score_is_patchcores_and_map_the_students(model):
    normal, images = draw(6, 0), draw(3, 1)
    patchcore = models.build("patchcore", backbone="resnet18", teacher_weights=None)
    patchcore.teacher.load_state_dict(model.teacher1.state_dict())
    with torch.no_grad():
        patchcore.eval().prepare_stage(lambda: iter([{"image": normal}]), lambda: iter([]))
        patchcore.choose(MapChoice())
        by_maps = copy.deepcopy(model)
        by_maps.choose(MapChoice("none", "none", pair_weights=(1, 1)))
        model.choose(MapChoice("none", "none", 0, (1, 1), score_by="memory"))
        found, expected = model(images), patchcore(images)
        torch.testing.assert_close(found.score, expected.score, rtol=1e-4, atol=1e-6)
        assert torch.equal(found.anomaly_map, by_maps(images).anomaly_map)
        assert not torch.allclose(found.score, by_maps(images).score)
    assert by_maps.memory is None


def test_a_region_leaves_the_rest_out_of_the_score(model):
    inside = torch.zeros(32, 40, dtype=torch.bool)
    inside[:, :20] = True
    model.set_roi(inside)
    model.choose(MapChoice(pair_weights=(1, 1), score_by="memory"))
    images = draw(2, 1)
    with torch.no_grad():
        before = model(images)
        found = model.evidence({"image": images})
        whole, _ = model.joined(found, (32, 40), "none", model.choice(), of_score=True)
    assert (whole[:, :, 20:] == 0).all()
    torch.testing.assert_close(before.score, whole.amax(dim=(1, 2)))


def test_the_memory_is_no_student(model):
    assert not [name for name, _ in model.named_parameters() if name.startswith("memory")]
    batch = {"image": draw(2, 1)}
    model.enter_stage(model.stages[0])
    assert model.evidence(batch).memory_maps  # filled
    fresh = models.build("rstpm", **SMALL)
    fresh.enter_stage(fresh.stages[0])
    assert not fresh.evidence(batch).memory_maps


@pytest.mark.parametrize("value", ["students", True, None])
def test_an_option_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match="score_by must be 'auto', 'maps' or 'memory'"):
        models.build("rstpm", **SMALL, score_by=value)


def test_a_file_keeps_it(model, tmp_path):
    model.choose(MapChoice(pair_weights=(1, 1), score_by="memory"))
    path = tmp_path / "part.fastad"
    save(path, Artifact(model, (32, 40), np.empty(0), 0.01, None, {}))
    other = load(path).model
    with torch.no_grad():
        found, expected = other(draw(2, 1)), model(draw(2, 1))
    assert torch.equal(found.score, expected.score)
    assert torch.equal(found.anomaly_map, expected.anomaly_map)


def test_another_training_fills_another(model):
    model.choose(MapChoice(pair_weights=(1, 1)))
    assert model.memory is None
    model.forget_choice()
    assert not model.memory.is_filled


def test_it_is_asked_although_the_second_stage_keeps_distances(model):
    batch = {"image": draw(2, 1)}
    model.enter_stage(model.stages[1])
    model.eval()
    with torch.no_grad():
        kept = {**batch, **model.teacher_features(batch["image"])}
        assert "distances" in kept
        found, expected = model.evidence(kept), model.evidence(batch)
    assert len(found.memory_maps) == 3
    for one, other in zip(found.memory_maps, expected.memory_maps, strict=True):
        torch.testing.assert_close(one, other)
