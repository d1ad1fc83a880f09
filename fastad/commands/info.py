"""``fastad info``: what was built, what the machine offers, what a detector file holds."""

import os
import platform
from pathlib import Path

import torch

import fastad
from fastad.backbones import embedded, weights
from fastad.commands.threshold import false_alarms
from fastad.commands.training_summary import (
    OF_STAGES,
    has_stages,
    kept_by,
    stage_lines,
)
from fastad.data.depth import FULL
from fastad.engine import precision
from fastad.inference import load
from fastad.inference.candidates import in_words
from fastad.inference.starting import lineage
from fastad.training import resolve_device, resolve_precision
from fastad.training.map_choice import choice_lines


def info(detector: str | None) -> None:
    """Print aligned lines, of the detector where one is given, else of the installation."""
    lines = machine() if detector is None else contents(detector)
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:{width}}  {value}")


def machine() -> list[tuple[str, str]]:
    """The package, its build, the processor, the devices and the weights found."""
    device = resolve_device("auto")
    lines = [
        ("fastad", fastad.__version__),
        ("python", platform.python_version()),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        *_build(),
        ("processor", f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"),
    ]
    for index in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(index)
        memory = f"{p.total_memory / 2**30:.0f} GiB"
        lines.append((f"cuda:{index}", f"{p.name}, sm_{p.major}{p.minor}, {memory}"))
    if torch.cuda.device_count() == 0:
        lines.append(("cuda", "no device"))
    training, serving = (
        str(resolve("auto", device)).removeprefix("torch.")
        for resolve in (resolve_precision, precision.resolve)
    )
    lines.append(("auto means", f"{device}, training in {training}, prediction in {serving}"))
    return lines + _weights()


def _build() -> list[tuple[str, str]]:
    try:
        from fastad._extension import build_info
    except ImportError as error:
        return [("compiled module", f"missing: {error}")]
    return [(name.replace("_", " "), str(value)) for name, value in build_info().items()]


def _weights() -> list[tuple[str, str]]:
    folder = os.environ.get("FASTAD_WEIGHTS")
    places = [("FASTAD_WEIGHTS", Path(folder).expanduser())] if folder else []
    places.append(("torch.hub's cache", Path(torch.hub.get_dir()) / "checkpoints"))
    lines = [] if folder else [("FASTAD_WEIGHTS", "not set")]
    for name, place in places:
        found = place.iterdir() if place.is_dir() else ()
        files = sorted(f.name for f in found if weights.backbone_of_file(f.name) is not None)
        lines.append((name, f"{place}: {', '.join(files) or 'no weights'}"))
    for backbone in weights.PACKAGES:
        if (file := weights.in_package(backbone)) is not None:
            lines.append(("package", f"{file.parents[1]}: {file.name}"))
    return [*lines, ("embedded", f"{embedded.BACKBONE} up to {embedded.LAYERS[-1]}")]


def contents(detector: str) -> list[tuple[str, str]]:
    """What a detector file holds."""
    artifact = load(detector)
    training = artifact.training
    parameters = sum(p.numel() for p in artifact.model.parameters())
    height, width = artifact.image_size
    lines = [
        ("detector", detector),
        ("model", f"{artifact.model.name}, {parameters:,} parameters with its teachers"),
        ("image size", f"{height}x{width} (height x width)"),
        ("16-bit pixels", f"{artifact.pixel_range or FULL}"),
        ("file size", f"{Path(detector).stat().st_size / 1e6:.1f} MB"),
        ("written by", ", ".join(f"{k} {v}" for k, v in artifact.versions.items())),
    ]
    if artifact.threshold is None:
        lines.append(("threshold", "none: no images were held out"))
    else:
        lines += [
            ("threshold", f"{artifact.threshold:.6g}, set by a {artifact.threshold_set_by}"),
            # A value promises nothing: it may have been chosen by these very images.
            ("false alarms" if artifact.asked_rate is None else "promise", false_alarms(artifact)),
        ]
    lines += [("calibration", _calibration(kept)) for kept in artifact.calibrations]
    if artifact.roi is not None:
        lines.append(("counts", f"{artifact.roi.mean():.1%} of an image, its region of interest"))
    if artifact.min_area is not None:
        lines.append(("smallest area", f"{100 * artifact.min_area:.3g} % of an image"))
    if artifact.serving is not None:
        found = artifact.serving
        lines.append(
            (
                "predicts in",
                f"{found['precision']}, {'fused' if found['fused'] else 'not fused'}: rank "
                f"correlation {found['rank_correlation']:.5f} with the scores of plain float32 on "
                f"{found['images']} good images",
            )
        )
    lines += [(f"model.{k}", _shown(v)) for k, v in vars(artifact.model.config).items()]
    lines += [(f"weights.{k}", _shown(v)) for k, v in training.get("teachers", {}).items()]
    shown = {k: v for k, v in training.items() if isinstance(v, (str, int, float))}
    shown.pop("next_step", None)  # it comes last, after what it follows from
    if has_stages(training):
        shown = {k: v for k, v in shown.items() if k not in OF_STAGES}
    lines += [
        (f"training.{k}", f"{v:g}" if isinstance(v, float) else str(v)) for k, v in shown.items()
    ]
    lines += [("goes on from", line) for line in lineage(training)]
    lines += kept_by(training)
    lines += choice_lines(training.get("choice"))
    lines += [(f"stage.{name}", line) for name, line in stage_lines(training)]
    if (rows := training.get("candidates")) is not None:
        lines.append(("kept of candidates", in_words(rows)))
    if (checked := training.get("self_check")) is not None:
        is_old = artifact.threshold != checked["threshold"]
        lines.append(("self-check", checked["summary"] + ", at the training's threshold" * is_old))
    if (step := training.get("next_step")) is not None:
        lines.append(("next step", step))
    return lines + [("note", note) for note in training.get("notes", ())]


def _calibration(kept: dict) -> str:
    """One of the calibrations that a file keeps."""
    when, source = kept["date"] or "at the training", kept["source"] or "images in memory"
    threshold = "none" if kept["threshold"] is None else f"{kept['threshold']:.6g}"
    return f"{when}, {len(kept['scores'])} images of {source}: threshold {threshold}"


def _shown(value: object) -> str:
    """An option as ``--set`` takes it."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
