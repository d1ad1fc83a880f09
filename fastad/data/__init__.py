"""Images on disk: reading, the package's one resize, folders as data sets, pseudo-anomalies.

Open `layouts` for what a folder may look like, `finding` for which files are images, and `images`
for reading and resizing.
"""

from fastad.data.depth import PixelRange
from fastad.data.finding import find_images
from fastad.data.folder import ImageDataset, iterate_batches
from fastad.data.images import (
    ImageError,
    image_shape,
    parse_size,
    read_image,
    resize,
)
from fastad.data.layouts import (
    Sample,
    TrainingImages,
    defect_samples,
    images_without_masks,
    test_samples,
    training_images,
)
from fastad.data.layouts.description import DataDescription, FoundFile, describe
from fastad.data.layouts.products import Product, find_products
from fastad.data.masks import read_ground_truth, read_mask, resize_masks
from fastad.data.sizes import auto_size
from fastad.data.synthesis import PseudoAnomalies, TrialDefects

__all__ = [
    "DataDescription",
    "FoundFile",
    "ImageDataset",
    "ImageError",
    "PixelRange",
    "Product",
    "PseudoAnomalies",
    "Sample",
    "TrainingImages",
    "TrialDefects",
    "auto_size",
    "defect_samples",
    "describe",
    "find_images",
    "find_products",
    "image_shape",
    "images_without_masks",
    "iterate_batches",
    "parse_size",
    "read_ground_truth",
    "read_image",
    "read_mask",
    "resize",
    "resize_masks",
    "test_samples",
    "training_images",
]
