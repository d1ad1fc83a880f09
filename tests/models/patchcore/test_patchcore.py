"""PatchCore against the paper, written out in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastad import models
from fastad.models.memory import memory as module


class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, 2, 1)
        self.second = nn.Conv2d(6, 10, 3, 2, 1)

    def forward(self, images):
        first = self.first(images).relu()
        return first, self.second(first)


def plain_patches(backbone, images):
    """Means over 3x3 by unfold, the second level resized and put behind the first: (P, D)."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    levels = copy.deepcopy(backbone).double()((images.double() - mean) / std)
    size = levels[0].shape[2:]
    found = []
    for level in levels:
        n, c, h, w = level.shape
        means = F.unfold(level, 3, padding=1).view(n, c, 9, h * w).mean(dim=2).view(n, c, h, w)
        found.append(F.interpolate(means, size, mode="bilinear", align_corners=False))
    return torch.cat(found, dim=1).permute(0, 2, 3, 1).reshape(len(images), -1, 16), size


def plain_prediction(patches, memory, neighbours):
    """Distances (N, P) and scores (N,), one image and one patch after the other."""
    maps, scores = [], []
    for image in patches:
        apart = (image[:, None] - memory).norm(dim=2)
        nearest, index = apart.min(dim=1)
        maps.append(nearest)
        worst = int(nearest.argmax())
        around = (memory - memory[index[worst]]).norm(dim=1).argsort()[:neighbours]
        raised = apart[worst, around].exp().sum()
        factor = 1 - nearest[worst].exp() / raised if neighbours else 1.0
        scores.append(factor * nearest[worst])
    return torch.stack(maps), torch.stack(scores)


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return Pyramid()


PAPER = {"joint": True, "unit": False}


def fitted(backbone, images, **options):
    model = models.build("patchcore", backbone=backbone, **{**PAPER, **options}).eval()
    batches = [{"image": part} for part in images.split(2)]
    with torch.no_grad():
        model.prepare_stage(lambda: iter(batches), lambda: iter(batches))
    return model


