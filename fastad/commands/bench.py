"""``fastad bench``: the fused ops and a model on this machine, in under a minute.

Candidates take turns within each round, so that whatever else the machine does slows all of them:
the ratios of medians mean more than the times.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastad import models, ops
from fastad.commands.bench_serving import PHOTOGRAPH, latency, operations, peaks, stages
from fastad.commands.output import check_writable, note, write_json
from fastad.commands.timing import interleaved
from fastad.data import parse_size
from fastad.inference import Predictor
from fastad.training import resolve_device, resolve_precision

BASELINE = "stpm"  # the model whose time others are given in, too
SHAPES = ((64, 4), (128, 8), (256, 16))  # channels and stride: the pyramid of ResNet-18


def bench(
    *,
    model: str,
    device: str,
    precision: str,
    batch_sizes: Sequence[int],
    image_size: str,
    seconds: float,
    frames: int,
    json: str | None,
) -> None:
    """Measure and print; ``seconds`` is the time given to each comparison, ``frames`` the number of
    single images whose times are looked at one by one."""
    if json is not None:
        check_writable(json)
    place = resolve_device(device)
    dtype = resolve_precision(precision, place)
    size = parse_size(image_size)
    name = str(dtype).removeprefix("torch.")
    threads = torch.get_num_threads()
    note(f"measuring on {place} with {threads} threads, {size[0]}x{size[1]}, {model} in {name}")
    rows = []
    for batch in batch_sizes:
        rows += [
            {"batch_size": batch, **row}
            for row in (
                _map(batch, size, place, seconds),
                _loss(batch, size, place, seconds),
                _model(model, batch, size, place, precision, seconds),
            )
        ]
    predictor = _predictor(model, size, place, precision)
    rows.append({"batch_size": 1, "work": f"{model}, one frame", **latency(predictor, frames)})
    work = f"{model}, from a JPEG of {PHOTOGRAPH}x{PHOTOGRAPH}"
    rows.append({"batch_size": 1, "work": work, **stages(predictor, seconds)})
    machine = peaks(place, dtype, min(seconds, 1.0))
    for row in rows:
        if row["work"] == model:
            gflops = operations(predictor) * row["batch_size"] / row["ms"] / 1e6
            row["share_of_matrix_peak"] = gflops / machine["matrix_gflops"]
        elif row["work"] == "anomaly_map":
            read = 1e-6 * row.pop("bytes") / row["ms"]
            row["share_of_memory_peak"] = read / machine["memory_gb_per_second"]
    result = {
        "device": str(place),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "image_size": list(size),
        "model_precision": name,
        "machine": machine,
        "results": rows,
    }
    if json is not None:
        write_json(json, result)
    if json != "-":
        for row in rows:
            print(f"batch {row['batch_size']:<4}{_line(row)}")
        print(
            f"this machine: {machine['matrix_gflops']:.0f} GFLOP/s in products of matrices, "
            f"{machine['memory_gb_per_second']:.1f} GB/s in a copy"
        )


def _medians(
    candidates: dict[str, Callable[[], Any]], device: torch.device, seconds: float
) -> dict[str, float]:
    times = interleaved(candidates, device, seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def _pyramid(batch: int, size: tuple[int, int], device: torch.device) -> list[Tensor]:
    shapes = [(batch, c, max(size[0] // s, 1), max(size[1] // s, 1)) for c, s in SHAPES]
    return [torch.rand(shape, device=device) for shape in shapes]


def _map(batch: int, size: tuple[int, int], device: torch.device, seconds: float) -> dict[str, Any]:
    teacher, student = _pyramid(batch, size, device), _pyramid(batch, size, device)
    with torch.inference_mode():
        medians = _medians(
            {
                "fused": lambda: ops.anomaly_map(teacher, student, size),
                "reference": lambda: ops.reference.anomaly_map(teacher, student, size),
            },
            device,
            seconds,
        )
    read = 2 * sum(level.numel() * level.element_size() for level in teacher)
    return _compared("anomaly_map", medians) | {"bytes": read}


def _loss(
    batch: int, size: tuple[int, int], device: torch.device, seconds: float
) -> dict[str, Any]:
    teacher, student = _pyramid(batch, size, device), _pyramid(batch, size, device)
    for level in student:
        level.requires_grad_()
    medians = _medians(
        {
            name: lambda loss=loss: torch.autograd.grad(loss(teacher, student), student)
            for name, loss in (
                ("fused", ops.distillation_loss),
                ("reference", ops.reference.distillation_loss),
            )
        },
        device,
        seconds,
    )
    return _compared("distillation_loss forward + backward", medians)


def _model(
    name: str,
    batch: int,
    size: tuple[int, int],
    device: torch.device,
    precision: str,
    seconds: float,
) -> dict[str, Any]:
    images = torch.rand(batch, 3, *size).contiguous(memory_format=torch.channels_last)

    def runner(name: str, fused: bool = True) -> Callable[[], Any]:
        predictor = _predictor(name, size, device, precision)
        predictor.fused = fused
        return lambda: predictor.predict_batch(images)

    candidates = {each: runner(each) for each in dict.fromkeys((name, BASELINE))}
    medians = _medians(candidates | {"unfused": runner(name, fused=False)}, device, seconds)
    median, unfused = medians[name], medians["unfused"]
    row = {"work": name, "ms": median, "images_per_second": 1e3 * batch / median}
    row |= {"unfused_ms": unfused}
    if name != BASELINE:
        row |= {f"{BASELINE}_ms": medians[BASELINE], "slower": median / medians[BASELINE]}
    return row


def _predictor(name: str, size: tuple[int, int], device: torch.device, precision: str) -> Predictor:
    model = models.build(name, **models.without_weights(name))
    return Predictor(model, size, device=str(device), precision=precision)


def _compared(work: str, medians: dict[str, float]) -> dict[str, Any]:
    fused, reference = medians["fused"], medians["reference"]
    return {"work": work, "ms": fused, "reference_ms": reference, "ratio": reference / fused}


def _line(row: dict[str, Any]) -> str:
    text = f"{row['work']:38}{row['ms']:10.3f} ms"
    if "ratio" in row:
        text += f"   reference {row['reference_ms']:10.3f} ms   {row['ratio']:6.2f} x"
    if "images_per_second" in row:
        text += f"   {row['images_per_second']:.1f} images/s"
        text += f"   {row['unfused_ms'] / row['ms']:.2f} x as fast as unfused"
    if "slower" in row:
        text += f"   {row['slower']:.2f} x the time of {BASELINE}"
    for share, of in (("matrix", "products of matrices"), ("memory", "a copy's bytes a second")):
        if f"share_of_{share}_peak" in row:
            text += f"   {row[f'share_of_{share}_peak']:.0%} of {of}"
    if "frames" in row:
        text += f"   99 % within {row['p99_ms']:.3f} ms, the slowest {row['maximum_ms']:.3f} ms"
    if "stages_ms" in row:
        steps = (f"{name} {ms:.3f}" for name, ms in row["stages_ms"].items())
        text += f"   {', '.join(steps)}: most in {row['slowest']}"
    return text
