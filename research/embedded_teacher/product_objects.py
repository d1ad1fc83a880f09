"""Held-out products that are objects, seen from above: drawings, and where the object is.

Each gives both for a generator of what all images of the product share, and one of the image.
"""

import math

import numpy as np

from fastad.data.synthesis.texture_parts import TURN, Rng
from research.embedded_teacher.product_parts import (
    FINE,
    SIZE,
    Pose,
    artwork,
    box,
    cover,
    glyph,
    grey,
    length,
    noise,
    over,
    relief,
    ridge,
    tinted,
)

Drawn = tuple[np.ndarray, np.ndarray]


def bottle(kind: Rng, rng: Rng) -> Drawn:
    """The mouth of a dark bottle: glossy rings with reflections that stand still."""
    u, v = Pose.draw(rng, 4, math.pi, 0.02).coordinates()
    r, turn = length(u, v), np.arctan2(v, u)
    x, y = Pose.draw(rng, 4, 0).coordinates()
    light = np.arctan2(y, x)
    glass = 0.10 + 0.02 * noise(rng, 40) + 0.05 * np.cos(light - 1)
    for radius in (108, 98, 86, 74, 63, 56, 49):
        gleam = kind.uniform(0.15, 0.6) * np.clip(np.cos(kind.integers(1, 4) * light - 2), 0, 1)
        gleam += kind.uniform(0.02, 0.12) + 0.04 * np.cos(5 * turn + kind.uniform(0, TURN))
        gleam *= 1 + 0.25 * noise(rng, 12)
        wander = radius + rng.normal(0, 0.5) - r
        glass += gleam * ridge(wander, kind.uniform(1, 5))
    throat = cover(r - 45, 2)
    glass += throat * (0.02 * noise(rng, 25) + 0.10 * ridge(r - 20, 12) - 0.05)
    colour = kind.uniform((0.8, 0.75, 0.6), (1.0, 1.0, 1.0))
    bottle = tinted(glass, colour) + np.float32((0.03, 0.015, 0.0))[:, None, None]
    back = tinted(0.93 - 0.01 * np.abs(noise(rng, 50)), (1, 1, 1))
    return over(back, cover(r - 113), bottle), r < 112


def commutator(kind: Rng, rng: Rng) -> Drawn:
    """A cylinder of copper bars with slots between, at any turn; turned, so speckled in lines."""
    _, v = Pose.draw(rng, 5, 0.01, 0).coordinates()
    u, _ = Pose.draw(rng, 0, 0.02, 0).coordinates()
    bend = np.arcsin(np.clip(v / 150, -1, 1))
    bars = bend / kind.uniform(0.13, 0.22) + rng.random()
    place = bars - np.floor(bars)
    slot = ridge(np.minimum(place, 1 - place), 0.06)
    shade = 0.30 + 0.35 * np.cos(bend - 0.3) ** 2 + 0.05 * noise(rng, 1.5, 0.6)
    shade += rng.uniform(0.02, 0.05) * noise(rng, 40, 0.05) + 0.03 * noise(rng, 3, 20)
    shade *= 1 + 0.08 * noise(rng, 200, 0.25)
    shade -= 0.3 * slot * (1 + 0.15 * noise(rng, 6))
    end = kind.uniform(85, 100)
    shade = np.where(u > end, 0.75 * shade + 0.05 * noise(rng, 2), shade)
    shade -= 0.2 * ridge(u - end, 2)
    return grey(shade), np.abs(v) < 122


