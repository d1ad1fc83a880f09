"""Good images as a user gives them, and which of them a detector knows, by their content."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastad.data import training_images
from fastad.data.inputs import are_paths, gathered, is_path
from fastad.data.training_set import file_digests
from fastad.inference.artifact import Artifact


def listed(images: Any) -> Any:
    """A folder as the list of its good images; anything else as `gathered` gives it.

    Raises ValueError for a folder that holds defects by its name.
    """
    images = gathered(images)
    if is_path(images) and not Path(images).is_file():
        found = training_images(Path(images))
        return [*found.paths, *found.held_out]
    return [images] if is_path(images) else images


def digests_of(items: Any, known: set[str]) -> tuple[list[str], list[Any]]:
    """Digests of files, and which of them are ``known``. Both empty for images in memory.

    Args:
        items: images that can be counted.
        known: digests of those that a detector was made from.
    """
    if not are_paths(items):
        return [], []
    digests = file_digests(items)
    return digests, [path for path, d in zip(items, digests, strict=True) if d in known]


def trained_and_apart(artifact: Artifact) -> tuple[set[str], set[str]]:
    """Digests of the files that a detector was trained on, and of those that set a threshold."""
    trained: set[str] = set()
    apart = calibrated(artifact)
    for training in trainings(artifact):
        held_out = set(training.get("held_out", ()))
        for index, digest in enumerate(training.get("image_digests", ())):
            (apart if index in held_out else trained).add(digest)
    return trained, apart - trained


def trainings(artifact: Artifact) -> Iterator[Mapping[str, Any]]:
    """The record of its training, then what it keeps of those that this one went on from."""
    training: Mapping[str, Any] | None = artifact.training
    while training is not None:
        yield training
        training = training.get("start_from")


def calibrated(artifact: Artifact) -> set[str]:
    """Digests of the files of all calibrations after the training."""
    return {digest for kept in artifact.calibrations for digest in kept["digests"]}


def given_to_training(artifact: Artifact) -> set[str]:
    """Digests of all files that the training read, held-out ones and defects included."""
    return {
        digest
        for training in trainings(artifact)
        for name in ("image_digests", "defects")
        for digest in training.get(name, ())
    }
