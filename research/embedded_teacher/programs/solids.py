"""Solid bodies in the light of a lamp: height fields from formulas, shaded with their normals."""

import math

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt

from fastad.data.synthesis.texture_parts import (
    TURN,
    Rng,
    coloured,
    fractal_noise,
    log_uniform,
    palette,
    scale,
    shaded,
    smooth_noise,
    stretched,
    turned,
    turned_coordinates,
)
from research.embedded_teacher.programs.parts import (
    ground,
    laid,
    length,
    lit,
    material,
    plane,
    waviness,
)


def bumps(rng: Rng, height: int, width: int) -> np.ndarray:
    """A rough surface: hills, ridges or folds of one material or in the tones of their height."""
    grain = scale(rng, 5, 120, height, width)
    field = fractal_noise(
        rng, height, width, max(4, grain), rng.uniform(0.3, 0.6), ridged=rng.random() < 0.4
    )
    if rng.random() < 0.3:
        field = np.minimum(field, np.float32(0.3))  # plateaus
    if rng.random() < 0.3:
        albedo = coloured(stretched(field), palette(rng))
    else:
        albedo = material(rng, height, width)
    return lit(rng, field * np.float32(grain * rng.uniform(0.15, 0.6)), albedo)


def bodies(rng: Rng, height: int, width: int) -> np.ndarray:
    """Spheres, cones, blocks, pyramids and rings that lie there or grow out of the ground."""
    field = np.zeros((height, width), np.float32)
    texture = ground(rng, height, width).copy()
    largest = scale(rng, 14, 70, height, width)
    inks = palette(rng)
    for _ in range(int(rng.integers(4, 26))):
        size = max(3.0, largest * rng.uniform(0.35, 1))
        reach = math.ceil(size * 1.5)
        x, y = int(rng.integers(width)), int(rng.integers(height))
        rows = slice(max(0, y - reach), min(height, y + reach))
        columns = slice(max(0, x - reach), min(width, x + reach))
        dy, dx = np.ogrid[rows, columns]
        body = _body(rng, np.float32(dx - x) / size, np.float32(dy - y) / size) * np.float32(size)
        above = body > field[rows, columns]
        field[rows, columns] = np.where(above, body, field[rows, columns])
        texture[rows, columns][above] = inks[rng.integers(256)]
    return lit(rng, field, texture)


def bevels(rng: Rng, height: int, width: int) -> np.ndarray:
    """Outlines raised out of a plate or cut into it: chamfered, rounded, or as narrow grooves."""
    if rng.random() < 0.4:
        level = fractal_noise(rng, height, width, scale(rng, 30, 120, height, width), 0.35)
        inside = level > np.float32(rng.uniform(-0.4, 0.6))
    else:
        inside = _polygons(rng, height, width)
    inside[:1, :1] = ~inside[-1:, -1:]  # never all inside or all outside
    edge = log_uniform(rng, 2, 14)
    distance = distance_transform_edt(inside).astype(np.float32)
    if rng.random() < 0.3:
        distance = np.abs(distance - np.float32(edge))  # a groove along the outline
    ramp = np.minimum(distance / np.float32(edge), 1)
    kind = rng.integers(3)
    profile = (ramp, np.sqrt(ramp * (2 - ramp)), ramp * ramp * (3 - 2 * ramp))[kind]
    steep = edge * rng.uniform(0.3, 1.2) * rng.choice([-1, 1])
    field = profile * np.float32(steep)
    if rng.random() < 0.5:
        field = field + np.float32(0.3) * smooth_noise(rng, height, width, log_uniform(rng, 1.5, 6))
    albedo = material(rng, height, width)
    if rng.random() < 0.4:
        albedo = laid(albedo, ramp, material(rng, height, width))
    return lit(rng, field, albedo)


