"""How long one frame takes, where a photograph's time goes, and what the machine could do."""

import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from fastad.commands.timing import interleaved
from fastad.data import resize
from fastad.data.inputs import to_tensor
from fastad.inference import Predictor
from fastad.training.precision import cpu_multiplies_in

PHOTOGRAPH = 1024  # pixels a side
SIDE = 1536  # of the matrices whose product is the measure of arithmetic
COPIED = 1 << 27  # bytes whose copy is the measure of memory


def latency(predictor: Predictor, frames: int) -> dict[str, Any]:
    """Milliseconds of so many frames (3, H, W) uint8 of the predictor's size, one by one."""
    frame = torch.randint(0, 256, (1, 3, *predictor.image_size), dtype=torch.uint8)
    for _ in range(3):
        predictor.predict_batch(frame)
    times = np.array([_milliseconds(lambda: predictor.predict_batch(frame)) for _ in range(frames)])
    return {
        "ms": float(np.median(times)),
        "p99_ms": float(np.quantile(times, 0.99)),
        "maximum_ms": float(times.max()),
        "frames": frames,
    }


def stages(predictor: Predictor, seconds: float) -> dict[str, Any]:
    """Milliseconds of every step from a photograph, a JPEG in memory, to its score and map."""
    seen = np.random.default_rng(0).integers(0, 256, (PHOTOGRAPH // 16,) * 2 + (3,), np.uint8)
    picture = Image.fromarray(seen).resize((PHOTOGRAPH, PHOTOGRAPH), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    pixels = to_tensor(picture)
    small = resize(pixels, predictor.image_size)[None]
    steps: dict[str, Callable[[], Any]] = {
        "decode": lambda: to_tensor(Image.open(io.BytesIO(file.getvalue()))),
        "resize": lambda: resize(pixels, predictor.image_size),
        "predict": lambda: predictor.predict_batch(small),
    }
    times = interleaved(steps, predictor.device, seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    slowest = max(medians, key=lambda name: medians[name])
    return {"ms": sum(medians.values()), "stages_ms": medians, "slowest": slowest}


def peaks(device: torch.device, dtype: torch.dtype, seconds: float) -> dict[str, float]:
    """What this machine reaches: 1e9 operations a second in products of matrices of this dtype, and
    1e9 bytes a second read and written in a copy. Of int16, which torch does not multiply, in
    bfloat16 where there are units for it, which are as fast, else in float32."""
    if dtype == torch.int16:
        dtype = torch.bfloat16 if cpu_multiplies_in(torch.bfloat16) else torch.float32
    a, b = torch.rand(2, SIDE, SIDE, device=device).to(dtype)
    source = torch.empty(COPIED, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    works = {"product": lambda: a @ b, "copy": lambda: target.copy_(source)}
    times = interleaved(works, device, 2 * seconds)
    return {
        "matrix_gflops": 2 * SIDE**3 / min(times["product"]) / 1e6,
        "memory_gb_per_second": 2 * COPIED / min(times["copy"]) / 1e6,
    }


def operations(predictor: Predictor) -> int:
    """Multiplications and additions of the networks for one image."""
    image = torch.rand(1, 3, *predictor.image_size, device=predictor.device)
    predictor.model.requires_grad_(False)  # the counter's hooks fail at parameters of inference
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        predictor.model(image)
    return counter.get_total_flops()


def _milliseconds(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)