def screw(kind: Rng, rng: Rng) -> Drawn:
    """A screw in any direction on a pale table."""
    pose = Pose.draw(rng, 10, math.pi, 0.02)
    u, v = pose.coordinates()
    pitch, shaft = kind.uniform(7, 10), kind.uniform(11, 14)
    wave = (u + rng.uniform(0, pitch)) / pitch
    thread = np.abs(2 * (wave + 0.5 * v / shaft * 0.5 - np.floor(wave + 0.25 * v / shaft)) - 1)
    threaded = (u > -25) * np.float32(1)
    radius = shaft - threaded * 3.5 * (1 - thread) - 0.9 * np.maximum(u - 85, 0)
    body = np.maximum(np.abs(v) - radius, box(u, v, 98, 40))
    head = box(u + 88, v, 13, 28, 5)
    flank = (
        0.45
        + 0.3 * threaded * (thread - 0.5)
        + 0.35
        * np.sqrt(np.clip(1 - np.square(v / (shaft + 1)), 0, 1))
        * np.cos(2 * pose.angle + v / 7)
    )
    cap = 0.55 + 0.2 * np.cos(v / 9 + pose.angle) - 0.1 * ridge(v, 2)
    metal = np.where(head < 0, cap, flank) + 0.04 * noise(rng, 2) + 0.03 * noise(rng, 20)
    distance = np.minimum(body, head)
    table = 0.82 + 0.015 * noise(rng, 30) - 0.35 * np.exp(-np.maximum(distance - 1, 0) / 5)
    shade = table + cover(distance) * (metal - table)
    return grey(shade), distance < 0


def gear(kind: Rng, rng: Rng) -> Drawn:
    """A sintered gear on a dark table: teeth, bore, holes, pressed rim."""
    u, v = Pose.draw(rng, 5, 0.3, 0.01).coordinates()
    r, turn = length(u, v), np.arctan2(v, u)
    teeth, holes = int(kind.integers(16, 30)), int(kind.integers(3, 7))
    depth = kind.uniform(6, 11)
    outline = r - 102 - depth * np.tanh(2 * np.sin(teeth * turn))
    sector = (turn * (holes / TURN)) % 1 - 0.5
    angle = sector * np.float32(TURN / holes)
    hole = 17 - length(r * np.cos(angle) - 62, r * np.sin(angle))
    bore = 24 - r + 6 * (np.cos(turn) > 0.97)
    distance = np.maximum(np.maximum(outline, hole), bore)
    shade = 0.55 + rng.uniform(0.03, 0.07) * noise(rng, 1.6) + 0.04 * noise(rng, 25)
    shade += 0.06 * np.tanh((r - 86) / 2)
    light = np.cos(np.arctan2(v, u) - rng.uniform(-0.3, 0.3))
    shade += 0.2 * light * (ridge(r - 86, 2) - ridge(outline + 2, 2) + ridge(hole + 2, 2))
    table = 0.2 + 0.02 * noise(rng, 3) - 0.1 * np.exp(-np.maximum(distance, 0) / 6)
    return grey(table + cover(distance) * (shade - table)), distance < 0


def gasket(kind: Rng, rng: Rng) -> Drawn:
    """A flat rubber gasket with bolt eyes and a bead, on paper: bends a little."""
    u, v = Pose.draw(rng, 8, 0.15).coordinates()
    u, v = u + 1.5 * noise(rng, 120), v + 1.5 * noise(rng, 120)
    wide, high = kind.uniform(82, 100), kind.uniform(60, 80)
    frame = np.abs(box(u, v, wide, high, 35)) - 12
    eyes = length(np.abs(u) - wide + 6, np.abs(v) - high + 6)
    distance = np.maximum(np.minimum(frame, eyes - 24), 10 - eyes)
    shade = 0.20 + 0.03 * noise(rng, 1.5) + 0.03 * noise(rng, 18)
    shade += 0.12 * ridge(frame + 12 - 2, 2) - 0.08 * ridge(frame + 12 + 2, 2)
    shade += 0.1 * np.clip(noise(rng, 6) - 2, 0, 1)  # dust
    paper = tinted(0.78 + 0.02 * noise(rng, 2) + 0.02 * noise(rng, 60), (1, 0.97, 0.9))
    paper *= 1 - 0.4 * np.exp(-np.maximum(distance, 0) / 4)
    return over(paper, cover(distance), tinted(shade, (0.9, 0.95, 1.1))), distance < 0


