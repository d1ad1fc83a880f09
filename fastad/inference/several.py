"""Several detectors for one stream of images: which one judges which image.

Three rules say it. "folder" and "name" go by where the image lies or how it is called, before it is
read. "best" asks every detector and takes the one to which the image looks most normal. A good
image is then called anomalous only where its own detector does so, too: the rate of false alarms is
at most that of its own. A defect that is normal on another product is missed.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fastad.data import ImageError, PixelRange, images_without_masks, read_image
from fastad.data.finding import given_path
from fastad.inference.result import PredictionResult

RULES = ("best", "folder", "name")

Skip = Callable[[Path | int, Exception], None]


class Predicts(Protocol):
    """What is asked of a detector: a `fastad.Detector` is one."""

    batch_size: int
    threshold_: float | None
    pixel_range_: PixelRange | None

    def predict(self, images: Any, **options: Any) -> PredictionResult:
        """As `fastad.Detector.predict`."""

    def stream(self, images: Any, **options: Any) -> Iterator[PredictionResult]:
        """As `fastad.Detector.stream`."""


def predict_several(
    detectors: Mapping[str, Any],
    images: Any,
    *,
    rule: str = "best",
    patterns: Mapping[str, str] | None = None,
    skip: Skip | None = None,
    strict: bool = False,
) -> Iterator[tuple[str, PredictionResult]]:
    """Predict images by several detectors, each image once.

    Args:
        detectors: by name, each a `fastad.Detector` with a threshold.
        images: a folder or a list of paths.
        rule: "folder" gives an image to the detector whose pattern its folder has, the nearest
            folder first. "name" goes by the name of the file. "best" takes the detector that calls
            the image normal with the highest p-value. Where none does, it is the one whose
            threshold is least exceeded.
        patterns: of the detectors by name, with ``*`` and ``?``, for "folder" and "name". None, and
            for detectors that are not in it, the detector's name, or for "name" what has it in it.
        skip: is called with the path and the error of an unreadable image, which is then left out.
            None raises the error.
        strict: as of `fastad.inference.Predictor.predict`.

    Yields:
        The name of a detector, and its result for some of the images. Their ``paths`` say which.

    Raises:
        ValueError: a wrong rule, no detector, a detector without a threshold, or an image that fits
            no detector or several.

    Examples:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from fastad import Detector
        >>> from fastad.inference import predict_several
        >>> rng, detectors = np.random.default_rng(0), {}
        >>> for name, grey in (("dark", 40), ("bright", 200)):
        ...     good = rng.integers(grey, grey + 20, (24, 32, 32, 3), dtype=np.uint8)
        ...     Image.fromarray(good[0]).save(f"{name}.png")
        ...     detectors[name] = Detector(
        ...         "subspace", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
        ...     ).fit(good)
        >>> for name, result in predict_several(detectors, ["bright.png", "dark.png"]):
        ...     print(name, [path.name for path in result.paths])
        dark ['dark.png']
        bright ['bright.png']
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}; got {rule!r}")
    if not detectors:
        raise ValueError("detectors: there must be at least one")
    for name, detector in detectors.items():
        if detector.threshold_ is None:
            raise ValueError(f"the detector {name} has no threshold: no images were held out")
    paths = _paths(images)
    if rule == "best":
        yield from _by_best(detectors, paths, skip, strict)
        return
    for name, own in assigned(paths, detectors, rule, patterns).items():
        missing = 0

        def leave_out(path: Path | int, error: Exception) -> None:
            nonlocal missing
            missing += 1
            assert skip is not None  # nothing is reported otherwise
            skip(path, error)

        try:
            for result in detectors[name].stream(
                own, skip=None if skip is None else leave_out, strict=strict
            ):
                yield name, result
        except ValueError:
            if missing < len(own):  # none of these can be read, which was reported
                raise


def assigned(
    paths: Sequence[Path],
    names: Iterable[str],
    rule: str,
    patterns: Mapping[str, str] | None = None,
) -> dict[str, list[Path]]:
    """The images of each detector that has any, by "folder" or "name". Raises ValueError."""
    found: dict[str, list[Path]] = {name: [] for name in names}
    given = dict(patterns or {})
    plain = "{}" if rule == "folder" else "*{}*"
    wanted = {name: given.get(name, plain.format(name)) for name in found}
    for path in paths:
        words = path.resolve().parent.parts[::-1] if rule == "folder" else (path.name,)
        fitting: list[str] = []
        for word in words:
            fitting = [name for name, pattern in wanted.items() if fnmatchcase(word, pattern)]
            if fitting:
                break
        if len(fitting) != 1:
            which = " and ".join(fitting) or "no detector"
            of = ", ".join(wanted.values())
            raise ValueError(f"{path} fits {which} by its {rule}; the patterns are {of}")
        found[fitting[0]].append(path)
    return {name: own for name, own in found.items() if own}


def best(results: Sequence[PredictionResult], thresholds: Sequence[float]) -> list[int]:
    """Which of several detectors' results to take for each of the same N images.

    The p-values of different detectors have different smallest values, 1 / (n + 1) of n held-out
    images, and say little below the threshold's rate. So they decide among detectors that call the
    image normal.
    """
    chosen = []
    for i in range(len(results[0])):
        keys = []
        for result, threshold in zip(results, thresholds, strict=True):
            one = result[i]
            excess = one.score / threshold if threshold > 0 else one.score - threshold
            p_value = 0.0 if one.is_anomalous or one.p_value is None else one.p_value
            keys.append((bool(one.is_anomalous), -p_value, excess))
        chosen.append(min(range(len(keys)), key=keys.__getitem__))
    return chosen


def _by_best(
    detectors: Mapping[str, Predicts], paths: list[Path], skip: Skip | None, strict: bool
) -> Iterator[tuple[str, PredictionResult]]:
    names, every = list(detectors), list(detectors.values())
    thresholds = [d.threshold_ for d in every if d.threshold_ is not None]
    size = max(1, min(d.batch_size for d in every))
    # What was read once serves all, but for values of 16 bits, which each scales by its own range.
    is_shared = all(d.pixel_range_ is None for d in every)
    for chunk, read in _read_ahead(paths, size):
        kept, images = [], []
        for path, future in zip(chunk, read, strict=True):
            try:
                images.append(future.result())
                kept.append(path)
            except (ImageError, OSError) as error:
                if skip is None:
                    raise
                skip(path, error)
        if not kept:
            continue
        results = [d.predict(images if is_shared else kept, strict=strict) for d in every]
        chosen = np.array(best(results, thresholds))
        for number in np.unique(chosen).tolist():
            of = np.flatnonzero(chosen == number)
            results[number].paths = kept
            yield names[number], results[number][of]


def _read_ahead(paths: list[Path], size: int) -> Iterator[tuple[list[Path], list[Future]]]:
    """Parts of so many paths with their images, of which one part is read ahead."""
    starts = range(0, len(paths), size)
    with ThreadPoolExecutor() as pool:

        def begin(start: int) -> list[Future]:
            return [pool.submit(read_image, path) for path in paths[start : start + size]]

        following = begin(0)
        for start, after in itertools.zip_longest(starts, starts[1:]):
            read, following = following, [] if after is None else begin(after)
            yield paths[start : start + size], read


def _paths(images: Any) -> list[Path]:
    if isinstance(images, (str, Path)):
        path = given_path(images)
        return images_without_masks(path) if path.is_dir() else [path]
    return [Path(image) for image in images]
