"""Which images are trained on and which held out, and how items become batches."""

import itertools
import operator
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from fastad.data.folder import Images


def split_indices(size: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Random indices to train on and to hold out, both sorted; a function of the arguments alone.

    At least one image is held out where ``fraction`` > 0 and there are two, and at least one is
    left to train on. Nothing is held out of a single image.
    """
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    held_out = min(max(1, round(size * fraction)), size - 1) if fraction > 0 else 0
    return order[held_out:].sort().values, order[:held_out].sort().values


def split_of(
    size: int, held_out: Sequence[int] | None, fraction: float, seed: int
) -> tuple[Tensor, Tensor]:
    """`split_off` of what is to be held out; `split_indices` where that is None."""
    if held_out is None:
        return split_indices(size, fraction, seed)
    return split_off(size, held_out)


def split_off(size: int, held_out: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The other indices below ``size``, and ``held_out``, both sorted.

    Raises:
        TypeError: an index is no integer.
        ValueError: an index is out of range or there twice, or no image is left to train on.
    """
    try:
        indices = sorted(operator.index(index) for index in held_out)
    except TypeError:
        raise TypeError(f"held_out must hold integers; got {held_out!r:.100}") from None
    for index in indices:
        if not 0 <= index < size:
            raise ValueError(f"held_out: there is no image {index} among {size} (from 0)")
    if len(set(indices)) < len(indices):
        twice = next(a for a, b in itertools.pairwise(indices) if a == b)
        raise ValueError(f"held_out: image {twice} is there twice")
    if len(indices) == size:
        raise ValueError(f"held_out: all {size} images are held out, none is left to train on")
    rest = torch.ones(size, dtype=torch.bool)
    rest[indices] = False
    return rest.nonzero().flatten(), torch.tensor(indices, dtype=torch.int64)


def shuffled_batches(indices: Tensor, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """``indices`` in random order, in pieces; a last piece of one image only if it is the only."""
    order = indices[torch.randperm(len(indices), generator=generator)]
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1 and batch_size > 1:
        batches.pop()
    return batches


def one_variant_each(items: Tensor, generator: torch.Generator) -> Tensor:
    """Of items (1 + k, n) one a column, drawn evenly: (n,). Items (n,) are taken as they are."""
    if items.dim() == 1:
        return items
    rows = torch.randint(len(items), (1, items.shape[1]), generator=generator)
    return items.gather(0, rows)[0]


def steps_an_epoch(items: int, batch_size: int) -> int:
    """How many batches `shuffled_batches` makes of that many items."""
    steps = -(-items // batch_size)
    left_out = steps > 1 and batch_size > 1 and items % batch_size == 1
    return steps - left_out


def is_fixed(dataset: Images) -> bool:
    """Whether an index always gives the same image: a tensor, or a data set that says so."""
    return isinstance(dataset, Tensor) or getattr(dataset, "is_fixed", False) is True


def read_batch(
    dataset: Images, indices: Sequence[int], seed: int = 0, epoch: int = 0
) -> dict[str, Tensor]:
    """Items -> {"image": (N, 3, H, W), ...} on the CPU.

    An item is an image, uint8 or float in [0, 1], (3, H, W), or a dict with it as "image"; other
    tensors of the dict are stacked as they are, anything else is left out.

    A data set that is not fixed may draw from torch's, numpy's and Python's global generators: for
    each item they are seeded by (seed, epoch, index), so that an item does not depend on what was
    read before it or on the process that reads it, and put back afterwards.

    Where a data set has ``of_epoch(index, epoch)``, that gives the items.

    Raises:
        TypeError: an item is something else.
        ValueError: images of several sizes.
    """
    indices = list(indices)
    if isinstance(dataset, Tensor):
        return {"image": dataset[indices]}
    of_epoch = getattr(dataset, "of_epoch", None)
    if is_fixed(dataset) and of_epoch is not None:
        return _stack([of_epoch(index, epoch) for index in indices], indices)
    if is_fixed(dataset):
        return _stack([dataset[index] for index in indices], indices)
    items = []
    with _generators_put_back():
        for index in indices:
            _seed_generators(seed, epoch, index)
            items.append(dataset[index] if of_epoch is None else of_epoch(index, epoch))
    return _stack(items, indices)


def to_device(
    batch: Mapping[str, Tensor], device: torch.device, memory_format: torch.memory_format
) -> dict[str, Tensor]:
    """A batch on ``device`` with its "image" as (N, 3, H, W) float32 in [0, 1].

    Images travel to the device as uint8, a quarter of the bytes.

    Raises:
        TypeError: images that are neither uint8 nor floating point.
        ValueError: images of another shape.
    """
    batch = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
    images = batch["image"]
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (3, H, W); got {tuple(images.shape[1:])}")
    is_bytes = images.dtype == torch.uint8
    if not is_bytes and not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating point in [0, 1]; got {images.dtype}")
    images = images.to(torch.float32, memory_format=memory_format)
    batch["image"] = images.div_(255) if is_bytes else images
    if "corrupted" in batch:  # of the image's dtype
        corrupted = batch["corrupted"].to(torch.float32, memory_format=memory_format)
        batch["corrupted"] = corrupted.div_(255) if is_bytes else corrupted
    if "foreign" in batch:  # bytes
        foreign = batch["foreign"].to(torch.float32, memory_format=memory_format)
        batch["foreign"] = foreign.div_(255)
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


def _seed_generators(*key: int) -> None:
    words = np.random.SeedSequence(key).generate_state(3)
    # Not torch.manual_seed, which would seed the CUDA generators as well.
    torch.default_generator.manual_seed(int(words[0]))
    np.random.seed(words[1])
    random.seed(int(words[2]))


@contextmanager
def _generators_put_back() -> Iterator[None]:
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
