"""A model over images on one device: the code that turns pictures into decisions."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastad._threads import own_threads, thread_count
from fastad._values import is_integer, plain
from fastad.data import PixelRange, parse_size
from fastad.data.appearance import appearance
from fastad.data.bands import read_for
from fastad.data.facts import Expectation, ImageFacts
from fastad.data.inputs import Batch, image_batches, shortened
from fastad.engine import folding, runtimes
from fastad.engine.cuda import CudaRunner
from fastad.engine.precision import autocast, resolve
from fastad.engine.runtimes import Runtime
from fastad.inference.explanation import explained
from fastad.inference.guard import OK, UNKNOWN, InputGuard, log_aspects_of
from fastad.inference.min_area import keep_large, region_scores
from fastad.inference.result import PredictionResult, joined
from fastad.inference.threshold import p_values, scores_digest
from fastad.inference.throughput import Throughput
from fastad.models import AnomalyModel
from fastad.tiles import Tiling
from fastad.training import resolve_device

TileSize = int | str | tuple[int, int]
MANY = 64  # images of which it is worth saying how fast they went

log = logging.getLogger("fastad")

Scored = tuple[np.ndarray, np.ndarray]  # scores (N,) and maps (N, H, W)


class Predictor:
    """Runs a model over images on one device: reading ahead in threads, one resize, batches.

    Several threads may share one predictor. It notices weights that change in place, as by an
    optimizer's step or `load_state_dict`. Weights or parts that are replaced need a new predictor.

    Args:
        model: is put into eval mode and moved to the device, in place.
        image_size: what images are resized to; see `fastad.data.parse_size`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: one of `fastad.engine.precision.PRECISIONS`; see `resolve` there.
        engine: what computes: "native", this package's convolutions, "openvino", "onnxruntime", or
            "torch", the model as it was trained, in float32.
        fused: run a copy of the model with batch norm folded into its convolutions. Results differ
            by rounding only. See `fastad.engine.folding`.
        batch_size: images in one step.
        threshold: an image with a higher score is anomalous. None for no decision.
        pixel_threshold: a pixel with a higher value belongs to the mask. None for no mask.
        calibration: (n,) scores of held-out normal images, for p-values. None or empty for none.
        pixel_range: that of `fastad.data.read_image`, for images with 16 bits.
        facts: what the training images were like. A warning says once what is not like them.
        guard: what says of each image whether it is like the held-out ones. None for "unknown".
        min_area: the fewest pixels of the map in a region that counts. Scores and masks go by it,
            and so must ``threshold``, which is then that of pixels, too, and ``calibration``. See
            `fastad.inference.min_area`. None for the model's own scores.
        tile: predict in tiles of about so many pixels, as ``image_size`` is given. Maps and scores
            are those of the whole image, and one image is predicted at a time, whatever
            ``batch_size`` is. See `fastad.tiles`. None for whole images at once.

    Raises:
        ValueError: a wrong value. The message names the argument.
        ImportError: a package that the engine needs is missing. The message names it.

    Examples:
        >>> import numpy as np
        >>> from fastad import models
        >>> from fastad.inference import Predictor
        >>> model = models.build("stpm", teacher_weights="embedded")
        >>> predictor = Predictor(model, image_size=(64, 96), threshold=0.5)
        >>> images = [np.eye(48, 72, dtype=np.uint8), np.eye(100, 200, dtype=np.uint8)]
        >>> result = predictor.predict(images)
        >>> result.score.shape, result.anomaly_map.shape, result.is_anomalous.dtype
        ((2,), (2, 64, 96), dtype('bool'))
    """

    def __init__(
        self,
        model: AnomalyModel,
        image_size: int | str | tuple[int, int],
        *,
        device: str = "auto",
        precision: str = "auto",
        engine: str = "native",
        fused: bool = True,
        batch_size: int = 32,
        threshold: float | None = None,
        pixel_threshold: float | None = None,
        calibration: np.ndarray | None = None,
        pixel_range: PixelRange | None = None,
        facts: ImageFacts | None = None,
        guard: InputGuard | None = None,
        min_area: int | None = None,
        tile: TileSize | None = None,
    ) -> None:
        batch_size = plain(batch_size)
        if not is_integer(batch_size, 1):
            raise ValueError(f"batch_size must be an integer of at least 1; got {batch_size!r}")
        self.image_size = parse_size(image_size)
        self.device = resolve_device(device)
        runtimes.check_engine(engine, self.device)
        if tile is not None and engine != "native":
            raise ValueError(f"tile: engine must be 'native' then, not {engine!r}")
        self.engine = engine
        if engine == "native":
            integers = folding.has_foldable_parts(model)
            self.dtype = resolve(precision, self.device, integers=integers)
        else:
            self.dtype = runtimes.dtypes(engine, precision)[0]
        self.fused = fused and engine != "torch"
        self.batch_size = batch_size if tile is None else 1
        self.threshold, self.pixel_threshold = plain(threshold), plain(pixel_threshold)
        self.pixel_range = pixel_range
        self.guard, self.min_area = guard, min_area
        self.tile = None if tile is None else parse_size(tile)
        self.throughput: Throughput | None = None  # that several streams add to, in place of a line
        self._tilings: dict[tuple[int, int], Tiling] = {}
        self._expectation = Expectation(facts or ImageFacts(), self.image_size)
        self.calibration = np.asarray(() if calibration is None else calibration, dtype=np.float64)
        # torch's types lack this form.
        self.model: AnomalyModel = model.eval().to(  # type: ignore[call-overload]
            self.device, memory_format=torch.channels_last
        )
        self._parameters = list(model.state_dict(keep_vars=True).values())
        self._ready: tuple[Any, AnomalyModel | CudaRunner | Runtime] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Neither weights in oneDNN's layout nor CUDA graphs can be pickled.
        return self.__dict__ | {"_ready": None}

    def _network(self, dtype: torch.dtype, fused: bool) -> AnomalyModel | CudaRunner | Runtime:
        """What runs: the model, its folded copy, or its form in another engine.

        It is made anew where the model has changed.
        """
        is_cuda = self.device.type == "cuda"
        if not fused and not is_cuda:
            return self.model
        # A count that torch keeps of every change in place, an optimizer's or load_state_dict's.
        state = (self.engine, dtype, fused, sum(map(attrgetter("_version"), self._parameters)))
        ready = self._ready
        if ready is not None and ready[0] == state:
            return ready[1]
        if fused and self.engine in runtimes.PACKAGES:
            runs: Any = Runtime(self.model, self.image_size, self.engine, dtype)
        else:
            network = folding.fold(self.model, dtype) if fused else None
            network = network or self.model
            runs = CudaRunner(network, self.device, dtype) if is_cuda else network
        self._ready = (state, runs)
        return runs

    def predict(
        self,
        images: Any,
        *,
        skip: Callable[[Path | int, Exception], None] | None = None,
        strict: bool = False,
        tile: TileSize | None = None,
    ) -> PredictionResult:
        """Predict all images at once.

        The result holds N * H * W floats. `stream` needs less memory.

        Args:
            images: any of the forms of `fastad.data.inputs`.
            skip: is called with the path (or position) and the error of an unreadable image, which
                is then left out. None raises the error.
            strict: an image is anomalous, too, where it is unlike the held-out ones (``input``).
            tile: predict in tiles of about so many pixels: 1024, or "768x1024" (height x width).
                Results are those of the whole image. Memory grows with the tile. None for what the
                predictor was made with.

        Raises:
            TypeError: ``images`` is something else. The message says what.
            ValueError: there are no images, or they have a wrong shape.
            FileNotFoundError: a file is missing. The message names it.
            ImageError: a file is no image. The message names it.
        """
        return joined(list(self.stream(images, skip=skip, strict=strict, tile=tile)))

    def stream(
        self,
        images: Any,
        *,
        skip: Callable[[Path | int, Exception], None] | None = None,
        strict: bool = False,
        tile: TileSize | None = None,
    ) -> Iterator[PredictionResult]:
        """As `predict`, one result a batch. Any iterable of single images is read one batch ahead.

        In tiles there is one result an image.

        Memory does not grow with the number of images. After many images the logger "fastad" says
        how fast it went, and what took the most time: reading, predicting, or using the results.
        """
        skipped, throughput = 0, self.throughput or Throughput()
        before = throughput.images

        def count(item: Path | int, error: Exception) -> None:
            nonlocal skipped
            skipped += 1
            assert skip is not None  # nothing is reported otherwise
            skip(item, error)

        report = None if skip is None else count
        tiling = self.tiling(tile)
        batches = self._batches(images, report, self.batch_size if tiling is None else 1)
        # A device computes while the next batch is read. An iterator may be as slow as a camera, so
        # its results wait for no batch more than is read ahead anyway.
        ahead = int(self.device.type == "cuda" and not isinstance(images, Iterator))
        started: deque[tuple[list[Path] | None, int, Callable[[], PredictionResult]]] = deque()
        for given in chain(batches, repeat(None, ahead)):
            throughput.record("reading and resizing images")
            if given is not None and len(given.images) > 0:
                finish = self.start(given.images, given.sizes, tiling)
                started.append((given.paths, len(given.images), finish))
            if len(started) > (0 if given is None else ahead):
                paths, number, finish = started.popleft()
                result = finish()
                result.paths = paths
                if strict and result.is_anomalous is not None and result.input is not None:
                    result.is_anomalous |= ~np.isin(result.input, (OK, UNKNOWN))
                throughput.record("predicting", number)
                yield result
                throughput.record("using the results")
        if throughput.images == before and skipped:
            raise ValueError(f"images: none of the {skipped} images can be read")
        if throughput.images == before:
            raise ValueError(f"images: there are no images in {shortened(images)}")
        if self.throughput is None and throughput.images >= MANY:
            log.info(str(throughput))

    def tiling(self, tile: TileSize | None = None) -> Tiling | None:
        """The tiles of an image, ``tile`` as of `predict`. None for one that is predicted whole.

        Raises:
            ValueError: the model cannot predict tiles. The message says why.
        """
        tile = self.tile if tile is None else tile
        if tile is None:
            return None
        sides = parse_size(tile)
        if sides not in self._tilings:
            self._tilings[sides] = Tiling(self.model, self.image_size, sides)
        return self._tilings[sides]

    def _batches(
        self, images: Any, skip: Callable[[Path | int, Exception], None] | None, at_once: int
    ) -> Iterator[Batch]:
        look = self._expectation.look
        return image_batches(images, self.image_size, at_once, skip, self.pixel_range, look)

    def read(self, path: str | Path) -> Tensor:
        """An image file as the training's were read: uint8 (3, H, W). Errors as `read_image`.

        A large one has the predictor's size already; see `fastad.data.bands`.
        """
        image, shape = read_for(path, self.image_size, self.pixel_range)
        self._expectation.look(path, image, shape)
        return image

    @property
    def explains(self) -> bool:
        """Whether the model makes pictures that `explain` shows."""
        return type(self.model).explain is not AnomalyModel.explain

    @torch.inference_mode()
    def explain(self, images: Any) -> dict[str, np.ndarray]:
        """Pictures of the model that show why images got their scores. See `AnomalyModel.explain`.

        Args:
            images: as of `predict`.

        Returns:
            Pictures by name, each (N, H, W, 3) uint8 at the predictor's image size. Empty for a
            model that makes none.
        """
        if not self.explains:
            return {}
        batches = self._batches(images, None, self.batch_size)
        found = explained(self.model, (b.images for b in batches), self.device, self.dtype)
        if not found:
            raise ValueError(f"images: there are no images in {shortened(images)}")
        return found

    def predict_batch(self, images: Tensor) -> PredictionResult:
        """One step on a tensor (N, 3, H, W) of image_size, uint8 or floating in [0, 1]."""
        return self.start(images)()

    def start(
        self,
        images: Tensor,
        sizes: Sequence[tuple[int, int]] | None = None,
        tiling: Tiling | None = None,
    ) -> Callable[[], PredictionResult]:
        """Begin a step as `predict_batch`; what is returned waits for the result.

        ``sizes`` are (height, width) of the images before their resize, where these are known. A
        CUDA device computes meanwhile; on a CPU the result is there already. ``tiling`` is of
        `tiling`. None for that of the predictor.
        """
        finish = self._compute(images, tiling or self.tiling())
        guard = self.guard
        seen = appearance(images)  # while a device computes

        def judged() -> PredictionResult:
            score, anomaly_map = finish()
            result = self._judged(score, anomaly_map)
            result.input = np.full(len(images), UNKNOWN)
            result.appearance = seen.cpu().numpy()
            own = [self.image_size] * len(images) if sizes is None else sizes
            if guard is not None:
                aspects = log_aspects_of(own, self.image_size)
                result.input = guard.judge(result.appearance, aspects, score)
            result.sizes = np.array(own, np.int64).reshape(-1, 2)
            result.calibration = scores_digest(self.calibration)
            return result

        return judged

    def _compute(self, images: Tensor, tiling: Tiling | None) -> Callable[[], Scored]:
        return self._start(images, self.dtype, self.fused, tiling)

    def run(
        self, images: Tensor, dtype: torch.dtype, fused: bool, tiling: Tiling | None = None
    ) -> Scored:
        """Scores and maps of a tensor as `predict_batch` takes it, computed as asked for."""
        return self._start(images, dtype, fused, tiling or self.tiling())()

    @torch.inference_mode()
    def _start(
        self, images: Tensor, dtype: torch.dtype, fused: bool, tiling: Tiling | None
    ) -> Callable[[], Scored]:
        network = self._network(dtype, fused)
        if isinstance(network, CudaRunner):
            if tiling is None:
                return network.start(images)
            network = network.network

        def prepared(images: Tensor) -> Tensor:
            is_bytes = images.dtype == torch.uint8
            images = images.to(self.device)
            if is_bytes and folding.takes_bytes(network):
                return images
            images = images.to(torch.float32, memory_format=torch.channels_last)
            return images.div_(255) if is_bytes else images

        own = own_threads(folding.runs_on_own_threads(network))
        with own, torch.autocast(self.device.type, *autocast(dtype)):
            if tiling is None:
                at_once = self._at_once(dtype, len(images))
                parts = [network(part) for part in prepared(images).split(at_once)]
            else:
                assert isinstance(network, AnomalyModel)  # no other engine is let in
                parts = [tiling.predict(network, prepared, part) for part in images.split(1)]
        score, anomaly_map = (
            _joined([getattr(part, name).float().cpu().numpy() for part in parts])
            for name in ("score", "anomaly_map")
        )
        return lambda: (score, anomaly_map)

    def _at_once(self, dtype: torch.dtype, images: int) -> int:
        """How many of a batch's images go through the networks together."""
        # In integers they are so fast that features which do not fit into the caches, and filters
        # that are fetched for one image alone, cost more than all else.
        most = max(2 * thread_count(), 4) if dtype == torch.int16 else images
        return max(min(most, images), 1)

    def _judged(self, score: np.ndarray, anomaly_map: np.ndarray) -> PredictionResult:
        score = self.scores(score, anomaly_map)
        wide = score.astype(np.float64)
        threshold, pixel_threshold = self.threshold, self.pixel_threshold
        mask = None if pixel_threshold is None else anomaly_map > np.float64(pixel_threshold)
        if mask is not None and self.min_area is not None:
            keep_large(mask, wide > np.float64(pixel_threshold), self.min_area)
        return PredictionResult(
            score,
            anomaly_map,
            None if threshold is None else wide > threshold,
            p_values(wide, self.calibration) if self.calibration.size else None,
            mask,
        )

    def scores(self, score: np.ndarray, anomaly_map: np.ndarray) -> np.ndarray:
        """The scores (N,) that images are judged by: the model's, or with ``min_area`` the map's.

        ``score`` (N,) and ``anomaly_map`` (N, H, W) are the model's.
        """
        return score if self.min_area is None else region_scores(anomaly_map, self.min_area)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
