"""How far models look, against what their layers say."""

import copy

import pytest
import torch
from torch import nn

from fastad import models
from fastad.tiles import reach_of


class Plain(nn.Module):
    """Two strided convolutions, each followed by one of stride 1."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 5, 2, 2)
        self.second = nn.Conv2d(4, 4, 3, 2, 1)
        self.third = nn.Conv2d(4, 6, (7, 3), 1, (3, 1))

    def forward(self, x):
        x = self.first(x)
        return [x, self.third(self.second(x))]


def stpm(backbone, **options):
    torch.manual_seed(0)
    options = {"subspace": False, "teacher_weights": None} | options
    return models.build("stpm", backbone=backbone, **options).eval()


def test_reach_is_that_of_the_layers():
    model = stpm(Plain())
    # Row i of the second level sees 4 * 3 + 2 * 1 + 2 = 16 pixels on both sides of row 4 i, and
    # column i 4 * 1 + 2 * 1 + 2 = 8.
    down, across = reach_of(model, 64), reach_of(model, 64, across=True)
    assert down.strides == across.strides == (2, 4)
    assert (down.before, down.after) == (16, 16)
    assert (across.before, across.after) == (8, 8)
    assert down.step == across.step == 4


@pytest.mark.parametrize("remainder", [0, 1, 37])
def test_reach_of_resnet18(remainder):
    # Layer 3 of the published network sees 211 pixels.
    reach = reach_of(stpm("resnet18"), 640 + remainder)
    assert 105 <= reach.before <= 105 + 15
    assert 105 - 15 <= reach.after <= 105
    assert reach.step == 16


def test_models_that_look_at_all_are_refused():
    tiny = {"backbone": "resnet18", "teacher_weights": None}
    gtrans = models.build(
        "gtrans", token_width=16, **tiny
    ).eval()  # its tokens are of the whole image
    with pytest.raises(ValueError, match="looks further than"):
        reach_of(gtrans, 64)
    prn = models.build("prn", bottleneck="learned", **tiny).eval()
    with pytest.raises(ValueError, match="joins no distance maps"):
        reach_of(prn, 64)
    paper = models.build("patchcore", joint=True, **tiny).eval()
    with pytest.raises(ValueError, match="more than its distance maps"):
        reach_of(paper, 64)
    with pytest.raises(ValueError, match="more than its distance maps"):
        reach_of(stpm("resnet18", composition=True), 64)


def test_levels_that_are_resized_to_one_another_need_sides_of_whole_strides():
    model = stpm("resnet18", subspace=True)
    assert reach_of(model, 128).step == 16
    with pytest.raises(ValueError, match="multiples of 64"):
        reach_of(model, 500)


def test_the_model_is_left_as_it_was():
    model = stpm(Plain())
    before = copy.deepcopy(model.state_dict())
    reach_of(model, 64)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
