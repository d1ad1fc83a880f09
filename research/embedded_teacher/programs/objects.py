"""Scenes of things: machined parts in rows, hardware, a round face close by, panels."""

import math
from collections.abc import Callable

import numpy as np

from fastad.data.synthesis.texture_parts import (
    TURN,
    Rng,
    coloured,
    palette,
    scale,
    shaded,
    smooth_noise,
    stretched,
    turned,
)
from research.embedded_teacher.programs.parts import (
    blurred,
    cover,
    dropped,
    ground,
    laid,
    length,
    lit,
    material,
    slopes,
    tone,
)


def parts(rng: Rng, height: int, width: int) -> np.ndarray:
    """One part, washer, wheel, nut or cap, in rows or strewn, each at an angle of its own."""
    size = scale(rng, 18, 110, height, width)
    turns, strewn = rng.random() < 0.6, rng.random() < 0.4
    stamps = _stamps(rng, round(size), 6 if turns else 1)
    share, level = np.zeros((2, height, width), np.float32)
    pitch = size * rng.uniform(1.02, 1.5)
    shift = rng.uniform(0, pitch, 2)
    rows, columns = math.ceil(height / pitch) + 1, math.ceil(width / pitch) + 1
    missing = rng.choice([0, 0, 0.25])
    for i in range(rows):
        for j in range(columns):
            y, x = (np.array((i, j)) - 0.5) * pitch + shift
            if strewn:
                y, x = y + rng.normal(0, pitch / 5), x + rng.normal(0, pitch / 5)
            if rng.random() < missing:
                continue
            stamp = stamps[rng.integers(len(stamps))]
            _put(share, stamp[0], y, x)
            _put(level, stamp[1], y, x)
    texture = dropped(rng, ground(rng, height, width), share)
    albedo = material(rng, height, width)
    body = lit(rng, level * np.float32(size * rng.uniform(0.05, 0.25)), albedo)
    return laid(texture, share, body)


def hardware(rng: Rng, height: int, width: int) -> np.ndarray:
    """Screws, pins and springs, lying side by side or about."""
    long = scale(rng, 40, 200, height, width)
    wide = max(6, round(long * rng.uniform(0.12, 0.3)))
    canvas = math.ceil(long) + 4
    share, level = np.zeros((2, height, width), np.float32)
    main, spread = rng.uniform(0, TURN), rng.choice([0.03, 3])
    stamps = []
    for _ in range(5):
        outline, body = _shank(rng, canvas, long, wide)
        angle = main + spread * rng.standard_normal()
        stamps.append([turned(field, canvas, canvas, angle) for field in (outline, body)])
    for _ in range(int(min(24, 0.5 * height * width / (long * wide) + 2))):
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        outline, body = stamps[rng.integers(5)]
        # Each lies on top of those before it.
        _put(level, body, y, x, outline)
        _put(share, outline, y, x)
    texture = dropped(rng, ground(rng, height, width), share)
    albedo = material(rng, height, width)
    return laid(texture, share, lit(rng, level * np.float32(wide), albedo))


def closeup(rng: Rng, height: int, width: int) -> np.ndarray:
    """One round thing from above: rims, faces and holes around a point, glossy or dull."""
    y, x = np.ogrid[:height, :width]
    middle = rng.uniform(0.35, 0.65, 2) * (width, height)
    squeeze = rng.uniform(0.8, 1.25)
    x, y = np.float32(x - middle[0]) * np.float32(squeeze), np.float32(y - middle[1])
    radius, angle = length(x, y), np.arctan2(y, x)
    outer = min(height, width) * rng.uniform(0.3, 0.65)
    if rng.random() < 0.4:
        lobes, deep = int(rng.integers(3, 30)), rng.uniform(0.02, 0.12)
        radius = radius * (1 + np.float32(deep) * np.tanh(2 * np.sin(lobes * angle)))
    knots = np.sort(rng.uniform(0, outer, int(rng.integers(3, 12))))
    profile = np.interp(np.arange(512), [0, *knots, outer], rng.uniform(0, 1, len(knots) + 2))
    if rng.random() < 0.5:
        profile = np.interp(np.arange(512), np.arange(512), np.round(profile * 4) / 4)
    tones = rng.random(len(knots) + 1, np.float32)
    ring = np.searchsorted(knots, np.arange(512))
    place = np.int32(np.minimum(radius, 511))
    field = profile.astype(np.float32)[place] * np.float32(outer * rng.uniform(0.05, 0.4))
    albedo = coloured(tones[ring][place], palette(rng))
    rough = 1 + np.float32(rng.uniform(0, 0.1)) * smooth_noise(rng, height, width, 2)
    body = lit(rng, blurred(stretched(field), 1) * field.max(), shaded(albedo, rough))
    if rng.random() < 0.5:  # reflections of a few lamps
        gleam = np.cos(angle * int(rng.integers(1, 4)) + np.float32(rng.uniform(0, TURN)))
        gleam = np.square(np.square(gleam))
        across, down = slopes(field)
        body = laid(body, gleam * np.clip(length(across, down), 0, 1), np.full(3, 255))
    share = cover(radius - np.float32(outer))
    return laid(dropped(rng, ground(rng, height, width), share), share, body)


