"""Scenes of parts: arrays of machined parts, hardware, lettering, wires, circuits, cracks."""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from fastad.data.synthesis.texture_parts import (
    TURN,
    Rng,
    coloured,
    log_uniform,
    palette,
    scale,
    shaded,
    smooth_noise,
    stretched,
    turned,
)
from tools.pretrain_teacher.programs.parts import (
    blurred,
    cover,
    dropped,
    flat,
    ground,
    laid,
    lit,
    material,
    slopes,
    tone,
)

FINE = 2  # by how much finer lines are drawn


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


def lettering(rng: Rng, height: int, width: int) -> np.ndarray:
    """Big and small signs, numbers of bars and dials: printed, engraved or raised."""
    side = math.ceil(math.hypot(height, width)) + 2
    picture = Image.new("L", (side * FINE, side * FINE))
    draw = ImageDraw.Draw(picture)
    y = rng.uniform(0, 20)
    while y < side:
        tall = scale(rng, 8, 70, height, width)
        x, kind = rng.uniform(-10, 20), rng.integers(5)
        pen = max(1, round(tall * FINE * rng.uniform(0.06, 0.2)))
        while x < side:
            wide = tall * rng.uniform(0.3, 0.8)
            box = [x * FINE, y * FINE, (x + wide) * FINE, (y + tall) * FINE]
            _sign(rng, draw, box, kind, pen)
            x += wide + tall * rng.uniform(0.1, 0.5)
        y += tall * rng.uniform(1.15, 2)
    angle = rng.choice([0, 0, rng.uniform(0, TURN)])
    ink = np.asarray(picture.reduce(FINE), np.float32) / np.float32(255)
    ink = turned(ink, height, width, angle)
    lower = ground(rng, height, width)
    if rng.random() < 0.5:
        worn = np.clip(
            1 - np.float32(rng.uniform(0, 0.5)) * smooth_noise(rng, height, width, 3), 0, 1
        )
        return laid(lower, ink * worn, tone(rng))
    soft = blurred(ink, rng.uniform(0.5, 2))
    return lit(rng, soft * np.float32(rng.choice([-1, 1]) * rng.uniform(1, 6)), lower)


def cracks(rng: Rng, height: int, width: int) -> np.ndarray:
    """Cracks that branch, or scored grooves, on some ground."""
    picture = Image.new("L", (width * FINE, height * FINE))
    draw = ImageDraw.Draw(picture)
    rough, pen = rng.choice([0.05, 0.25, 0.5]), log_uniform(rng, 0.6, 4)
    waiting = []
    for _ in range(int(rng.integers(2, 9))):
        waiting.append((rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, TURN), pen))
    for _ in range(40):
        if not waiting:
            break
        x, y, angle, pen = waiting.pop()
        steps, reach = int(rng.integers(6, 40)), rng.uniform(2.5, 7)
        angles = angle + np.cumsum(rng.normal(0, rough, steps))
        path = np.cumsum(np.stack([np.cos(angles), np.sin(angles)], -1), 0) * reach + (x, y)
        draw.line((path * FINE).ravel().tolist(), 255, max(1, round(pen * FINE)), joint="curve")
        if pen > 0.6:
            for k in rng.integers(steps, size=rng.integers(4)):
                side = angles[k] + rng.choice([-1, 1]) * rng.uniform(0.4, 1.3)
                waiting.append((*path[k], side, 0.7 * pen))
    share = np.asarray(picture.reduce(FINE), np.float32) / np.float32(255)
    lower = ground(rng, height, width)
    if rng.random() < 0.5:
        return lit(rng, blurred(share, 0.7) * np.float32(-rng.uniform(1, 5)), lower)
    strong = share * np.float32(rng.uniform(0.3, 1))
    dark = flat(height, width, lower.mean((0, 1)) * rng.uniform(0, 0.5))
    return laid(lower, strong, dark if rng.random() < 0.7 else tone(rng))


