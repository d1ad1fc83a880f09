"""pytest-benchmark suite of whole models: images to score and map, fused ops against reference."""

import pytest
import torch

import fastad
from fastad import ops


@pytest.mark.parametrize("kind", ["fused", "eager"])
@pytest.mark.parametrize("batch", [1, 8])
def test_stpm(benchmark, monkeypatch, batch, kind):
    benchmark.group = f"stpm batch {batch}"
    model = fastad.models.build("stpm", teacher_weights=None).eval()
    model = model.to(memory_format=torch.channels_last)
    images = torch.rand(batch, 3, 256, 256).contiguous(memory_format=torch.channels_last)
    if kind == "eager":

        def anomaly_map(*args, return_maximum, **options):
            result = ops.reference.anomaly_map(*args, **options)
            return result, result.amax((1, 2))

        monkeypatch.setattr(ops, "anomaly_map", anomaly_map)
    with torch.inference_mode():
        benchmark(model, images)


@pytest.mark.parametrize("kind", ["fused", "eager"])
def test_stpm_training_step(benchmark, monkeypatch, kind):
    benchmark.group = "stpm training step batch 8"
    model = fastad.models.build("stpm", teacher_weights=None).train()
    model = model.to(memory_format=torch.channels_last)
    images = torch.rand(8, 3, 256, 256).contiguous(memory_format=torch.channels_last)
    if kind == "eager":
        monkeypatch.setattr(ops, "distillation_loss", ops.reference.distillation_loss)

    def step():
        model.zero_grad(set_to_none=True)
        model.loss({"image": images})["distillation"].backward()

    benchmark.pedantic(step, rounds=5, warmup_rounds=1)