def panels(rng: Rng, height: int, width: int) -> np.ndarray:
    """Plates, labels and windows laid over each other, each of a texture of its own."""
    texture = ground(rng, height, width)
    texture = texture.copy()
    for _ in range(int(rng.integers(4, 12))):
        wide, high = (scale(rng, 8, 110, height, width) for _ in range(2))
        middle_x, middle_y = rng.uniform(0, width), rng.uniform(0, height)
        reach = math.hypot(wide, high) + 20  # and the shadow's
        rows = slice(max(0, int(middle_y - reach)), min(height, int(middle_y + reach)))
        columns = slice(max(0, int(middle_x - reach)), min(width, int(middle_x + reach)))
        y, x = np.ogrid[rows, columns]
        dx, dy = np.float32(x - middle_x), np.float32(y - middle_y)
        angle = rng.choice([0, 0, rng.uniform(0, TURN)])
        u = np.abs(dx * math.cos(angle) + dy * math.sin(angle))
        v = np.abs(dy * math.cos(angle) - dx * math.sin(angle))
        corner = min(wide, high) * rng.choice([0, 0.2, 0.9])
        a, b = np.maximum(u - (wide - corner), 0), np.maximum(v - (high - corner), 0)
        share = cover(length(a, b) - np.float32(corner + 0.5))
        here = texture[rows, columns]
        if rng.random() < 0.6:
            here = dropped(rng, here, share)
        face = ground(rng, *share.shape) if rng.random() < 0.6 else tone(rng)
        share *= np.float32(rng.choice([1, 1, 0.6]))
        texture[rows, columns] = laid(here, share, face)
    return texture


def _stamps(rng: Rng, size: int, count: int) -> list[np.ndarray]:
    """A part at angles at random: each its outline and its height, (2, size, size) from 0 to 1."""
    y, x = (np.mgrid[:size, :size].astype(np.float32) + np.float32(0.5)) * (2 / size) - 1
    radius, angle = length(x, y), np.arctan2(y, x)
    kind, lobes = rng.integers(4), int(rng.integers(3, 17))
    holes, inner = int(rng.integers(2, 7)), rng.choice([0, rng.uniform(0.15, 0.6)])
    seat, bolt, deep = rng.uniform(0.5, 0.7), rng.uniform(0.08, 0.18), rng.uniform(0.03, 0.12)
    rim, edge = rng.uniform(0.6, 0.9), 2 / size
    stamps = []
    for turn in rng.uniform(0, TURN, count):
        around = angle + np.float32(turn)
        outline: Callable[[], np.ndarray] = (
            lambda a=around: radius - np.float32(0.95),
            lambda a=around: radius - np.float32(0.85) - deep * np.tanh(2 * np.sin(lobes * a)),
            lambda a=around: radius * np.cos(_within(a, 6)) - np.float32(0.8),
            lambda a=around: radius * np.cos(_within(a, 4)) ** 0.8 - np.float32(0.7),
        )[kind]
        distance = np.maximum(outline(), np.float32(inner) - radius)
        if holes > 3:
            off = _within(around, holes)
            to_hole = length(radius * np.cos(off) - np.float32(seat), radius * np.sin(off))
            distance = np.maximum(distance, np.float32(bolt) - to_hole)
        level = np.clip(-distance * 6, 0, 1) * np.float32(0.6)
        level += np.float32(0.4) * np.clip((np.float32(rim) - radius) * 8, 0, 1)
        stamps.append(np.stack([cover(distance, edge * 1.2), level]))
    return stamps


def _within(angle: np.ndarray, sectors: int) -> np.ndarray:
    """Angles from the middle of the sector that they lie in."""
    sector = np.float32(TURN / sectors)
    return angle - sector * np.floor(angle / sector + np.float32(0.5))


def _put(
    field: np.ndarray, stamp: np.ndarray, y: float, x: float, share: np.ndarray | None = None
) -> None:
    """Lay a stamp around a place of a field: the higher of both, or by a share of it."""
    top, left = round(y - len(stamp) / 2), round(x - stamp.shape[1] / 2)
    rows = slice(max(0, top), min(len(field), top + len(stamp)))
    columns = slice(max(0, left), min(field.shape[1], left + stamp.shape[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    inner = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    here = field[rows, columns]
    if share is None:
        np.maximum(here, stamp[inner], out=here)
    else:
        here += share[inner] * (stamp[inner] - here)


def _shank(rng: Rng, canvas: int, long: float, wide: float) -> tuple[np.ndarray, np.ndarray]:
    """A screw, pin or spring along x: outline and height (canvas, canvas)."""
    y, x = np.mgrid[:canvas, :canvas].astype(np.float32) - np.float32(canvas / 2)
    radius = np.full(canvas, 0.3 * wide, np.float32)
    place = x[0] + np.float32(long / 2)
    head = long * rng.uniform(0.06, 0.18)
    pitch = max(2.5, wide * rng.uniform(0.15, 0.5))
    phase = place / pitch
    slant = y * np.float32(rng.uniform(-0.5, 0.5) / wide)
    thread = np.abs(phase + slant - np.floor(phase + slant + 0.5))
    threaded = place > long * rng.choice([0.2, 0.5, 2])
    radius = radius + np.where(threaded, thread * np.float32(0.25 * wide), 0)
    radius = np.where(place < head, np.float32(0.48 * wide), radius)
    tip = (np.float32(long) - place) * np.float32(rng.choice([0.5, 1, 4]))
    radius = np.where(place > 0, np.minimum(radius, tip), -1)
    square = 1 - np.square(y / np.maximum(radius, np.float32(0.5)))
    outline = cover(np.abs(y) - radius)
    return outline, np.sqrt(np.maximum(square, 0)) * np.maximum(radius, 0) / np.float32(wide)
