"""Prediction by `fastad.inference.Predictor` on a GPU.

    python bench/cuda_serving.py --json bench/results/FILE.json     measure and record
    python bench/cuda_serving.py --check                            exit 1 where a floor is missed

STPM with ResNet-18 at 256x256: images a second in batches, from bytes on the device and from the
host's memory; latency of single images; and which share of the device's time goes to the networks'
matrix products, by the names of the kernels. Weights are random: they change no time.
"""

import argparse
import re
import statistics
import sys
import time
from typing import Any

import torch
from ratios import finish
from torch.profiler import ProfilerActivity, profile

from fastad import _extension, models
from fastad.inference import Predictor

SIZE = (256, 256)
PRODUCTS = re.compile(r"conv|gemm|xmma|cutlass|implicit|fprop|winograd", re.IGNORECASE)


def seconds_of(predictor: Predictor, images: torch.Tensor, repeats: int) -> list[float]:
    found = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        predictor.predict_batch(images)
        found.append(time.perf_counter() - start)
    return found


def share_of_products(predictor: Predictor, images: torch.Tensor) -> dict[str, Any]:
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(5):
            predictor.predict_batch(images)
    times = {row.key: row.self_device_time_total for row in profiled.key_averages()}
    kernels = {key: value for key, value in times.items() if not key.startswith("Mem")}
    products = sum(value for key, value in kernels.items() if PRODUCTS.search(key))
    longest = sorted(kernels, key=kernels.get, reverse=True)[:12]
    total = sum(kernels.values())
    return {
        "share_of_products": round(products / total, 3),
        "longest": {key[:100]: round(kernels[key] / total, 3) for key in longest},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="file to record the numbers in")
    parser.add_argument("--check", action="store_true", help="exit 1 where a floor is missed")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA device")
    model = models.build("stpm", **models.without_weights("stpm"))
    predictor = Predictor(model, SIZE, device="cuda", batch_size=options.batch_size)
    host = torch.randint(0, 256, (options.batch_size, 3, *SIZE), dtype=torch.uint8)
    device, single = host.cuda(), host[:1].cuda()
    for images in (host, device, single):
        seconds_of(predictor, images, 10)
    latency = statistics.median(seconds_of(predictor, single, options.repeats))
    rate = options.batch_size / statistics.median(seconds_of(predictor, device, options.repeats))
    predictor.predict(host.repeat(4, 1, 1, 1))
    many = host.repeat(max(1, 4096 // options.batch_size), 1, 1, 1)
    start = time.perf_counter()
    for _ in predictor.stream(many):
        pass
    row = {
        "images_per_second": round(rate),
        "images_per_second_from_the_host": round(len(many) / (time.perf_counter() - start)),
        "single_image_ms": round(1e3 * latency, 3),
        **share_of_products(predictor, device),
    }
    print(row)
    missed = []
    if row["images_per_second"] < 15000:
        missed.append(f"images a second: {row['images_per_second']} below 15000")
    if row["single_image_ms"] > 0.5:
        missed.append(f"latency: {row['single_image_ms']} ms above 0.5")
    if row["share_of_products"] < 0.6:
        missed.append(f"share of the products: {row['share_of_products']} below 0.6")
    facts = {"gpu": torch.cuda.get_device_name(), "precision": str(predictor.dtype)}
    facts |= {"batch_size": options.batch_size, "torch": torch.__version__}
    return finish(options, [row], missed, **facts, fastad=_extension.build_info())


if __name__ == "__main__":
    sys.exit(main())