@pytest.mark.parametrize("neighbours", [0, 2, 9])
@pytest.mark.parametrize("size", [(16, 16), (17, 23)])
def test_map_and_score_are_the_papers(backbone, size, neighbours):
    torch.manual_seed(1)
    normal, images = torch.rand(5, 3, *size), torch.rand(3, 3, *size)
    model = fitted(backbone, normal, memory=40, neighbours=neighbours, smoothing=0)
    assert model.memories[0].vectors.shape == (40, 16)
    with torch.no_grad():
        patches, (h, w) = plain_patches(backbone, images)
        maps, scores = plain_prediction(patches, model.memories[0].vectors.double(), neighbours)
        found = model(images)
    maps = F.interpolate(maps.view(3, 1, h, w), size, mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(found.anomaly_map, maps.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.score, scores.float(), rtol=1e-4, atol=1e-6)


def plain_levels(backbone, images):
    """Of each level the means over 3x3 of vectors of length 1: (N, P, C), and its size."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    found = []
    for level in copy.deepcopy(backbone).double()((images.double() - mean) / std):
        n, c, h, w = level.shape
        # Where all features are 0, they stay so.
        level = level / level.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
        means = F.unfold(level, 3, padding=1).view(n, c, 9, h * w).mean(dim=2)
        found.append((means.mT, (h, w)))
    return found


@pytest.mark.parametrize("size", [(16, 16), (17, 23)])
@pytest.mark.parametrize(
    ("map_levels", "score_levels"),
    [((), ()), (("level1",), ("level2",)), (("level1", "level2"), ("level1",))],
)
def test_distances_of_the_levels_are_multiplied(backbone, size, map_levels, score_levels):
    torch.manual_seed(1)
    normal, images = torch.rand(5, 3, *size), torch.rand(3, 3, *size)
    levels = {"map_levels": map_levels, "score_levels": score_levels}
    options = {"joint": False, "unit": True, "smoothing": 0, "scale_maps": "none"}
    model = fitted(backbone, normal, memory=40, **options, **levels)
    assert [memory.vectors.shape for memory in model.memories] == [(40, 6), (40, 10)]
    expected_map, expected_score = torch.ones(2, 3, *size).double()
    with torch.no_grad():
        found = model(images)
        for number, (patches, (h, w)) in enumerate(plain_levels(backbone, images)):
            memory = model.memories[number].vectors.double()
            apart = (patches[:, :, None] - memory).norm(dim=3)
            distances, index = apart.min(dim=2)
            directions = (x / x.norm(dim=2, keepdim=True) for x in (patches, memory[index]))
            angles = (next(directions) - next(directions)).norm(dim=2)
            distances, angles = (
                F.interpolate(x.view(3, 1, h, w), size, mode="bilinear", align_corners=False)[:, 0]
                for x in (distances, angles)
            )
            if f"level{number + 1}" in (map_levels or ("level1", "level2")):
                expected_map *= angles
            if f"level{number + 1}" in (score_levels or ("level1", "level2")):
                expected_score *= distances
    torch.testing.assert_close(found.anomaly_map, expected_map.float(), rtol=1e-4, atol=1e-5)
    score = expected_score.amax(dim=(1, 2))
    torch.testing.assert_close(found.score, score.float(), rtol=1e-4, atol=1e-6)


def test_contrast_counts_where_features_keep_their_length(backbone):
    """Of a backbone without offset, so that darker images have shorter features."""
    for convolution in (backbone.first, backbone.second):
        nn.init.zeros_(convolution.bias)
    normal = torch.rand(6, 3, 16, 16)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    faint = mean + (normal - mean) / 2
    scores = {}
    for unit in (True, False):
        model = fitted(backbone, normal, joint=False, unit=unit, memory=400, smoothing=0)
        with torch.no_grad():
            scores[unit] = model(faint).score
    assert scores[True].max() < 1e-4
    assert scores[False].min() > 0.01


def test_one_memory_of_features_of_length_1(backbone):
    model = fitted(backbone, torch.rand(3, 3, 16, 16), unit=True, memory=20)
    assert model.memories[0].vectors.shape == (20, 16)
    with torch.no_grad():
        found = model.evidence({"image": torch.rand(2, 3, 16, 16)})
    assert (len(found.maps), len(found.score_maps), len(model.distance_means)) == (1, 1, 2)
    assert found.score_factor.shape == (2,)


def test_the_memory_is_the_coreset_of_the_normal_patches(backbone):
    normal = torch.rand(5, 3, 16, 24)
    model = fitted(backbone, normal, memory=50)
    with torch.no_grad():
        patches, _ = plain_patches(backbone, normal)
    patches = patches.reshape(-1, 16)
    distances, chosen = (patches - patches.mean(dim=0)).norm(dim=1), []
    for _ in range(50):
        chosen.append(int(distances.argmax()))
        distances = torch.minimum(distances, (patches - patches[chosen[-1]]).norm(dim=1))
    torch.testing.assert_close(
        model.memories[0].vectors, patches[chosen].float(), rtol=1e-4, atol=1e-5
    )


def test_fewer_patches_than_asked_for_are_all_kept(backbone):
    images = torch.rand(2, 3, 16, 16)
    model = fitted(backbone, images, smoothing=0)
    assert model.memories[0].vectors.shape == (2 * 64, 16)
    with torch.no_grad():
        assert model(images).anomaly_map.max() < 1e-3  # what is normal is known


def test_candidates_are_bounded(backbone, monkeypatch):
    monkeypatch.setattr(module, "CANDIDATES", 30)
    images = torch.rand(4, 3, 16, 16)
    torch.manual_seed(0)
    one = fitted(backbone, images, memory=20)
    other = fitted(backbone, images, memory=20)
    assert one.memories[0].vectors.shape == (20, 16)
    assert not torch.equal(one.memories[0].vectors, other.memories[0].vectors)  # another sample
    with torch.no_grad():
        patches, _ = plain_patches(backbone, images)
    apart = torch.cdist(one.memories[0].vectors.double(), patches.reshape(-1, 16))
    assert (apart.amin(dim=1) < 1e-5).all()
    assert len(set(apart.argmin(dim=1).tolist())) == 20
    # The sample is never smaller than the memory.
    assert fitted(backbone, images, memory=50).memories[0].vectors.shape == (50, 16)


def test_a_memory_of_one_vector(backbone):
    model = fitted(backbone, torch.rand(2, 3, 16, 16), memory=1, smoothing=0)
    with torch.no_grad():
        prediction = model(torch.rand(2, 3, 16, 16))
    assert (prediction.score > 0).all()


def test_a_state_of_another_size_is_loaded(backbone):
    model = fitted(backbone, torch.rand(3, 3, 16, 16), memory=7)
    other = models.build("patchcore", backbone=copy.deepcopy(backbone), **PAPER).eval()
    other.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(other(images).score, model(images).score)


def test_a_state_with_one_memory_by_its_old_name(backbone):
    model = fitted(backbone, torch.rand(3, 3, 16, 16), memory=7)
    state = model.state_dict()
    state["memory"] = state.pop("memories.0.vectors")
    other = models.build("patchcore", backbone=copy.deepcopy(backbone), **PAPER)
    other.load_state_dict(state)
    assert torch.equal(other.memories[0].vectors, model.memories[0].vectors)


def test_options_of_a_file_from_before_there_were_others():
    config = {"memory": 7, "layers": ["layer2", "layer3"]}
    found = models.PatchCore.options_of_file(config)
    assert found == {**config, "joint": True, "unit": False}
    assert models.PatchCore.options_of_file({**found, "joint": False})["joint"] is False


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"joint": 1}, "joint must be True or False; got 1"),
        ({"unit": "yes"}, "unit must be True or False; got 'yes'"),
        (
            {"backbone": "resnet18", "map_levels": ["layer4"]},
            r"map_levels must be 'auto' or of layer1, layer2, layer3; got \('layer4',\)",
        ),
        ({"score_levels": "layer1"}, "score_levels must be 'auto' or a sequence of different"),
        ({"score_levels": None}, "score_levels must be 'auto' or a sequence of different"),
        ({"map_levels": ["layer1"] * 2}, "map_levels must be 'auto' or a sequence of different"),
        ({"joint": True, "map_levels": ["layer1"]}, "map_levels must be left out where joint is"),
        ({"memory": 0}, "memory must be an integer of at least 1; got 0"),
        ({"memory": 0.1}, "memory must be an integer of at least 1; got 0.1"),
        ({"neighbours": 1}, "neighbours must be 0, or an integer of at least 2; got 1"),
        ({"neighbours": -1}, "neighbours must be 0"),
        ({"smoothing": -1}, "smoothing must be a number of at least 0; got -1"),
        ({"smoothing": 301}, "smoothing must be at most 300 pixels; got 301"),
        ({"layers": ()}, "layers must be a sequence of names"),
        ({"backbone": "resnet19"}, "unknown backbone 'resnet19'"),
    ],
)
def test_a_refusal_names_the_option(options, said):
    with pytest.raises(ValueError, match=said):
        models.build("patchcore", teacher_weights=None, **options)
