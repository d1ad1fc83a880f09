"""The ops on a GPU: what only a real device shows.

Values over shapes, layouts and dtypes are the business of tests/cuda_emulation, whose tests run on
the device too where there is one. Here: the ops through Python and autograd, CUDA graphs, streams,
devices, memory, launches, sizes beyond 32 bits.
"""

import pytest
import torch
from torch import Tensor

from fastad import _extension, ops
from fastad.ops import reference

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)
if _extension.cuda_obstacle is not None:
    pytest.skip(f"the CUDA kernels are {_extension.cuda_obstacle}", allow_module_level=True)

SHAPES = [(64, 64, 64), (128, 32, 32), (256, 16, 16)]
SIZE = (256, 256)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def pyramid(
    batch: int = 4,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
    device: str = "cuda",
    requires_grad: bool = False,
) -> list[Tensor]:
    return [
        torch.randn(batch, *shape, device=device)
        .to(dtype)
        .contiguous(memory_format=layout)
        .requires_grad_(requires_grad)
        for shape in SHAPES
    ]


def exact(features: list[Tensor]) -> list[Tensor]:
    return [x.detach().double().requires_grad_(x.requires_grad) for x in features]


def step(teacher: list[Tensor], student: list[Tensor]) -> tuple[Tensor, ...]:
    """Loss, its gradient, and the anomaly map."""
    loss = ops.distillation_loss(teacher, student)
    gradients = torch.autograd.grad(loss, student)
    with torch.no_grad():
        return loss.detach(), *gradients, ops.anomaly_map(teacher, student, SIZE)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values(dtype, layout):
    teacher = pyramid(dtype=dtype, layout=layout)
    student = pyramid(dtype=dtype, layout=layout, requires_grad=True)
    exact_teacher, exact_student = exact(teacher), exact(student)
    loss, *gradients, found = step(teacher, student)
    expected = reference.distillation_loss(exact_teacher, exact_student)
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-5, atol=0)
    rounding = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 2e-2}[dtype]
    for g, e in zip(gradients, torch.autograd.grad(expected, exact_student), strict=True):
        assert (g.double() - e).abs().max() <= rounding * e.abs().max()
    expected = reference.anomaly_map(exact_teacher, exact_student, SIZE)
    assert (found.double() - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_same_bits_every_time():
    teacher, student = pyramid(), pyramid(requires_grad=True)
    first = step(teacher, student)
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, step(teacher, student), strict=True))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_cuda_graph(layout):
    teacher, student = pyramid(layout=layout), pyramid(layout=layout, requires_grad=True)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # warm up, as capture asks for
        for _ in range(3):
            step(teacher, student)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(teacher, student)
    for _ in range(3):  # whatever a launch leaves behind must not disturb the next
        with torch.no_grad():
            for x in (*teacher, *student):
                x.normal_()
        graph.replay()
        expected = step(teacher, student)
        assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


def test_maximum_in_a_cuda_graph_forgets_the_last_image():
    teacher, student = pyramid(1), pyramid(1)

    def maximum() -> Tensor:
        return torch.ops.fastad.anomaly_map(teacher, student, *SIZE, False, [1.0] * 3, 1e-12)[1]

    maximum()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = maximum()
    graph.replay()
    before = captured.clone()
    for t, s in zip(teacher, student, strict=True):
        s.copy_(t)  # equal features: the map is zero
    graph.replay()
    assert before.item() > 0.1
    assert captured.item() < 1e-6


def test_current_stream():
    """The ops wait for what their own stream does, and for nothing else."""
    teacher, student = pyramid(), pyramid(requires_grad=True)
    expected = step(teacher, student)
    stream = torch.cuda.Stream()
    late = [torch.zeros_like(t) for t in teacher]
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        for to, x in zip(late, teacher, strict=True):
            to.copy_(x)
        found = step(late, student)
    assert not stream.query()  # nothing in the ops waited for the device
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device only")
def test_other_device():
    teacher, student = pyramid(device="cuda:1"), pyramid(device="cuda:1", requires_grad=True)
    found = step(teacher, student)
    assert torch.cuda.current_device() == 0
    expected = step(
        [t.to("cuda:0") for t in teacher],
        [s.detach().to("cuda:0").requires_grad_() for s in student],
    )
    assert all(torch.equal(a, b.to(a.device)) for a, b in zip(found, expected, strict=True))


def test_loss_takes_no_more_memory_than_its_gradient():
    teacher, student = pyramid(32), pyramid(32, requires_grad=True)
    step(teacher, student)
    size = sum(s.numel() * s.element_size() for s in student)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ops.distillation_loss(teacher, student).backward()
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before <= 1.1 * size


def device_work(function) -> int:
    """Kernels and memory operations on the device."""
    function()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        function()
        torch.cuda.synchronize()
    cuda = torch.autograd.DeviceType.CUDA
    return sum(event.device_type == cuda for event in profile.events())


def test_launches():
    teacher, student = pyramid(), pyramid(requires_grad=True)
    with torch.no_grad():
        assert device_work(lambda: ops.distances(teacher, student)) == 1
        assert device_work(lambda: ops.anomaly_map(teacher, student, SIZE)) == 2
    one = torch.ones((), device="cuda")
    loss = lambda: torch.autograd.grad(  # noqa: E731
        ops.distillation_loss(teacher, student), student, one
    )
    assert device_work(loss) <= 3


def test_more_than_32_bits_of_elements():
    """A level of 2^31 elements and a bit more: the last image must come out right."""
    batch, shape = 33, (256, 512, 512)
    if torch.cuda.mem_get_info()[0] < 3 * 2 * batch * 2**26:
        pytest.skip("too little device memory")
    teacher, student = (
        torch.empty(batch, *shape, dtype=torch.bfloat16, device="cuda") for _ in range(2)
    )
    for features in (teacher, student):
        for image in features:
            image.normal_()
    assert teacher.numel() > 2**31
    (found,) = ops.distances([teacher], [student])
    (expected,) = reference.distances([teacher[-1:]], [student[-1:]])
    torch.testing.assert_close(found[-1:], expected)
