"""Images on disk: reading, the package's one resize, and folders as data sets."""

from fastad.data.folder import (
    ImageDataset,
    Sample,
    iterate_batches,
    test_samples,
    training_images,
)
from fastad.data.images import (
    ImageError,
    find_images,
    parse_size,
    read_image,
    read_mask,
    resize,
    resize_masks,
)

__all__ = [
    "ImageDataset",
    "ImageError",
    "Sample",
    "find_images",
    "iterate_batches",
    "parse_size",
    "read_image",
    "read_mask",
    "resize",
    "resize_masks",
    "test_samples",
    "training_images",
]
