"""Hold `fastad.compat.anomalib` against the real package.

Run it in an environment that has both. anomalib brings a torch of its own, of about 6 GB:

    python -m venv anomalib-check && . anomalib-check/bin/activate
    pip install anomalib torch torchvision . && python tools/check_anomalib.py

Nothing is downloaded: the networks get random weights. It trains STFPM for one epoch on noise,
writes its `.ckpt` and its `.pt`, imports both, and compares keys, maps, losses, gradients and
thresholds. It times the replaced parts against anomalib's, taking turns. Exit status 1: something
differs.
"""

import copy
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anomalib
import numpy as np
import timm
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import ReverseDistillation, Stfpm
from PIL import Image

from fastad.compat.anomalib import accelerate, import_checkpoint, read_checkpoint

ALLOWED = 1e-5  # relative to the largest value
BATCH, SIZE = 8, 256
ROUNDS = 15
failed: list[str] = []


def main() -> int:
    """Check everything, print a line for each, and say whether all held."""
    warnings.simplefilter("ignore")
    without_downloads()
    print(f"anomalib {anomalib.__version__}, timm {timm.__version__}, torch {torch.__version__}")
    torch.manual_seed(0)
    check_stfpm()
    for mode in ("add", "multiply"):
        check_reverse_distillation(mode)
    with tempfile.TemporaryDirectory() as folder:
        check_files(Path(folder))
    print(f"{len(failed)} failed" if failed else "all held")
    return 1 if failed else 0


def without_downloads() -> None:
    """Let timm make networks of random weights."""
    create = timm.create_model
    timm.create_model = lambda *given, **options: create(*given, **options | {"pretrained": False})


def check_stfpm() -> None:
    """Map, loss and gradient of the accelerated model, and the keys of its state dict."""
    model = Stfpm()
    fused = accelerate(copy.deepcopy(model))
    same_keys("stfpm", model, fused)
    images = torch.rand(BATCH, 3, SIZE, SIZE)
    with torch.no_grad():
        model.eval(), fused.eval()
        old, new = model.model(images), fused.model(images)
        close("stfpm map", old.anomaly_map, new.anomaly_map)
        close("stfpm score", old.pred_score, new.pred_score)
    model.train(), fused.train()
    losses = [one.loss(*one.model(images)) for one in (model, fused)]
    close("stfpm loss", *losses)
    for loss in losses:
        loss.backward()
    gradients = [
        torch.cat([p.grad.flatten() for p in one.model.student_model.parameters()])
        for one in (model, fused)
    ]
    close("stfpm gradient of all parameters", *gradients)
    with torch.no_grad():
        teacher, student = model.model(images)
    sides = {"teacher_features": teacher, "student_features": student, "image_size": (SIZE, SIZE)}
    faster(
        "stfpm map",
        lambda: model.model.anomaly_map_generator(**sides),
        lambda: fused.model.anomaly_map_generator(**sides),
    )

    def step(one: Stfpm) -> None:
        leaves = {name: level.detach().requires_grad_() for name, level in student.items()}
        one.loss(teacher, leaves).backward()

    faster("stfpm loss with its gradient", lambda: step(model), lambda: step(fused), grad=True)


def check_reverse_distillation(mode: str) -> None:
    """One way of the map of the accelerated model, and the keys of its state dict."""
    model = ReverseDistillation(backbone="resnet18", anomaly_map_mode=mode)
    fused = accelerate(copy.deepcopy(model))
    same_keys(f"reverse distillation, {mode}", model, fused)
    images = torch.rand(BATCH, 3, SIZE, SIZE)
    with torch.no_grad():
        model.eval(), fused.eval()
        old, new = model.model(images), fused.model(images)
        close(f"reverse distillation map, {mode}", old.anomaly_map, new.anomaly_map)
        encoded = list(model.model.encoder(images).values())
        decoded = model.model.decoder(model.model.bottleneck(encoded))
    faster(
        f"reverse distillation map, {mode}",
        lambda: model.model.anomaly_map_generator(encoded, decoded),
        lambda: fused.model.anomaly_map_generator(encoded, decoded),
    )


def check_files(folder: Path) -> None:
    """Both kinds of file that a training leaves: weights, size, thresholds and maps."""
    generator = np.random.default_rng(0)
    for name, count in (("good", 24), ("bad", 4), ("fresh", 24)):
        (folder / name).mkdir()
        for index in range(count):
            pixels = generator.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    model = Stfpm()
    data = Folder(
        "noise",
        normal_dir="good",
        abnormal_dir="bad",
        root=folder,
        train_batch_size=8,
        eval_batch_size=8,
        num_workers=0,
    )
    engine = Engine(max_epochs=1, default_root_dir=folder / "results", accelerator="cpu")
    engine.fit(model, datamodule=data)
    checkpoint = folder / "model.ckpt"
    engine.trainer.save_checkpoint(checkpoint)
    exported = Path(engine.export(model, "torch", export_root=folder))
    images = torch.rand(4, 3, SIZE, SIZE)
    transform = model.pre_processor.transform
    model.eval()
    with torch.no_grad():
        expected = model.model(transform(images))
    for path in (checkpoint, exported):
        held = read_checkpoint(path)
        print(f"{path.suffix}: {held.image_size}, {held.image_threshold}, {held.differences}")
        check(f"{path.suffix} size", held.image_size == (SIZE, SIZE))
        check(f"{path.suffix} has nothing to say", held.differences == [])
        own = model.model.student_model.feature_extractor.state_dict()
        check(f"{path.suffix} student", same_tensors(own, held.student))
        threshold = float(model.post_processor.image_threshold)
        check(f"{path.suffix} threshold", abs(held.image_threshold - threshold) < 1e-7)
        detector = import_checkpoint(path, folder / "fresh", false_positive_rate=0.1)
        with torch.no_grad():
            found = detector.model_(images)
        close(f"{path.suffix} map", expected.anomaly_map[:, 0], found.anomaly_map)
        close(f"{path.suffix} score", expected.pred_score[:, 0], found.score)


def same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are equal."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def same_keys(what: str, one: torch.nn.Module, other: torch.nn.Module) -> None:
    """The state dicts of two models have the same keys in the same order."""
    check(f"{what}: keys", list(one.state_dict()) == list(other.state_dict()))


def close(what: str, expected: torch.Tensor, found: torch.Tensor) -> None:
    """Two tensors differ by at most `ALLOWED`."""
    error = float((expected - found).abs().max() / expected.abs().max())
    check(f"{what}: differs by {error:.1e}", expected.shape == found.shape and error <= ALLOWED)


def faster(what: str, old: Callable, new: Callable, grad: bool = False) -> None:
    """Print how many times faster the new one is: the median of rounds that take turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    with torch.set_grad_enabled(grad):
        for _ in range(ROUNDS + 2):
            for run, kept in zip((old, new), seconds, strict=True):
                start = time.perf_counter()
                run()
                kept.append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(seconds[0][2:], seconds[1][2:], strict=True)]
    before, after = (1e3 * statistics.median(kept[2:]) for kept in seconds)
    print(
        f"{what}: {before:.1f} ms, now {after:.1f} ms, {statistics.median(ratios):.1f} times faster"
    )


def check(what: str, holds: bool) -> None:
    """Print whether it holds, and remember if not."""
    print(f"{'ok  ' if holds else 'FAIL'} {what}")
    if not holds:
        failed.append(what)


if __name__ == "__main__":
    sys.exit(main())
