"""pytest-benchmark suite of the ops: fused, eager reference, torch.compile of the reference.

pytest bench --benchmark-only --benchmark-group-by=group
"""

from functools import partial

import pytest
import torch
from pyramid import pyramid

from fastad import ops

SIZE = (256, 256)
SETTINGS = [
    pytest.param(batch, dtype, channels_last, id=f"batch{batch}-{name}")
    for batch in (1, 8)
    for dtype, channels_last, name in (
        (torch.float32, False, "float32"),
        (torch.bfloat16, True, "bfloat16-channels_last"),
    )
]
IMPLEMENTATIONS = ["fused", "eager", "compiled"]


def implementation(name: str, kind: str):
    if kind == "fused":
        return getattr(ops, name)
    reference = getattr(ops.reference, name)
    return torch.compile(reference) if kind == "compiled" else reference


@pytest.mark.parametrize("kind", IMPLEMENTATIONS)
@pytest.mark.parametrize(("batch", "dtype", "channels_last"), SETTINGS)
def test_anomaly_map(benchmark, batch, dtype, channels_last, kind):
    benchmark.group = f"anomaly_map batch {batch} {dtype}"
    teacher, student = (pyramid(batch, dtype, channels_last) for _ in range(2))
    function = implementation("anomaly_map", kind)
    with torch.inference_mode():
        benchmark(function, teacher, student, SIZE)


@pytest.mark.parametrize("kind", IMPLEMENTATIONS)
@pytest.mark.parametrize(("batch", "dtype", "channels_last"), SETTINGS)
def test_distances(benchmark, batch, dtype, channels_last, kind):
    benchmark.group = f"distances batch {batch} {dtype}"
    teacher, student = (pyramid(batch, dtype, channels_last) for _ in range(2))
    function = implementation("distances", kind)
    with torch.inference_mode():
        benchmark(function, teacher, student)


@pytest.mark.parametrize("kind", IMPLEMENTATIONS)
@pytest.mark.parametrize("batch", [1, 8])
def test_aggregate_maps(benchmark, batch, kind):
    benchmark.group = f"aggregate_maps batch {batch}"
    maps = [torch.rand(batch, n, n) for n in (64, 32, 16)]
    function = implementation("aggregate_maps", kind)
    with torch.inference_mode():
        benchmark(function, maps, SIZE)


@pytest.mark.parametrize("kind", IMPLEMENTATIONS)
@pytest.mark.parametrize(("batch", "dtype", "channels_last"), SETTINGS)
def test_distillation_loss(benchmark, batch, dtype, channels_last, kind):
    benchmark.group = f"distillation_loss forward + backward batch {batch} {dtype}"
    teacher = pyramid(batch, dtype, channels_last)
    student = pyramid(batch, dtype, channels_last, requires_grad=True)
    function = implementation("distillation_loss", kind)
    benchmark(lambda: torch.autograd.grad(function(teacher, student), student))


@pytest.mark.parametrize("kind", IMPLEMENTATIONS)
@pytest.mark.parametrize(("batch", "dtype", "channels_last"), SETTINGS)
def test_flat_distances(benchmark, batch, dtype, channels_last, kind):
    benchmark.group = f"distillation_loss of cosine_flat, batch {batch} {dtype}"
    teacher = pyramid(batch, dtype, channels_last)
    student = pyramid(batch, dtype, channels_last, requires_grad=True)
    function = partial(implementation("distillation_loss", kind), distance="cosine_flat")
    benchmark(lambda: torch.autograd.grad(function(teacher, student), student))
