"""What every model promises, for a small configuration of each."""

import copy
import dataclasses

import pytest
import torch

from fastad import models
from fastad.models import FrozenTeacher


@pytest.fixture
def own(small_model):
    """A copy to change, in training mode."""
    return copy.deepcopy(small_model).train()


def images(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def batch_of(n=2, size=64, seed=1):
    mask = torch.zeros(n, size, size, dtype=torch.bool)
    mask[: n // 2, size // 4 : size // 2, size // 3 :] = True
    return {"image": images(n, 3, size, size, seed=seed), "mask": mask}


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("size", [(64, 64), (33, 47), (67, 45), (7, 95)])
def test_shapes(small_model, n, size):
    with torch.no_grad():
        prediction = small_model(images(n, 3, *size))
    assert prediction.anomaly_map.shape == (n, *size)
    assert prediction.score.shape == (n,)
    assert prediction.anomaly_map.dtype == prediction.score.dtype == torch.float32
    assert prediction.anomaly_map.isfinite().all()


def test_images_do_not_see_each_other(small_model):
    x = images(3, 3, 40, 56)
    with torch.no_grad():
        together = small_model(x)
        for i in range(3):
            alone = small_model(x[i : i + 1])
            torch.testing.assert_close(alone.score, together.score[i : i + 1], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(
                alone.anomaly_map[0], together.anomaly_map[i], rtol=1e-3, atol=1e-5
            )


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 1, 64, 64), (2, 64, 64, 3)])
def test_other_shapes_are_named(small_model, shape):
    match = rf"\(N, 3, H, W\); got shape \({', '.join(map(str, shape))}\)"
    with pytest.raises(ValueError, match=match):
        small_model(torch.rand(shape))


def test_integers_are_refused_with_the_cure(small_model):
    with pytest.raises(TypeError, match=r"torch\.uint8 of shape \(1, 3, 64, 64\) \(divide"):
        small_model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_the_same_again_and_in_other_layouts(small_model):
    x = images(2, 3, 64, 48)
    with torch.no_grad():
        expected = small_model(x).anomaly_map
        assert torch.equal(small_model(x).anomaly_map, expected)
        x = x.to(memory_format=torch.channels_last)
        other = copy.deepcopy(small_model).to(memory_format=torch.channels_last)
        torch.testing.assert_close(other(x).anomaly_map, expected, rtol=1e-3, atol=1e-5)


def test_double_is_the_same_more_exactly(small_model):
    x = images(2, 3, 64, 48)
    with torch.no_grad():
        exact = copy.deepcopy(small_model).double()(x.double())
        assert exact.anomaly_map.dtype == exact.score.dtype == torch.float64
        expected = small_model(x)
    torch.testing.assert_close(
        expected.anomaly_map.double(), exact.anomaly_map, rtol=1e-3, atol=1e-5
    )


def test_autocast_to_bfloat16_keeps_a_float32_map(small_model):
    x = images(2, 3, 64, 64)
    with torch.no_grad():
        expected = small_model(x)
        with torch.autocast("cpu", torch.bfloat16):
            result = small_model(x)
    assert result.anomaly_map.dtype == result.score.dtype == torch.float32
    torch.testing.assert_close(result.score, expected.score, rtol=0.1, atol=0.01)


@pytest.mark.slow
def test_it_exports_as_one_graph_for_any_batch(small_model):
    sizes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(small_model, (images(2, 3, 64, 48),), dynamic_shapes=sizes)
    exported = program.module()
    with torch.no_grad():
        for n in (1, 2, 5):
            x = images(n, 3, 64, 48)
            same(exported(x), small_model(x))


@pytest.mark.slow
def test_it_compiles_as_one_graph(small_model):
    x = images(2, 3, 64, 48)
    with torch.no_grad():
        same(torch.compile(small_model, fullgraph=True, backend="eager")(x), small_model(x))


def same(result, expected):
    assert isinstance(result, models.Prediction)
    torch.testing.assert_close(result.anomaly_map, expected.anomaly_map)
    torch.testing.assert_close(result.score, expected.score)


