"""Where the product is in an image, as against an even background around it."""

import numpy as np

BORDER = 0.02  # of the shorter side: what lies at the edges of the image
EVEN = 0.9  # of the border that must look alike to be a background
LEAST, MOST = 0.05, 0.95  # of the image: other shares are no product on a background


def foreground(image: np.ndarray) -> np.ndarray:
    """The product in an image (H, W, 3) uint8: bool (H, W), all true where no background is found.

    A background is what has the border's colour, if nearly all of the border has one: how far a
    pixel's colour is from the border's median is split in two by Otsu's threshold (N. Otsu, "A
    threshold selection method from gray-level histograms", 1979). Holes in the product belong to
    it.
    """
    from scipy import ndimage  # only trainings with synthesised defects need it

    height, width = image.shape[:2]
    ring = np.ones((height, width), dtype=bool)
    edge = max(2, round(BORDER * min(height, width)))
    ring[edge:-edge, edge:-edge] = False
    colour = np.median(image[ring], axis=0)
    # Noise of single pixels is no edge of a product.
    off = ndimage.uniform_filter(np.abs(image - colour).max(axis=2), 3)
    found = off > _otsu(off)
    if (~found[ring]).mean() >= EVEN:
        found = ndimage.binary_fill_holes(ndimage.binary_opening(found, iterations=2))
        if LEAST <= found.mean() <= MOST:
            return found
    return np.ones((height, width), dtype=bool)


def within(product: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """What of a product (H, W) bool lies inside a region; the region where nothing does."""
    both = product & inside
    return both if both.any() else inside


def _otsu(values: np.ndarray) -> float:
    """The threshold that leaves the most variance between the values below and above it."""
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1:][np.nanargmax(between)]) if np.isfinite(between).any() else np.inf