def lathe(rng: Rng, height: int, width: int) -> np.ndarray:
    """Turned parts side by side: shafts with collars, necks, tapers, threads, knurls."""
    u, v = turned_coordinates(rng, height, width, 1)
    u -= u.mean()
    wide = scale(rng, 14, 120, height, width)
    lane = np.floor(v / np.float32(wide))
    across = (v / np.float32(wide) - lane - np.float32(0.5)) * np.float32(wide)
    along = u + lane * np.float32(rng.uniform(0, wide))
    radius = np.zeros_like(u)
    place = np.int32(np.floor(along)) % 1024
    profile = np.empty(1024, np.float32)
    start = 0
    while start < 1024:
        stop = min(1024, start + int(log_uniform(rng, 6, 160)))
        run, kind = np.arange(stop - start, dtype=np.float32), rng.integers(4)
        base = wide * rng.uniform(0.22, 0.46)
        piece = np.full(stop - start, base, np.float32)
        if kind == 1:
            piece += run / len(run) * np.float32(wide * rng.uniform(-0.12, 0.05))
        elif kind == 2:  # grooves
            pitch = log_uniform(rng, 3, 14)
            piece -= np.abs(run / pitch - np.floor(run / pitch + 0.5)) * np.float32(0.7 * pitch)
        elif kind == 3:
            piece += np.sin(run / len(run) * np.float32(math.pi)) * np.float32(0.08 * wide)
        profile[start:stop] = np.minimum(piece, 0.49 * wide)
        start = stop
    radius = profile[place]
    if rng.random() < 0.5:  # a thread all along, oblique to the axis
        pitch = log_uniform(rng, 4, 14)
        phase = (along + across * np.float32(pitch / wide / 2)) / np.float32(pitch)
        radius = radius - np.abs(phase - np.floor(phase + np.float32(0.5))) * np.float32(pitch)
    square = radius * radius - across * across
    field = np.sqrt(np.maximum(square, 0))
    if rng.random() < 0.3:
        pitch = np.float32(log_uniform(rng, 2, 5))
        field = field + np.sin((along + across) / pitch) * np.sin((along - across) / pitch)
    texture = ground(rng, height, width)
    solid = np.clip(square / np.float32(wide), 0, 1)
    albedo = laid(texture, solid, material(rng, height, width))
    return lit(rng, field, albedo, rng.uniform(0.4, 1))


def drilled(rng: Rng, height: int, width: int) -> np.ndarray:
    """A plate with rows of holes, countersinks, slots, bosses or studs."""
    pitch = scale(rng, 14, 90, height, width)
    u, v = turned_coordinates(rng, height, width, pitch)
    row = np.floor(v)
    u = u + np.float32(rng.choice([0, 0.5])) * (row % 2)
    x = (u - np.floor(u) - np.float32(0.5)) * np.float32(rng.uniform(0.4, 1))
    y = v - row - np.float32(0.5)
    long = np.float32(rng.choice([0, 0, 0.15]))
    distance = length(np.maximum(np.abs(x) - long, 0), y)
    radius, edge = rng.uniform(0.12, 0.3), rng.uniform(0.04, 0.15)
    ramp = np.clip((distance - np.float32(radius)) / np.float32(edge), 0, 1)
    if rng.random() < 0.3:  # a second step inside
        inner = np.clip((distance - np.float32(0.5 * radius)) / np.float32(0.03), 0, 1)
        ramp = (ramp + inner) / 2
    sign = rng.choice([1, 1, -1])
    depth = pitch * edge * rng.uniform(0.6, 1.5)
    plate = material(rng, height, width)
    if sign > 0 and rng.random() < 0.6:
        plate = shaded(plate, np.float32(0.25) + np.float32(0.75) * (ramp > 0.02))
    field = ramp * np.float32(sign * depth)
    if rng.random() < 0.4:
        field = field + np.float32(0.4) * smooth_noise(
            rng, height, width, 2, log_uniform(rng, 1, 30)
        )
    return lit(rng, field, plate)


