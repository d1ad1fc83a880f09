"""The parts of UTAD, each against a formula written out in another way."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fastad.models.maps import GRID, PRIOR_IMAGES, PositionMeans
from fastad.models.utad.adversarial import Discriminators, discriminator_loss, generator_loss
from fastad.models.utad.comparison import combined, dissimilarity, grey_difference
from fastad.models.utad.expert import (
    ContentEncoder,
    DetailEncoder,
    ExpertNet,
    LayerNorm,
    adaptive_norm,
)
from fastad.models.utad.impression import STRIDE, ImpressionNet, Inception
from fastad.models.utad.impression_losses import (
    MutualInformation,
    divergence,
    edge_difference,
    squared_difference,
)
from fastad.models.utad.nearest import LatentBank


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def images(n=2, height=20, width=28):
    return torch.rand(n, 3, height, width, dtype=torch.float64)


def test_edges_by_hand():
    """Of images at three sizes, the differences of neighbours along x and y."""
    a, b = images(), images()
    expected = torch.zeros(2, dtype=torch.float64)
    for size in (1, 2, 4):
        small = [
            x.unfold(2, size, size).unfold(3, size, size).mean(dim=(4, 5)).numpy() for x in (a, b)
        ]
        for axis in (2, 3):
            edges = [np.diff(x, axis=axis) for x in small]
            expected += torch.from_numpy(np.abs(edges[0] - edges[1]).mean(axis=(1, 2, 3)) / 6)
    torch.testing.assert_close(edge_difference(a, b), expected)
    assert (edge_difference(a, a + 0.25) < 1e-12).all()  # no edge differs
    assert edge_difference(images(1, 1, 5), images(1, 1, 5)).isfinite().all()


def test_squared_difference_is_each_image_s():
    a, b = images(), images()
    b[0] = a[0]
    found = squared_difference(a.bfloat16(), b.bfloat16())
    assert found.dtype == torch.float32
    assert found[0] == 0
    assert float(found[1]) == pytest.approx(float((a[1] - b[1]).square().mean()), rel=0.05)


def test_divergence_is_that_of_torch():
    mean, log_variance = torch.randn(2, 5, 7, dtype=torch.float64).unbind(0)
    codes = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    standard = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = torch.distributions.kl_divergence(codes, standard).mean()
    torch.testing.assert_close(divergence(mean, log_variance), expected)


def test_mutual_information_pairs_a_code_with_its_own_features_and_with_another_s():
    pairs = []

    class Told(nn.Module):
        def forward(self, both):
            pairs.append(both)
            return both[:, :1] * both[:, 1:]

    information = MutualInformation(1, 1).double().eval()
    information.layers = Told()
    codes = torch.tensor([[3.0], [-3.0], [1.0]], dtype=torch.float64)
    features = codes[..., None, None].expand(3, 1, 2, 2)
    found = information(codes, features)
    own, other = pairs
    assert torch.equal(own[:, 0], codes[:, 0])
    assert torch.equal(other[:, 0], codes[:, 0])
    assert torch.allclose(own[:, 1], codes[:, 0])
    assert torch.allclose(other[:, 1], codes[[2, 0, 1], 0])
    true, false = (x[:, 0] * x[:, 1] for x in (own, other))
    expected = (1 + (-true).exp()).log().mean() + (1 + false.exp()).log().mean()
    torch.testing.assert_close(found, expected)


def test_mutual_information_is_learned():
    information = MutualInformation(4, 6)
    optimizer = torch.optim.Adam(information.parameters(), 0.01)
    mixing = torch.randn(4, 6)
    losses = []
    for _ in range(150):
        codes = torch.randn(32, 4)
        loss = information(codes, (codes @ mixing)[..., None, None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(2 * math.log(2), abs=0.1)
    assert losses[-1] < 0.7 * losses[0]


def test_targets_of_least_squares():
    real, made = [torch.ones(2, 1, 3, 3)], [torch.zeros(2, 1, 3, 3)]
    assert discriminator_loss(real, made) == 0
    assert generator_loss(real) == 0
    assert discriminator_loss(made, real) == 2
    assert generator_loss(made) == 1
    halves = [torch.full((2, 1, 4, 4), 0.5), torch.full((2, 1, 2, 2), 2.5)]
    assert generator_loss(halves) == (0.25 + 2.25) / 2
    assert discriminator_loss(halves, halves) == (0.25 + 2.25) / 2 + (0.25 + 6.25) / 2


@pytest.mark.parametrize(("side", "judged"), [(256, [16, 8, 4]), (32, [2, 1]), (16, [1])])
def test_discriminators_judge_at_scales_that_the_image_has(side, judged):
    found = Discriminators(4)(torch.rand(2, 3, side, side))
    assert [x.shape for x in found] == [(2, 1, n, n) for n in judged]


def test_adaptive_norm_by_hand():
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64) * 3 + 1
    scale, shift = torch.randn(2, 2, 3, dtype=torch.float64).unbind(0)
    found = adaptive_norm(x, scale, shift, eps=0)
    for n in range(2):
        for c in range(3):
            values = x[n, c].numpy()
            standard = (values - values.mean()) / values.std()
            expected = standard * (1 + float(scale[n, c])) + float(shift[n, c])
            np.testing.assert_allclose(found[n, c].numpy(), expected)


def test_layer_norm_is_torch_s_group_norm_of_one_group():
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    own, group = LayerNorm(6).double(), nn.GroupNorm(1, 6).double()
    nn.init.normal_(own.weight)
    nn.init.normal_(own.bias)
    with torch.no_grad():
        group.weight.copy_(own.weight.flatten())
        group.bias.copy_(own.bias.flatten())
    torch.testing.assert_close(own(x), group(x))
    channels_last = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(own(channels_last), group(x))


def test_an_inception_block_is_four_branches_each_with_its_norm():
    block, x = Inception(3, 2).double().train(), images()
    found = block(x)
    convolutions = [*block.branches, block.pooled]
    assert [c.kernel_size[0] for c in convolutions] == [1, 3, 5, 1]
    assert all(c.bias is None for c in convolutions)
    for index, convolution in enumerate(convolutions):
        inputs = functional.max_pool2d(x, 3, 1, 1) if index == 3 else x
        y = functional.batch_norm(convolution(inputs), None, None, training=True, eps=1e-3)
        expected = torch.where(y > 0, y, 0.1 * y)
        torch.testing.assert_close(found[:, 2 * index : 2 * index + 2], expected)


def test_sizes_of_the_paper():
    with torch.device("meta"):
        net, x = ImpressionNet(32, 128), torch.empty(1, 3, 256, 256)
        features = net.encode(x)
        assert features.shape == (1, 512, 8, 8)
        net.eval()
        assert [x.shape for x in net.latents(features)] == [(1, 128)] * 2
        assert net.decode(features).shape == x.shape
        content = ContentEncoder(64)
        assert content(x).shape == (1, 256, 64, 64)
        detail = DetailEncoder(64, 8)
        assert detail(x).shape == (1, 8)
        assert [m.stride[0] for m in detail.modules() if isinstance(m, nn.Conv2d)] == [
            1,
            2,
            2,
            2,
            2,
            1,
        ]
        made, naive = ExpertNet(64, 8)(x, x)
        assert made.shape == naive.shape == x.shape


def test_details_reach_every_pixel_of_the_image_and_none_of_the_naive_impression():
    expert = ExpertNet(2, 3).double()
    x, m = images(1, 32, 32), images(1, 32, 32)
    content, detail, coarse = expert.encode(x, m)
    changed = expert.to_image(coarse, detail + 1) - expert.to_image(coarse, detail)
    assert (changed.abs().amax(1) > 0).double().mean() > 0.99
    assert torch.equal(expert(x, m)[1], expert.to_impression(content))


def test_a_normal_latent_code_lies_near_those_in_training():
    """In training the means of a batch are standardised, so that codes cannot become the same."""
    net = ImpressionNet(2, 4).train()
    mean, _ = net.latents(net.encode(0.5 + 0.1 * torch.rand(16, 3, STRIDE, STRIDE)))
    torch.testing.assert_close(mean.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    assert (mean.var(0, correction=0) > 0.2).all()


def test_dissimilarity_is_one_minus_ssim_in_float64():
    from scipy.ndimage import correlate1d

    a, b = images(), (images() + 2 * images()) / 3
    brightness = [np.tensordot(x.numpy(), [0.299, 0.587, 0.114], (1, 0)) for x in (a, b)]
    steps = np.arange(-5, 6)
    kernel = np.exp(-(steps**2) / (2 * 1.5**2))
    kernel /= kernel.sum()

    def mean(x):
        for axis in (1, 2):
            x = correlate1d(x, kernel, axis=axis, mode="nearest")
        return x

    p, q = brightness
    mp, mq = mean(p), mean(q)
    vp, vq, both = mean(p * p) - mp**2, mean(q * q) - mq**2, mean(p * q) - mp * mq
    c1, c2 = 1e-4, 9e-4
    ssim = (2 * mp * mq + c1) * (2 * both + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
    np.testing.assert_allclose(dissimilarity(a, b).numpy(), 1 - ssim, atol=1e-10)
    assert (dissimilarity(a, a).abs() < 1e-10).all()


def test_what_the_expert_shares_with_the_impression_does_not_count():
    x = images(1)
    m, detailed, naive = x.clone(), x.clone(), x.clone()
    naive[..., 3:6, 4:8] += 0.5  # a defect that the naive impression keeps
    found = combined(grey_difference, [x, m, detailed, naive])
    assert (found[0, 3:6, 4:8] > 0.2).all()
    assert found.sum() == found[0, 3:6, 4:8].sum()
    r = grey_difference
    others = [images(1) for _ in range(4)]
    a, b, c, d = others
    expected = (r(a, c) + r(a, d) - r(c, b)).clamp(min=0)
    torch.testing.assert_close(combined(r, others), expected)
    assert (expected == 0).any()


def test_nearest_neighbours_by_sorting():
    bank, known = LatentBank(12, 3), torch.randn(9, 3, dtype=torch.float64)
    bank.double().fill(known)
    points = torch.randn(4, 3, dtype=torch.float64)
    expected = torch.stack([(known - p).norm(dim=1).sort().values[:5].mean() for p in points])
    torch.testing.assert_close(bank.distances(points, 5), expected)
    own = bank.distances(known, 2, leave_out=True)
    expected = torch.stack([(known - p).norm(dim=1).sort().values[1:3].mean() for p in known])
    torch.testing.assert_close(own, expected)


def test_a_bank_of_few_points_and_of_too_many():
    bank, points = LatentBank(4, 1), torch.tensor([[0.0], [10.0]])
    assert (bank.distances(points, 3) == 0).all()  # nothing is known
    bank.fill(torch.tensor([[1.0], [3.0]]))
    assert torch.equal(bank.distances(points, 3), torch.tensor([2.0, 8.0]))
    bank.fill(torch.arange(10.0)[:, None])
    assert torch.equal(bank.points[:, 0], torch.tensor([0.0, 2.0, 5.0, 7.0]))
    bank.fill(torch.ones(1, 1))
    assert bank.distances(torch.ones(1, 1), 3, leave_out=True) == 0
    assert bank.distances(torch.empty(0, 1), 3).shape == (0,)


def test_means_of_positions_over_batches():
    maps = torch.rand(5, GRID, GRID, dtype=torch.float64)
    means = PositionMeans()
    means.add(maps[:2])
    means.add(maps[2:])
    expected = (maps.sum(0) + PRIOR_IMAGES * maps.mean()) / (5 + PRIOR_IMAGES)
    torch.testing.assert_close(means.result(), expected)
