"""anomalib's modules and the ones that replace them: values, gradients, keys, export."""

import copy

import anomalib_files as written
import pytest
import torch
from torch import nn

from fastad.compat import anomalib


def features(seed, dtype=torch.float64, batch=3):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, 6, 17, 12), (batch, 9, 8, 6), (batch, 4, 3, 5))
    levels = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return {f"layer{i}": level.to(dtype) for i, level in enumerate(levels, start=1)}


def close(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return written.Stfpm()


def test_maps_of_stfpm():
    sides = {"image_size": (40, 33)}
    single = {"teacher_features": features(0, torch.float32)}
    single["student_features"] = features(1, torch.float32)
    double = {"teacher_features": features(0), "student_features": features(1)}
    expected = written.AnomalyMapGenerator()(**double, **sides)
    found = anomalib.STFPMMap()(**single, **sides)
    assert found.dtype == torch.float32
    close(found, expected)
    layer = anomalib.STFPMMap.compute_layer_map(
        single["teacher_features"]["layer2"], single["student_features"]["layer2"], (40, 33)
    )
    one = {name: {"layer2": levels["layer2"]} for name, levels in double.items()}
    close(layer, written.AnomalyMapGenerator()(**one, **sides))
    with pytest.raises(ValueError, match="there is no image_size among"):
        anomalib.STFPMMap()(**single)


def test_levels_are_matched_by_name():
    teacher, student = features(0), features(1)
    turned = dict(reversed(student.items()))
    sides = {"teacher_features": teacher, "image_size": (40, 33)}
    expected = anomalib.STFPMMap()(student_features=student, **sides)
    assert torch.equal(anomalib.STFPMMap()(student_features=turned, **sides), expected)
    assert anomalib.STFPMLoss()(teacher, turned) == anomalib.STFPMLoss()(teacher, student)


def test_loss_and_gradient_of_stfpm():
    student = {name: level.requires_grad_() for name, level in features(1).items()}
    expected = written.STFPMLoss()(features(0), student)
    wanted = torch.autograd.grad(expected, [*student.values()])
    leaves = {name: level.detach().float().requires_grad_() for name, level in student.items()}
    found = anomalib.STFPMLoss()(features(0, torch.float32), leaves)
    close(found, expected)
    for own, other in zip(torch.autograd.grad(found, [*leaves.values()]), wanted, strict=True):
        close(own, other)
    layer = anomalib.STFPMLoss().compute_layer_loss(features(0)["layer1"], student["layer1"])
    close(layer, written.STFPMLoss()({"layer1": features(0)["layer1"]}, student))


def test_loss_with_its_arguments_exchanged():
    """As the example of anomalib's own docstring has them."""
    leaf = features(1)["layer1"].requires_grad_()
    anomalib.STFPMLoss()({"layer1": leaf}, {"layer1": features(0)["layer1"]}).backward()
    own, leaf.grad = leaf.grad, None
    written.STFPMLoss()({"layer1": leaf}, {"layer1": features(0)["layer1"]}).backward()
    close(own, leaf.grad)


@pytest.mark.parametrize("mode", ["add", "multiply"])
def test_maps_of_reverse_distillation(mode):
    lists = [[*features(seed).values()] for seed in (0, 1)]
    expected = written.ReverseMapGenerator((64, 48), mode=mode)(*lists)
    new = anomalib.ReverseDistillationMap((64, 48), mode=mode)
    assert new.state_dict() == {}
    found = new(*([level.float() for level in levels] for levels in lists))
    assert found.dtype == torch.float32
    close(found, expected)
    with torch.autocast("cpu", torch.bfloat16):
        close(new(*([level.float() for level in levels] for levels in lists)), expected)


def test_reverse_distillation_refuses():
    with pytest.raises(ValueError, match="mode must be 'add' or 'multiply'; got 'mean'"):
        anomalib.ReverseDistillationMap((64, 48), mode="mean")
    with pytest.raises(ValueError, match="needs sides above 16 pixels"):
        anomalib.ReverseDistillationMap((64, 16))


def test_a_model_is_accelerated_in_place(model):
    before, images = copy.deepcopy(model).eval(), torch.rand(2, 3, 64, 48)
    assert anomalib.accelerate(model) is model
    assert list(model.state_dict()) == list(before.state_dict())
    assert isinstance(model.model.anomaly_map_generator, anomalib.STFPMMap)
    assert isinstance(model.loss, anomalib.STFPMLoss)
    with torch.no_grad():
        close(model.eval().model(images), before.model(images))
    assert anomalib.accelerate(model) is model  # a second time changes nothing
    assert isinstance(anomalib.accelerate(before.model).anomaly_map_generator, anomalib.STFPMMap)


def test_a_reverse_model_is_accelerated_in_place():
    model = written.ReverseDistillationModel("add")
    anomalib.accelerate(model)
    new = model.anomaly_map_generator
    assert (new.image_size, new.sigma, new.mode) == ((64, 48), 4, "add")


def test_another_formula_is_refused_and_stays(model):
    class Doubled(written.AnomalyMapGenerator):
        def forward(self, **kwargs):
            return 2 * super().forward(**kwargs)

    old = model.model.anomaly_map_generator = Doubled()
    with pytest.raises(ValueError, match=r"its anomaly map differs .* nothing was replaced"):
        anomalib.accelerate(model)
    assert model.model.anomaly_map_generator is old
    model.model.anomaly_map_generator = written.AnomalyMapGenerator()

    class Halved(written.STFPMLoss):
        def forward(self, *features):
            return super().forward(*features) / 2

    model.loss = Halved()
    with pytest.raises(ValueError, match="its loss differs"):
        anomalib.accelerate(model)
    assert isinstance(model.model.anomaly_map_generator, written.AnomalyMapGenerator)


def test_other_models_are_refused():
    with pytest.raises(TypeError, match=r"model must be anomalib's Stfpm .*; got Linear"):
        anomalib.accelerate(nn.Linear(2, 2))


def test_an_exported_graph_has_plain_operations(model):
    anomalib.accelerate(model.eval())
    images = torch.rand(2, 3, 32, 32)
    program = torch.export.export(model.model, (images,))
    names = {str(node.target) for node in program.graph.nodes}
    assert not any("fastad" in name for name in names)
    with torch.no_grad():
        close(program.module()(images), model.model(images))
    reverse = anomalib.ReverseDistillationMap((32, 32))
    levels = [[*features(seed, torch.float32).values()] for seed in (0, 1)]
    names = {str(n.target) for n in torch.export.export(reverse, (*levels,)).graph.nodes}
    assert not any("fastad" in name for name in names)
