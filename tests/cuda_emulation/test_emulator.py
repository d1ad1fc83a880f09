"""The emulation notices what a GPU would do wrong, and counts what the kernels promise."""

import random

import fuzz
import pytest
import torch
from arrangements import features

EPS = 1e-12
SHAPES = [(64, 8, 8), (128, 8, 4), (256, 4, 4)]
# In the order of the enum in faulty_kernels.cu; what the op raises, or None.
FAULTS = {
    "read_beyond": "a read outside of the op's tensors",
    "write_to_input": "a write outside of the op's results",
    "misaligned": "misaligned access",
    "absent_at_barrier": "not reached by every thread",
    "missing_barrier": None,
    "unwritten": None,
    "array_index": "undefined behaviour: out_of_bounds",
    "shared_size": "beyond the shared memory",
    "stream": "another than the current stream",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_noticed(emulation, fault):
    x = torch.randn(512)
    mirrored = x.view(-1, 64).flip(1).flatten()
    assert torch.equal(emulation.ops.faulty(0, x), mirrored)
    code = 1 + list(FAULTS).index(fault)
    if FAULTS[fault] is None:  # wrong results
        assert not torch.equal(emulation.ops.faulty(code, x), mirrored)
    else:
        with pytest.raises(RuntimeError, match=FAULTS[fault]):
            emulation.ops.faulty(code, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("arrangement", ["planar", "interleaved", "planar_slice"])
def test_features_are_read_once_in_vectors(emulation, arrangement, dtype):
    if arrangement == "planar_slice" and dtype != torch.float32:
        arrangement = "interleaved_slice"
    teacher = features(SHAPES, arrangement, dtype)
    student = features(SHAPES, arrangement, dtype)
    size = sum(x.numel() * x.element_size() for x in student)
    pixels = sum(x.numel() // x.shape[1] for x in student)

    maps = emulation.ops.distances(teacher, student, EPS)
    assert emulation.traffic == {
        "vectors_read": 2 * size,
        "elements_read": 0,
        "vectors_written": 0,
        "elements_written": 4 * pixels,
    }
    emulation.ops.distances_backward(maps, teacher, student, EPS)
    assert emulation.traffic["vectors_read"] == 2 * size
    assert emulation.traffic["vectors_written"] == size
    emulation.ops.distillation_loss(teacher, student, [1.0] * 3, 0, EPS, True)
    assert emulation.traffic["vectors_read"] == 2 * size
    assert emulation.traffic["vectors_written"] == size
    assert emulation.traffic["elements_read"] + emulation.traffic["elements_written"] < size / 10


def test_weights_are_read_by_the_owners_of_pixels_alone(emulation):
    teacher, student = features(SHAPES), features(SHAPES)
    size = sum(4 * x.numel() for x in student)
    weights = [torch.rand(x.shape[0], *x.shape[2:]) for x in student]
    pixels = sum(w.numel() for w in weights)
    emulation.ops.distances(teacher, student, EPS, weights)
    assert emulation.traffic == {
        "vectors_read": 2 * size,
        "elements_read": 4 * pixels,
        "vectors_written": 0,
        "elements_written": 4 * pixels,
    }


def test_many_channels_are_read_again_in_part_only(emulation):
    teacher, student = features([(1024, 4, 4)]), features([(1024, 4, 4)])
    emulation.ops.distances(teacher, student, EPS)
    read = emulation.traffic["vectors_read"] / (2 * student[0].numel() * 4)
    assert read == 1.5  # the half that was read last is still in registers


def test_launches(emulation):
    teacher, student, weights = features(SHAPES), features(SHAPES), [1.0] * 3
    counts = {}

    def count(name: str, *arguments):
        result = getattr(emulation.ops, name)(*arguments)
        counts[name] = (emulation.launches, emulation.memsets)
        return result

    maps = count("distances", teacher, student, EPS)
    count("distances_backward", maps, teacher, student, EPS)
    joined, _ = count("aggregate_maps", maps, 32, 32, True, weights)
    count("aggregate_maps_backward", joined, maps, True, weights)
    count("anomaly_map", teacher, student, 32, 32, True, weights, EPS)
    spatial = [torch.ones(()).expand_as(m) for m in maps]
    count("distillation_loss", teacher, student, weights, 0, EPS, True, spatial)
    assert counts.pop("distillation_loss") == (3, 0)  # the weights are summed before
    loss, gradients = count("distillation_loss", teacher, student, weights, 0, EPS, True)
    count("scale_gradients_", gradients, 2 * loss)
    assert counts == {
        "distances": (1, 0),
        "distances_backward": (1, 0),
        "aggregate_maps": (1, 1),
        "aggregate_maps_backward": (2, 0),
        "anomaly_map": (2, 0),
        "distillation_loss": (2, 0),
        "scale_gradients_": (1, 0),
    }


def test_gradients_are_left_alone_where_the_scale_is_one(emulation):
    gradients = features(SHAPES)
    size = 4 * sum(x.numel() for x in gradients)
    emulation.ops.scale_gradients_(gradients, torch.tensor(1.0))
    assert emulation.traffic["vectors_read"] + emulation.traffic["vectors_written"] == 0
    emulation.ops.scale_gradients_(gradients, torch.tensor(2.0))
    assert emulation.traffic["vectors_read"] == emulation.traffic["vectors_written"] == size


def test_upsampling_loads_less_than_it_writes(emulation):
    maps = [torch.rand(2, n, n) for n in (64, 32, 16)]
    emulation.ops.aggregate_maps(maps, 256, 256, True, [1.0] * 3)
    written = 2 * 256 * 256 * 4
    assert emulation.traffic["vectors_written"] == written
    assert emulation.traffic["elements_read"] < 4 * written  # 12 loads a pixel without reuse


def test_the_gradient_of_a_map_is_read_once(emulation):
    maps, grad = [torch.rand(2, n, n) for n in (64, 32, 16)], torch.rand(2, 256, 256)
    emulation.ops.aggregate_maps_backward(grad, maps, False, [1.0] * 3)
    sums = 2 * 256 * sum(m.shape[2] for m in maps)  # along x; each is read for two source rows
    assert emulation.traffic["elements_read"] <= 4 * (grad.numel() + 2.1 * sums)
    emulation.ops.aggregate_maps_backward(grad, maps, True, [1.0] * 3)
    read = emulation.traffic["elements_read"]
    assert read < 6 * 4 * grad.numel()  # 12 loads a pixel without reuse


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, s: (t * 3, s * 3), "1 to 8 levels, not 9"),
        (lambda t, s: (t[:2], s), "teacher has 2 levels, student 3"),
        (lambda t, s: (t, [x[:1] for x in s]), r"student\[0\] is \(1, 8, 4, 4\).*shapes differ"),
        (lambda t, s: (t, [x.transpose(2, 3) for x in s]), "contiguous or channels_last"),
        (lambda t, s: (t, [x[..., ::2] for x in s]), "contiguous or channels_last"),
        (lambda t, s: (t, [x.int() for x in s]), "float32, bfloat16, float16 or float64"),
        (lambda t, s: ([x[0] for x in t], [x[0] for x in s]), r"\(N, C, H, W\)"),
    ],
)
def test_bad_features_are_refused(emulation, change, message):
    teacher, student = change(features([(8, 4, 4)] * 3), features([(8, 4, 4)] * 3))
    with pytest.raises(RuntimeError, match=message):
        emulation.ops.distances(teacher, student, EPS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w[:1], "spatial_weights must have 2 levels, not 1"),
        (lambda w: [w[0], w[1].double()], r"spatial_weights\[1\] must be \(2, 3, 5\) float32"),
        (lambda w: [w[0][:1], w[1]], r"spatial_weights\[0\] must be \(2, 4, 4\) float32"),
        (lambda w: [w[0], w[1].mT], r"spatial_weights\[1\] must be \(2, 3, 5\) float32"),
        (lambda w: [w[0][:, None], w[1]], r"spatial_weights\[0\] must be \(2, 4, 4\) float32"),
    ],
)
def test_bad_spatial_weights_are_refused(emulation, change, message):
    shapes = [(8, 4, 4), (6, 3, 5)]
    teacher, student = features(shapes), features(shapes)
    weights = change([torch.rand(2, *s[1:]) for s in shapes])
    ops, factors = emulation.ops, [1.0, 1.0]
    grad = [torch.rand(2, *s[1:]) for s in shapes]
    for call in (
        lambda: ops.distances(teacher, student, EPS, weights),
        lambda: ops.distances_backward(grad, teacher, student, EPS, weights),
        lambda: ops.anomaly_map(teacher, student, 8, 8, True, factors, EPS, weights),
        lambda: ops.distillation_loss(teacher, student, factors, 0, EPS, True, weights),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()


def test_bad_maps_are_refused(emulation):
    maps = [torch.rand(2, 4, 4), torch.rand(2, 2, 2)]
    ops, weights = emulation.ops, [1.0, 1.0]
    for bad in ([maps[0], maps[1].double()], [maps[0], maps[1][:1]]):
        with pytest.raises(RuntimeError, match="batch and dtype must be the same"):
            ops.aggregate_maps(bad, 8, 8, True, weights)
    with pytest.raises(RuntimeError, match=r"maps\[0\] must be contiguous"):
        ops.aggregate_maps([maps[0].mT, maps[1]], 8, 8, True, weights)
    with pytest.raises(RuntimeError, match="weights must have 2 values"):
        ops.aggregate_maps(maps, 8, 8, True, [1.0])
    with pytest.raises(RuntimeError, match="both at least 1"):
        ops.aggregate_maps(maps, 0, 8, True, weights)
    with pytest.raises(RuntimeError, match=r"grad must be \(2, H, W\) float32"):
        ops.aggregate_maps_backward(torch.rand(2, 8, 8).double(), maps, True, weights)


def test_a_thousand_random_calls_are_refused_or_right(emulation):
    """The same calls as on the CPU: both backends check by csrc/checks.h."""
    fuzz.fuzz(
        emulation.ops,
        fuzz.FEATURES,
        seed=random.SystemRandom().randrange(2**31),
        first=0,
        calls=1000,
    )
