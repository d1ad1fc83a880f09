"""Drawings of the synthetic products: colours (3, EXTENT, EXTENT) about [0, 1], float32.

The product draws random numbers from ``rng``, the defect from ``damage``, so that everything else
stays the same with and without it; ``defect`` is None or one of those that
`fastad.data.rendered.products` lists.
"""

import numpy as np

from fastad.data.rendered.drawing import (
    EXTENT,
    FINE,
    SIZE,
    Rng,
    X,
    Y,
    blend,
    curve,
    length,
    lit,
    noise,
    pair,
    patch,
    point,
    ridge,
    shadow,
    stroke,
    tint,
)


def flange(rng: Rng, damage: Rng, defect: str | None) -> np.ndarray:
    """A turned steel flange with six countersunk holes on a blue mat."""
    x, y = centre = pair(rng, 125.5, 130.5)
    turn = rng.uniform(-0.05, 0.05)
    outer, bore, hub = 106, 37, 56
    dx, dy = X - x, Y - y
    r = length(dx, dy)
    toward = lit(dx, dy, r)

    # Turning leaves grooves, which shine where the light stands across them.
    across = np.repeat(rng.standard_normal(EXTENT // 2, np.float32), 2)
    grooves = across[(r * FINE).astype(np.intp)] * (0.6 + 0.4 * noise(rng, 60))
    shine = np.square(np.square(toward)) * np.abs(toward)
    metal = 0.47 + 0.27 * shine + 0.05 * (r > hub) + 0.022 * grooves
    for radius, sign in ((outer - 1.8, 1), (hub, 1), (bore + 1.8, -1)):
        metal += (0.25 * sign) * toward * ridge(r - radius, 1.5)
    solid = (r < outer) & (r > bore)
    for k in range(6):
        x, y = point(centre, 81, turn + k * np.pi / 3)
        left, top = int((x - 13) * FINE), int((y - 13) * FINE)
        window = np.s_[..., top : top + 26 * FINE, left : left + 26 * FINE]
        hx, hy = X[window] - x, Y[window] - y
        distance = length(hx, hy)
        sink = 0.42 - 0.25 * lit(hx, hy, distance)
        metal[window] = np.where(distance < 11, sink, metal[window])
        solid[window] &= distance > 7.5

    angle = damage.uniform(0, 2 * np.pi)
    if defect == "broken edge":
        x, y = point(centre, outer + 2, angle)
        bite = patch(damage, x, y, damage.uniform(14, 17))
        metal = np.where(bite > -0.15, 0.33 + 0.06 * noise(damage, 2.5), metal)
        solid &= bite < 0

    mat = 0.30 + 0.01 * noise(rng, 40) - 0.0004 * (X + Y - SIZE)
    mat *= 1 - 0.65 * shadow(solid, 4, 6, 4)
    colour = np.where(solid, tint(metal, 0.99, 1.0, 1.03), tint(mat, 0.82, 1.0, 1.2))

    if defect == "scratch":
        start = point(centre, damage.uniform(62, 70), angle)
        end = point(centre, damage.uniform(92, 99), angle + damage.uniform(0.5, 0.9))
        points = curve(damage, start, end, 4)
        colour = blend(colour, (0.12, 0.12, 0.13), 0.8 * solid * stroke(points + 1, 1.4))
        colour = blend(colour, (0.93, 0.93, 0.96), solid * stroke(points, 1.4))
    if defect == "stain":
        x, y = point(centre, damage.uniform(65, 88), angle)
        depth = patch(damage, x, y, damage.uniform(17, 22))
        share = np.clip(depth * 5, 0, 1) * (0.4 + 0.3 * ridge(depth - 0.15, 0.12))
        colour = blend(colour, (0.30, 0.17, 0.07), solid * share)
    return colour


def blister(rng: Rng, damage: Rng, defect: str | None) -> np.ndarray:
    """A blister pack of nine round tablets."""
    (x, y), tilt = pair(rng, 126, 130), rng.uniform(-0.015, 0.015)
    u, v = X - x + (Y - y) * tilt, Y - y - (X - x) * tilt

    side = length(*(np.maximum(np.abs(w) - 102, 0) for w in (u, v)))  # round corners
    pack = side < 18
    foil = 0.66 + 0.03 * np.sin((u + v) * 1.3) * np.sin((u - v) * 1.3) - 0.0007 * (u + v)
    foil += 0.025 * noise(rng, 35) + 0.16 * ridge(side - 16.5, 1.2)
    table = 0.16 - 0.08 * shadow(pack, 3, 4, 3)
    colour = np.where(pack, tint(foil, 0.98, 1.0, 1.03), tint(table, 1.05, 1.0, 0.95))

    bad = int(damage.integers(9))
    for k in range(9):
        column, row = 70 * (k % 3 - 1), 70 * (k // 3 - 1)
        left, top = int((x + column - 38) * FINE), int((y + row - 38) * FINE)
        window = np.s_[..., top : top + 76 * FINE, left : left + 76 * FINE]
        here, pu, pv = colour[window], u[window] - column, v[window] - row
        r = length(pu, pv)
        toward = lit(pu, pv, r)
        here = blend(here, (0.42, 0.44, 0.47), 0.35 * (r < 31))  # the pocket lies in the shade
        here += 0.20 * toward * ridge(r - 31, 2)

        (slack_u, slack_v), score = pair(rng, -1.5, 1.5), rng.uniform(0, np.pi)
        tu, tv = pu - slack_u, pv - slack_v
        radius = length(tu, tv)
        there = radius < 24
        if k == bad and defect == "missing tablet":
            there[:] = False
        if k == bad and defect == "broken tablet":
            ux, uy = point((0, 0), 1, damage.uniform(0, 2 * np.pi))
            depth = tu * ux + tv * uy + 1.3 * noise(damage, 7)[window]
            there &= depth < damage.uniform(2, 9)
        sx, sy = point((0, 0), 1, score)
        across = tu * sy - tv * sx  # from the line where it is to be broken
        shade = 0.93 - 0.001 * (tu + tv) + 0.13 * ridge(radius - 22.3, 1.4) * lit(tu, tv, radius)
        shade -= 0.16 * ridge(across, 0.9) + 0.07 * ridge(across - 1.8, 0.9)
        below = shadow(there, 2, 3, 1.5) * (r < 31)
        here = blend(here, (0.12, 0.11, 0.10), 0.55 * below)
        here = np.where(there, tint(shade, 1.0, 0.80, 0.62), here)
        # Reflections on the clear dome, in front of everything.
        crescent = ridge(r - 27, 1.6) * np.clip(toward * 2.2 - 1.2, 0, 1)
        spot = ridge(pu + 9, 4) * ridge(pv + 13, 2.5)
        colour[window] = blend(here, (1.0, 1.0, 1.0), 0.75 * crescent + 0.55 * spot)

    if defect == "hair":
        start, angle = pair(damage, 70, 186), damage.uniform(0, 2 * np.pi)
        points = curve(damage, start, point(start, damage.uniform(50, 65), angle), 22)
        colour = blend(colour, (0.10, 0.07, 0.05), 0.9 * stroke(points, 1.4))
    return colour


def denim(rng: Rng, damage: Rng, defect: str | None) -> np.ndarray:
    """Denim: a 3/1 twill of blue warp (upright) and pale weft (level)."""
    pitch = 8.0  # pixels from yarn to yarn
    (left, top), tilt = pair(rng, 16, 48), rng.uniform(-0.02, 0.02)
    u = (X + tilt * Y + left + 1.1 * noise(rng, 70)) / pitch
    v = (Y - tilt * X + top + 1.1 * noise(rng, 70)) / pitch
    i, j = np.floor(u), np.floor(v)
    across_warp, across_weft = u - i - 0.5, v - j - 0.5  # -0.5 ... 0.5
    along = v + i - 4 * np.floor((v + i) / 4)  # the weft passes over this warp yarn from 0 to 1
    warp_above = along >= 1

    x, y = pair(damage, 60, 196)
    missing = np.False_
    if defect == "missing yarn":
        yarn, half = float(i[int(y * FINE), int(x * FINE)]), damage.uniform(4, 6)
        missing = (i == yarn) & (np.abs(v - (y + top) / pitch) < half)
        warp_above = warp_above & ~missing

    dye = (1 + 0.08 * rng.standard_normal(64, np.float32))[i.astype(np.intp)]
    twist = np.sin(
        np.float32(2 * np.pi)
        * np.where(warp_above, 1.7 * v + 1.1 * across_warp, 1.7 * u + 1.1 * across_weft)
    )
    warp = (1 - 2.3 * np.square(across_warp)) * (1 - 0.16 * np.square(along - 2.5))
    warp = (warp - 0.2 * across_warp) * dye * (1 + 0.10 * noise(rng, 5, 50))
    weft = 1 - np.square(across_warp) * np.where(missing, 0.3, 1.4)
    weft = (1 - 2.2 * np.square(across_weft)) * weft - 0.2 * across_weft
    texture = 1 + 0.07 * twist
    colour = np.where(
        warp_above,
        tint(warp * texture, 0.24, 0.34, 0.55),
        tint(weft * texture, 0.80, 0.79, 0.74),
    )

    if defect == "hole":
        depth = patch(damage, x, y, damage.uniform(11, 15))
        colour = blend(colour, (0.05, 0.05, 0.06), np.clip(depth * 8, 0, 1))
        for _ in range(14):  # torn yarns hang into it
            angle = damage.uniform(0, 2 * np.pi)
            start = point((x, y), 15, angle)
            end = point((x, y), damage.uniform(4, 10), angle + damage.normal(0, 0.3))
            thread = stroke(curve(damage, start, end, 2), 0.8)
            colour = blend(colour, (0.72, 0.73, 0.74), 0.8 * thread)
    if defect == "bleach":
        depth = patch(damage, x, y, damage.uniform(15, 20))
        colour = blend(colour, (0.82, 0.84, 0.86), 0.55 * np.clip(depth * 3, 0, 1))
    return colour
