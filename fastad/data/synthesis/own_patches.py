"""Defects made of the image itself: its own patches in another order."""

import numpy as np

from fastad.data.synthesis.augmentations import augment

GRID = 8  # patches along a side


def own_patches(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image (H, W, 3) uint8, augmented and cut into 8x8 patches that are laid out anew.

    As the "structural" anomalies of MemSeg (Yang et al., EAAI 2023, section 3.2), which PRN takes
    as well: of the product's own material, where it does not belong.
    """
    image = augment(image, rng)
    height, width = (max(1, length // GRID) for length in image.shape[:2])
    rows, columns = image.shape[0] // height, image.shape[1] // width
    whole = image[: rows * height, : columns * width]
    patches = whole.reshape(rows, height, columns, width, 3).swapaxes(1, 2)
    patches = patches.reshape(rows * columns, height, width, 3)
    patches = patches[rng.permutation(len(patches))].reshape(rows, columns, height, width, 3)
    result = image.copy()  # what is left over at the bottom and the right
    result[: rows * height, : columns * width] = patches.swapaxes(1, 2).reshape(whole.shape)
    return result
