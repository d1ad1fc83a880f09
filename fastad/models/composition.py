"""What an image is composed of: parts that are missing, doubled or in another place.

Every patch of such an image may be as on good images, so that no distance of patches is large. What
differs is how many there are of each kind, and where. The kinds are visual words (Sivic and
Zisserman, "Video Google", ICCV 2003): centres of patch features of good images. The shares that
they take of each quarter of the image are compared with those of good images, as ComAD (Liu et al.,
2023) does with the parts that it cuts out.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad.models.residual import as_rows, patch_features
from fastad.models.roi import RegionOfInterest

WORDS = 16  # more of them say less of how many parts there are
LEVELS = 2  # of the teacher, the last ones
PLACES = 64  # of an image, that words are made of
LEAST_IMAGES = 8
QUANTILE = 0.95  # of good images, at which the two scores are taken for equal

LevelBatches = Callable[[], Iterable[Sequence[Tensor]]]


def words_features(levels: Sequence[Tensor]) -> Tensor:
    """Of levels (N, C_l, H_l, W_l), large to small, what words are made of: (N, D, h, w)."""
    return patch_features([functional.normalize(level) for level in levels[-LEVELS:]])


class Composition(nn.Module):
    """How far the shares of visual words are from those of good images.

    Args:
        width: D, channels of the levels that are looked at, together.

    Attributes:
        words: (K, D) centres of patch features.
        mean: (4 K,) shares of the words in each quarter of good images.
        whitening: (4 K, 4 K). The length of the product with a difference to ``mean`` is its
            Mahalanobis distance, by a covariance after Ledoit and Wolf (2004).
        factor: scalar by which the distance is multiplied to compare it with the score of the maps.
            0 until `settle`.
    """

    words: Tensor
    mean: Tensor
    whitening: Tensor
    factor: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("words", torch.zeros(WORDS, width))
        self.register_buffer("mean", torch.zeros(4 * WORDS))
        self.register_buffer("whitening", torch.eye(4 * WORDS))
        self.register_buffer("factor", torch.zeros(()))

    def fit(self, images: LevelBatches, roi: RegionOfInterest | None, seed: int = 0) -> None:
        """Take words and shares of good images.

        Args:
            images: gives batches of the teacher's levels. Called twice.
            roi: what counts.

        Raises:
            ValueError: fewer than 8 images.
        """
        from sklearn.cluster import MiniBatchKMeans  # takes seconds to import
        from sklearn.covariance import LedoitWolf

        rng = np.random.default_rng(seed)
        sampled = []
        for levels in images():
            for features in words_features(self._exact(levels)):
                rows = as_rows(features[None])
                if roi is not None:
                    rows = rows[roi.holds((features.shape[-2], features.shape[-1])).flatten()]
                some = rng.permutation(len(rows))[:PLACES]
                sampled.append(rows[torch.from_numpy(some).to(rows.device)].cpu())
        if len(sampled) < LEAST_IMAGES:
            raise ValueError(
                f"composition needs {LEAST_IMAGES} training images; there are {len(sampled)}"
            )
        patches = torch.cat(sampled).numpy()
        kinds = MiniBatchKMeans(WORDS, random_state=seed, n_init=3, batch_size=4096).fit(patches)
        self.words.copy_(torch.from_numpy(kinds.cluster_centers_))
        shares = torch.cat([self.shares(self._exact(levels), roi) for levels in images()])
        found = LedoitWolf().fit(shares.double().cpu().numpy())
        self.mean.copy_(torch.from_numpy(found.location_))
        values, vectors = np.linalg.eigh(found.covariance_)
        least = max(float(values.max()), 1e-6) * 1e-6
        whitening = (vectors / np.sqrt(np.maximum(values, least))) @ vectors.T
        self.whitening.copy_(torch.from_numpy(whitening))

    def shares(self, levels: Sequence[Tensor], roi: RegionOfInterest | None) -> Tensor:
        """Of the teacher's levels (N, C_l, H_l, W_l) the shares (N, 4 K) of each quarter."""
        features = words_features(levels)
        closeness = torch.einsum("kd,ndhw->nkhw", self.words, features)
        closeness = closeness - self.words.square().sum(dim=1)[:, None, None] / 2
        kinds = functional.one_hot(closeness.argmax(dim=1), WORDS).to(features.dtype)
        if roi is not None:
            inside = roi.holds((features.shape[-2], features.shape[-1]))
            kinds = kinds * inside[..., None]
        height, width = kinds.shape[1] // 2, kinds.shape[2] // 2
        halves = kinds[:, :height], kinds[:, height:]
        quarters = [part for half in halves for part in (half[:, :, :width], half[:, :, width:])]
        return torch.cat([quarter.mean(dim=(1, 2)) for quarter in quarters], dim=1)

    def forward(self, levels: Sequence[Tensor], roi: RegionOfInterest | None) -> Tensor:
        """Levels (N, C_l, H_l, W_l) -> Mahalanobis distances (N,)."""
        difference = self.shares(self._exact(levels), roi) - self.mean
        return (difference @ self.whitening).square().sum(dim=1).sqrt()

    def settle(self, distances: Tensor, scores: Tensor) -> None:
        """Choose the factor by the distances (N,) and the scores (N,) of held-out good images.

        Their quantiles of 0.95 become equal.
        """
        own, other = (x.double().quantile(QUANTILE) for x in (distances, scores))
        self.factor.copy_(other / own.clamp_min(1e-12))

    def _exact(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return [level.to(self.words.dtype) for level in levels[-LEVELS:]]