def test_each_stage_trains_its_parameters_and_nothing_else(own):
    trained = set()
    for stage in own.stages:
        own.enter_stage(stage)
        own.train()
        of_stage = {name for name, p in own.named_parameters() if p.requires_grad}
        assert bool(of_stage) == stage.trains
        if not stage.trains:
            continue
        of_steps, losses = set(), set()
        batch = batch_of()
        for step in stage.steps:
            before = {k: v.clone() for k, v in own.state_dict().items()}
            groups = own.step_parameter_groups(step)
            ids = {id(p) for group in groups for p in group["params"]}
            wanted = {name for name, p in own.named_parameters() if id(p) in ids}
            assert wanted
            assert not wanted & (trained | of_steps)
            of_steps |= wanted
            for name, p in own.named_parameters():  # as the loop does it
                p.requires_grad_(name in wanted)
            optimizer = torch.optim.SGD(groups, lr=0.1)
            loss = own.step_loss(batch, step)
            assert all(value.dim() == 0 for value in loss.values())
            assert not losses & set(loss)
            losses |= set(loss)
            sum(loss.values()).backward()
            assert {name for name, p in own.named_parameters() if p.grad is not None} == wanted
            optimizer.step()
            own.zero_grad(set_to_none=True)
            changed = {k for k, v in own.state_dict().items() if not torch.equal(v, before[k])}
            modules = {name.partition(".")[0] for name in wanted}
            assert {key.partition(".")[0] for key in changed} <= modules
        assert of_steps == of_stage
        trained |= of_stage
        own.enter_stage(stage)
        assert set(own.loss(batch_of())) == losses
    own.enter_stage(None)
    assert own.stage is None
    assert trained == {name for name, _ in own.named_parameters()} - {
        f"{teacher}.{name}"
        for teacher, module in own.named_modules()
        if isinstance(module, FrozenTeacher)
        for name, _ in module.named_parameters()
    }


def test_kept_teacher_features_change_nothing(own):
    for stage in (stage for stage in own.stages if stage.trains):
        own.enter_stage(stage)
        own.eval()
        batch = batch_of(3)
        with torch.no_grad():
            kept = own.teacher_features(batch["image"])
            assert all(f.dim() == 4 and len(f) == 3 for maps in kept.values() for f in maps)
            plain, score = own.loss(batch), own.validation_score(batch)
            again = batch | kept
            if not stage.reads_images:
                del again["image"]
            assert own.loss(again) == plain
            assert torch.equal(own.validation_score(again), score)
        assert score.shape == (3,)


def test_a_state_of_teachers_and_students_makes_the_same_model(small_model):
    torch.manual_seed(3)
    options = {
        f.name: getattr(small_model.config, f.name) for f in dataclasses.fields(small_model.config)
    }
    other = models.build(small_model.name, **options).eval()
    other.load_state_dict(small_model.state_dict())
    x = images(1, 3, 64, 64)
    with torch.no_grad():
        # The shared model may be laid out otherwise in memory, which rounds otherwise.
        torch.testing.assert_close(small_model(x).anomaly_map, other(x).anomaly_map)
    trained = small_model.trained_state()
    assert {k.partition(".")[0] for k in trained}.isdisjoint(
        name for name, m in small_model.named_modules() if isinstance(m, FrozenTeacher)
    )


@pytest.mark.parametrize("name", models.MODELS)
def test_without_weights_names_every_source_of_weights(name):
    sources = {
        f.name
        for f in dataclasses.fields(models.MODELS[name].Config)
        if f.name.startswith("teacher") and f.name.endswith("_weights")
    }
    assert set(models.without_weights(name)) == sources != set()


def test_an_answer_by_kept_features_is_that_of_the_image(own):
    for stage in own.stages:
        own.enter_stage(stage)
        own.eval()
        batch = batch_of(3)
        with torch.no_grad():
            plain = own.answer(batch)
            found = own.answer(batch | own.teacher_features(batch["image"]))
        assert torch.equal(found.score, plain.score)
        assert torch.equal(found.anomaly_map, plain.anomaly_map)
        assert found.anomaly_map.shape == (3, *batch["image"].shape[-2:])
    own.enter_stage(None)
    with torch.no_grad():
        assert torch.equal(own.answer(batch).score, own(batch["image"]).score)


def test_what_judges_by_defects_answers_in_that_stage(own):
    judged = {stage.name for stage in own.stages if stage.judged_by_defects}
    expected = {"stpm": {"training"}, "gtrans": {"training"}, "rstpm": {"pairs"}}
    assert judged == expected.get(own.name, set())
