"""When a step is recorded and launched again; with a recording that needs no GPU."""

import copy
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from fastad.training import Trainer, TrainingConfig, graphs, loop
from fastad.training.graphs import EAGER, MOST_GRAPHS, StepGraphs


class Played:
    """As `fastad.training.graphs.Recording`: the same operations on the same memory."""

    made = 0

    def __init__(self, batch, parameters, compute):
        type(self).made += 1
        self.batch = pytree.tree_map(torch.clone, batch)
        self.parameters, self.compute = parameters, compute

    def __call__(self, batch):
        for own, given in zip(*map(pytree.tree_leaves, (self.batch, batch)), strict=True):
            own.copy_(given)
        for parameter in self.parameters:
            parameter.grad = None
        return {name: loss.detach() for name, loss in self.compute(self.batch).items()}


@pytest.fixture(autouse=True)
def none_made():
    Played.made = 0


def step_of(weight, seen):
    def compute(batch):
        seen.append(batch)
        loss = (weight * batch["x"]).sum()
        loss.backward()
        return {"loss": loss}

    return compute


def test_a_shape_is_recorded_after_some_steps():
    weight, seen = nn.Parameter(torch.tensor(2.0)), []
    steps = StepGraphs(Played)
    for number in range(EAGER + 3):
        batch = {"x": torch.full((4,), float(number))}
        losses = steps.run("step", batch, [weight], step_of(weight, seen))
        assert losses["loss"] == 8 * number
        assert not losses["loss"].requires_grad
        assert weight.grad == 4 * number
        assert (seen[-1]["x"].data_ptr() == batch["x"].data_ptr()) is (number < EAGER)
    assert Played.made == 1
    assert all(batch["x"].data_ptr() == seen[-1]["x"].data_ptr() for batch in seen[EAGER:])


def test_shapes_and_steps_have_recordings_of_their_own_up_to_a_number():
    weight, seen = nn.Parameter(torch.tensor(2.0)), []
    steps = StepGraphs(Played)
    for _ in range(EAGER + 2):
        for size in range(1, MOST_GRAPHS + 3):
            for name in ("one", "other"):
                batch = {"x": torch.ones(size)}
                losses = steps.run(name, batch, [weight], step_of(weight, seen))
                assert losses["loss"] == 2 * size
                assert weight.grad == size
    assert Played.made == MOST_GRAPHS


def test_a_batch_with_something_else_is_not_recorded():
    weight = nn.Parameter(torch.tensor(2.0))
    steps = StepGraphs(Played)
    for _ in range(EAGER + 2):
        steps.run("step", {"x": torch.ones(2), "name": "bottle"}, [weight], step_of(weight, []))
    assert Played.made == 0


def test_what_cannot_be_recorded_goes_on_as_it_is(caplog):
    def refuse(*_):
        raise RuntimeError("operation not permitted when stream is capturing")

    weight, seen = nn.Parameter(torch.tensor(2.0)), []
    steps = StepGraphs(refuse)
    for size in (3, 4):
        for _ in range(EAGER + 3):
            steps.run("step", {"x": torch.ones(size)}, [weight], step_of(weight, seen))
            assert weight.grad == size
    assert [m for m in caplog.messages if "training without CUDA graphs: operation not" in m]
    assert len(caplog.messages) == 1


def test_on_a_cpu_nothing_is_recorded():
    assert graphs.recorder(torch.device("cpu")) is None
    assert graphs.recorder(torch.device("cuda")) is graphs.Recording


def test_a_training_comes_to_the_same_weights(monkeypatch, small_model):
    if not small_model.trains():
        pytest.skip("nothing is trained")
    images = torch.randint(0, 256, (18, 3, 64, 64), dtype=torch.uint8)

    some = any(stage.pseudo_anomalies for stage in small_model.stages)
    options = {"pseudo_anomalies": 14} if some else {}

    def trained():
        model = copy.deepcopy(small_model)
        config = TrainingConfig.for_model(
            model, epochs=2, batch_size=4, device="cpu", precision="float32", **options
        )
        Trainer(model, config).fit(images)
        return model.state_dict()

    expected = trained()
    monkeypatch.setattr(loop, "recorder", lambda device: Played)
    found = trained()
    assert (Played.made > 0) is any(stage.is_static for stage in small_model.stages)
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []


class NoGraph:
    """Captures nothing; a launch counts."""

    launches = 0

    def replay(self):
        type(self).launches += 1


def without_cuda(monkeypatch):
    captured = []

    @contextmanager
    def capture(graph):
        captured.append(graph)
        yield

    monkeypatch.setattr(NoGraph, "launches", 0)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", NoGraph)
    monkeypatch.setattr(graphs, "capture", capture)
    return captured


def test_a_recording_keeps_its_memory(monkeypatch):
    captured = without_cuda(monkeypatch)
    weight = nn.Parameter(torch.tensor(2.0))
    first = {"x": torch.ones(3), "levels": [torch.zeros(2), torch.ones(2, 2)]}
    recording = graphs.Recording(first, [weight], step_of(weight, []))
    gradient = weight.grad
    weight.grad = None
    second = pytree.tree_map(lambda x: x + 5, first)
    losses = recording(second)
    assert captured == [recording._graph]
    assert NoGraph.launches == 1
    assert weight.grad is gradient
    for own, given in zip(*map(pytree.tree_leaves, (recording._batch, second)), strict=True):
        assert torch.equal(own, given)
        assert own.data_ptr() != given.data_ptr()
    assert losses["loss"].data_ptr() != recording._losses["loss"].data_ptr()


def test_a_step_that_waits_is_never_recorded(monkeypatch, caplog):
    weight, seen, watched = nn.Parameter(torch.tensor(2.0)), [], []

    def watch(run):
        watched.append(len(seen))
        return run(), True

    monkeypatch.setattr(graphs, "watch_for_waits", watch)
    steps = StepGraphs(Played)
    for _ in range(EAGER + 3):
        losses = steps.run("step", {"x": torch.ones(3)}, [weight], step_of(weight, seen))
        assert losses["loss"] == 6
        assert weight.grad == 3
    assert Played.made == 0
    assert watched == [EAGER - 1]  # the last step before the recording, and none twice
    assert len(seen) == EAGER + 3
    assert caplog.messages == ["training without CUDA graphs: the model waits for the device"]


def test_nothing_is_recorded_after_a_capture_that_failed(monkeypatch):
    monkeypatch.setattr(graphs, "can_capture", lambda: False)
    weight, seen = nn.Parameter(torch.tensor(2.0)), []
    steps = StepGraphs(Played)
    for _ in range(EAGER + 3):
        steps.run("step", {"x": torch.ones(3)}, [weight], step_of(weight, seen))
    assert Played.made == 0
    assert len(seen) == EAGER + 3