def embossed(rng: Rng, height: int, width: int) -> np.ndarray:
    """A sheet with a pressed pattern: corrugated, diamond plate, pyramids, hammered, quilted."""
    pitch = scale(rng, 6, 60, height, width)
    u, v = turned_coordinates(rng, height, width, pitch)
    if rng.random() < 0.4:
        bend = waviness(rng, height, width)
        u, v = u + np.float32(0.2) * bend, v + np.float32(0.2) * bend
    kind = rng.integers(5)
    x, y = 2 * (u - np.floor(u)) - 1, 2 * (v - np.floor(v)) - 1
    if kind == 0:
        field = np.sin(np.float32(TURN) * u) + np.float32(0.1) * np.sin(np.float32(TURN) * v)
    elif kind == 1:  # bars, in turn along and across
        swap = (np.floor(u) + np.floor(v)) % 2 > 0
        a, b = np.where(swap, x, y), np.where(swap, y, x)
        field = np.sqrt(np.maximum(0, 1 - np.square(a / np.float32(0.85)) - np.square(b / 0.3)))
    elif kind == 2:
        field = 1 - np.maximum(np.abs(x), np.abs(y))
    elif kind == 3:
        field = np.minimum(np.sqrt(np.minimum(x * x + y * y, 1)), np.float32(0.8))
    else:
        field = np.sqrt(np.abs(np.sin(np.float32(math.pi) * u) * np.sin(np.float32(math.pi) * v)))
    steep = pitch * rng.uniform(0.08, 0.35) * rng.choice([-1, 1])
    return lit(rng, field * np.float32(steep), material(rng, height, width))


def crumpled(rng: Rng, height: int, width: int) -> np.ndarray:
    """Crumpled paper or foil, cut stone: facets that meet in sharp edges."""
    x, y = plane(rng, height, width)
    field = np.zeros((height, width), np.float32)
    for k in range(int(rng.integers(4, 12))):
        angle, period = rng.uniform(0, TURN), log_uniform(rng, 0.25, 1.5)
        line = (x * math.cos(angle) + y * math.sin(angle)) / period + np.float32(rng.random())
        if k % 2:
            line = line + field / np.float32(2 * period)  # earlier folds bend the later ones
        field = field + np.abs(line - np.floor(line) - np.float32(0.5)) * np.float32(period)
    field = field + np.float32(0.05) * waviness(rng, height, width)
    steep = min(height, width) / 2 * rng.uniform(0.1, 0.5)
    return lit(rng, field * np.float32(steep), material(rng, height, width))


def pile(rng: Rng, height: int, width: int) -> np.ndarray:
    """Balls, grains or lentils heaped up, of one size or several."""
    size = scale(rng, 5, 34, height, width)
    count = int(min(350, 2.5 * height * width / (size * size)))
    shrink, flat = rng.uniform(0.4, 1), rng.uniform(0.4, 1)
    field = np.zeros((height, width), np.float32)
    owner = np.zeros((height, width), np.intp)
    stamps = []
    for share in np.linspace(shrink, 1, 4):
        radius = max(2.0, size * share)
        half = math.ceil(radius * 1.3)
        y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
        for _ in range(3):
            a = rng.uniform(0, TURN)
            u, v = x * math.cos(a) + y * math.sin(a), y * math.cos(a) - x * math.sin(a)
            square = 1 - np.square(u / radius) - np.square(v / np.float32(radius * flat))
            stamps.append(np.float32(radius * flat) * np.sqrt(np.maximum(square, 0)))
    lefts, tops = rng.integers(width, size=count), rng.integers(height, size=count)
    lifts, chosen = size * rng.uniform(0, 1.2, count), rng.integers(len(stamps), size=count)
    for k, (left, top, lift, which) in enumerate(zip(lefts, tops, lifts, chosen, strict=True), 1):
        stamp = stamps[which]
        half = len(stamp) // 2
        rows = slice(max(0, top - half), min(height, top + half + 1))
        columns = slice(max(0, left - half), min(width, left + half + 1))
        first, second = rows.start - top + half, columns.start - left + half
        body = stamp[first : first + rows.stop - rows.start, second:]
        body = body[:, : columns.stop - columns.start]
        here = field[rows, columns]
        above = (body > 0) & (body + np.float32(lift) > here)
        here[above] = body[above] + np.float32(lift)
        owner[rows, columns][above] = k
    tones = rng.random(count + 1, np.float32) * np.float32(rng.uniform(0, 1))
    return lit(rng, field, coloured(tones[owner], palette(rng)), rng.uniform(0.5, 1))


