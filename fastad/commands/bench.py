"""``fastad bench``: the fused ops and a model on this machine, in under a minute.

Candidates take turns within each round, so that whatever else the machine does slows all of them:
the ratios of medians mean more than the times.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastad import models, ops
from fastad.commands import UsageError
from fastad.commands.bench_serving import PHOTOGRAPH, latency, operations, peaks, stages
from fastad.commands.output import check_result_target, note, write_json
from fastad.commands.timing import interleaved
from fastad.data import parse_size
from fastad.inference import Predictor, load
from fastad.inference.serving import FIRST
from fastad.training import resolve_device

BASELINE = "stpm"  # the model whose time others are given in, too
SHAPES = ((64, 4), (128, 8), (256, 16))  # channels and stride: the pyramid of ResNet-18


@dataclass(frozen=True)
class Subject:
    """What is measured: ``predictor()`` makes one anew, for images of ``size``."""

    name: str
    size: tuple[int, int]
    predictor: Callable[[], Predictor]


def bench(
    *,
    detector: str | None,
    model: str | None,
    device: str,
    precision: str,
    batch_sizes: Sequence[int],
    image_size: str | None,
    seconds: float,
    frames: int,
    json: str | None,
) -> None:
    """Measure and print; ``seconds`` is the time given to each comparison, ``frames`` the number of
    single images whose times are looked at one by one.

    Of a file ``detector`` or, of random weights, of ``model`` at ``image_size``.
    """
    try:
        models.model_class(model or BASELINE)
        parse_size(image_size or "256")
    except ValueError as error:
        raise UsageError(str(error)) from error
    if json is not None:
        check_result_target(json)
    place = resolve_device(device)
    if detector is None:
        subject = _of_model(model or BASELINE, image_size or "256", str(place), precision)
    else:
        subject = _of_file(detector, str(place), precision)
    size, predictor = subject.size, subject.predictor()
    name = str(predictor.dtype).removeprefix("torch.")
    threads = torch.get_num_threads()
    what = f"{size[0]}x{size[1]}, {subject.name} in {name}"
    note(f"measuring on {place} with {threads} threads, {what}")
    rows = []
    for batch in batch_sizes:
        rows += [
            {"batch_size": batch, **row}
            for row in (
                _map(batch, size, place, seconds),
                _loss(batch, size, place, seconds),
                _model(subject, batch, place, name, seconds),
            )
        ]
    work = f"{subject.name}, one frame"
    rows.append({"batch_size": 1, "work": work, **latency(predictor, frames)})
    work = f"{subject.name}, from a JPEG of {PHOTOGRAPH}x{PHOTOGRAPH}"
    rows.append({"batch_size": 1, "work": work, **stages(predictor, seconds)})
    machine = peaks(place, predictor.dtype, min(seconds, 1.0))
    for row in rows:
        if row["work"] == subject.name:
            gflops = operations(predictor) * row["batch_size"] / row["ms"] / 1e6
            row["share_of_matrix_peak"] = gflops / machine["matrix_gflops"]
        elif row["work"] == "anomaly_map":
            read = 1e-6 * row.pop("bytes") / row["ms"]
            row["share_of_memory_peak"] = read / machine["memory_gb_per_second"]
    result = {
        "device": str(place),
        "detector": None if detector is None else Path(detector).name,
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
            f"this machine: {machine['matrix_gflops']:.0f} GFLOP/s in a plain matrix product, "
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

    def both_ways(loss: Callable[..., Tensor]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(loss(teacher, student), student)

    candidates = {
        "fused": both_ways(ops.distillation_loss),
        "reference": both_ways(ops.reference.distillation_loss),
    }
    medians = _medians(candidates, device, seconds)
    return _compared("distillation_loss forward + backward", medians)


def _model(
    subject: Subject, batch: int, device: torch.device, precision: str, seconds: float
) -> dict[str, Any]:
    size, name = subject.size, subject.name
    images = torch.rand(batch, 3, *size).contiguous(memory_format=torch.channels_last)

    def runner(subject: Subject, fused: bool = True) -> Callable[[], Any]:
        predictor = subject.predictor()
        predictor.fused = fused and predictor.fused
        return lambda: predictor.predict_batch(images)

    candidates = {"own": runner(subject), "unfused": runner(subject, fused=False)}
    if name != BASELINE:
        size_text = f"{size[0]}x{size[1]}"
        candidates[BASELINE] = runner(_of_model(BASELINE, size_text, str(device), precision))
    medians = _medians(candidates, device, seconds)
    median, unfused = medians["own"], medians["unfused"]
    row = {"work": name, "ms": median, "images_per_second": 1e3 * batch / median}
    row |= {"unfused_ms": unfused}
    if name != BASELINE:
        row |= {f"{BASELINE}_ms": medians[BASELINE], "slower": median / medians[BASELINE]}
    return row


def _of_model(name: str, image_size: str, device: str, precision: str) -> Subject:
    size = parse_size(image_size)

    def predictor() -> Predictor:
        model = models.build(name, **models.without_weights(name))
        return Predictor(model, size, device=device, precision=precision)

    return Subject(name, size, predictor)


def _of_file(path: str, device: str, precision: str) -> Subject:
    artifact = load(path)

    def predictor() -> Predictor:
        found = artifact.predictor(device=device, precision=precision)
        # On a kind of machine that the detector does not know the first images decide how it is
        # predicted from then on.
        found.predict_batch(torch.rand(FIRST, 3, *artifact.image_size))
        return found

    return Subject(artifact.model.name, artifact.image_size, predictor)


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
    if (share := row.get("share_of_matrix_peak")) is not None:
        why = " (Winograd needs fewer operations)" if share > 1 else ""
        text += f"   compute: {share:.0%} of a plain matrix product{why}"
    if (share := row.get("share_of_memory_peak")) is not None:
        text += f"   memory: {share:.0%} of a plain copy"
    if "frames" in row:
        text += f"   99 % within {row['p99_ms']:.3f} ms, the slowest {row['maximum_ms']:.3f} ms"
    if "stages_ms" in row:
        steps = (f"{name} {ms:.3f}" for name, ms in row["stages_ms"].items())
        text += f"   {', '.join(steps)}: most in {row['slowest']}"
    return text
