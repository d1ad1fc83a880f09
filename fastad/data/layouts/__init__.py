"""What a folder of images holds: which are normal, which are defects, which files are masks.

Open `description` first: `describe` looks once. `samples` has what training and evaluation take.
"""

from fastad.data.layouts.samples import (
    Sample,
    TrainingImages,
    defect_images,
    defect_samples,
    images_without_masks,
    samples_of,
    test_samples,
    training_images,
)

__all__ = [
    "Sample",
    "TrainingImages",
    "defect_images",
    "defect_samples",
    "images_without_masks",
    "samples_of",
    "test_samples",
    "training_images",
]