def grooved(rng: Rng, height: int, width: int) -> np.ndarray:
    """A machined face: rings of a lathe, arcs of a mill, saw marks, with steps in between."""
    x, y = plane(rng, height, width)
    kind = rng.integers(3)
    pitch = log_uniform(rng, 0.015, 0.15)
    if kind == 0:
        phase = length(x, y)
    elif kind == 1:
        phase = x - np.float32(rng.uniform(0.2, 0.6)) * y * y
    else:
        phase = x + np.float32(0.02) * waviness(rng, height, width)
    phase = phase / np.float32(pitch)
    line = smooth_noise(rng, 1, 2048, log_uniform(rng, 2, 12))[0]
    tones = line[np.int32(phase * 6 + 1024) % 2048]
    wave = np.sin(np.float32(TURN) * phase) * np.float32(rng.uniform(0, 1))
    field = wave + tones * np.float32(rng.uniform(0.2, 1))
    step = np.floor(phase * np.float32(rng.uniform(0.03, 0.12)))
    field = field * np.float32(rng.uniform(0.3, 1.5)) + step * np.float32(rng.choice([0, 0, 3]))
    return lit(rng, field, material(rng, height, width))


def _body(rng: Rng, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Height of a body of radius 1 around the origin."""
    angle = rng.uniform(0, TURN)
    x, y = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    kind = rng.integers(6)
    radius = length(x, y)
    if kind == 0:
        return np.sqrt(np.maximum(1 - radius * radius, 0))
    if kind == 1:
        return np.maximum(1 - radius, 0)
    if kind == 2:
        square = np.maximum(np.abs(x), np.abs(y) * np.float32(rng.uniform(1, 2.5)))
        return np.clip((1 - square) * np.float32(rng.uniform(2, 12)), 0, rng.uniform(0.2, 0.6))
    if kind == 3:
        return np.maximum(1 - np.abs(x) - np.abs(y), 0)
    if kind == 4:
        thick = rng.uniform(0.15, 0.35)
        return np.sqrt(np.maximum(thick**2 - np.square(radius - np.float32(0.7)), 0))
    return np.clip((1 - radius) * 8, 0, np.float32(rng.uniform(0.2, 0.7)))


def _polygons(rng: Rng, height: int, width: int) -> np.ndarray:
    """Where a handful of polygons, discs and bars are: bool (H, W), some cut out of others."""
    side = math.ceil(math.hypot(height, width)) + 2
    picture = Image.new("L", (side, side))
    draw, largest = ImageDraw.Draw(picture), max(6.0, side / 5)
    for _ in range(int(rng.integers(4, 18))):
        x, y = rng.uniform(0, side, 2).tolist()
        size, ink = rng.uniform(0.25, 1) * largest, 255 * int(rng.random() < 0.75)
        kind = rng.integers(3)
        if kind == 0:
            draw.ellipse((x - size, y - size, x + size, y + size), ink)
        elif kind == 1:
            long = size * rng.uniform(0.3, 2.5)
            draw.rectangle((x - long, y - size / 2, x + long, y + size / 2), ink)
        else:
            sides, start = int(rng.integers(3, 8)), rng.uniform(0, 360)
            draw.regular_polygon((x, y, size), sides, start, ink)
    return turned(np.asarray(picture), height, width, rng.uniform(0, TURN)) > 127
