"""A detector as one graph for other runtimes, compared with the detector before it is kept.

The graph takes ``images``, uint8 (N, H, W, 3) RGB, with any N, H and W, as cameras, Pillow and
numpy hold them, and returns ``score`` (N,) and ``anomaly_map`` (N, h, w) float32 at the detector's
image size. The antialiased resize and the normalisation are inside.

The decision, ``score > threshold``, stays outside: the threshold lies in the file's metadata with
the calibration scores (`metadata`), so that another false-positive rate can be chosen at any time
in any runtime. An input with a default value would do the same for ONNX alone.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import fastad
from fastad._files import atomic_path
from fastad.data.depth import FULL
from fastad.engine.tracing import copy_to_trace, traced
from fastad.export.formats import FORMATS, INPUT, OUTPUTS, check_packages
from fastad.export.verification import Verification, image_batches, random_batches, verify
from fastad.inference.artifact import Artifact
from fastad.models import AnomalyModel

# Where a resized value lies between two grey levels, runtimes round it to either: one such pixel
# moves an anomaly map by up to about 1e-3. Without one the error is about 1e-6.
TOLERANCE = 5e-3
NO_GUARD = (
    "none: the graph scores any image, also a dark, a blurred or a foreign one; with fastad at "
    "hand, fastad.inference.load(FILE).judge_inputs(images, scores) tells these"
)


class ExportError(RuntimeError):
    """A detector cannot be converted, or its exported file does not agree with it."""


def export_detector(
    artifact: Artifact,
    path: str | Path,
    format: str,
    *,
    images: Iterable[str | Path] | None = None,
    fused_ops: bool = False,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Write a detector in another format, once its own runtime gave the detector's results.

    The graph does not check its input, as `Detector.predict` does: a black frame or another product
    gets a score, too, and perhaps a low one. See `fastad.inference.Artifact.judge_inputs`.

    Args:
        artifact: the detector. Its model is not changed. `fastad.inference.load` reads one.
        path: ends in the suffix of the format. It is written atomically. OpenVINO's weights go
            beside it, to the same name ending in .bin.
        format: one of `fastad.export.FORMATS`.
        images: image files to compare on. None takes random images of several sizes.
        fused_ops: keep fastad's fused ops (torch-export and aotinductor). A ResNet-18 is then 5 to
            9 % faster on one CPU thread, but ``import fastad`` has to come before the file is
            loaded. False writes plain torch ops.
        tolerance: largest relative error that is accepted; see `Verification`.

    Returns:
        How far the file's results are from the detector's.

    Raises:
        ValueError: an unknown format, a path with another suffix, no images, a format that
            cannot hold fastad's ops, or a detector with a smallest area of regions.
        ImportError: a package that the format needs is missing; the message says which.
        ExportError: the conversion failed, or the results differ. No file is written then.
        OSError: the file cannot be written.

    Examples:
        >>> import numpy as np
        >>> from fastad import Detector, inference
        >>> from fastad.export import export_detector
        >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
        >>> Detector(
        ...     "stpm", image_size=32, layers=("layer1",), teacher_weights="embedded"
        ... ).set_params(false_positive_rate=0.2).fit(good, epochs=1).save("bottle.fastad")
        >>> artifact = inference.load("bottle.fastad")
        >>> verification = export_detector(artifact, "bottle.pt2", "torch-export", fused_ops=True)
        >>> verification.score_error < 0.005
        True
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; there are: {', '.join(FORMATS)}")
    kind = FORMATS[format]
    if not Path(path).name.endswith(kind.suffix):
        raise ValueError(f"the file of the format {format} must end in {kind.suffix}; got {path}")
    if fused_ops and not kind.keeps_ops:
        raise ValueError(f"the format {format} cannot hold fastad's fused ops")
    if artifact.min_area is not None:
        raise ValueError(
            "a detector whose small regions do not count cannot be exported, as a graph gives the "
            "model's own scores: set its smallest area to 0 first"
        )
    check_packages(format)
    path = Path(path).resolve()
    with (
        atomic_path(path) as temporary,
        tempfile.TemporaryDirectory(prefix=".export.", dir=path.parent) as folder,
    ):
        written = Path(folder, path.name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecations inside the converters
                kind.write(
                    trace(artifact, fused_ops), written, json.dumps(metadata(artifact, fused_ops))
                )
                runner = kind.open(written)
        except OSError:
            raise
        except Exception as error:  # converters raise whatever they stumble over
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ExportError(
                f"{artifact.model.name} cannot be exported to {format}: {reason}"
            ) from error
        batches = random_batches(artifact.image_size)
        if images is not None:
            batches = image_batches(images, artifact.pixel_range)
        result = verify(artifact, runner, batches)
        # Written so that NaN does not pass.
        if not all(error <= tolerance for error in (result.score_error, result.map_error)):
            raise ExportError(
                f"the {format} file does not agree with the detector (relative error above "
                f"{tolerance:g}): {result}"
            )
        for extra in sorted(set(Path(folder).iterdir()) - {written}):
            # Weights that do not belong to the graph beside them must never be there.
            path.unlink(missing_ok=True)
            with atomic_path(path.parent / extra.name) as place:
                os.replace(extra, place)
        os.replace(written, temporary)
    return result


def metadata(artifact: Artifact, fused_ops: bool = False) -> dict[str, Any]:
    """What an exported file says of its detector, as plain JSON values.

    An image is anomalous when ``score > threshold``, a pixel when ``anomaly_map >
    pixel_threshold`` (both null without calibration). ``calibration_scores`` give other
    thresholds by `fastad.inference.conformal_threshold`, and p-values. ``threshold_set_by`` is
    "rate" or "value". ``asked_false_positive_rate`` is null after the latter.
    ``kept_false_positive_rate`` is what the threshold keeps by those scores. ``pixel_range`` are
    the values of 16-bit pixels that the detector took for 0 and 255; the graph takes 8 bits.
    ``roi_share`` is the share of an image that its region of interest takes, null without one: the
    graph knows the region, its map is 0 outside, and its score is of what is inside.
    ``input_guard`` says that the graph checks no input.
    """
    pixel_range = artifact.pixel_range or FULL
    return {
        "fastad_version": fastad.__version__,
        "model": artifact.model.name,
        "supervision": artifact.supervision,
        "input": f"{INPUT}: uint8 (N, H, W, 3), RGB, any size",
        "input_guard": NO_GUARD,
        "outputs": list(OUTPUTS),
        "image_size": list(artifact.image_size),
        "roi_share": None if artifact.roi is None else float(artifact.roi.mean()),
        "pixel_range": [pixel_range.low, pixel_range.high],
        "threshold": artifact.threshold,
        "pixel_threshold": artifact.pixel_threshold,
        "threshold_set_by": artifact.threshold_set_by,
        "asked_false_positive_rate": artifact.asked_rate,
        "kept_false_positive_rate": artifact.kept_rate,
        "calibration_scores": np.asarray(artifact.calibration).tolist(),
        "pixel_calibration_scores": np.asarray(artifact.pixel_calibration).tolist(),
        "needs_fastad": fused_ops,
    }


class DetectorGraph(nn.Module):
    """Resize, scaling and model in one: images (N, H, W, 3) uint8 -> dict of `OUTPUTS`."""

    def __init__(self, model: AnomalyModel, image_size: tuple[int, int]):
        super().__init__()
        self.model = model
        self.image_size = image_size

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        height, width = self.image_size
        x = images.permute(0, 3, 1, 2).float()
        x = x @ resize_weights(x.shape[3], width, x.device).T
        x = (x.mT @ resize_weights(x.shape[2], height, x.device).T).mT
        prediction = self.model(x.round() / 255)
        return dict(zip(OUTPUTS, (prediction.score, prediction.anomaly_map), strict=True))


def resize_weights(length: int, target: int, device: torch.device) -> Tensor:
    """Weights (target, length) of an antialiased bilinear resize along one axis.

    With them, two matrix products do what `fastad.data.resize` does, in ops that every runtime
    has, exactly, and for sizes that are known only when it runs. (Runtimes' own antialiased
    resizes differ in borders and rounding, where they exist.) The identity for target == length.
    """
    pixels = torch.arange(length, dtype=torch.float32, device=device)
    scale = (pixels[-1:] + 1) / target  # the length as a tensor, for graphs with dynamic sizes
    centres = (torch.arange(target, dtype=torch.float32, device=device) + 0.5) * scale
    distance = (pixels + 0.5 - centres[:, None]) / scale.clamp(min=1)
    weights = (1 - distance.abs()).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True)


def trace(artifact: Artifact, fused_ops: bool = False) -> ExportedProgram:
    """The detector's graph, in float32 on the CPU, with N, H and W dynamic."""
    height, width = artifact.image_size
    # Unequal to each other and to anything in the model, so that nothing is taken for equal.
    images = torch.zeros(2, height + 3, width + 5, 3, dtype=torch.uint8)
    sizes = {0: Dim("batch"), 1: Dim("height"), 2: Dim("width")}
    graph = DetectorGraph(copy_to_trace(artifact.model), artifact.image_size)
    return traced(graph, images, sizes, fused_ops=fused_ops)
