"""The pictures of a report: test images, anomaly maps in colour, outlines as vector graphics."""

import io
from pathlib import Path

import numpy as np
import torch
from contourpy import contour_generator
from PIL import Image

from fastad._files import write_atomically
from fastad.data import PixelRange, read_image, resize_masks
from fastad.evaluation.report.plots import colour_table

IMAGE_SIDE = 1024  # pixels; larger images are shown smaller
UNITS = 10  # of an outline, to the pixel of the map


def write_image(
    source: Path, target: Path, pixel_range: PixelRange | None = None
) -> tuple[int, int]:
    """Copy a test image as JPEG, no side longer than `IMAGE_SIDE`; returns (height, width).

    Raises ImageError or OSError as `fastad.data.read_image`.
    """
    return write_picture(pixels_in(source, pixel_range), target)


def pixels_in(source: Path, pixel_range: PixelRange | None = None) -> np.ndarray:
    """A test image: (H, W, 3) uint8. Raises as `write_image`."""
    return read_image(source, pixel_range).permute(1, 2, 0).numpy()


def write_picture(pixels: np.ndarray, target: Path) -> tuple[int, int]:
    """Write (H, W, 3) uint8 as `write_image` does; returns (height, width)."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.LANCZOS)

    def save(path: Path) -> None:
        picture.save(path, "JPEG", quality=90, subsampling=0)  # colours as sharp as the rest

    write_atomically(target, save)
    return picture.height, picture.width


def write_map(anomaly_map: np.ndarray, scale: float, target: Path) -> None:
    """Write a map (h, w) as PNG, from the darkest colour at 0 to the brightest at ``scale``."""
    picture = _coloured(np.clip(anomaly_map / scale, 0.0, 1.0))
    write_atomically(target, lambda path: picture.save(path, format="PNG"))


def colour_bar() -> bytes:
    """The colours of the maps from left to right, as PNG."""
    buffer = io.BytesIO()
    _coloured(np.linspace(0.0, 1.0, 256)[None]).save(buffer, format="PNG")
    return buffer.getvalue()


def outline(values: np.ndarray, level: float) -> str:
    """Border of the region above a level, as data of an SVG path in 1 / `UNITS` pixels.

    values: (h, w), known at the centres of the pixels and linear between them; a region at the
    edge of the image ends there. Empty where nothing is above the level.
    """
    padded = np.pad(np.asarray(values, dtype=np.float64), 1, mode="edge")
    # Mirrored at the level, a pixel beyond the edge puts the border on the edge itself.
    inner = np.zeros(padded.shape, dtype=bool)
    inner[1:-1, 1:-1] = True
    padded = np.where(inner, padded, np.minimum(padded, 2 * level - padded))
    parts = []
    for line in contour_generator(z=padded).lines(level):
        points = np.rint((np.asarray(line) - 0.5) * UNITS).astype(int)
        steps = np.diff(points, axis=0)
        steps = steps[steps.any(axis=1)]
        if len(steps) > 1:  # the last one leads back to the start, and so does z
            moves = " ".join(f"{x} {y}" for x, y in steps[:-1])
            parts.append(f"M{points[0, 0]} {points[0, 1]}l{moves}z")
    return "".join(parts)


def outside(inside: np.ndarray, size: tuple[int, ...]) -> str:
    """What is outside of a region (h, w) bool, as SVG path data with the even-odd rule.

    For a map of ``size``, as `outline`.
    """
    height, width = size
    shown = resize_masks(torch.from_numpy(inside), (height, width)).numpy()
    return f"M0 0H{width * UNITS}V{height * UNITS}H0z" + outline(shown, 0.5)


def _coloured(values: np.ndarray) -> Image.Image:
    """Values (h, w) in [0, 1] as an image of 256 colours."""
    picture = Image.fromarray(np.rint(values * 255).astype(np.uint8))
    picture.putpalette(colour_table().tobytes())
    return picture
