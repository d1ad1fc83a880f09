"""Calls every schema of torch.ops.fastad with right, nearly right and wrong arguments.

    python tests/ops/fuzz.py --calls 1000000 --seed 1
    python tests/ops/fuzz.py --seed 1 --first 4711 --calls 1  # one call again

A call succeeds or raises. Where it succeeds, the results of the ops on features and maps are
compared with `fastad.ops.reference` in float64. Tensors lie between NaN, or at the very ends of
their memory, where AddressSanitizer sees a step too far (tools/sanitize.py). Memory that an op is
not meant to overwrite must stay as it was. The log holds the number of the running call.
"""

import argparse
import faulthandler
import os
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fuzz_arguments import CONVOLUTIONS, FEATURES, FLOATS, IMAGES, SCORES, Memory, spoiled
from torch import Tensor

from fastad.ops import _arguments, _comparison, _reductions, reference

MAKERS = FEATURES + SCORES + IMAGES + CONVOLUTIONS
ERRORS = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)


def exact(tensors: list[Tensor], requires_grad: bool = False) -> list[Tensor]:
    return [x.detach().double().clone().requires_grad_(requires_grad) for x in tensors]


def options(last: list[Any]) -> dict[str, Any]:
    """The last arguments of a call, which may be missing or None, as the reference takes them."""
    weights, distance, channels, *_ = [*last, None, None, None][: max(3, len(last))]
    result = {"distance": ("cosine", "l2", "cosine_flat")[distance or 0]}
    if weights is not None:
        # CUDA kernels make NaN of what they cannot refuse.
        result["weights"] = [torch.where(w >= 0, w, torch.nan) for w in exact(weights)]
    if channels is not None:
        result["mean"] = [x[0] for x in exact(channels)]
        result["deviation"] = [1 / x[1] for x in exact(channels)]
    return result


def joined(
    maps: list[Tensor],
    size: list[int],
    product: bool,
    weights: list[float],
    corners: bool = False,
    dtype: torch.dtype | None = None,  # makes rounding larger, which is in the tolerance
    smoothing: float = 0.0,
) -> Tensor:
    aggregate = "product" if product else "sum"
    return reference.aggregate_maps(
        maps,
        tuple(size),
        aggregate=aggregate,
        weights=weights,
        align_corners=corners,
        smoothing=smoothing,
    )


