"""Noise of many kinds: by its spectrum, by its octaves, by kernels, along a flow.

After M. Baradad et al., "Learning to see by looking at noise" (NeurIPS 2021): spectra that fall off
like those of photographs, and heavy-tailed octaves in place of wavelets' coefficients.
"""

import math

import numpy as np
from PIL import Image

from fastad.data.synthesis.texture_parts import (
    TURN,
    Rng,
    coloured,
    fractal_noise,
    log_uniform,
    palette,
    scale,
    smooth_noise,
    stretched,
)
from research.embedded_teacher.programs.parts import length, plane


def spectrum(rng: Rng, height: int, width: int) -> np.ndarray:
    """Noise whose spectrum falls off as a power, differently along two directions; often coloured.

    The channels share the noise, more or less.
    """
    falloff, turn, aspect = rng.uniform(0.6, 2.2), rng.uniform(0, TURN), log_uniform(rng, 1, 4)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    a = fx * math.cos(turn) + fy * math.sin(turn)
    b = (fy * math.cos(turn) - fx * math.sin(turn)) * aspect
    power = np.float32((a * a + b * b + 1 / max(height, width) ** 2) ** (-falloff / 2))
    if rng.random() < 0.5:
        return coloured(stretched(_filtered(rng, height, width, power), 2.5), palette(rng))
    basis = np.stack([_filtered(rng, height, width, power) for _ in range(2)], -1)
    basis /= basis.std((0, 1))
    mix = rng.normal(0, 1, (2, 3)) * np.array([[1], [rng.uniform(0, 0.7)]])
    mix = np.float32(mix + rng.choice([-1, 1]) * np.array([[1], [0]]))
    levels = 128 + rng.uniform(-40, 40) + rng.uniform(15, 45) * (basis @ mix)
    return np.uint8(np.clip(levels, 0, 255))


def band(rng: Rng, height: int, width: int) -> np.ndarray:
    """Noise of one wave length, in all directions or around one: ridges, ripples, fingerprints."""
    period, spread = scale(rng, 3.5, 40, height, width), rng.uniform(0.1, 0.35)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    power = np.exp(-np.square((length(fx, fy) * period - 1) / spread))
    if rng.random() < 0.6:
        angle, width_ = rng.uniform(0, math.pi), rng.uniform(0.15, 0.7)
        off = np.abs((np.arctan2(fy, fx) - angle + math.pi / 2) % math.pi - math.pi / 2)
        power = power * np.exp(-np.square(off / width_))
    field = _filtered(rng, height, width, np.float32(power))
    field = field / max(float(field.std()), 1e-9)
    if rng.random() < 0.5:
        field = np.tanh(field * np.float32(rng.uniform(1, 6)))
    return coloured(stretched(field, 2), palette(rng))


def sparse_octaves(rng: Rng, height: int, width: int) -> np.ndarray:
    """Octaves of rare strong spots of both signs, as wavelets' coefficients of photographs are."""
    heavy, fade = rng.uniform(1.2, 4), rng.uniform(0.4, 0.85)
    field = np.zeros((height, width), np.float32)
    grain = 2.0
    while grain < min(height, width):
        layer = smooth_noise(rng, height, width, grain, log_uniform(rng, 0.5, 2))
        layer = np.sign(layer) * np.abs(layer) ** np.float32(heavy)
        field += layer * np.float32((1 / fade) ** math.log2(grain) / max(float(layer.std()), 1e-3))
        grain *= 2
    return coloured(stretched(field, rng.uniform(1.5, 3)), palette(rng))


def cascade(rng: Rng, height: int, width: int) -> np.ndarray:
    """A product of octaves: quiet and stormy regions in one image."""
    storm = np.zeros((height, width), np.float32)
    for _ in range(4):
        grain = log_uniform(rng, 4, min(height, width) / 3)
        storm += smooth_noise(rng, height, width, grain)
    gain = np.exp(storm * np.float32(rng.uniform(0.3, 0.9)))
    if rng.random() < 0.3:
        return coloured(stretched(np.log(gain)), palette(rng))
    fine = smooth_noise(rng, height, width, log_uniform(rng, 1, 5), log_uniform(rng, 0.4, 2.5))
    return coloured(stretched(fine * gain, rng.uniform(1, 2)), palette(rng))


def gabor(rng: Rng, height: int, width: int) -> np.ndarray:
    """Gabor's wave packets strewn at random, of one direction, two, or any."""
    radius = round(scale(rng, 6, 26, height, width))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    period = rng.uniform(0.3, 1.2) * radius
    bell = np.exp(-(x * x + y * y) * np.float32(4 / radius**2))
    main, spread = rng.uniform(0, math.pi), rng.choice([0.1, 0.5, 3])
    kernels = []
    for angle in main + spread * rng.standard_normal(12):
        phase = (x * math.cos(angle) + y * math.sin(angle)) * (TURN / period)
        kernels.append(bell * np.cos(phase + rng.uniform(0, TURN)))
    field = np.zeros((height + 2 * radius, width + 2 * radius), np.float32)
    count = int(min(500, rng.uniform(0.5, 6) * height * width / radius**2))
    tops, lefts = rng.integers(height, size=count), rng.integers(width, size=count)
    signs, chosen = rng.choice([-1, 1], count), rng.integers(12, size=count)
    size = 2 * radius + 1
    for top, left, sign, k in zip(tops, lefts, signs, chosen, strict=True):
        field[top : top + size, left : left + size] += sign * kernels[k]
    field = field[radius : radius + height, radius : radius + width]
    return coloured(stretched(field, rng.uniform(1.5, 3.5)), palette(rng))


