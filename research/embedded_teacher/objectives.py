"""What the trunk learns from a batch of scenes; each term works on every level's feature map.

* dense: a place of the first view finds itself in the second among other places and among defects
  (InfoNCE, van den Oord et al. 2018, at every place as in DenseCL, Wang et al. 2021);
* contrast: STPM's distance between the two views tells defects from good places;
* nearest: so does the distance to the nearest place of the other view, as of nearest neighbours;
* ranked: the place of a scene that is farthest from all places of the other view is a defect, by
  the joint features that the nearest-neighbour detector compares;
* levels: the same by the features of every level alone;
* spread: channels of a level are not correlated, so that a student has many things to learn (the
  covariance term of VICReg, Bardes et al. 2022, here of correlations);
* program: every place tells its texture among all of the bank (formula-driven supervised learning,
  Kataoka et al. 2020);
* instance: parts of a scene find themselves in the other view (SimCLR, Chen et al. 2020);
* energies: how strong edges of every direction and size are around a place, without light and
  noise, from the second view (hand-made descriptors as targets: MaskFeat, Wei et al. 2022);
* scene: colours without light and noise, outlines and defects, from the second view.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from research.embedded_teacher.energies import ENERGIES, energies
from research.embedded_teacher.scenes import Batch

TERMS = (
    "dense",
    "contrast",
    "nearest",
    "ranked",
    "levels",
    "spread",
    "program",
    "instance",
    "energies",
    "scene",
)
CELLS = 1024  # places a level that are compared with each other
GOOD, DEFECTIVE = 0.02, 0.25  # shares of a place: at most, at least
PART, CROSSED = 4, 0.15  # fine defects are looked for in parts of a place: pixels a side, share
SHARPNESS = 30.0  # factor of distances before they compete
NEIGHBOURS = 1  # places up to so far away are not told apart
PURE = 0.9  # share of one texture in a place that counts as that texture


def _every_level(term: Callable) -> Callable:
    """A term of one level -> the mean of it over all levels."""

    @functools.wraps(term)
    def mean(self, heads, first, second, batch, generator):
        levels = zip(heads, first, second, self.strides, strict=True)
        losses = [term(self, head, a, b, batch, s, generator) for head, a, b, s in levels]
        return torch.stack(losses).mean()

    return mean


class Objective(nn.Module):
    """The weighted sum of terms, and their heads.

    Args:
        channels, strides: of the trunk's levels.
        weights: factor of each of `TERMS` that takes part.
        bank: number of textures, for "program".
        temperature: of the comparisons.
        projected: "dense" compares outputs of a head, not the features themselves.
        places_apart: it tells all places of a scene apart, not only different textures, where both
            views show the same parts of them.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        weights: Mapping[str, float],
        bank: int,
        temperature: float = 0.1,
        projected: bool = True,
        places_apart: bool = True,
    ):
        super().__init__()
        unknown = set(weights) - set(TERMS)
        if unknown or not weights:
            raise ValueError(f"terms must be among {', '.join(TERMS)}; got {dict(weights)}")
        self.strides, self.weights, self.temperature = tuple(strides), dict(weights), temperature
        self.places_apart = places_apart
        heads = {
            "dense": lambda c, s: _head(c, 128) if projected else nn.Identity(),
            "contrast": lambda c, s: _Scale(),
            "nearest": lambda c, s: _Scale(),
            "ranked": lambda c, s: nn.Identity(),
            "levels": lambda c, s: nn.Identity(),
            "spread": lambda c, s: nn.Identity(),
            "program": lambda c, s: nn.Linear(c, bank),
            "instance": lambda c, s: _head(c, 128),
            "energies": lambda c, s: nn.Conv2d(c, ENERGIES * (s // strides[0]) ** 2, 1),
            "scene": lambda c, s: nn.Conv2d(c, 5 * (s // strides[0]) ** 2, 1),
        }
        self.heads = nn.ModuleDict(
            {term: nn.ModuleList(map(heads[term], channels, strides)) for term in weights}
        )

    def forward(
        self,
        first: list[Tensor],
        second: list[Tensor],
        batch: Batch,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of both views' feature maps, and the mean of every term over the levels."""
        terms = {
            term: weight
            * getattr(self, f"_{term}")(self.heads[term], first, second, batch, generator)
            for term, weight in self.weights.items()
        }
        logged = {term: float(loss.detach()) for term, loss in terms.items()}
        return torch.stack(list(terms.values())).sum(), logged

    @_every_level
    def _dense(self, head, first, second, batch, stride, generator):
        places = _Places(batch, stride)
        picked = places.pick(generator)
        labels, scene = places.label[picked], places.scene[picked]
        good = places.good[picked]
        a = F.normalize(head(_rows(first)[picked]), dim=1)
        b = F.normalize(head(_rows(second)[picked]), dim=1)
        logits = a @ b.T / self.temperature
        same_scene = scene[:, None] == scene
        mixed = labels < 0
        alike = ((labels[:, None] == labels) & ~mixed) | (same_scene & (mixed[:, None] | mixed))
        if self.places_apart:
            y, x = places.y[picked], places.x[picked]
            near = torch.maximum((y[:, None] - y).abs(), (x[:, None] - x).abs()) <= NEIGHBOURS
            repeated = batch.repeated[scene]
            alike = torch.where(repeated[:, None] & repeated, same_scene & near, alike)
        alike &= good  # a defect is never like a good place
        alike.fill_diagonal_(False)
        logits = logits.masked_fill(alike, -torch.inf)
        own = torch.arange(len(picked))[good]
        both = torch.cat([logits[good], logits.T[good]])
        loss = F.cross_entropy(both, own.repeat(2), reduction="sum")
        return loss / max(1, len(both))  # small scenes may have no good place

    @_every_level
    def _contrast(self, head, first, second, batch, stride, generator):
        difference = F.normalize(first, dim=1) - F.normalize(second, dim=1)
        return _told_apart(head(difference.square().sum(1) / 2), batch, stride)

    @_every_level
    def _nearest(self, head, first, second, batch, stride, generator):
        a, b = (F.normalize(maps, dim=1).flatten(2) for maps in (first, second))
        distance = 1 - (b.transpose(1, 2) @ a).amax(2)
        return _told_apart(head(distance.view_as(second[:, 0])), batch, stride)

    def _ranked(self, heads, first, second, batch, generator):
        return _farthest(_joint(first[1:]), _joint(second[1:]), batch, self.strides[1])

    @_every_level
    def _levels(self, head, first, second, batch, stride, generator):
        return _farthest(_joint([first]), _joint([second]), batch, stride)

    @_every_level
    def _spread(self, head, first, second, batch, stride, generator):
        rows = torch.cat([_rows(first), _rows(second)])
        rows = rows - rows.mean(0)
        covariance = rows.T @ rows / len(rows)
        deviations = (covariance.diagonal() + 1e-6).sqrt()
        correlations = covariance / (deviations[:, None] * deviations)
        return (correlations.square().sum() - correlations.diagonal().square().sum()) / len(
            correlations
        )

    @_every_level
    def _program(self, head, first, second, batch, stride, generator):
        places = _Places(batch, stride)
        usable = ((places.label >= 0) & places.good).nonzero()[:, 0]
        picked = usable[torch.randperm(len(usable), generator=generator)[: CELLS // 2]]
        rows = torch.cat([_rows(first)[picked], _rows(second)[picked]])
        loss = F.cross_entropy(head(rows), places.label[picked].repeat(2), reduction="sum")
        return loss / max(1, len(rows))  # small scenes may have no place of one texture alone

    @_every_level
    def _instance(self, head, first, second, batch, stride, generator):
        parts = [
            F.adaptive_avg_pool2d(maps, 2).permute(0, 2, 3, 1).flatten(0, 2)
            for maps in (first, second)
        ]
        a, b = (F.normalize(head(part), dim=1) for part in parts)
        logits = a @ b.T / self.temperature
        scene = torch.arange(len(a)) // 4
        same = scene[:, None] == scene
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, -torch.inf)
        own = torch.arange(len(a))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    @_every_level
    def _energies(self, head, first, second, batch, stride, generator):
        guess = F.pixel_shuffle(head(second), stride // self.strides[0])
        good = F.avg_pool2d(batch.defect, self.strides[0]) < GOOD
        error = F.smooth_l1_loss(guess, energies(batch.clean, self.strides[0]), reduction="none")
        return (error * good).mean()

    @_every_level
    def _scene(self, head, first, second, batch, stride, generator):
        finest = self.strides[0]
        guess = F.pixel_shuffle(head(second), stride // finest)
        colours = F.avg_pool2d(batch.clean, finest)
        outline = F.avg_pool2d(1 - batch.shares.square().sum(1, keepdim=True), finest)
        defect = F.avg_pool2d(batch.defect, finest)
        return (
            4 * (guess[:, :3] - colours).abs().mean()
            + F.binary_cross_entropy_with_logits(guess[:, 3:4], outline.clamp(0, 1))
            + F.binary_cross_entropy_with_logits(guess[:, 4:], defect)
        )


class _Places:
    """What is known of the places of a level, one after the other, image after image."""

    def __init__(self, batch: Batch, stride: int):
        shares = F.avg_pool2d(batch.shares, stride)
        purity, layer = shares.max(1)
        sheets = batch.sheets[:, :, None, None].expand_as(shares).gather(1, layer[:, None])[:, 0]
        self.label = torch.where(purity > PURE, sheets, -1).flatten()  # -1: several textures
        self.good, self.bad = (share.flatten() for share in _told(batch, stride))
        numbers = torch.arange(len(self.label))
        self.scene = numbers // shares[0, 0].numel()
        self.y, self.x = numbers // shares.shape[-1] % shares.shape[-2], numbers % shares.shape[-1]

    def pick(self, generator: torch.Generator) -> Tensor:
        """Good and defective places at random, at most a quarter defective."""
        order = torch.randperm(len(self.label), generator=generator)
        bad = order[self.bad[order]][: CELLS // 4]
        good = order[self.good[order]][: CELLS - len(bad)]
        return torch.cat([good, bad])


class _Scale(nn.Module):
    """A distance -> how much it speaks for a defect, as a logit."""

    def __init__(self):
        super().__init__()
        self.log_slope = nn.Parameter(torch.tensor(2.0))
        self.threshold = nn.Parameter(torch.tensor(0.2))

    def forward(self, distance: Tensor) -> Tensor:
        return self.log_slope.exp() * (distance - self.threshold)


def _told(batch: Batch, stride: int) -> tuple[Tensor, Tensor]:
    """Which places (N, h, w) of a level are surely good, and which are surely defective.

    Fine defects make a place defective by its most damaged part: a hair that crosses a place of
    16 pixels a side covers a sixteenth of it.
    """
    share = F.avg_pool2d(batch.defect, stride)[:, 0]
    if not batch.fine:
        return share < GOOD, share > DEFECTIVE
    crossed = F.max_pool2d(F.avg_pool2d(batch.defect, PART), stride // PART)[:, 0]
    return share < GOOD, crossed > CROSSED


def _farthest(first: Tensor, second: Tensor, batch: Batch, stride: int) -> Tensor:
    """How far a scene's good places are from all of the first view, beyond its defects."""
    first, second = first.flatten(2), second.flatten(2)
    with torch.no_grad():  # the nearest alone has a gradient: so none goes through all the products
        nearest = (second.transpose(1, 2) @ first).argmax(2)
    nearest = first.gather(2, nearest[:, None].expand_as(second))
    distance = SHARPNESS * (1 - (nearest * second).sum(1))
    good, bad = (told.flatten(1) for told in _told(batch, stride))
    there = bad.any(1) & good.any(1)
    farthest = [distance.masked_fill(~kind, -torch.inf)[there].logsumexp(1) for kind in (good, bad)]
    return F.softplus(farthest[0] - farthest[1]).sum() / there.sum().clamp(min=1)


def _joint(levels: list[Tensor]) -> Tensor:
    """Local means of levels as unit vectors, joined at the size of the first; a unit vector too."""
    size = levels[0].shape[-2:]
    parts = [
        F.normalize(F.avg_pool2d(level, 3, 1, 1, count_include_pad=False), dim=1)
        for level in levels
    ]
    parts = [F.interpolate(part, size, mode="bilinear", align_corners=False) for part in parts]
    return F.normalize(torch.cat(parts, 1), dim=1)


def _told_apart(logit: Tensor, batch: Batch, stride: int) -> Tensor:
    """Cross-entropy of logits (N, h, w) for a defect, defects and good places weighing the same."""
    good, bad = _told(batch, stride)
    return (
        F.softplus(-logit[bad]).sum() / (1 + bad.sum())
        + F.softplus(logit[good]).sum() / (1 + good.sum())
    ) / 2


def _head(channels: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(channels, 256), nn.ReLU(inplace=True), nn.Linear(256, outputs))


def _rows(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).flatten(0, 2)
