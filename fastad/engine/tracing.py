"""A model as a graph of plain torch ops, which other runtimes can read."""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from fastad.ops import reference

M = TypeVar("M", bound=nn.Module)


def copy_to_trace(model: M) -> M:
    """A copy in eval mode, in float32 on the CPU, without gradients. The model is not changed."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    # torch's types lack this form.
    return model.to(  # type: ignore[call-overload]
        "cpu", torch.float32, memory_format=torch.contiguous_format
    )


def traced(
    graph: nn.Module,
    example: Any,
    sizes: dict[int, Dim] | None = None,
    *,
    fused_ops: bool = False,
) -> ExportedProgram:
    """The graph of a module that takes one tensor, or a list of them.

    Args:
        graph: made of copies of `copy_to_trace`.
        example: what it takes.
        sizes: the dimensions of ``example`` that may have any length. None for none.
        fused_ops: keep this package's ops. False puts plain ones in their places.
    """
    with torch.no_grad():
        shapes = None if sizes is None else (sizes,)
        program = torch.export.export(graph, (example,), dynamic_shapes=shapes)
        if not fused_ops:
            program = program.run_decompositions(_plain_ops())
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine, which writers would keep
    return program


def _plain_ops() -> dict[Any, Any]:
    """Each fused op that a model's forward may call -> the same by `fastad.ops.reference`."""

    def aggregate_maps(
        maps: list[Tensor],
        height: int,
        width: int,
        product: bool,
        weights: list[float],
        align_corners: bool = False,
        dtype: torch.dtype | None = None,
        smoothing: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        result = reference.aggregate_maps(
            maps,
            (height, width),
            aggregate="product" if product else "sum",
            weights=weights,
            align_corners=align_corners,
            smoothing=smoothing,
        )
        return result if dtype is None else result.to(dtype), result.amax((1, 2))

    def anomaly_map(
        teacher: list[Tensor],
        student: list[Tensor],
        height: int,
        width: int,
        product: bool,
        weights: list[float],
        eps: float,
        spatial_weights: list[Tensor] | None = None,
        distance: int = 0,
        channels: list[Tensor] | None = None,
        align_corners: bool = False,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        maps = distances(teacher, student, eps, spatial_weights, distance, channels)
        return *aggregate_maps(maps, height, width, product, weights, align_corners, dtype), maps

    def stack_maps(
        maps: list[Tensor],
        height: int,
        width: int,
        align_corners: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        return reference.aggregate_maps(
            maps, (height, width), aggregate="stack", align_corners=align_corners, dtype=dtype
        )

    def distances(
        teacher: list[Tensor],
        student: list[Tensor],
        eps: float,
        spatial_weights: list[Tensor] | None = None,
        distance: int = 0,
        channels: list[Tensor] | None = None,
    ) -> list[Tensor]:
        return reference.distances(
            teacher,
            student,
            eps=eps,
            weights=spatial_weights,
            **reference.options_of(distance, channels),
        )

    def resize_weights(weights: Tensor, heights: list[int], widths: list[int]) -> list[Tensor]:
        sizes = list(zip(heights, widths, strict=True))
        return reference.resize_weights(weights, sizes, weights.dtype)

    ops = torch.ops.fastad
    return {
        ops.aggregate_maps.default: aggregate_maps,
        ops.anomaly_map.default: anomaly_map,
        ops.distances.default: distances,
        ops.resize_weights.default: resize_weights,
        ops.stack_maps.default: stack_maps,
    }
