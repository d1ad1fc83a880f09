"""Thin things on a ground: lettering, cracks, wires, circuits."""

import math

import numpy as np
from PIL import Image, ImageDraw

from fastad.data.synthesis.texture_parts import (
    TURN,
    Rng,
    coloured,
    log_uniform,
    palette,
    scale,
    smooth_noise,
    turned,
)
from research.embedded_teacher.programs.parts import (
    blurred,
    dropped,
    flat,
    ground,
    laid,
    lit,
    tone,
)

FINE = 2  # by how much finer lines are drawn


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
    soft = blurred(ink, rng.uniform(0.4, 1.2))
    return lit(rng, soft * np.float32(rng.choice([-1, 1]) * rng.uniform(2, 8)), lower)


def cracks(rng: Rng, height: int, width: int) -> np.ndarray:
    """Cracks that branch, or scored grooves, on some ground."""
    picture = Image.new("L", (width * FINE, height * FINE))
    draw = ImageDraw.Draw(picture)
    rough, pen = rng.choice([0.05, 0.25, 0.5]), log_uniform(rng, 0.8, 4)
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
        return lit(rng, blurred(share, 0.7) * np.float32(-rng.uniform(2, 8)), lower)
    strong = share * np.float32(rng.uniform(0.3, 1))
    dark = flat(height, width, lower.mean((0, 1)) * rng.uniform(0, 0.5))
    return laid(lower, strong, dark if rng.random() < 0.7 else tone(rng))


def wires(rng: Rng, height: int, width: int) -> np.ndarray:
    """Cables, cords or hoses that cross above and below each other."""
    count, wide = int(rng.integers(4, 16)), scale(rng, 3, 26, height, width)
    texture, colours = ground(rng, height, width), palette(rng)
    size = (width * FINE, height * FINE)
    level, owner = Image.new("L", size), Image.new("L", size)
    draw, note = ImageDraw.Draw(level), ImageDraw.Draw(owner)
    t = np.linspace(0, 1, 24)[:, None]
    for k in range(1, count + 1):
        start, end = rng.uniform(-0.2, 1.2, (2, 2)) * (width, height)
        if rng.random() < 0.7:  # from edge to edge
            start[0], end[0] = -0.1 * width, 1.1 * width
        bend = rng.normal(0, 0.25 * min(height, width), (2, 2))
        path = (1 - t) * start + t * end + np.sin(math.pi * t) * bend[0]
        path = path + np.sin(2 * math.pi * t) * bend[1]
        line, thick = (path * FINE).ravel().tolist(), wide * FINE * rng.uniform(0.7, 1)
        note.line(line, k, max(1, round(thick)), joint="curve")
        for share in (1, 0.8, 0.6, 0.4, 0.2):
            tall = round(255 * math.sqrt(1 - 0.95 * share * share))
            draw.line(line, tall, max(1, round(thick * share)))
    height_map = np.asarray(level.reduce(FINE), np.float32) / np.float32(255)
    covered = owner.point([0] + [255] * 255).reduce(FINE)
    share = np.asarray(covered, np.float32) / np.float32(255)
    owner = np.asarray(owner)[::FINE, ::FINE]
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
    return _chips(rng, texture, step)


def _chips(rng: Rng, texture: np.ndarray, step: int) -> np.ndarray:
    """None to four dark chips with legs above and below."""
    height, width = texture.shape[:2]
    bodies, legs = Image.new("L", (width, height)), Image.new("L", (width, height))
    for _ in range(int(rng.integers(0, 5))):
        high, wide = (step * int(rng.integers(2, 7)) for _ in range(2))
        top, left = int(rng.integers(-high, height)), int(rng.integers(-wide, width))
        for x in range(left + 1, left + wide - step // 2, step):
            box = (x, top - step // 2, x + step // 2, top + high + step // 2)
            ImageDraw.Draw(legs).rectangle(box, 255)
        ImageDraw.Draw(bodies).rectangle((left, top, left + wide, top + high), 255)
    share, metal = (np.asarray(p, np.float32) / np.float32(255) for p in (bodies, legs))
    texture = laid(dropped(rng, texture, np.maximum(share, metal)), metal, np.full(3, 200))
    return laid(texture, share, np.full(3, rng.uniform(10, 80)))


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
        across, down = (x0, (x0 + x1) / 2, x1), (y0, (y0 + y1) / 2, y1)
        for i, j, k, m in rng.integers(3, size=(rng.integers(2, 5), 4)).tolist():
            if kind == 2 and i != j and k != m:
                arc = (across[min(i, j)], down[min(k, m)], across[max(i, j)], down[max(k, m)])
                draw.arc(arc, 90 * i, 90 * i + 90 * (k + 1), 255, pen)
            else:
                draw.line((across[i], down[k], across[j], down[m]), 255, pen)
