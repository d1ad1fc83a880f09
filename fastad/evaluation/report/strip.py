"""A small histogram of scores, one of many on a page: an SVG of a kilobyte, without matplotlib's
time for each."""

import math

import numpy as np

WIDTH, HEIGHT = 220, 64  # pixels
BINS = 36
NORMAL, DEFECT, HELD_OUT, INK = "#0072b2", "#d55e00", "#7d8893", "#1a1f26"  # those of `plots`


def score_strip(
    held_out: np.ndarray, normal: np.ndarray, defective: np.ndarray, threshold: float | None
) -> bytes:
    """Held-out and good test images upwards, defective ones downwards, over one axis of scores.

    Each kind has its own height, so that few defects are seen beside many good images. The dashed
    line is the threshold. The axis is logarithmic where scores are positive and spread over more
    than a factor 30.

    Args:
        held_out, normal, defective: (k,), (n,), (m,) scores; any may be empty.
        threshold: None for no line.
    """
    marked = np.concatenate([held_out, normal, defective, [] if threshold is None else [threshold]])
    marked = marked[np.isfinite(marked)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}">'
    ]
    if len(marked):
        logarithmic = bool(marked.min() > 0 and marked.max() > 30 * marked.min())
        scale = np.log if logarithmic else np.asarray
        low, high = float(scale(marked).min()), float(scale(marked).max())
        span = (high - low) or 1.0
        for values, colour, up in (
            (held_out, HELD_OUT, True),
            (normal, NORMAL, True),
            (defective, DEFECT, False),
        ):
            if len(values):
                places = (scale(np.asarray(values, float)) - low) / span
                parts += _bars(places, colour, up)
        if threshold is not None:
            x = WIDTH * (float(scale(threshold)) - low) / span
            parts.append(
                f'<path d="M{x:.1f} 0V{HEIGHT}" stroke="{INK}" stroke-dasharray="4 2" fill="none"/>'
            )
    middle = HEIGHT / 2
    parts.append(f'<path d="M0 {middle}H{WIDTH}" stroke="{HELD_OUT}" stroke-width=".5"/></svg>')
    return "".join(parts).encode()


def _bars(places: np.ndarray, colour: str, up: bool) -> list[str]:
    """Bars of values whose places on the axis run from 0 to 1."""
    counts = np.histogram(np.clip(places, 0, 1), BINS, (0, 1))[0]
    width, most, middle = WIDTH / BINS, counts.max(), HEIGHT / 2
    bars = []
    for number in np.flatnonzero(counts):
        height = max(1.0, (middle - 2) * math.sqrt(counts[number] / most))  # one image is seen, too
        y = middle - height if up else middle
        bars.append(
            f'<rect x="{number * width:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}" fill="{colour}" fill-opacity=".7"/>'
        )
    return bars