def flow(rng: Rng, height: int, width: int) -> np.ndarray:
    """Noise smeared along a flow: brushed, combed, whirled (line integral convolution)."""
    source = rng.random((height, width), np.float32)
    if rng.random() < 0.5:
        source = (smooth_noise(rng, height, width, log_uniform(rng, 1.5, 4)) > 0.5) * np.float32(1)
    angle = np.float32(rng.uniform(0.3, 3)) * smooth_noise(
        rng, height, width, scale(rng, 30, 150, height, width)
    ) + np.float32(rng.uniform(0, TURN))
    if rng.random() < 0.3:
        x, y = plane(rng, height, width)
        angle = np.arctan2(y, x) + np.float32(rng.uniform(0, TURN))
    cos, sin = np.cos(angle), np.sin(angle)
    rows, columns = np.mgrid[:height, :width].astype(np.int32)
    field, steps = source.copy(), int(rng.integers(3, 9))
    for step in range(1, steps):
        # Straight on from each pixel; the flow turns little over so short a way.
        down = (sin * np.float32(1.6 * step)).astype(np.int32)
        across = (cos * np.float32(1.6 * step)).astype(np.int32)
        place = (rows + down) % height * width + (columns + across) % width
        field += source.take(place)
    return coloured(stretched(field, rng.uniform(1.5, 2.5)), palette(rng))


def regions(rng: Rng, height: int, width: int) -> np.ndarray:
    """Two or three noises side by side, parted by outlines that are soft or sharp."""
    tones = _grains(rng, height, width)
    for _ in range(int(rng.integers(1, 3))):
        level = fractal_noise(rng, height, width, scale(rng, 20, 120, height, width), 0.45)
        share = np.clip(level * np.float32(log_uniform(rng, 2, 40)) + np.float32(0.5), 0, 1)
        tones = tones + share * (_grains(rng, height, width) - tones)
    return coloured(np.clip(tones, 0, 1), palette(rng))


def impulses(rng: Rng, height: int, width: int) -> np.ndarray:
    """Single bright or dark dots, drawn out by one kernel: rain, grit, needles, sparks."""
    share = log_uniform(rng, 0.001, 0.05)
    field = (rng.random((height, width), np.float32) < share) * rng.standard_normal(
        (height, width), np.float32
    )
    if rng.random() < 0.5:
        field = np.abs(field)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    turn, long, short = rng.uniform(0, TURN), log_uniform(rng, 1, 14), log_uniform(rng, 0.5, 2.5)
    a = (fx * math.cos(turn) + fy * math.sin(turn)) * (TURN * long)
    b = (fy * math.cos(turn) - fx * math.sin(turn)) * (TURN * short)
    kernel = np.float32(np.exp(-(a * a + b * b) / 2))
    field = np.fft.irfft2(np.fft.rfft2(field) * kernel, s=(height, width)).astype(np.float32)
    quiet = np.float32(rng.uniform(0, 0.3)) * smooth_noise(rng, height, width, 40)
    field = field / max(float(field.std()), 1e-9) + quiet
    return coloured(stretched(field, rng.uniform(2.5, 6)), palette(rng))


def layers(rng: Rng, height: int, width: int) -> np.ndarray:
    """Bands of sediment or agate: noise mostly along one axis, looked up in a line of tones."""
    bend = fractal_noise(rng, height, width, scale(rng, 30, 150, height, width), 0.45)
    x, _ = plane(rng, height, width)
    depth = x * np.float32(rng.uniform(0, 1.5)) + bend * np.float32(rng.uniform(0.1, 0.5))
    tones = np.zeros(512, np.float32)
    for grain in (2, 8, 40):
        line = smooth_noise(rng, 1, 512, grain)[0]
        tones += line * np.float32(rng.uniform(0, 1))
    place = np.int32((depth + np.float32(8)) * np.float32(rng.uniform(30, 150))) % 512
    field = tones[place] + np.float32(rng.uniform(0, 0.3)) * smooth_noise(rng, height, width, 1.5)
    return coloured(stretched(field, 2), palette(rng))


def halftone_noise(rng: Rng, height: int, width: int) -> np.ndarray:
    """Noise in few levels, scattered or by an ordered screen: print, grit, coarse film."""
    tones = stretched(fractal_noise(rng, height, width, scale(rng, 20, 120, height, width)), 2)
    levels = int(rng.integers(1, 5))
    if rng.random() < 0.5:
        screen = rng.random((height, width), np.float32)
    else:
        size = int(rng.choice([4, 6, 8]))
        order = rng.permutation(size * size).reshape(size, size).astype(np.float32)
        repeats = (math.ceil(height / size), math.ceil(width / size))
        screen = np.tile(order / (size * size), repeats)[:height, :width]
    field = np.floor(tones * levels + screen) / (levels + 1)
    if rng.random() < 0.3:
        soft = Image.fromarray(field).reduce(2).resize((width, height), Image.Resampling.BILINEAR)
        field = np.asarray(soft)
    return coloured(np.clip(field, 0, 1), palette(rng))


def _filtered(rng: Rng, height: int, width: int, power: np.ndarray) -> np.ndarray:
    """White noise times a spectrum."""
    noise = np.fft.rfft2(rng.standard_normal((height, width), np.float32))
    noise[0, 0] = 0
    return np.fft.irfft2(noise * power, s=(height, width)).astype(np.float32)


def _grains(rng: Rng, height: int, width: int) -> np.ndarray:
    """A rough field around a random tone."""
    rough = smooth_noise(rng, height, width, log_uniform(rng, 1, 12), log_uniform(rng, 0.3, 3))
    return np.float32(rng.uniform(0.1, 0.9)) + np.float32(log_uniform(rng, 0.01, 0.25)) * rough
