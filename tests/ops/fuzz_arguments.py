"""Arguments for every schema of torch.ops.fastad: right ones, and how they are spoiled."""

import functools
import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastad import _extension

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
OTHERS = [torch.int16, torch.uint8, torch.int64, torch.bool, torch.int8, torch.complex64]
EPS = 1e-12
has_int16 = _extension.cpu_int16


class Memory:
    """Makes tensors, and knows what lies around them."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(self.random.getrandbits(60))
        self.made: list[tuple[Tensor, Tensor]] = []  # all memory of a tensor, and the tensor

    def view(self, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Random numbers; outside of them NaN, or the end of the memory."""
        extent = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        extent = 0 if 0 in shape else extent
        before, after = (self.random.choice([0, 1, 64]) for _ in range(2))
        memory = torch.full((before + extent + after,), 77.0)
        if dtype.is_floating_point or dtype.is_complex:
            memory.fill_(math.nan)
        memory = memory.to(dtype)
        numbers = torch.rand(extent, generator=self.generator) * 1.6 - 0.8
        numbers += 0.2 * numbers.sign()  # no vector is so short that rounding decides
        if dtype in (torch.uint8, torch.int16, torch.int64):
            numbers = numbers * 100 + 100
        values = memory[before : before + extent].as_strided(shape, strides)
        # Gaps between the elements stay NaN.
        flat = torch.zeros(extent, dtype=torch.bool)
        flat.as_strided(shape, strides).fill_(True)
        memory[before : before + extent][flat] = numbers[flat].to(dtype)
        self.made.append((memory, values))
        return values

    def dense(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        return self.view(shape, contiguous_strides(shape), dtype)

    def channels_last(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        _, c, h, w = shape
        return self.view(shape, (h * w * c, 1, w * c, c), dtype)

    def copy(self, x: Tensor) -> Tensor:
        """The same numbers in memory of this kind."""
        result = self.dense(tuple(x.shape), x.dtype)
        return result.copy_(x)

    def strided(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Any layout: axes in another order, with gaps, expanded, overlapping."""
        r = self.random
        kind = r.choice(["ordered", "ordered", "gaps", "expanded", "any"])
        if kind == "any":
            return self.view(shape, tuple(r.choice([0, 1, 1, 2, 3, n]) for n in shape), dtype)
        order = r.sample(range(len(shape)), len(shape))
        if r.random() < 0.5 and len(shape) == 4:
            order = r.choice([[0, 1, 2, 3], [0, 2, 3, 1], [1, 0, 2, 3]])
        strides, step = [0] * len(shape), 1
        for axis in reversed(order):
            strides[axis] = step
            step *= max(shape[axis], 1)
            if kind == "gaps" and r.random() < 0.4:
                step += r.choice([1, 3, 8])
        if kind == "expanded":
            for axis in range(len(shape)):
                if r.random() < 0.3:
                    strides[axis] = 0
        return self.view(shape, tuple(strides), dtype)


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


# ---- right arguments


def _features(m: Memory, shapes: list[tuple[int, ...]], dtypes: list[torch.dtype]) -> list[Tensor]:
    return [
        m.strided(s, m.random.choice(dtypes))
        if m.random.random() < 0.5
        else m.random.choice([m.dense, m.channels_last])(s, m.random.choice(dtypes))
        for s in shapes
    ]


def pyramids(m: Memory) -> tuple[list[Tensor], list[Tensor]]:
    r = m.random
    batch = r.choice([0, 1, 1, 2, 3])
    sizes = [1, 1, 2, 3, 4, 5, 8, 17]
    shapes = [
        (batch, r.choice([1, 2, 3, 5, 8, 16, 32, 33, 70]), r.choice(sizes), r.choice(sizes))
        for _ in range(r.choice([1, 1, 2, 3, 8]))
    ]
    dtypes = FLOATS if r.random() < 0.2 else [r.choice(FLOATS)]
    return _features(m, shapes, dtypes), _features(m, shapes, dtypes)


def maps_of(m: Memory) -> list[Tensor]:
    r = m.random
    batch, dtype = r.choice([0, 1, 2, 3]), r.choice(FLOATS[:2])
    sizes = [1, 1, 2, 3, 5, 9, 17]
    return [
        m.copy(m.dense((batch, r.choice(sizes), r.choice(sizes)), dtype).abs() + 0.2)
        for _ in range(r.choice([1, 2, 3, 8]))
    ]


def numbers(m: Memory, count: int) -> list[float]:
    return [m.random.choice([1.0, 1.0, 0.5, 2.0, 0.0]) for _ in range(count)]


def size_of_map(m: Memory) -> tuple[int, int]:
    return m.random.choice([1, 2, 5, 16, 31]), m.random.choice([1, 3, 8, 40, 64])


def computed_dtype(tensors: list[Tensor]) -> torch.dtype:
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


def spatial_weights(m: Memory, teacher: list[Tensor], student: list[Tensor]) -> list[Any]:
    """Last arguments: none, no weights, or weights of each level in any layout."""
    r = m.random
    if r.random() < 0.5:
        return [] if r.random() < 0.5 else [None]
    dtype = computed_dtype([*teacher, *student])
    result = []
    for s in student:
        weights = m.strided((s.shape[0], *s.shape[2:]), dtype)
        memory, _ = m.made[-1]
        memory.mul_(0) if r.random() < 0.1 else memory.abs_()
        result.append(weights)
    return [result]


def comparison(
    m: Memory, teacher: list[Tensor], student: list[Tensor], distances: Sequence[int] = (0, 1)
) -> list[Any]:
    """Last arguments: spatial weights, the distance, and statistics of the channels."""
    r = m.random
    weights = spatial_weights(m, teacher, student)
    if r.random() < 0.3:
        return weights
    distance, dtype = r.choice(distances), computed_dtype([*teacher, *student])
    weights = weights or [None]
    if r.random() < 0.5:
        return [*weights, distance]
    return [*weights, distance, [m.copy(m.dense((2, s.shape[1]), dtype).abs()) for s in student]]


def distances(m: Memory) -> list[Any]:
    teacher, student = pyramids(m)
    return [teacher, student, EPS, *comparison(m, teacher, student)]


def distances_backward(m: Memory) -> list[Any]:
    teacher, student = pyramids(m)
    dtype = computed_dtype([*teacher, *student])
    grad = [m.strided((s.shape[0], *s.shape[2:]), dtype) for s in student]
    if m.random.random() < 0.5:  # of few pixels, or of none
        for memory, _ in m.made[-len(grad) :]:
            memory.mul_(torch.rand(memory.shape, generator=m.generator) < m.random.choice([0, 0.1]))
    return [grad, teacher, student, EPS, *comparison(m, teacher, student)]


def flat_distances(m: Memory) -> list[Any]:
    teacher, student = pyramids(m)
    last = comparison(m, teacher, student)
    return [teacher, student, EPS, *last[:1], *last[2:]]  # without the code of a distance


def flat_distances_backward(m: Memory) -> list[Any]:
    teacher, student, *last = flat_distances(m)
    dtype = computed_dtype([*teacher, *student])
    shape = (len(student), student[0].shape[0])
    # Of the norms and distances that belong to the features: others have no meaning.
    found = torch.ops.fastad.flat_distances(
        *([x.contiguous() for x in y] for y in (teacher, student)), *last
    )
    return [m.strided(shape, dtype), *map(m.copy, found), teacher, student, *last]


def aggregate_maps(m: Memory) -> list[Any]:
    maps = maps_of(m)
    last = finish(m)
    if len(last) == 2 and last[1] is None:
        last.append(m.random.choice([0.0, 0.4, 3.0]))
    return [maps, *size_of_map(m), m.random.random() < 0.5, numbers(m, len(maps)), *last]


def finish(m: Memory) -> list[Any]:
    """Last arguments: aligned corners, and the dtype of the map."""
    corners = m.random.random() < 0.5
    return m.random.choice([[], [corners], [corners, m.random.choice([None, *FLOATS[2:]])]])


def gradient_dtype(m: Memory, maps: list[Tensor]) -> torch.dtype:
    return m.random.choice([maps[0].dtype, *FLOATS[2:]])


def aggregate_maps_backward(m: Memory) -> list[Any]:
    maps, height, width, product, weights, *last = aggregate_maps(m)
    last = [product, weights, *last[:1]]
    dtype = gradient_dtype(m, maps)
    if len(last) == 3 and dtype == maps[0].dtype:
        last.append(m.random.choice([0.0, 0.4, 3.0]))
    return [m.strided((maps[0].shape[0], height, width), dtype), maps, *last]


def stack_maps(m: Memory) -> list[Any]:
    maps = maps_of(m)
    return [maps, *size_of_map(m), *finish(m)]


def stack_maps_backward(m: Memory) -> list[Any]:
    maps, height, width, corners = [*stack_maps(m), False][:4]
    shape = (maps[0].shape[0], len(maps), height, width)
    return [m.strided(shape, gradient_dtype(m, maps)), maps, corners]


def anomaly_map(m: Memory) -> list[Any]:
    teacher, student = pyramids(m)
    product = m.random.random() < 0.5
    last = [EPS, *comparison(m, teacher, student)]
    if len(last) == 4:
        last += finish(m)
    return [teacher, student, *size_of_map(m), product, numbers(m, len(teacher)), *last]


def distillation_loss(m: Memory) -> list[Any]:
    teacher, student = pyramids(m)
    gradient = m.random.random() < 0.7
    last = [EPS, gradient, *comparison(m, teacher, student, (0, 1, 2))]
    if (
        len(last) == 4
        and gradient
        and [t.stride() for t in teacher] == [s.stride() for s in student]
    ):
        last += [None, True]
    return [teacher, student, numbers(m, len(teacher)), m.random.randrange(3), *last]


def hard_loss(m: Memory) -> list[Any]:
    maps, r = maps_of(m), m.random
    arguments = [maps, numbers(m, len(maps)), r.choice([0.0, 0.3, 0.9]), r.randrange(3)]
    if r.random() < 0.5:
        return arguments
    weights = []
    for x in maps:
        weights.append(m.strided(tuple(x.shape), x.dtype))
        memory, _ = m.made[-1]
        memory.mul_(0) if r.random() < 0.1 else memory.abs_()
    return [*arguments, weights]


def top_share(m: Memory) -> list[Any]:
    x = m.random.choice(maps_of(m))
    return [x, m.random.randint(1, x.shape[1] * x.shape[2])]


def resize_weights(m: Memory) -> list[Any]:
    shape = (m.random.choice([0, 1, 2]), *size_of_map(m))
    weights = m.strided(shape, m.random.choice(FLOATS[:2]))
    m.made[-1][0].abs_()
    sizes = [size_of_map(m) for _ in range(m.random.choice([0, 1, 3]))]
    return [weights, [h for h, _ in sizes], [w for _, w in sizes]]


def scale_gradients_(m: Memory) -> list[Any]:
    _, gradients = pyramids(m)
    shape = () if m.random.random() < 0.5 else (len(gradients),)
    return [gradients, m.strided(shape, m.random.choice(FLOATS[:2]))]


def resize_bytes(m: Memory) -> list[Any]:
    shape = (m.random.choice([0, 1, 2]), m.random.choice([1, 3, 4]), *size_of_map(m))
    make = m.random.choice([m.dense, m.channels_last])
    height, width = size_of_map(m)
    first = m.random.randrange(height)
    band = [-1, 0, first, m.random.randint(first + 1, height)]  # of the result, of whole images
    return [make(shape, torch.uint8), height, width, *m.random.choice([[], band])]


def normalize_bytes(m: Memory) -> list[Any]:
    shape = (m.random.choice([0, 1, 2]), 3, *size_of_map(m))
    return [m.strided(shape, torch.uint8), m.dense((3, 256))]


def normalize_floats(m: Memory) -> list[Any]:
    shape = (m.random.choice([0, 1, 2]), 3, *size_of_map(m))
    return [m.channels_last(shape), m.dense((3,)), m.copy(torch.rand(3) + 0.5)]


@functools.cache
def packed_by(op: str, shape: tuple[int, ...], *options: Any) -> Tensor:
    weight = torch.rand(shape, dtype=torch.float64) - 0.5
    return getattr(torch.ops.fastad, op)(weight, *options)


def _convolution_3x3(m: Memory, int16: bool) -> tuple[Tensor, Tensor, Tensor]:
    """x, packed weight and bias, of one group or of several."""
    r = m.random
    channels, filters = 32 * r.choice([1, 2]), 32 * r.choice([1, 2, 3])
    groups = r.choice([0, 0, 1, 2])
    shape = (max(groups, 1) * r.choice([0, 1, 2]), channels, *(r.choice([1, 3, 5]) for _ in "hw"))
    packed = packed_by("pack_3x3", (filters, channels, 3, 3), int16)
    stacked = packed if groups == 0 else packed.expand(groups, *packed.shape)
    bias = m.dense((filters,) if groups == 0 else (groups, filters))
    return m.channels_last(shape), m.copy(stacked), bias


def pack_3x3(m: Memory) -> list[Any]:
    shape = (32 * m.random.choice([1, 2]), 32 * m.random.choice([1, 2]), 3, 3)
    return [m.dense(shape, torch.float64), m.random.random() < 0.5]


def convolve_3x3(m: Memory) -> list[Any]:
    x, weight, bias = _convolution_3x3(m, m.random.random() < 0.5 and has_int16)
    return [x, weight, bias, m.random.random() < 0.5]


def convolve_3x3_add_(m: Memory) -> list[Any]:
    x, weight, bias, relu = convolve_3x3(m)
    return [m.channels_last((x.shape[0], bias.shape[-1], *x.shape[2:])), x, weight, bias, relu]


def pack_int16(m: Memory) -> list[Any]:
    side = m.random.choice([1, 3])
    shape = (m.random.choice([1, 32, 40]), 32 * m.random.choice([1, 2, 4]), side, side)
    return [m.dense(shape, torch.float64)]


def convolve_int16(m: Memory) -> list[Any]:
    r = m.random
    side, stride, filters, channels = (
        r.choice([1, 3]),
        r.choice([1, 2, 3]),
        r.choice([7, 32, 70]),
        32,
    )
    packed = packed_by("pack_int16", (filters, channels, side, side))
    shape = (r.choice([0, 1, 2]), channels, *(r.choice([1, 3, 5, 18]) for _ in "hw"))
    bias = m.dense((packed.shape[0] * 32,))
    x = m.channels_last(shape)
    return [x, m.copy(packed), bias, filters, side, stride, r.random() < 0.5]


def convolve_int16_add_(m: Memory) -> list[Any]:
    x, weight, bias, filters, side, _, relu = convolve_int16(m)
    added = m.channels_last((x.shape[0], filters, *x.shape[2:]))
    return [added, x, weight, bias, side, relu]


def conv1x1_strided(m: Memory) -> list[Any]:
    r = m.random
    channels, filters = r.choice([1, 5, 32]), 32 * r.choice([1, 2])
    shape = (r.choice([0, 1, 2]), channels, *(r.choice([1, 3, 9]) for _ in "hw"))
    weight = m.dense((filters // 32, channels, 32))
    return [m.channels_last(shape), weight, m.dense((filters,)), r.choice([1, 2, 3])]


def nearest(m: Memory) -> list[Any]:
    r = m.random
    width, panels = r.choice([1, 7, 32]), r.choice([1, 2, 3])
    queries = m.dense((r.choice([0, 1, 13, 97, 200]), width))
    return [queries, m.dense((panels, width, 32)), m.dense((panels * 32,))]


def pack_stem(m: Memory) -> list[Any]:
    shape = (32 * m.random.choice([1, 2]), 3, 7, 7)
    return [m.dense(shape, torch.float64), m.random.random() < 0.5]


def stem(m: Memory) -> list[Any]:
    r = m.random
    int16 = r.random() < 0.5 and has_int16
    packed = packed_by("pack_stem", (32, 3, 7, 7), int16)
    shape = (r.choice([0, 1, 2]), 3, r.choice([7, 20, 33]), r.choice([7, 18, 40]))
    bias = m.dense((32,))
    return [m.channels_last(shape), m.copy(packed), bias, r.choice([0, 1]), r.random() < 0.5]


def pack_separable(m: Memory) -> list[Any]:
    shape = (16 * m.random.choice([1, 2]), m.random.choice([2, 16, 30]))
    return [m.dense(shape, torch.float64), m.random.choice([2, 16, 64])]


def separable_stem(m: Memory) -> list[Any]:
    r = m.random
    filters = 32 * r.choice([1, 2])
    shape = (r.choice([0, 1, 2]), 3, r.choice([1, 2, 7, 20]), r.choice([1, 3, 18, 40]))
    weight = m.dense((filters // 32, 27, 32))
    return [m.channels_last(shape), m.dense((2, 3)), weight, m.dense((filters,))]


def separable_block(m: Memory) -> list[Any]:
    r = m.random
    networks, side, stride = r.choice([1, 2]), r.choice([3, 5]), r.choice([1, 2])
    inner, filters, expands = 16 * r.choice([1, 5]), r.choice([8, 16, 24]), r.random() < 0.7
    channels = r.choice([8, 16, 24]) if expands else inner
    int16 = has_int16 and r.random() < 0.5

    def packed(outputs: int, inputs: int) -> Tensor:
        groups = -(-outputs // 16)
        if not int16:
            return m.dense((networks, groups, inputs, 16))
        slabs = packed_by("pack_separable", (16 * groups, inputs), 64)
        return m.copy(slabs.expand(networks, *slabs.shape))

    project = packed(filters, inner)
    expand = m.copy(project.new_zeros(networks, inner // 16, 0, 16))
    if expands:
        expand = packed(inner, channels)
    depthwise = m.dense((networks, inner // 16, side * side, 16))
    bias = m.dense((networks, 2 * inner + -(-filters // 16) * 16))
    shape = (networks * r.choice([0, 1, 2]), channels, *(r.choice([1, 3, 9, 18]) for _ in "hw"))
    add = stride == 1 and channels == filters and r.random() < 0.5
    return [m.channels_last(shape), expand, depthwise, project, bias, filters, side, stride, add]


def residual_networks(m: Memory) -> list[Any]:
    r = m.random
    groups = r.choice([1, 2])

    def stacked(packed: Tensor) -> Tensor:
        return m.copy(packed.expand(groups, *packed.shape))

    weights = [packed_by("pack_stem", (32, 3, 7, 7), True)]
    # side, stride, relu, from, added, to, filters; side 0 is Winograd's 3x3.
    steps = [0, 1, 1, 0, -1, 1, 32, 0, 1, 1, 1, 0, -2, 32, 1, 2, 0, -2, -1, -3, 32]
    weights += [packed_by("pack_3x3", (32, 32, 3, 3), True)] * 2
    weights += [packed_by("pack_int16", (32, 32, 1, 1))]
    biases = [m.dense((groups, 32)) for _ in weights]
    shape = (r.choice([0, 1, 2]), 3, r.choice([9, 20, 33]), r.choice([9, 18]))
    return [m.channels_last(shape), [stacked(w) for w in weights], biases, steps, r.choice([0, 1])]


FEATURES = [distances, distances_backward, flat_distances, flat_distances_backward]
FEATURES += [aggregate_maps, aggregate_maps_backward]
FEATURES += [stack_maps, stack_maps_backward, anomaly_map, distillation_loss, scale_gradients_]
SCORES = [hard_loss, top_share]  # on the CPU alone
IMAGES = [resize_weights, resize_bytes, normalize_bytes, normalize_floats]
CONVOLUTIONS = [pack_3x3, convolve_3x3, convolve_3x3_add_, pack_int16, convolve_int16]
CONVOLUTIONS += [convolve_int16_add_, conv1x1_strided, nearest, pack_stem, stem]
CONVOLUTIONS += [residual_networks, pack_separable, separable_stem, separable_block]
if not has_int16:
    CONVOLUTIONS.remove(convolve_int16)
    CONVOLUTIONS.remove(convolve_int16_add_)
    CONVOLUTIONS.remove(residual_networks)


# ---- wrong arguments


def spoiled_tensor(m: Memory, x: Tensor) -> Tensor:
    r = m.random
    shape, dtype = list(x.shape), x.dtype
    kind = r.choice(["size", "size", "size", "axes", "dtype", "layout", "layout", "meta"])
    if kind == "meta" and r.random() < 0.8:
        kind = "size"
    if kind == "size" and shape:
        axis = r.randrange(len(shape))
        shape[axis] = r.choice([0, 1, 2, shape[axis] + 1, max(shape[axis] - 1, 0), 5, 32])
    elif kind == "axes":
        if shape and r.random() < 0.5:
            shape.pop(r.randrange(len(shape)))
        else:
            shape.insert(r.randrange(len(shape) + 1), r.choice([1, 2]))
    elif kind == "dtype":
        dtype = r.choice(FLOATS + OTHERS)
    elif kind == "meta":
        return x.to("meta")
    if math.prod(shape) > 1 << 20:
        return x
    if kind == "layout" or len(shape) != 4:
        make = m.strided if kind == "layout" else m.dense
    else:
        make = r.choice([m.dense, m.channels_last])
    return make(tuple(shape), dtype)


def spoiled(m: Memory, value: Any) -> Any:
    r = m.random
    if isinstance(value, Tensor):
        return spoiled_tensor(m, value)
    if value is None:
        return value
    if isinstance(value, list):
        if not value or r.random() < 0.3:
            return r.choice([[], value[:-1], value + value[:1], (value * 9)[:9], value[::-1]])
        index = r.randrange(len(value))
        return [*value[:index], spoiled(m, value[index]), *value[index + 1 :]]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return r.choice([0, -1, -2, 1, 2, 3, 7, 65, 2**31 - 1, 2**31, 2**33, 2**62, -(2**63)])
    return r.choice([0.0, -1.0, math.nan, math.inf, -math.inf, 1e-3, 10.0])
