"""Which good images are held out. All copies of an image lie on one side.

The promise of a threshold asks for images that nothing in the detector was made from, and folders
hold the same image twice more often than one thinks: 14 of the 278 good ones of KolektorSDD.
"""

import dataclasses
from collections.abc import Sequence

from fastad.data.training_set import TrainingSet, image_digests
from fastad.training import TrainingConfig
from fastad.training.batches import split_indices


def copies_together(source: TrainingSet, config: TrainingConfig) -> TrainingSet:
    """The images with all copies of one either held out or trained on.

    Nothing changes where there are no exact copies, or only copies of one image. Copies of what the
    folder's layout sets apart are held out, too.

    Raises:
        ValueError: then none is left to train on.
    """
    digests = image_digests(source.dataset)
    different = len({*digests})
    if different == len(digests) or different == 1:
        return source
    if source.held_out is None:
        chosen = chosen_to_hold_out(digests, set(), set(), config.validation_fraction, config.seed)
    else:
        chosen = {digests[i] for i in source.held_out}
    if len(chosen) == different:
        raise ValueError(
            "images: each image to train on is also among those that the folder sets apart. "
            "Remove the copies"
        )
    held_out = [i for i, digest in enumerate(digests) if digest in chosen]
    copies = len(digests) - different
    return dataclasses.replace(source, held_out=held_out or None, copies=copies)


def chosen_to_hold_out(
    digests: Sequence[str],
    trained: set[str],
    apart: set[str],
    share: float,
    seed: int,
    apart_now: set[str] | None = None,
) -> set[str]:
    """Digests of the images to hold out: none that was trained on, and all copies of each.

    Args:
        digests: of all images, in order.
        trained: of what any training before was trained on.
        apart: of what the trainings before held out. It is held out again.
        share: of the new images that are held out, too. 0 holds out none at all.
        seed: of which.
        apart_now: of what the layout of the folder sets apart. Nothing else is held out then.
    """
    free = [digest for digest in dict.fromkeys(digests) if digest not in trained]
    if apart_now is not None:
        return apart_now & {*free}
    if share == 0:
        return set()
    new = [digest for digest in free if digest not in apart]
    drawn = split_indices(len(new), share, seed)[1].tolist() if new else []
    return {digest for digest in free if digest in apart} | {new[i] for i in drawn}
