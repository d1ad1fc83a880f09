"""A report on a detector: one page with its pictures beside it, for a browser without a network.

A `Report` watches an evaluation and is then written::

    report = Report(threshold=detector.threshold_, ...)
    metrics = detector.evaluate(data, observe=report.observe)
    report.write(folder, metrics, title="bottle", facts={"seed": "0"})
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastad._files import check_folder, claim_folder, write_atomically
from fastad.data import PixelRange, Sample
from fastad.data.in_memory import shape_of
from fastad.evaluation.regions import in_words, pixels_of, regions_of, without_small
from fastad.evaluation.report.details import Detail
from fastad.evaluation.report.gallery import Gallery, Group, Shown
from fastad.evaluation.report.histogram import PixelHistogram
from fastad.evaluation.report.page import Figure, Findings, Zoom, page
from fastad.evaluation.report.pictures import (
    UNITS,
    outline,
    outside,
    pixels_in,
    write_map,
    write_picture,
)
from fastad.evaluation.score_table import COLUMNS, LABELS, csv_text, labelled_rows

Explain = Callable[[Sequence[Path]], Mapping[str, np.ndarray]]

WRITER = "fastad evaluate --report"
MANIFEST, PAGE, SCORES, PICTURES = "fastad-report.json", "index.html", "scores.csv", "pictures"


class Report:
    """Collects what a report shows while an evaluation runs; memory stays bounded.

    Of every image the score and the path are kept; maps only of those that will be shown, the worst
    decisions first.

    Args:
        threshold: above it an image is called defective; None for no decision.
        pixel_threshold: above it a pixel is part of the predicted mask; None for no mask.
        calibration: (n,) scores of the held-out good images that the threshold comes from.
        false_positive_rate: the share of good images that it was asked to exceed at most.
        p_values: scores (N,) -> their p-values (N,), for the table of scores; None for none.
        explain: images of the files given -> pictures (N, h, w, 3) uint8 by name, which are shown
            beside the images; the same names for all.
        pixel_range: that of `fastad.data.read_image`, by which the images were read.
        min_area: the share of an image below which a region does not count; None where all count.
        roi: (h, w) bool, the pixels of the maps that count. The pictures show what is outside
            darker. None for all.
    """

    def __init__(
        self,
        *,
        threshold: float | None = None,
        pixel_threshold: float | None = None,
        calibration: np.ndarray | Sequence[float] = (),
        false_positive_rate: float | None = None,
        p_values: Callable[[np.ndarray], np.ndarray] | None = None,
        explain: Explain | None = None,
        pixel_range: PixelRange | None = None,
        min_area: float | None = None,
        roi: np.ndarray | None = None,
    ) -> None:
        self._roi = roi
        self._pixel_range = pixel_range
        self._min_area = min_area
        self._p_values = p_values
        self._explain = explain or (lambda paths: {})
        self.threshold = threshold
        self.pixel_threshold = pixel_threshold
        self.calibration = np.asarray(calibration, dtype=np.float64)
        self.false_positive_rate = false_positive_rate
        self._samples: list[Sample] = []
        self._scores: list[float] = []
        self._pixels = PixelHistogram(roi)
        self._gallery = Gallery(threshold)
        self._highest = 0.0

    def observe(
        self, sample: Sample, score: float, anomaly_map: np.ndarray, mask: np.ndarray | None
    ) -> None:
        """Take one image: the ``observe`` of `fastad.evaluation.evaluate`."""
        self._samples.append(sample)
        self._scores.append(score)
        self._highest = max(self._highest, float(anomaly_map.max()))
        if mask is not None:
            self._pixels.update(mask[None], anomaly_map[None])
        self._gallery.add(sample, score, anomaly_map, mask)

    def write(
        self,
        folder: str | os.PathLike,
        metrics: Mapping[str, Any],
        *,
        title: str,
        facts: Mapping[str, str],
        notes: Sequence[str] = (),
    ) -> Path:
        """Write the report into a folder, made if need be; returns the path of its page.

        metrics: what the evaluation returned. facts: what was trained on what, by name, in order.
        notes: warnings that a reader of the numbers has to know.

        A report written there before is replaced; files of others stay as they are. The page is
        written last: where there is one, it is whole, and so is all that it shows.

        Raises ValueError when nothing was observed, FileExistsError for a folder where files of
        others are in the way, OSError where it cannot be written, ImageError or OSError for an
        image that cannot be read any more.
        """
        if not self._samples:
            raise ValueError("there is nothing to report: no image was observed")
        folder = Path(folder)
        scale = self._scale()
        groups = self._gallery.groups()
        names = list(self._explain([self._samples[0].path]))
        files = []
        for n, shown in enumerate((shown for group in groups for shown in group.shown), start=1):
            files += [*_names(n), *_explanations(n, len(names)), *_zooms(n, len(shown.details))]
        claim_folder(folder, WRITER, [MANIFEST, PAGE, SCORES, *files], PAGE, (PICTURES,))
        (folder / PICTURES).mkdir(exist_ok=True)
        root = self._root()
        figures: list[tuple[Group, list[Figure]]] = []
        number = 0
        for group in groups:
            drawn = []
            for shown in group.shown:
                number += 1
                drawn.append(self._draw(folder, number, shown, scale, root))
            figures.append((group, drawn))
        write_atomically(folder / SCORES, self._write_scores)
        text = page(
            Findings(
                title=title,
                metrics=metrics,
                labels=np.array([sample.label for sample in self._samples]),
                scores=np.array(self._scores),
                types=[sample.defect_type for sample in self._samples],
                pixels=self._pixels.totals(),
                threshold=self.threshold,
                pixel_threshold=self.pixel_threshold,
                calibration=self.calibration,
                false_positive_rate=self.false_positive_rate,
                scale=scale,
                roi_share=None if self._roi is None else float(self._roi.mean()),
                galleries=figures,
                facts=facts,
                notes=notes,
            )
        )
        target = folder / PAGE
        # Names may hold bytes that are no text: the page shows their numbers.
        options = {"encoding": "utf-8", "errors": "backslashreplace"}
        write_atomically(target, lambda path: path.write_text(text, **options))
        return target

    def _scale(self) -> float:
        """Map value of the brightest colour in all pictures: twice the pixel threshold, so that
        the middle of the scale is where the predicted mask begins."""
        if self.pixel_threshold is not None and self.pixel_threshold > 0:
            return 2.0 * self.pixel_threshold
        return self._highest or 1.0

    def _draw(self, folder: Path, number: int, shown: Shown, scale: float, root: Path) -> Figure:
        image, coloured = _names(number)
        pixels = pixels_in(shown.sample.path, self._pixel_range)
        size = write_picture(pixels, folder / image)
        explained = self._explain([shown.sample.path])
        explanations = dict(zip(explained, _explanations(number, len(explained)), strict=True))
        for name, file in explanations.items():
            write_picture(explained[name][0], folder / file)
        values = shown.anomaly_map.astype(np.float32) * shown.peak
        write_map(values, scale, folder / coloured)
        marked, outlines = self._outlines(values, shown.truth, values.shape)
        if self._roi is not None:
            outlines = {"outside": outside(self._roi, values.shape)} | outlines
        zooms = [
            self._zoom(folder, file, pixels, detail, shown.map_size)
            for file, detail in zip(_zooms(number, len(shown.details)), shown.details, strict=True)
        ]
        return Figure(
            number=number,
            image=image,
            anomaly_map=coloured,
            size=size,
            explanations=explanations,
            outlines={kind: path for kind, path in outlines.items() if path},
            drawing=(values.shape[0] * UNITS, values.shape[1] * UNITS),
            has_truth=shown.truth is not None,
            score=shown.score,
            regions=in_words(regions_of(marked, values, shape_of(shown.sample.path))),
            name=Path(os.path.relpath(shown.sample.path, root)).as_posix(),
            zooms=zooms,
        )

    def _outlines(
        self, values: np.ndarray, truth: np.ndarray | None, map_size: tuple[int, ...]
    ) -> tuple[np.ndarray, dict[str, str]]:
        """What is above the pixel threshold in a map, or a part of one of ``map_size``, (h, w)
        bool, and the outlines of it and of the truth."""
        level = self.pixel_threshold
        marked = np.zeros(values.shape, bool) if level is None else values > level
        if self._min_area is not None:
            marked = without_small(marked, pixels_of(self._min_area, map_size))
        counted = values if level is None else np.where(marked, values, np.minimum(values, level))
        return marked, {
            "predicted": "" if level is None else outline(counted, level),
            "truth": "" if truth is None else outline(truth, 0.5),
        }

    def _zoom(
        self,
        folder: Path,
        file: str,
        pixels: np.ndarray,
        detail: Detail,
        map_size: tuple[int, int],
    ) -> Zoom:
        top, left, bottom, right = detail.box(map_size, (pixels.shape[0], pixels.shape[1]))
        size = write_picture(pixels[top:bottom, left:right], folder / file)
        values = detail.values.astype(np.float32) * detail.peak
        _, outlines = self._outlines(values, detail.truth, map_size)
        return Zoom(
            file,
            size,
            {kind: path for kind, path in outlines.items() if path},
            (values.shape[0] * UNITS, values.shape[1] * UNITS),
            f"rows {top} to {bottom}, columns {left} to {right}",
        )

    def _root(self) -> Path:
        """The folder that all test images share: the type stays part of a shown name."""
        parents = {os.path.abspath(sample.path.parent) for sample in self._samples}
        root = Path(os.path.commonpath(parents))
        return root.parent if len(parents) == 1 else root

    def _write_scores(self, path: Path) -> None:
        rows = labelled_rows(self._samples, self._scores, self.threshold, self._p_values)
        # Names may hold bytes that are no text: they are written as they are.
        path.write_bytes(csv_text((*COLUMNS, *LABELS), rows).encode(errors="surrogateescape"))


def check_report_folder(folder: str | os.PathLike) -> None:
    """Find out before long work whether a report may be written there; nothing is changed.

    Raises FileExistsError where files of others are in the way, NotADirectoryError for a file.
    """
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise NotADirectoryError(f"{folder} is no folder: a report needs one")
    check_folder(folder, WRITER, (MANIFEST, PAGE, SCORES), (PICTURES,))


def _names(number: int) -> tuple[str, str]:
    """Files of a picture: image and map. Plain names, which every file system takes."""
    return f"{PICTURES}/{number:04}.jpg", f"{PICTURES}/{number:04}-map.png"


def _zooms(number: int, count: int) -> list[str]:
    """Files of the parts of a picture."""
    return [f"{PICTURES}/{number:04}-part-{index}.jpg" for index in range(1, count + 1)]


def _explanations(number: int, count: int) -> list[str]:
    """Files of what the model shows of a picture."""
    return [f"{PICTURES}/{number:04}-{index}.jpg" for index in range(1, count + 1)]