def stacked(
    maps: list[Tensor], size: list[int], corners: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    return reference.aggregate_maps(maps, tuple(size), aggregate="stack", align_corners=corners)


def expected_flat_results(name: str, arguments: list[Any]) -> list[Tensor] | None:
    """Distances and norms, or the gradient where the call was given these of its features."""
    backward = name == "flat_distances_backward"
    teacher, student, eps, *last = arguments[3:] if backward else arguments
    weights, channels = [*last, None, None][:2]
    chosen = options([weights, 0, channels])
    del chosen["distance"]
    teacher, student = exact(teacher), exact(student, True)
    distances = torch.stack(reference.flat_distances(teacher, student, eps=eps, **chosen))
    if channels is not None:
        teacher = _comparison.standardized(teacher, exact(channels))
    weights = chosen.get("weights", [torch.ones(())] * len(student))
    norms = [
        torch.stack(
            [(w * x.square().sum(1)).sum((1, 2)).sqrt() for w, x in zip(weights, y, strict=True)]
        )
        for y in (teacher, student)
    ]
    results = [distances.detach(), torch.stack(norms).detach()]
    if not backward:
        return results
    if not all(map(partial(torch.allclose, atol=1e-2), exact(arguments[1:3]), results)):
        return None
    return list(torch.autograd.grad(distances, student, arguments[0].double()))


def expected_results(name: str, arguments: list[Any], results: list[Tensor]) -> list[Tensor] | None:
    """What an accepted call must return, flat, in float64; None where nothing is compared."""
    if name == "distances":
        teacher, student, eps, *last = arguments
        return reference.distances(exact(teacher), exact(student), eps=eps, **options(last))
    if name == "distances_backward":
        grad, teacher, student, eps, *last = arguments
        student = exact(student, True)
        found = reference.distances(exact(teacher), student, eps=eps, **options(last))
        return list(torch.autograd.grad(found, student, exact(grad)))
    if name.startswith("flat_distances"):
        return expected_flat_results(name, arguments)
    if name == "aggregate_maps":
        maps, height, width, *last = arguments
        found = joined(exact(maps), [height, width], *last)
        return [found, found.amax(dim=(1, 2))]
    if name == "aggregate_maps_backward":
        grad, maps, *last = arguments
        maps, grad = exact(maps, True), grad.double()
        product, weights, corners, smoothing = [*last, *[False, 0.0][len(last) - 2 :]]
        found = joined(maps, grad.shape[1:], product, weights, corners, smoothing=smoothing)
        return list(torch.autograd.grad(found, maps, grad))
    if name == "stack_maps":
        maps, height, width, *last = arguments
        return [stacked(exact(maps), [height, width], *last)]
    if name == "stack_maps_backward":
        grad, maps, *last = arguments
        maps, grad = exact(maps, True), grad.double()
        return list(torch.autograd.grad(stacked(maps, grad.shape[2:], *last), maps, grad))
    if name == "anomaly_map":
        teacher, student, height, width, product, weights, eps, *last = arguments
        size = [height, width]
        maps = reference.distances(exact(teacher), exact(student), eps=eps, **options(last))
        # Of the op's own level maps: 0 ** 0.001 is far from 1e-15 ** 0.001.
        found = joined(exact(results[2:]), size, product, weights, *last[3:])
        return [found, found.amax(dim=(1, 2)), *maps]
    if name == "distillation_loss":
        teacher, student, weights, reduction, eps, gradient, *last = arguments
        student, teacher = exact(student, gradient), exact(teacher, gradient)
        loss = reference.distillation_loss(
            teacher,
            student,
            level_weights=weights,
            reduction=("mean", "sum", "none")[reduction],
            eps=eps,
            **options(last),
        )
        inputs = student + (teacher if len(last) > 3 and last[3] else [])
        return [loss, *(torch.autograd.grad(loss.sum(), inputs) if gradient else [])]
    if name == "hard_loss":
        maps, factors, hard, reduction, *last = arguments
        maps, weights = exact(maps, True), exact(last[0]) if last and last[0] else None
        named = ("mean", "sum", "none")[reduction]
        levels = _reductions.hard_levels(maps, hard, weights, named)
        loss = _reductions.join_levels(levels, factors, named)
        return [loss, *torch.autograd.grad(loss.sum(), maps)]
    if name == "top_share":
        pixels, count = arguments[0].double().flatten(1), arguments[1]
        highest, places = pixels.topk(count).values, results[1]
        found = pixels.gather(1, places).sort(descending=True).values
        assert torch.equal(found, highest.sort(descending=True).values), "not the highest pixels"
        return [highest.mean(dim=1), places.double()]
    if name == "resize_weights":
        weights, *sizes = arguments
        return reference.resize_weights(weights.double(), list(zip(*sizes, strict=True)), FLOATS[1])
    if name == "scale_gradients_":
        gradients, factor = arguments
        if len({id(x) for x in gradients}) < len(gradients) or factor.is_complex():
            return []  # scaled more than once, or to be refused
        factors = factor.double().expand(len(gradients))
        return [x * f for x, f in zip(exact(gradients), factors, strict=True)]
    return None


def flat(results: Any) -> list[Tensor]:
    if isinstance(results, Tensor):
        return [results]
    parts = results if isinstance(results, (list, tuple)) else []
    return [x for part in parts for x in flat(part)]


def check_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    assert len(found) == len(expected), f"{len(found)} results in place of {len(expected)}"
    for f, e in zip(found, expected, strict=True):
        assert f.shape == e.shape, f"{tuple(f.shape)} in place of {tuple(e.shape)}"
        if e.numel() == 0:
            continue
        f, e = f.detach().double(), e.detach()
        assert torch.equal(f.isnan(), e.isnan()), "NaN in the wrong places"
        scale = e.nan_to_num().abs().max().clamp_min(1e-2)
        worst = ((f - e).nan_to_num().abs().max() / scale).item()
        assert worst < tolerance, f"off by {worst:.3g} of the largest value"


def check_memory(m: Memory, before: list[Tensor], overwritten: list[Tensor]) -> None:
    """Only ``overwritten`` has changed."""
    for (memory, values), was in zip(m.made, before, strict=True):
        if any(values is x for x in overwritten):
            was.as_strided(values.shape, values.stride(), values.storage_offset()).copy_(values)
        assert torch.equal(memory.view(torch.uint8), was.view(torch.uint8)), "overwrites memory"


def must_be_accepted(name: str, arguments: list[Any]) -> bool:
    """Whether right arguments have layouts that the kernels read in place."""
    features = [x for x in flat(arguments) if x.dim() == 4]
    if name == "scale_gradients_":
        return all(torch.empty_like(x).stride() == x.stride() for x in features)
    return all(map(_arguments.readable, features))


def run_call(ops: Any, make: Callable[[Memory], list[Any]], seed: str, spoils: bool) -> bool:
    """Whether the call was accepted. Raises AssertionError where something is wrong."""
    m, name = Memory(seed), make.__name__
    arguments = make(m)
    times = m.random.choice([0, 1, 1, 2]) if spoils else 0
    for _ in range(times):
        index = m.random.randrange(len(arguments))
        arguments[index] = spoiled(m, arguments[index])
    tensors = flat(arguments)
    before = [memory.clone() for memory, _ in m.made]
    try:
        # Before the call, which may overwrite its arguments.
        expected = expected_results(name, arguments, []) if name == "scale_gradients_" else None
    except ERRORS:
        expected = []
    results, refusal = None, None
    try:
        results = getattr(ops, name)(*arguments)
    except ERRORS as error:
        refusal = repr(error)
    if refusal is not None:
        assert "API call failed" not in refusal, f"an error that names nothing: {refusal}"
        assert times > 0 or not must_be_accepted(name, arguments), f"refused: {refusal}"
        check_memory(m, before, [])
        return False
    if any(x.is_meta for x in tensors):
        return True
    check_memory(m, before, flat(arguments[0]) if name.endswith("_") else [])
    if expected is not None:
        results = arguments[0]
    results = flat(results)
    if expected is None:
        expected = expected_results(name, arguments, results)
    if expected is not None:
        half = any(x.dtype in FLOATS[2:] for x in [*tensors, *results])
        # Of negative maps a power is no number, and nor are gradients through it.
        if times == 0 or (expected and not any(e.isnan().any() for e in expected)):
            check_close(results, expected, 0.03 if half else 1e-3)
    elif times == 0:
        assert all(x.double().isfinite().all() for x in results), "NaN from outside"
    return True


def fuzz(
    ops: Any, makers: list[Callable], seed: int, first: int, calls: int, log: Path | None = None
) -> Counter:
    """Makes calls ``first`` to ``first + calls - 1``. Counts (op, whether it was accepted)."""
    counts: Counter = Counter()
    file = os.open(log, os.O_CREAT | os.O_WRONLY) if log is not None else None
    for number in range(first, first + calls):
        make = makers[number % len(makers)]
        call = f"call {number} of seed {seed}, {make.__name__}"
        if file is not None:
            os.pwrite(file, f"{call:64}\n".encode(), 0)
        try:
            accepted = run_call(ops, make, f"{seed} {number}", number // len(makers) % 3 > 0)
        except AssertionError as error:
            raise AssertionError(f"{call}: {error}") from error
        counts[make.__name__, accepted] += 1
    if file is not None:
        os.close(file)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first call")
    parser.add_argument("--log", type=Path, help="file for the number of the running call")
    arguments = parser.parse_args()
    faulthandler.enable()
    torch.set_num_threads(1)
    counts = fuzz(torch.ops.fastad, MAKERS, **vars(arguments))
    for make in MAKERS:
        name = make.__name__
        print(f"{name:24} accepted {counts[name, True]:7} refused {counts[name, False]:7}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