def board(kind: Rng, rng: Rng) -> Drawn:
    """A circuit board: tracks below the varnish, tinned pads, print never quite in place."""
    pose = Pose.draw(rng, 4, 0.02, 0.01)
    copper, pads, printed = artwork(), artwork(), artwork()
    for _ in range(26):
        x, y = (16 * kind.integers(0, 33, 2)).tolist()
        line = [(x, y)]
        for _ in range(int(kind.integers(2, 5))):
            step, way = 16 * int(kind.integers(2, 9)), kind.integers(4)
            dx, dy = ((1, 0), (0, 1), (-1, 1), (1, 1))[way]
            line.append((line[-1][0] + step * dx, line[-1][1] + step * dy))
        copper[1].line(line, 255, int(kind.choice([5, 5, 9])), joint="curve")
        for x, y in (line[0], line[-1]):
            pads[1].ellipse((x - 9, y - 9, x + 9, y + 9), 255)
            pads[1].ellipse((x - 4, y - 4, x + 4, y + 4), 60)
    for x, y in (64 * kind.integers(1, 6, (4, 2))).tolist():
        printed[1].rectangle((x - 14, y - 14, x + 110, y + 62), outline=255, width=3)
        for k in range(5):
            for top in (y - 8, y + 36):
                pads[1].rectangle((x + 20 * k, top, x + 20 * k + 11, top + 22), 255)
        for k in range(3):
            for line in glyph(kind, 14, 20):
                shifted = [(a + x + 10 + 20 * k, b + y - 32) for a, b in line]
                printed[1].line(shifted, 255, 3)
    tracks, tin = pose.picture(copper[0]), pose.picture(pads[0])
    moved = Pose(pose.x + rng.normal(0, 1), pose.y + rng.normal(0, 1), pose.angle, pose.zoom)
    varnish = 0.42 + 0.02 * noise(rng, 2) + 0.02 * noise(rng, 50) + 0.14 * tracks
    varnish += 0.10 * relief(tracks, 0.8)
    drawing = tinted(varnish, kind.uniform((0.1, 0.7, 0.3), (0.35, 0.9, 0.6)))
    solder = 0.72 + 0.12 * noise(rng, 7) + 0.3 * relief(tin, 0.8)
    drawing = over(drawing, tin, tinted(solder, (1, 0.98, 0.93)))
    drawing = over(drawing, 0.9 * moved.picture(printed[0]), (0.92, 0.93, 0.9))
    return drawing, np.ones((SIZE, SIZE), bool)