def wires(rng: Rng, height: int, width: int) -> np.ndarray:
    """Cables, cords or hoses that cross above and below each other."""
    count, wide = int(rng.integers(4, 22)), scale(rng, 3, 26, height, width)
    texture, colours = ground(rng, height, width), palette(rng)
    level, owner = np.zeros((2, height * FINE, width * FINE), np.uint8)
    for k in range(1, count + 1):
        start, end = rng.uniform(-0.2, 1.2, (2, 2)) * (width, height)
        if rng.random() < 0.7:  # from edge to edge
            start[0], end[0] = -0.1 * width, 1.1 * width
        t = np.linspace(0, 1, 40)[:, None]
        bend = rng.normal(0, 0.25 * min(height, width), (2, 2))
        path = (1 - t) * start + t * end + np.sin(math.pi * t) * bend[0]
        path = path + np.sin(2 * math.pi * t) * bend[1]
        line = (path * FINE).ravel().tolist()
        body, thick = Image.fromarray(level), wide * rng.uniform(0.7, 1)
        pens = ImageDraw.Draw(body), Image.fromarray(owner)
        for share in (1, 0.8, 0.6, 0.4, 0.2):
            tall = math.sqrt(1 - 0.95 * share * share)
            pens[0].line(
                line, round(255 * tall), max(1, round(thick * share * FINE)), joint="curve"
            )
        ImageDraw.Draw(pens[1]).line(line, k, max(1, round(thick * FINE)), joint="curve")
        level, owner = np.asarray(body), np.asarray(pens[1])
    height_map = np.asarray(Image.fromarray(level).reduce(FINE), np.float32) / np.float32(255)
    owner = owner[::FINE, ::FINE]
    share = np.asarray(Image.fromarray(np.uint8(owner > 0) * 255), np.float32) / 255
    texture = dropped(rng, texture, share)
    albedo = coloured(rng.random(256, np.float32)[owner], colours)
    return laid(texture, share, lit(rng, blurred(height_map, 0.7) * np.float32(wide / 2), albedo))


def circuits(rng: Rng, height: int, width: int) -> np.ndarray:
    """Tracks at right angles and 45 degrees, pads, chips with legs."""
    step = max(4, round(scale(rng, 5, 20, height, width)))
    picture = Image.new("L", (width * FINE, height * FINE))
    draw, pen = ImageDraw.Draw(picture), max(1, round(step * FINE * rng.uniform(0.2, 0.5)))
    rows, columns = height // step + 1, width // step + 1
    directions = np.array([(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)])
    pads = []
    for _ in range(int(min(70, rows * columns / 8))):
        place = np.array([rng.integers(columns), rng.integers(rows)])
        path, way = [place], int(rng.integers(4)) * 2
        for _ in range(int(rng.integers(1, 5))):
            place = place + directions[way] * int(rng.integers(1, 9))
            path.append(place)
            way = (way + int(rng.choice([-1, 1]))) % 8
        line = np.array(path) * step * FINE
        draw.line(line.ravel().tolist(), 150, pen, joint="curve")
        pads += [line[0], line[-1]]
    radius = step * FINE * rng.uniform(0.3, 0.6)
    for x, y in pads:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), 255)
        draw.ellipse((x - radius / 3, y - radius / 3, x + radius / 3, y + radius / 3), 0)
    levels = np.asarray(picture.reduce(FINE), np.float32) / np.float32(255)
    lower, inks = ground(rng, height, width), palette(rng).astype(np.float32)
    texture = laid(lower, np.minimum(levels * np.float32(1.7), 1), inks[rng.integers(256)])
    texture = laid(texture, np.clip(levels * 3 - 2, 0, 1), inks[rng.integers(256)])
    for _ in range(int(rng.integers(0, 5))):
        high, wide = (int(step * rng.integers(2, 7)) for _ in range(2))
        top, left = int(rng.integers(-high, height)), int(rng.integers(-wide, width))
        y, x = np.ogrid[:height, :width]
        body = np.maximum(
            np.abs(x - left - wide / 2) - wide / 2, np.abs(y - top - high / 2) - high / 2
        )
        leg = (np.abs(y - top - high / 2) < high / 2 + step / 2) & (
            (x - left) // (step / 2) % 2 > 0
        )
        legs = (leg & (np.abs(x - left - wide / 2) < wide / 2)).astype(np.float32)
        share = cover(body.astype(np.float32))
        texture = laid(dropped(rng, texture, np.maximum(share, legs)), legs, np.float32(200))
        texture = laid(texture, share, np.float32(rng.uniform(10, 80)))
    return texture


