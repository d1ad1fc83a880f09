"""Bytes that an op must move and that the eager reference moves: what a ratio can come to.

    python bench/traffic.py

Where both wait for memory, an op is as many times as fast as its bytes are fewer. A tensor that an
operation of the reference reads or writes counts once; views do not count. What stays in a cache
from one operation to the next is counted all the same, so more than the ratio is seldom reached.
"""

from collections.abc import Callable
from typing import Any

import torch
from pyramid import pyramid
from ratios import SIZE, channel_statistics
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastad import ops

BATCH = 8


class Traffic(TorchDispatchMode):
    """Adds up the bytes of what operations read and write."""

    bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        flat = torch.utils._pytree.tree_leaves
        read = [x for x in flat((args, kwargs)) if isinstance(x, Tensor)]
        written = [x for x in flat(result) if isinstance(x, Tensor)]
        storages = {x.untyped_storage().data_ptr() for x in read}
        is_view = any(x.untyped_storage().data_ptr() in storages for x in written)
        if not is_view or func._schema.is_mutable:
            self.bytes += sum(
                min(x.nbytes, x.untyped_storage().nbytes()) for x in (*read, *written)
            )
        return result


def moved(name: str, **options: Any) -> tuple[float, float]:
    """Bytes of the reference and of the op, in multiples of the student's features."""
    is_loss = name == "distillation_loss"
    teacher, student = pyramid(BATCH), pyramid(BATCH, requires_grad=is_loss)
    features = sum(s.nbytes for s in student)
    size = (SIZE,) if name == "anomaly_map" else ()
    function: Callable = getattr(ops.reference, name)
    with Traffic() as traffic, torch.set_grad_enabled(is_loss):
        result = function(teacher, student, *size, **options)
        if is_loss:
            torch.autograd.grad(result, student)
    tensors = 2.0 * features
    if is_loss:
        tensors = 3 * features
    if name == "anomaly_map":
        tensors += result.nbytes
    tensors += sum(x.nbytes for x in options.values() if isinstance(x, Tensor))
    return traffic.bytes / features, tensors / features


def main() -> None:
    weights = torch.rand(BATCH, *SIZE)
    standard = channel_statistics()
    rows = [
        ("distances", {}),
        ("distances", {"distance": "l2"}),
        ("distances", {"distance": "l2_standardized", **standard}),
        ("distances", standard),
        ("distances", {"weights": weights}),
        ("anomaly_map", {}),
        ("anomaly_map", {"distance": "l2"}),
        ("anomaly_map", {"distance": "l2_standardized", **standard}),
        ("anomaly_map", {"smoothing": 4.0}),
        ("distillation_loss", {}),
        ("distillation_loss", {"distance": "l2"}),
        ("distillation_loss", {"distance": "l2_standardized", **standard}),
        ("distillation_loss", {"distance": "cosine_flat"}),
        ("distillation_loss", {"weights": weights}),
    ]
    print(f"{'in features of one network':54} reference    op  ratio")
    for name, options in rows:
        text = ", ".join(v if isinstance(v, str) else k for k, v in options.items())
        reference, op = moved(name, **options)
        work = name + (" with " + text if text else "")
        print(f"{work:54} {reference:9.1f} {op:5.1f} {reference / op:6.1f}")


if __name__ == "__main__":
    main()
