"""A student that does not follow its teacher on images of something else.

EfficientAD's student has to be near zero there (Batzner et al., WACV 2024, sec. 3.2). A distance of
directions does not see the length of features, so here the directions have to differ.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastad import ops


def agreement(teacher: Sequence[Tensor], student: Sequence[Tensor], eps: float) -> Tensor:
    """The cosine of two lists of features (N, C_l, H_l, W_l), where it is positive: its mean over
    each level, summed over the levels."""
    maps = ops.distances(teacher, student, eps=eps)
    return torch.stack([(1 - distance).relu().mean() for distance in maps]).sum()


@contextmanager
def statistics_kept(student: nn.Module) -> Iterator[None]:
    """Within, batch norm takes its running statistics, as in prediction, and leaves them."""
    norms = [m for m in student.modules() if isinstance(m, _BatchNorm) and m.training]
    try:
        for norm in norms:
            norm.eval()
        yield
    finally:
        for norm in norms:
            norm.train()
