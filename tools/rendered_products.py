"""Rendered images of two products, good and defective: a turned flange, a blister pack of tablets.

Drawn with numpy and Pillow at three times the size and then reduced; a seed gives the same images
every time. Every defect comes with its ground truth.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE, FINE = 256, 3  # pixels of an image, and by how much finer it is drawn
EXTENT = SIZE * FINE
TRAIN, TEST_GOOD, TEST_DEFECTS = 40, 16, 6  # images; the last one for each type of defect
LIGHT = np.deg2rad(-125)  # where the light comes from, in the image plane

Y, X = (np.mgrid[:EXTENT, :EXTENT].astype(np.float32) + 0.5) / FINE
Rng = np.random.Generator
Drawing = tuple[np.ndarray, np.ndarray]  # colours (EXTENT, EXTENT, 3) in [0, 1]; bool, the defect


def noise(rng: Rng, width: float, height: float | None = None) -> np.ndarray:
    """Smooth noise of mean 0 and deviation 1 whose grains are so many pixels wide and high."""
    cells = [max(2, round(SIZE / grain) + 3) for grain in (height or width, width)]
    grains = Image.fromarray(rng.standard_normal(cells).astype(np.float32))
    values = np.asarray(grains.resize((EXTENT, EXTENT), Image.Resampling.BICUBIC))
    return (values - values.mean()) / values.std()


def blur(values: np.ndarray, radius: float) -> np.ndarray:
    picture = Image.fromarray(np.uint8(np.clip(values, 0, 1) * 255))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius * FINE)), np.float32) / 255


def ridge(distance: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-np.square(distance / width))


def blend(colour: np.ndarray, over: tuple | np.ndarray, share: np.ndarray) -> np.ndarray:
    share = np.asarray(share, np.float32)[..., None]
    return colour * (1 - share) + np.asarray(over, np.float32) * share


def polar(radius: float, angle: float) -> np.ndarray:
    return radius * np.array([np.cos(angle), np.sin(angle)])


def curve(rng: Rng, start: np.ndarray, end: np.ndarray, bend: float) -> np.ndarray:
    """Points (40, 2), x and y in pixels, from start to end, bent at random."""
    t = np.linspace(0, 1, 40)[:, None]
    middle = (start + end) / 2 + rng.normal(0, bend, 2)
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end


def stroke(points: np.ndarray, width: float) -> np.ndarray:
    picture = Image.new("1", (EXTENT, EXTENT))
    line = [tuple(point) for point in points * FINE]
    ImageDraw.Draw(picture).line(line, 1, max(1, round(width * FINE)), joint="curve")
    return np.asarray(picture)


def patch(rng: Rng, x: float, y: float, radius: float) -> np.ndarray:
    """1 in the middle of a patch of irregular outline, 0 at the outline, negative outside."""
    outline = radius * (1 + 0.16 * noise(rng, 0.8 * radius))
    return 1 - np.hypot(X - x, Y - y) / np.maximum(outline, 1)


def flange(rng: Rng, defect: str | None) -> Drawing:
    """A turned steel flange with six countersunk holes on a blue mat."""
    centre, turn = 128 + rng.uniform(-2.5, 2.5, 2), rng.uniform(-0.05, 0.05)
    outer, bore, hub = 106, 37, 56
    dx, dy = X - centre[0], Y - centre[1]
    r, toward = np.hypot(dx, dy), np.cos(np.arctan2(dy, dx) - LIGHT)  # 1 on the side of the light
    wrong = np.zeros((EXTENT, EXTENT), bool)

    # Turning leaves grooves, which shine where the light stands across them.
    across = noise(rng, 1.1, 300)[0]
    grooves = np.interp(r * FINE, np.arange(EXTENT), across) * (0.6 + 0.4 * noise(rng, 60))
    metal = 0.47 + 0.27 * np.abs(toward) ** 5 + 0.05 * (r > hub) + 0.022 * grooves
    metal += 0.008 * noise(rng, 0.7)
    for radius, sign in ((outer - 1.8, 1), (hub, 1), (bore + 1.8, -1)):
        metal += 0.25 * sign * toward * ridge(r - radius, 1.5)
    solid = (r < outer) & (r > bore)
    for k in range(6):
        x, y = centre + polar(81, turn + k * np.pi / 3)
        distance = np.hypot(X - x, Y - y)
        slope = np.cos(np.arctan2(Y - y, X - x) - LIGHT)
        metal = np.where(distance < 11, 0.42 - 0.25 * slope, metal)
        solid &= distance > 7.5

    angle = rng.uniform(0, 2 * np.pi)
    if defect == "broken edge":
        x, y = centre + polar(outer + 2, angle)
        bite = patch(rng, x, y, rng.uniform(14, 17))
        wrong = (bite > -0.15) & solid
        metal = np.where(bite > -0.15, 0.33 + 0.06 * noise(rng, 2.5), metal)
        solid &= bite < 0

    mat = 0.30 + 0.012 * noise(rng, 1.2) + 0.01 * noise(rng, 40) - 0.0004 * (X + Y - SIZE)
    mat *= 1 - 0.65 * blur(np.roll(solid, (6 * FINE, 4 * FINE), (0, 1)), 4)  # the shadow
    colour = mat[..., None] * np.float32((0.82, 1.0, 1.2))
    colour = blend(colour, metal[..., None] * np.float32((0.99, 1.0, 1.03)), solid)

    if defect == "scratch":
        end = centre + polar(rng.uniform(92, 99), angle + rng.uniform(0.5, 0.9))
        points = curve(rng, centre + polar(rng.uniform(62, 70), angle), end, 4)
        wrong = stroke(points, 5) & solid
        colour = blend(colour, (0.12, 0.12, 0.13), 0.8 * solid * blur(stroke(points + 1, 1.4), 0.3))
        colour = blend(colour, (0.93, 0.93, 0.96), solid * blur(stroke(points, 1.4), 0.3))
    if defect == "stain":
        x, y = centre + polar(rng.uniform(65, 88), angle)
        depth = patch(rng, x, y, rng.uniform(17, 22))
        wrong = (depth > 0) & solid
        share = solid * np.clip(depth * 5, 0, 1) * (0.4 + 0.3 * ridge(depth - 0.15, 0.12))
        colour = blend(colour, (0.30, 0.17, 0.07), share)
    return colour * rng.uniform(0.95, 1.05), wrong


def blister(rng: Rng, defect: str | None) -> Drawing:
    """A blister pack of nine round tablets."""
    shift, tilt = rng.uniform(-2, 2, 2), rng.uniform(-0.015, 0.015)
    dx, dy = X - 128 - shift[0], Y - 128 - shift[1]
    u, v = dx * np.cos(tilt) + dy * np.sin(tilt), dy * np.cos(tilt) - dx * np.sin(tilt)
    wrong = np.zeros((EXTENT, EXTENT), bool)

    side = np.hypot(*(np.maximum(np.abs(w) - 102, 0) for w in (u, v)))  # round corners
    pack = side < 18
    foil = 0.66 + 0.03 * np.sin((u + v) * 1.3) * np.sin((u - v) * 1.3) - 0.0007 * (u + v)
    foil += 0.025 * noise(rng, 35) + 0.008 * noise(rng, 0.8) + 0.16 * ridge(side - 16.5, 1.2)
    table = 0.16 + 0.008 * noise(rng, 1.0)
    table *= 1 - 0.5 * blur(np.roll(pack, (4 * FINE, 3 * FINE), (0, 1)), 3)
    colour = table[..., None] * np.float32((1.05, 1.0, 0.95))
    colour = blend(colour, foil[..., None] * np.float32((0.98, 1.0, 1.03)), pack)

    bad, grain, ragged = rng.integers(9), noise(rng, 1.2), noise(rng, 7)
    for k in range(9):
        column, row = 70 * (k % 3 - 1), 70 * (k // 3 - 1)
        left, top = ((128 + shift + (column, row) - 38) * FINE).astype(int)
        window = np.s_[top : top + 76 * FINE, left : left + 76 * FINE]
        here, pu, pv = colour[window], u[window] - column, v[window] - row
        r, toward = np.hypot(pu, pv), np.cos(np.arctan2(pv, pu) - LIGHT)
        here = blend(here, (0.42, 0.44, 0.47), 0.35 * (r < 31))  # the pocket lies in the shade
        here += (0.20 * toward * ridge(r - 31, 2))[..., None]

        slack, score = rng.uniform(-1.5, 1.5, 2), rng.uniform(0, np.pi)  # where it is to be broken
        tu, tv = pu - slack[0], pv - slack[1]
        radius, across = np.hypot(tu, tv), tu * np.sin(score) - tv * np.cos(score)
        there = radius < 24
        if k == bad and defect == "missing tablet":
            wrong[window] = r < 31
            there[:] = False
        if k == bad and defect == "broken tablet":
            angle = rng.uniform(0, 2 * np.pi)
            depth = tu * np.cos(angle) + tv * np.sin(angle) + 1.3 * ragged[window]
            kept = depth < rng.uniform(2, 9)
            wrong[window] = there & ~kept
            there &= kept
        shade = 0.93 + 0.012 * grain[window] - 0.001 * (tu + tv)
        shade += 0.13 * ridge(radius - 22.3, 1.4) * np.cos(np.arctan2(tv, tu) - LIGHT)
        shade -= 0.16 * ridge(across, 0.9) + 0.07 * ridge(across - 1.8, 0.9)
        below = blur(np.roll(there, (3 * FINE, 2 * FINE), (0, 1)), 1.5) * (r < 31)
        here = blend(here, (0.12, 0.11, 0.10), 0.55 * below)
        here = blend(here, shade[..., None] * np.float32((1.0, 0.80, 0.62)), there)
        # Reflections on the clear dome, in front of everything.
        crescent = ridge(r - 27, 1.6) * np.clip(toward * 2.2 - 1.2, 0, 1)
        spot = ridge(pu + 9, 4) * ridge(pv + 13, 2.5)
        colour[window] = blend(here, (1.0, 1.0, 1.0), 0.75 * crescent + 0.55 * spot)

    if defect == "hair":
        start, angle = rng.uniform(60, 196, 2), rng.uniform(0, 2 * np.pi)
        points = curve(rng, start, start + polar(rng.uniform(50, 70), angle), 22)
        colour = blend(colour, (0.10, 0.07, 0.05), 0.9 * blur(stroke(points, 1.4), 0.3))
        wrong = stroke(points, 4)
    return colour * rng.uniform(0.96, 1.04), wrong


PRODUCTS = {
    "flange": (flange, ("scratch", "broken edge", "stain")),
    "blister": (blister, ("missing tablet", "broken tablet", "hair")),
}


def draw_set(folder: Path, product: str) -> None:
    draw, defects = PRODUCTS[product]
    jobs = [("train/good", None, TRAIN), ("test/good", None, TEST_GOOD)]
    jobs += [(f"test/{defect}", defect, TEST_DEFECTS) for defect in defects]
    for kind, (part, defect, number) in enumerate(jobs):
        target, truth = folder / part, folder / part.replace("test", "ground_truth")
        for path in (target, truth) if defect else (target,):
            path.mkdir(parents=True, exist_ok=True)
        for i in range(number):
            colour, wrong = draw(np.random.default_rng([kind, i]), defect)
            colour = np.uint8(np.clip(colour, 0, 1) * 255)
            Image.fromarray(colour).reduce(FINE).save(target / f"{i:03}.png")
            if defect:
                mask = Image.fromarray(np.uint8(wrong) * 255).reduce(FINE)
                mask.point(lambda grey: 255 * (grey > 127)).save(truth / f"{i:03}_mask.png")