def closeup(rng: Rng, height: int, width: int) -> np.ndarray:
    """One round thing from above: rims, faces and holes around a point, glossy or dull."""
    y, x = np.ogrid[:height, :width]
    middle = rng.uniform(0.35, 0.65, 2) * (width, height)
    squeeze = rng.uniform(0.8, 1.25)
    x, y = np.float32(x - middle[0]) * np.float32(squeeze), np.float32(y - middle[1])
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
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
        gleam = np.cos(angle * int(rng.integers(1, 4)) + np.float32(rng.uniform(0, TURN))) ** 8
        across, down = slopes(field)
        body = laid(body, gleam * np.clip(np.hypot(across, down), 0, 1), np.float32(255))
    share = cover(radius - np.float32(outer))
    return laid(dropped(rng, ground(rng, height, width), share), share, body)


def panels(rng: Rng, height: int, width: int) -> np.ndarray:
    """Plates, labels and windows laid over each other, each of a texture of its own."""
    texture = ground(rng, height, width)
    for _ in range(int(rng.integers(3, 9))):
        y, x = np.ogrid[:height, :width]
        dx, dy = np.float32(x - rng.uniform(0, width)), np.float32(y - rng.uniform(0, height))
        angle = rng.choice([0, 0, rng.uniform(0, TURN)])
        u = np.abs(dx * math.cos(angle) + dy * math.sin(angle))
        v = np.abs(dy * math.cos(angle) - dx * math.sin(angle))
        wide, high = (scale(rng, 8, 110, height, width) for _ in range(2))
        corner = min(wide, high) * rng.choice([0, 0.2, 0.9])
        a, b = np.maximum(u - (wide - corner), 0), np.maximum(v - (high - corner), 0)
        share = cover(np.hypot(a, b) - np.float32(corner + 0.5))
        if rng.random() < 0.6:
            texture = dropped(rng, texture, share)
        face = ground(rng, height, width) if rng.random() < 0.6 else tone(rng)
        texture = laid(texture, share * np.float32(rng.choice([1, 1, 0.6])), face)
    return texture


def _stamps(rng: Rng, size: int, count: int) -> list[np.ndarray]:
    """A part at angles at random: each its outline and its height, (2, size, size) from 0 to 1."""
    y, x = (np.mgrid[:size, :size].astype(np.float32) + np.float32(0.5)) * (2 / size) - 1
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
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
            to_hole = np.hypot(radius * np.cos(off) - np.float32(seat), radius * np.sin(off))
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


def _sign(rng: Rng, draw: ImageDraw.ImageDraw, box: list[float], kind: int, pen: int) -> None:
    """A sign within a box: a letter of lines or arcs, a bar, a dial, a block."""
    x0, y0, x1, y1 = box
    if kind == 0:  # bars of all widths
        draw.rectangle((x0, y0, x0 + (x1 - x0) * rng.uniform(0.1, 0.8), y1), 255)
    elif kind == 1:
        draw.ellipse(box, outline=255, width=pen)
        angle = rng.uniform(0, TURN)
        middle, reach = ((x0 + x1) / 2, (y0 + y1) / 2), (x1 - x0) / 2
        tip = (middle[0] + reach * math.cos(angle), middle[1] + reach * math.sin(angle))
        draw.line((*middle, *tip), 255, pen)
    else:
        for _ in range(int(rng.integers(2, 5))):
            a, b = rng.choice([x0, (x0 + x1) / 2, x1], 2), rng.choice([y0, (y0 + y1) / 2, y1], 2)
            if kind == 2 and a[0] != a[1] and b[0] != b[1]:
                arc = (min(a), min(b), max(a), max(b))
                draw.arc(arc, *sorted(rng.integers(0, 361, 2).tolist()), 255, pen)
            else:
                draw.line((a[0], b[0], a[1], b[1]), 255, pen)
