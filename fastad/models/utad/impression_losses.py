"""What the auto-encoder of UTAD's first stage learns besides looking real.

Everything is computed in float32 (float64 for double), under autocast too.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad.models.utad.impression import ImpressionNet

EDGE_LEVELS = 3


def widened(x: Tensor) -> Tensor:
    """The same numbers in float32, where they are less exact."""
    return x if x.dtype == torch.float64 else x.float()


def squared_difference(images: Tensor, others: Tensor) -> Tensor:
    """Mean squared difference of each of N pairs (N, 3, H, W): (N,)."""
    return (widened(images) - widened(others)).square().flatten(1).mean(dim=1)


def edge_difference(images: Tensor, others: Tensor) -> Tensor:
    """How far the edges of two batches (N, 3, H, W) differ: (N,).

    Mean absolute difference of the differences of neighbours, along x and along y, averaged over
    both and over the images at full, half and quarter size; a direction of one pixel is left out.
    """
    # Edges are linear in the image: those of the difference are the difference of those.
    x, found = widened(images) - widened(others), []
    for level in range(EDGE_LEVELS):
        if level:
            x = functional.avg_pool2d(x, [min(side, 2) for side in x.shape[-2:]])
        found += [x.diff(dim=dim).abs().flatten(1) for dim in (2, 3) if x.shape[dim] > 1]
    return torch.stack([edges.mean(dim=1) for edges in found]).mean(dim=0)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of latent codes (N, L) from a standard normal one, a number."""
    mean, log_variance = widened(mean), widened(log_variance)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


class MutualInformation(nn.Module):
    """Estimates how much latent codes say of the features that they were made of.

    Hjelm et al., "Deep InfoMax", ICLR 2019, eq. 4: a network tells pairs of a code and its features
    from pairs of a code and another image's features.

    Args:
        latents: numbers of a code (N, latents).
        channels: of the features (N, channels, h, w), averaged over their positions.
        hidden: units of each hidden layer.
    """

    def __init__(self, latents: int, channels: int, hidden: int = 128):
        super().__init__()
        # Features averaged over an image hardly differ between images of one product.
        self.norm = nn.BatchNorm1d(channels)
        self.layers = nn.Sequential(
            nn.Linear(latents + channels, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, 1),
        )

    def forward(self, codes: Tensor, features: Tensor) -> Tensor:
        """Minus the estimate, a number: high where pairs are mistaken.

        Others' features are those of the batch moved on by one, whose order is random anyway; of a
        batch of one they are its own, and while training nothing is learned from it.
        """
        features = widened(features).mean(dim=(2, 3))
        if self.training and len(features) == 1:  # which is no batch to normalise by
            return 0 * features.sum()
        features = self.norm(features)
        both = [
            widened(self.layers(torch.cat([codes, of_whom], dim=1)))
            for of_whom in (features, features.roll(1, 0))
        ]
        return functional.softplus(-both[0]).mean() + functional.softplus(both[1]).mean()


def coding_losses(
    net: ImpressionNet, information: MutualInformation, images: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Losses by name for (N, 3, H, W) in [0, 1], and the impressions.

    While the network is in training mode, latent codes are drawn at random.
    """
    features = net.encode(images)
    made = net.decode(features)
    mean, log_variance = map(widened, net.latents(features))
    noise = torch.randn_like(mean) * (0.5 * log_variance).exp() if net.training else 0
    losses = {
        "squared": squared_difference(images, made).mean(),
        "edge": edge_difference(images, made).mean(),
        "information": information(mean + noise, features),
        "divergence": divergence(mean, log_variance),
    }
    return losses, made
