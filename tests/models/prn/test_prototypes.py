"""Prototypes: clusters of whole feature maps, residuals to the nearest, sizes that data decide."""

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans

from fastad.models import PRNConfig
from fastad.models.prn import prototypes
from fastad.models.prn.prototypes import Prototypes

CHANNELS = (4, 6)


def maps(n, size=5, seed=0, spread=0.1):
    """Two levels of n images in three groups that lie far apart."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.Generator().manual_seed(77)
    levels = []
    for channels, side in zip(CHANNELS, (size, (size + 1) // 2), strict=True):
        centres = 3 * torch.randn(3, channels, side, side, generator=groups)
        noise = torch.randn(n, channels, side, side, generator=generator)
        levels.append(centres[torch.arange(n) % 3] + spread * noise)
    return levels


def batches(levels, size=4):
    return lambda: (
        {"teacher": list(parts)}
        for parts in zip(*(level.split(size) for level in levels), strict=True)
    )


def fitted(levels, **options):
    found = Prototypes(CHANNELS)
    found.fit(batches(levels), "teacher", **{"share": 0.25, "most": 8} | options)
    return found


def test_without_prototypes_a_residual_is_of_the_square():
    levels = maps(3)
    for residual, level in zip(Prototypes(CHANNELS)(levels), levels, strict=True):
        torch.testing.assert_close(residual, (1 + level.square()).log())


def test_the_residual_is_to_the_nearest_of_whole_maps():
    found, levels = fitted(maps(12)), maps(7, seed=1)
    for index, (residual, level) in enumerate(zip(found(levels), levels, strict=True)):
        centres = getattr(found, f"level{index}").double()
        scales = getattr(found, f"scales{index}").double()[0]
        assert centres.shape == (3, *level.shape[1:])
        for own, image in zip(residual, level.double(), strict=True):
            expected = (1 + nearest_square(image, centres) / scales).log()
            torch.testing.assert_close(own.double(), expected, rtol=1e-4, atol=1e-5)


def nearest_square(image, centres):
    distances = [(image - centre).square().sum() for centre in centres]
    return (image - centres[int(np.argmin(distances))]).square()


def test_scales_are_what_normal_images_are_like_there():
    levels = maps(12)
    for level in levels:  # louder in one channel and one corner
        level[:, 2] += torch.randn(level[:, 2].shape)
        level[:, :, 0, 0] += torch.randn(level[:, :, 0, 0].shape)
    found = fitted(levels)
    for index, level in enumerate(levels):
        centres = getattr(found, f"level{index}").double()
        squares = torch.stack([nearest_square(image, centres) for image in level.double()])
        expected = squares.mean(dim=0) + 0.1 * squares.mean()
        scales = getattr(found, f"scales{index}")
        assert scales.shape == (1, *level.shape[1:])
        torch.testing.assert_close(scales[0].double(), expected, rtol=1e-4, atol=1e-6)
        assert scales[0, 2].mean() > 3 * scales[0, 3].mean()


def test_images_that_are_all_prototypes_leave_finite_residuals():
    levels = maps(1)
    found = fitted(levels, share=1.0)
    assert len(found.scales0) == len(found.scales1) == 0
    for residual in (*found(levels), *found(maps(3, seed=4))):
        assert residual.isfinite().all()


def test_clusters_are_those_of_scikit_learn():
    levels = maps(20, spread=2.0)
    found = fitted(levels, share=0.2, seed=3)
    rows = levels[1].permute(0, 2, 3, 1).flatten(1).numpy()
    expected = MiniBatchKMeans(4, random_state=3, n_init=1, batch_size=64).fit(rows)
    own = found.level1.permute(0, 2, 3, 1).flatten(1).numpy()
    np.testing.assert_allclose(own, expected.cluster_centers_, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.squares1, np.square(own).sum(1), rtol=1e-5)


@pytest.mark.parametrize(
    ("images", "share", "most", "expected"),
    [(12, 0.25, 8, 3), (12, 1.0, 5, 5), (12, 0.0, 8, 1), (1, 1.0, 8, 1), (5, 0.5, 9, 2)],
)
def test_their_number_is_bounded(images, share, most, expected):
    assert len(fitted(maps(images), share=share, most=most).level0) == expected


def test_of_more_images_than_there_is_room_for_every_nth_is_taken(monkeypatch):
    levels = maps(13)
    room = 4 * levels[0][0].numel() * 5  # five images of the first level
    monkeypatch.setattr(prototypes, "FIT_BYTES", room)
    seen = []
    cluster = prototypes._cluster

    def watch(rows, clusters, seed):
        seen.append(rows.copy())
        return cluster(rows, clusters, seed)

    monkeypatch.setattr(prototypes, "_cluster", watch)
    fitted(levels, share=0.2)
    expected = levels[0][::3].permute(0, 2, 3, 1).flatten(1).numpy()
    np.testing.assert_array_equal(seen[0], expected)


def test_other_sizes_are_compared_with_resized_prototypes():
    found = fitted(maps(12))
    for residual, side in zip(found(maps(2, size=8)), (8, 4), strict=True):
        assert residual.shape[-1] == side
        assert residual.isfinite().all()
    levels = [
        torch.nn.functional.interpolate(getattr(found, f"level{i}"), (n, n), mode="bilinear")
        for i, n in enumerate((8, 4))
    ]
    for residual in found(levels):
        assert residual.abs().max() < 1e-8


def test_a_state_brings_its_own_size():
    found, new = fitted(maps(12)), Prototypes(CHANNELS)
    new.load_state_dict(copy.deepcopy(found.state_dict()))
    levels = maps(3, seed=5)
    for own, expected in zip(new(levels), found(levels), strict=True):
        assert torch.equal(own, expected)
    with pytest.raises(RuntimeError, match="size mismatch for level0"):
        Prototypes((5, 6)).load_state_dict(found.state_dict())


def test_half_precision_takes_the_same_prototypes_in_float32():
    found, levels = fitted(maps(12)), maps(3, seed=5)
    with torch.autocast("cpu", torch.bfloat16):
        half = found([level.bfloat16() for level in levels])
    rounded = [level.bfloat16().float() for level in levels]
    for own, expected in zip(half, found(rounded), strict=True):
        assert own.dtype == torch.bfloat16
        torch.testing.assert_close(own.float(), expected, rtol=2**-8, atol=1e-4)


def test_memory_that_the_options_name():
    """What the option ``max_prototypes`` says of 256x256 and ResNet-18."""
    levels = [torch.rand(8, c, n, n) for c, n in ((64, 64), (128, 32), (256, 16))]
    found = Prototypes([level.shape[1] for level in levels])
    found.fit(batches(levels), "teacher", share=0.5, most=2)
    held = sum(buffer.numel() * buffer.element_size() for buffer in found.buffers()) / 1e6
    assert math.isclose(held, 3 * 1.8, rel_tol=0.05)  # two prototypes, one of scales
    assert math.isclose(held / 3 * (1 + PRNConfig().max_prototypes), 90, rel_tol=0.01)


def test_the_paper_s_residual_is_the_squared_difference():
    levels, images = maps(12), maps(7, seed=1)
    found = Prototypes(CHANNELS, scaled=False)
    found.fit(batches(levels), "teacher", share=0.25, most=8)
    assert len(found.scales0) == len(found.scales1) == 0
    for index, (residual, level) in enumerate(zip(found(images), images, strict=True)):
        centres = getattr(found, f"level{index}").double()
        for own, image in zip(residual, level.double(), strict=True):
            expected = nearest_square(image, centres)
            torch.testing.assert_close(own.double(), expected, rtol=1e-4, atol=1e-5)
