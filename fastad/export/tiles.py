"""A detector of large images for onnxruntime: a graph of a tile, and one of what tiles found.

``tile.onnx`` takes ``images``, uint8 (1, h, w, 3) RGB, and gives the distance maps of the levels.
``whole.onnx`` takes those of the whole image and gives ``score`` and ``anomaly_map``. Between the
two lies a loop, which docs/how-to/large-images.md shows. All tiles have one shape.
"""

import copy
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastad.data.bands import read_for
from fastad.data.images import resize
from fastad.engine.tracing import traced
from fastad.export.export import TOLERANCE, ExportError, metadata
from fastad.export.formats import OUTPUTS, check_packages, open_session, save_onnx
from fastad.export.verification import Verification, verify
from fastad.inference.artifact import Artifact
from fastad.models.map_model import Evidence, MapModel
from fastad.tiles import Tiling
from fastad.tiles.reach import maps_of
from fastad.tiles.windows import Window

FILES = ("tile.onnx", "whole.onnx")


class TileGraph(nn.Module):
    """A tile (1, h, w, 3) uint8 -> all distance maps (1, h_l, w_l)."""

    def __init__(self, model: MapModel):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> list[Tensor]:
        tile = images.permute(0, 3, 1, 2).float() / 255
        return maps_of(self.model.local_evidence({"image": tile}))


class WholeGraph(nn.Module):
    """All distance maps (1, H_l, W_l) of an image -> score (1,) and anomaly map (1, H, W)."""

    def __init__(self, model: MapModel, size: tuple[int, int], counts: tuple[int, int]):
        super().__init__()
        self.model, self.size, self.counts = model, size, counts

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        of_map, of_score = self.counts
        found = Evidence(
            maps[:of_map],
            score_maps=maps[of_map : of_map + of_score],
            memory_maps=maps[of_map + of_score :],
        )
        prediction = self.model.judge(self.model.completed(found), self.size)
        return dict(zip(OUTPUTS, (prediction.score, prediction.anomaly_map), strict=True))


def export_tiles(
    artifact: Artifact,
    folder: str | Path,
    tile: tuple[int, int] | None = None,
    *,
    images: Iterable[str | Path] | None = None,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Write ``tile.onnx`` and ``whole.onnx`` to a folder, once they gave the detector's results.

    Beside what `fastad.export.export.metadata` says, the metadata of both has ``tile``, the
    (height, width) that a tile sees, ``rows`` and ``columns``, of each tile where it begins to see,
    and where what is kept begins and ends, in pixels of an image of ``image_size``, and the
    ``strides`` of each map.

    Args:
        artifact: the detector. `fastad.inference.load` reads one.
        folder: is made where it is missing.
        tile: (height, width) that a tile keeps, about. None for that of the training.
        images: image files to compare on, resized as the detector does. None takes random images.
        tolerance: largest relative error that is accepted; see `Verification`.

    Returns:
        How far the results are from the detector's, in float32.

    Raises:
        ValueError: there is no tile, or the model cannot predict tiles, or small regions do not
            count.
        ImportError: a package that ONNX needs is missing.
        ExportError: the conversion failed, or the results differ. No file is written then.
    """
    check_packages("onnx")
    tile = tile or artifact.tile
    if tile is None:
        raise ValueError("tile: the detector was trained on whole images: give (height, width)")
    if artifact.min_area is not None:
        raise ValueError("tile: set the detector's smallest area to 0 first, as graphs know none")
    model = copy.deepcopy(artifact.model).eval().requires_grad_(False).to("cpu", torch.float32)
    tiling = Tiling(model, artifact.image_size, tile, apart=False)  # a graph of one input
    assert isinstance(model, MapModel)
    rows, columns = (
        one_shape(windows, length)
        for windows, length in zip((tiling.rows, tiling.columns), artifact.image_size, strict=True)
    )
    sides = rows[0].last - rows[0].first, columns[0].last - columns[0].first
    facts = metadata(artifact) | {
        "input": "images: uint8 (1, h, w, 3), RGB, a tile of an image of image_size",
        "tile": sides,
        "rows": [window[2:3] + window[:2] for window in rows],
        "columns": [window[2:3] + window[:2] for window in columns],
        "strides": tiling.strides,
    }
    seen = torch.zeros(1, *sides, 3, dtype=torch.uint8)
    with torch.no_grad():
        found = tiling.evidence(model.local_evidence, torch.zeros(1, 3, *artifact.image_size))
    counts = len(found.maps), len(found.score_maps)
    maps = maps_of(found)
    names = [f"map{number}" for number in range(len(maps))]
    whole = WholeGraph(model, artifact.image_size, counts)
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export.", dir=folder) as place:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecations inside the converter
                said = json.dumps(facts)
                for name, graph, given, inputs, outputs in (
                    (FILES[0], TileGraph(model), seen, ["images"], names),
                    (FILES[1], whole, maps, names, list(OUTPUTS)),
                ):
                    save_onnx(traced(graph, given), Path(place, name), said, inputs, outputs)
        except Exception as error:  # converters raise whatever they stumble over
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ExportError(f"{model.name} cannot be exported in tiles: {reason}") from error
        size = artifact.image_size
        batches: Iterable[np.ndarray] = (
            np.random.default_rng(number).integers(0, 256, (1, *size, 3), dtype=np.uint8)
            for number in range(2)
        )
        if images is not None:
            batches = (_resized(path, artifact) for path in images)
        run_tile, run_whole = (open_session(Path(place, name)) for name in FILES)

        def run(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            found = [run_whole(_levels(run_tile, facts, image)) for image in batch]
            return tuple(map(np.concatenate, zip(*found, strict=True)))  # type: ignore[return-value]

        result = verify(artifact, run, batches, tile)
        if not all(error <= tolerance for error in (result.score_error, result.map_error)):
            raise ExportError(f"the tiles do not agree with the detector: {result}")
        for name in sorted(os.listdir(place)):
            os.replace(Path(place, name), Path(folder, name))
    return result


def _resized(path: str | Path, artifact: Artifact) -> np.ndarray:
    image, _ = read_for(path, artifact.image_size, artifact.pixel_range)
    return resize(image, artifact.image_size).permute(1, 2, 0).numpy()[None]


def _levels(
    run: Callable[[list[np.ndarray]], list[np.ndarray]], facts: dict[str, Any], image: np.ndarray
) -> list[np.ndarray]:
    """The distance maps of an image (H, W, 3), as the loop of the docs puts them together."""
    height, width = facts["tile"]
    rows = []
    for first, top, bottom in facts["rows"]:
        parts = []
        for begin, left, right in facts["columns"]:
            seen = image[None, first : first + height, begin : begin + width]
            parts.append(
                [
                    level[
                        :,
                        (top - first) // down : -(-(bottom - first) // down),
                        (left - begin) // across : -(-(right - begin) // across),
                    ]
                    for level, (down, across) in zip(run([seen]), facts["strides"], strict=True)
                ]
            )
        rows.append([np.concatenate(each, axis=2) for each in zip(*parts, strict=True)])
    return [np.concatenate(each, axis=1) for each in zip(*rows, strict=True)]


def one_shape(windows: list[Window], length: int) -> list[Window]:
    """The same tiles, each of which sees as many pixels as that which sees most."""
    most = max(window.last - window.first for window in windows)
    firsts = [min(window.first, length - most) for window in windows]
    return [
        window._replace(first=first, last=first + most)
        for window, first in zip(windows, firsts, strict=True)
    ]
