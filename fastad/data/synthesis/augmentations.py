"""The changes that a texture goes through before it is blended in: three of ten, as in DRAEM.

V. Zavrtanik, M. Kristan, D. Skocaj, "DRAEM", ICCV 2021. Every function takes an RGB image and a
generator and returns an image of the same size; the ranges are of 8-bit values.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

CHANGES = 3  # of a texture

_LEVELS = np.arange(256)
_PER_CHANNEL = 0.5  # probability that the channels change differently


def _table(image: Image.Image, values: np.ndarray) -> Image.Image:
    """Look every band up in its row of (bands, 256)."""
    return image.point(np.uint8(np.clip(np.rint(values), 0, 255)).ravel().tolist())


def _draws(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """(3, 1), one number for all channels or one for each."""
    if rng.random() < _PER_CHANNEL:
        return rng.uniform(low, high, (3, 1))
    return np.full((3, 1), rng.uniform(low, high))


def gamma(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Exponent 0.5 to 2."""
    return _table(image, 255 * (_LEVELS / 255) ** np.exp2(_draws(rng, -1, 1)))


def brightness(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Times 0.8 to 1.2, plus -30 to 30."""
    return _table(image, _LEVELS * rng.uniform(0.8, 1.2) + _draws(rng, -30, 30))


def sharpness(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """From smoothed (0) to three times as sharp."""
    return ImageEnhance.Sharpness(image).enhance(rng.uniform(0, 3))


def hue_saturation(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Hue by up to 70 degrees either way, saturation by up to 50."""
    hue, saturation = rng.uniform(-50, 50, 2)
    values = np.stack([(_LEVELS + round(hue)) % 256, _LEVELS + saturation, _LEVELS])
    return _table(image.convert("HSV"), values).convert("RGB")


def solarise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Inverts what is brighter than 32 to 128."""
    return ImageOps.solarize(image, int(rng.integers(32, 129)))


def posterise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """2 to 6 bits a channel."""
    return ImageOps.posterize(image, int(rng.integers(2, 7)))


def invert(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.invert(image)


def autocontrast(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Each channel's range becomes 0 to 255, up to 10 % cut off at either end."""
    return ImageOps.autocontrast(image, cutoff=rng.uniform(0, 10))


def equalise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.equalize(image)


def rotate(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Up to 45 degrees either way; what comes in at the corners is the image's mirror image."""
    angle = rng.uniform(-math.pi / 4, math.pi / 4)
    cos, sin = math.cos(angle), math.sin(angle)
    width, height = image.size
    wider = math.ceil((width * cos + height * abs(sin) - width) / 2) + 1
    higher = math.ceil((height * cos + width * abs(sin) - height) / 2) + 1
    margins = [(max(0, higher),) * 2, (max(0, wider),) * 2, (0, 0)]
    padded = Image.fromarray(np.pad(np.asarray(image), margins, mode="symmetric"))
    x = padded.width / 2 - (cos * width + sin * height) / 2
    y = padded.height / 2 - (cos * height - sin * width) / 2
    return padded.transform(
        image.size,
        Image.Transform.AFFINE,
        (cos, sin, x, -sin, cos, y),
        Image.Resampling.BILINEAR,
    )


AUGMENTATIONS: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "gamma": gamma,
    "brightness": brightness,
    "sharpness": sharpness,
    "hue_saturation": hue_saturation,
    "solarise": solarise,
    "posterise": posterise,
    "invert": invert,
    "autocontrast": autocontrast,
    "equalise": equalise,
    "rotate": rotate,
}


def augment(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply three different augmentations, drawn at random, to a texture (H, W, 3) uint8."""
    image = Image.fromarray(texture)
    for name in rng.choice(list(AUGMENTATIONS), CHANGES, replace=False):
        image = AUGMENTATIONS[name](image, rng)
    return np.asarray(image)
