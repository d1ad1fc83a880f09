"""From a data set to batches on the device, and its split."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset


def split_indices(size: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Random indices to train on and to hold out, both sorted; a function of the arguments alone.

    At least one image is held out where ``fraction`` > 0 and there are two, and at least one is
    left to train on. Nothing is held out of a single image.
    """
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    held_out = min(max(1, round(size * fraction)), size - 1) if fraction > 0 else 0
    return order[held_out:].sort().values, order[:held_out].sort().values


def shuffled_batches(indices: Tensor, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """``indices`` in random order, in pieces; a last piece of one image only if it is the only."""
    order = indices[torch.randperm(len(indices), generator=generator)]
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1 and batch_size > 1:
        batches.pop()
    return batches


def load_batch(
    dataset: Dataset | Tensor,
    indices: Tensor,
    device: torch.device,
    memory_format: torch.memory_format,
) -> dict[str, Tensor]:
    """Items -> {"image": (N, 3, H, W) float32 in [0, 1], ...}, on ``device``.

    An item is an image, uint8 or float in [0, 1], (3, H, W), or a dict with it as "image"; other
    tensors of the dict are stacked as they are, anything else is left out. Images travel to the
    device as uint8, a quarter of the bytes.

    Raises:
        TypeError: an item is something else.
        ValueError: an image of another shape, or images of several sizes.
    """
    if isinstance(dataset, Tensor):
        batch = {"image": dataset[indices]}
    else:
        items = [dataset[index] for index in indices.tolist()]
        batch = _stack(items, indices.tolist())
    batch = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
    images = batch["image"]
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (3, H, W); got {tuple(images.shape[1:])}")
    is_bytes = images.dtype == torch.uint8
    if not is_bytes and not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating point in [0, 1]; got {images.dtype}")
    images = images.to(torch.float32, memory_format=memory_format)
    batch["image"] = images.div_(255) if is_bytes else images
    return batch


def _stack(items: list, indices: Sequence[int]) -> dict[str, Tensor]:
    items = [item if isinstance(item, Mapping) else {"image": item} for item in items]
    for item, index in zip(items, indices, strict=True):
        image = item.get("image")
        if not isinstance(image, Tensor):
            raise TypeError(
                f"item {index} of the data set must be an image tensor (3, H, W) or a dict with "
                f"one as 'image'; its image is of type {type(image).__name__}"
            )
        if image.shape != items[0]["image"].shape:
            raise ValueError(
                f"images must have one size: item {indices[0]} is "
                f"{tuple(items[0]['image'].shape)}, item {index} is {tuple(image.shape)}"
            )
    keys = [key for key, value in items[0].items() if isinstance(value, Tensor)]
    return {key: torch.stack([item[key] for item in items]) for key in keys}
