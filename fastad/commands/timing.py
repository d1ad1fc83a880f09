"""How long things take that take turns in one process: what disturbs one disturbs all."""

import time
from collections.abc import Callable
from typing import Any

import torch


def interleaved(
    candidates: dict[str, Callable[[], Any]], device: torch.device, seconds: float
) -> dict[str, list[float]]:
    """Milliseconds of each candidate's runs, in turns for ``seconds`` and at least 5 rounds."""
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    for run in candidates.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < 5:
        for name, run in candidates.items():
            wait()
            start = time.perf_counter()
            run()
            wait()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times
