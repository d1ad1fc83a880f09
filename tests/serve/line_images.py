"""Images as a camera would send them."""

import io

import numpy as np
from PIL import Image


def noise(rng, *, has_defect=False):
    """A grey image (72, 64, 3), with a red square where it has a defect."""
    pixels = rng.integers(80, 120, (72, 64, 3), dtype=np.uint8)
    if has_defect:
        pixels[20:40, 10:30] = (250, 10, 10)
    return pixels


def png(pixels, form="PNG"):
    """An image file in memory."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()
