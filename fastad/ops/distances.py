"""Distance of normalised features per pixel: wrapper, fake, autograd."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastad.ops import _arguments, _comparison, _gradients, _spatial_weights, reference
from fastad.ops._spatial_weights import SpatialWeights


def distances(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    *,
    weights: SpatialWeights | None = None,
    distance: str = "cosine",
    mean: Sequence[Tensor] | None = None,
    deviation: Sequence[Tensor] | None = None,
    eps: float = 1e-12,
) -> list[Tensor]:
    """Half the squared distance of L2-normalised features, per pixel, for all levels at once.

    ``d = 1/2 * || t / max(||t||, eps) - s / max(||s||, eps) ||^2`` over channels. For non-zero
    vectors it equals ``1 - cos(t, s)``, and it keeps its relative accuracy for nearly equal ones
    (Wang et al., "Student-teacher feature pyramid matching", BMVC 2021, eqs. 1-2).

    Args:
        teacher: list of 1 to 8 levels (N, C_l, H_l, W_l), in float32, bfloat16, float16 or
            float64. Types and layouts may be mixed. Contiguous and channels_last levels are read in
            place. Where one has other strides, `fastad.ops.reference` computes the result.
        student: as ``teacher``, with the same shapes.
        weights: spatial weights: a factor of each pixel's distance, finite and at least 0. None
            for 1.

            - One tensor (N, H, W), or (H, W) for all images, of any size: it is resized to each
              level. A pixel of the level gets the mean of the weights that it touches, as
              `torch.nn.functional.adaptive_avg_pool2d` does. Of a mask that is its share that
              counts.
            - A list of one tensor a level, (N, H_l, W_l) or (H_l, W_l): taken as it is.

            Bool or a floating type. They are computed in the type of the result. Weights get no
            gradient, and one that requires it is refused. A pixel of weight 0 gets none either. On
            CUDA the values are not read back: a negative or non-finite weight makes its results
            NaN.
        distance: what is computed of a pixel's vectors.

            - ``"cosine"``: as above.
            - ``"l2"``: the mean of the squared differences of their channels. The mean over all
              pixels is `torch.nn.functional.mse_loss`.
            - ``"l2_standardized"``: as ``"l2"`` of the standardised teacher, as EfficientAD has it
              (Batzner et al., WACV 2024, sec. 3.2). It needs ``mean`` and ``deviation``.
        mean: subtracted from the teacher's channels, a tensor (C_l,) a level. None for 0. With
            ``"cosine"`` or ``"l2_standardized"``. The values are not checked, and get no gradient.
        deviation: by which the teacher's channels are divided after that, likewise. None for 1.
        eps: smallest norm by which a vector is divided.

    Returns:
        A list of (N, H_l, W_l), in float32, or float64 if any input is.

    Raises:
        TypeError: a wrong type. The message names the argument.
        ValueError: a wrong shape. The message names the argument and the shape.

    Examples:
        Three pixels with two channels: the same direction, a right angle, the opposite direction.

        >>> import torch
        >>> from fastad import ops
        >>> teacher = [torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]).view(1, 2, 1, 3)]
        >>> student = [torch.tensor([[4.0, 0.0, -1.0], [0.0, 2.0, 0.0]]).view(1, 2, 1, 3)]
        >>> ops.distances(teacher, student)
        [tensor([[[0., 1., 2.]]])]

        The last pixel does not count.

        >>> ops.distances(teacher, student, weights=torch.tensor([[1.0, 1.0, 0.0]]))
        [tensor([[[0., 1., 0.]]])]
    """
    teacher, student, served = _arguments.features(teacher, student)
    eps = _arguments.norm_floor(eps)
    if weights is not None:
        weights, served = _spatial_weights.of_levels(weights, teacher, student, served)
    comparison = _comparison.of(distance, mean, deviation, teacher, student)
    if not served:
        return reference.distances(teacher, student, eps=eps, weights=weights, **comparison.options)
    found: list[Tensor] = torch.ops.fastad.distances(
        teacher, student, eps, weights, comparison.code, comparison.channels
    )
    return found


@torch.library.register_fake("fastad::distances")
def _fake(
    teacher: list[Tensor],
    student: list[Tensor],
    eps: float,
    spatial_weights: list[Tensor] | None = None,
    distance: int = 0,
    channels: list[Tensor] | None = None,
) -> list[Tensor]:
    dtype = _arguments.compute_dtype([*teacher, *student])
    return [s.new_empty((s.shape[0], *s.shape[2:]), dtype=dtype) for s in student]


@torch.library.register_fake("fastad::distances_backward")
def _fake_backward(
    grad: list[Tensor],
    teacher: list[Tensor],
    student: list[Tensor],
    eps: float,
    spatial_weights: list[Tensor] | None = None,
    distance: int = 0,
    channels: list[Tensor] | None = None,
) -> list[Tensor]:
    return [_gradients.empty_gradient(s) for s in student]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    teacher, student, ctx.eps, weights, ctx.distance, channels = inputs
    _gradients.no_gradient(weights, channels)
    ctx.levels, ctx.others = len(student), [weights is not None, channels is not None]
    ctx.save_for_backward(*teacher, *student, *(weights or []), *(channels or []))


def _backward(ctx: Any, grad: list[Tensor]) -> tuple[Any, ...]:
    teacher, student, weights, channels = _gradients.split(
        ctx.saved_tensors, ctx.levels, [True, True, *ctx.others]
    )
    gradients: Sequence[Sequence[Tensor | None]]
    if torch.is_grad_enabled():
        options = reference.options_of(ctx.distance, channels)
        function = partial(reference.distances, eps=ctx.eps, weights=weights, **options)
        gradients = _gradients.by_reference(function, [teacher, student], grad)
    else:
        gradients = _gradients.of_distances(
            ctx.needs_input_grad, grad, teacher, student, ctx.eps, weights, ctx.distance, channels
        )
    return _gradients.for_arguments(ctx, *gradients)


torch.library.register_autograd("fastad::distances", _backward, setup_context=_setup_context)