def label(kind: Rng, rng: Rng) -> Drawn:
    """A printed label: two bands, lines of writing, on paper that is not quite flat."""
    pose = Pose.draw(rng, 5, 0.03, 0.015)
    u, v = pose.coordinates()
    ink, picture = artwork()[::-1]
    for row, tall in enumerate((34, 20, 20, 20, 26)):
        for k in range(int(kind.integers(7, 10)) * 20 // tall + 2):
            x, y = 64 + k * tall * 0.9, 150 + row * 56
            thick = tall // 6
            for line in glyph(kind, 0.6 * tall, tall):
                if x < 430:
                    ink.line([(a + x, b + y) for a, b in line], 255, thick, joint="curve")
    paper = tinted(0.88 + 0.015 * noise(rng, 2) + 0.03 * noise(rng, 80), (1, 0.99, 0.96))
    first, second = kind.uniform(0, 0.7, (2, 3))
    weak = rng.uniform(0.8, 0.95) + 0.03 * noise(rng, 3)
    drawing = over(paper, weak * cover(box(u, v + 88, 104, 14)), first)
    drawing = over(drawing, weak * cover(box(u, v - 94, 104, 4)), second)
    drawing = over(drawing, weak * pose.picture(picture), kind.uniform(0.02, 0.2, 3))
    back = tinted(0.3 + 0.02 * noise(rng, 6), (1, 1.05, 1.1))
    edge = box(u, v, 114, 112, 8)
    return over(back, cover(edge), drawing), edge < 0


def cable(kind: Rng, rng: Rng) -> Drawn:
    """A cable cut across, at any turn: three insulated strands of wires in a sheath."""
    pose = Pose.draw(rng, 6, math.pi, 0.02)
    u, v = pose.coordinates()
    r = length(u, v) + 1.2 * noise(rng, 60)
    sheath = tinted(0.55 + 0.03 * noise(rng, 3), (1, 1, 1.05))
    drawing = over(tinted(0.15 + 0.02 * noise(rng, 40), (1, 1, 1)), cover(r - 112), sheath)
    drawing = over(drawing, cover(r - 98), (0.1, 0.1, 0.1))
    hues = kind.uniform(0.1, 0.75, (3, 3))
    for k in range(3):
        x, y = (49 * f(k * TURN / 3) + rng.normal(0, 1) for f in (math.cos, math.sin))
        du, dv = u - x, v - y
        distance = length(du, dv) + 0.8 * noise(rng, 30)
        drawing = over(drawing, cover(distance - 42), tinted(1 + 0.05 * noise(rng, 3), hues[k]))
        turn, pitch = rng.uniform(0, TURN), 9.0
        a = (du * math.cos(turn) + dv * math.sin(turn)) / pitch + 0.25 * noise(rng, 25)
        b = (dv * math.cos(turn) - du * math.sin(turn)) / (pitch * 0.866) + 0.25 * noise(rng, 25)
        a += 0.5 * (np.floor(b) % 2)
        wire = length(a - np.floor(a) - 0.5, (b - np.floor(b) - 0.5) * 0.866)
        copper = (0.85 - 0.25 * wire + 0.08 * noise(rng, 3)) * cover((wire - 0.46) * pitch, 1.2)
        drawing = over(drawing, cover(distance - 30), tinted(copper + 0.1, (0.95, 0.62, 0.4)))
    return drawing, r < 111


def pill(kind: Rng, rng: Rng) -> Drawn:
    """A coated tablet of two colours with a stamp, in any direction on something dark."""
    pose = Pose.draw(rng, 8, math.pi, 0.02)
    u, v = pose.coordinates()
    distance = box(u, v, 100, 52, 50)
    stamp, picture = artwork()[::-1]
    for k in range(4):
        for line in glyph(kind, 34, 54):
            points = [(a + SIZE * FINE / 2 + 66 * (k - 1.5), b + SIZE) for a, b in line]
            stamp.line(points, 255, 8, joint="curve")
    dome = np.sqrt(np.clip(-distance / 52, 0, 1))
    shade = 0.55 + 0.4 * dome - 0.5 * relief(pose.picture(picture), pose.angle + 0.8)
    shade += 0.04 * (u * math.cos(pose.angle) - v * math.sin(pose.angle)) / 100
    shade += 0.015 * noise(rng, 2)
    first, second = kind.uniform(0.45, 1, (2, 3))
    coat = tinted(shade, first)
    coat = over(coat, cover(u + 2 * noise(rng, 20), 2), tinted(shade, second))
    specks = np.clip(2 * (noise(rng, 2) - rng.uniform(1.9, 2.6)), 0, 1)
    coat = over(coat, 0.5 * specks, kind.uniform(0, 0.5, 3))
    back = tinted(0.12 + 0.02 * noise(rng, 3) + 0.02 * noise(rng, 60), (1, 1, 1.1))
    return over(back, cover(distance), coat), distance < 0


def connector(kind: Rng, rng: Rng) -> Drawn:
    """A socket strip: rows of contacts in a moulded housing."""
    u, v = Pose.draw(rng, 6, 0.04).coordinates()
    columns, rows, pitch = int(kind.integers(4, 7)), int(kind.integers(2, 4)), 34
    wide, high = columns * pitch / 2, rows * pitch / 2
    a, b = (u + wide) / pitch, (v + high) / pitch
    i, j = np.floor(a), np.floor(b)
    inside = (np.abs(u) < wide) & (np.abs(v) < high)
    slack = rng.normal(0, 0.8, (2, 8, 8)).astype(np.float32)
    seat = np.intp(i) % 8, np.intp(j) % 8
    du, dv = (a - i - 0.5) * pitch, (b - j - 0.5) * pitch
    body = box(u, v, wide + 10, high + 10, 6)
    shade = 0.36 + 0.03 * noise(rng, 1.5) + 0.03 * noise(rng, 40) + 0.15 * ridge(body + 3, 1.5)
    pocket = np.where(inside, cover(box(du, dv, 13, 13, 3)), 0)
    shade += pocket * (0.12 + 0.06 * np.clip(dv / 13, -1, 1) - shade)
    pin = box(du + slack[0][seat], dv + slack[1][seat], 6, 6, 2)
    metal = 0.7 + 0.1 * noise(rng, 4) - 0.02 * pin
    shade += np.where(inside, cover(pin), 0) * (metal - shade)
    back = 0.72 + 0.02 * noise(rng, 50) - 0.3 * np.exp(-np.maximum(body, 0) / 7)
    return grey(back + cover(body) * (shade - back)), body < 0
