"""The score of an image, made of its anomaly map so that a gradient flows through it."""

from typing import Any

import torch
from torch import Tensor

from fastad.ops import _arguments, reference

# The pixels of an image are compared in groups of this many before they are ordered.
_GROUP = 8


def check(score: str | None, share: float, return_maximum: bool, dtype: torch.dtype | None) -> None:
    if score is None:
        return
    if score not in reference.SCORES:
        raise ValueError(f"score must be None or one of {list(reference.SCORES)}, not {score!r}")
    if dtype is not None:
        raise ValueError("score is made of the map, which dtype rounds: give one of the two")
    if return_maximum:
        raise ValueError("score and return_maximum both return an image's score: give one")
    _arguments.check_number("share", share)
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, not {share!r}")


def of_map(anomaly_map: Tensor, maximum: Tensor, score: str, share: float) -> Tensor:
    """`reference.score` of a map (N, H, W) whose ``maximum`` (N,) is known."""
    if score == "maximum" and not anomaly_map.requires_grad:
        return maximum
    pixels = anomaly_map.shape[1] * anomaly_map.shape[2]
    count = reference.count_of(share, pixels)
    if score == "top_share" and anomaly_map.device.type == "cpu":
        scores: Tensor
        scores, _ = torch.ops.fastad.top_share(anomaly_map, count)
        return scores
    if score == "maximum" or pixels % _GROUP or 2 * count > pixels // _GROUP:
        return reference.score(anomaly_map, score, share)
    # The highest pixels lie in no more groups than they are, and in those with the highest maxima.
    # Ordering the maxima, then the pixels of these groups, takes a third of the time of all.
    shape = (anomaly_map.shape[0], _GROUP, pixels // _GROUP)
    groups = anomaly_map.reshape(shape)  # N 8 P/8
    highest = groups.detach().amax(dim=1).topk(count, sorted=False).indices  # N count
    chosen = groups.gather(2, highest[:, None].expand(-1, _GROUP, -1))
    return torch.topk(chosen.flatten(1), count, sorted=False).values.mean(dim=1)


@torch.library.register_fake("fastad::top_share")
def _fake(map: Tensor, count: int) -> tuple[Tensor, Tensor]:
    batch = map.shape[0]
    return map.new_empty((batch,)), map.new_empty((batch, count), dtype=torch.int64)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    anomaly_map, ctx.count = inputs
    ctx.shape = anomaly_map.shape
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # no zeros for outputs that carry no gradient
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, grad: Tensor | None, grad_places: Any) -> tuple[Tensor | None, None]:
    if grad is None:
        return None, None
    (places,) = ctx.saved_tensors
    batch, height, width = ctx.shape
    share = (grad / ctx.count)[:, None].expand(batch, ctx.count)
    pixels = grad.new_zeros((batch, height * width)).scatter_(1, places, share)
    return pixels.view(batch, height, width), None


torch.library.register_autograd("fastad::top_share", _backward, setup_context=_setup_context)
