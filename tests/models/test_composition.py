"""What images are composed of: against counts and distances written out."""

import copy

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from torch.nn import functional

import fastad
from fastad import models
from fastad.data.rendered.products import Counts, render, write_dataset
from fastad.inference import Artifact, load, save
from fastad.inference.roi import narrowed
from fastad.models.composition import WORDS, Composition, words_features
from fastad.models.roi import RegionOfInterest

WIDTHS = (3, 5, 6)  # only the last two are looked at
NAMES = ["stpm", "rstpm", "gtrans", "patchcore", "subspace"]


def levels(count, seed, height=10, width=14):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(2 * height, 2 * width), (height, width), ((height + 1) // 2, (width + 1) // 2)]
    return [
        torch.randn(count, channels, *size, generator=generator)
        for channels, size in zip(WIDTHS, sizes, strict=True)
    ]


def fitted(batches, roi=None):
    made = Composition(sum(WIDTHS[-2:]))
    made.fit(lambda: iter(batches), roi)
    return made


@pytest.mark.parametrize("with_roi", [False, True])
def test_shares_are_counts_of_the_nearest_word(with_roi):
    inside = torch.zeros(40, 56, dtype=torch.bool)
    inside[:, :20] = True
    roi = RegionOfInterest(inside) if with_roi else None
    made, new = fitted([levels(8, 0), levels(4, 1)], roi), levels(3, 2, 11, 13)
    features = words_features(new).double()
    distances = (features[:, None] - made.words.double()[:, :, None, None]).square().sum(dim=2)
    kinds = distances.argmin(dim=1)
    counted = torch.ones(11, 13, dtype=torch.bool) if roi is None else roi.holds((11, 13))
    expected = []
    for image in kinds:
        row = []
        for rows in (slice(0, 5), slice(5, 11)):
            for columns in (slice(0, 6), slice(6, 13)):
                part, own = image[rows, columns], counted[rows, columns]
                row += [((part == word) & own).double().mean().item() for word in range(WORDS)]
        expected.append(row)
    found = made.shares(new, roi)
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64))


def test_the_distance_is_mahalanobis_of_a_shrunk_covariance():
    batches = [levels(20, 0), levels(9, 1)]
    made, new = fitted(batches), levels(5, 2)
    shares = torch.cat([made.shares(batch, None) for batch in batches]).double().numpy()
    expected = LedoitWolf().fit(shares).mahalanobis(made.shares(new, None).double().numpy())
    np.testing.assert_allclose(made(new, None).square().numpy(), expected, rtol=1e-3)


def test_words_are_of_all_images_and_the_same_every_time():
    batches = [levels(8, 0), levels(8, 1)]
    one, other = fitted(batches), fitted(batches)
    assert torch.equal(one.words, other.words)
    assert torch.equal(one.whitening, other.whitening)
    assert len(one.words.unique(dim=0)) == WORDS
    assert not torch.equal(one.words, fitted(batches[:1]).words)


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="composition needs 8 training images; there are 7"):
        fitted([levels(7, 0)])


def test_the_factor_makes_quantiles_equal():
    made = Composition(11)
    distances, scores = torch.rand(50) + 1, 3 * torch.rand(50)
    made.settle(distances, scores)
    expected = np.quantile(scores.double(), 0.95) / np.quantile(distances.double(), 0.95)
    assert made.factor.item() == pytest.approx(expected)


def looked_at(name, images):
    """A model with random weights that has seen normal images."""
    torch.manual_seed(0)
    options = {"teacher2_weights": None} if name == "rstpm" else {}
    model = models.build(name, teacher_weights=None, composition=True, **options)
    batches = [{"image": images[:5]}, {"image": images[5:9]}]
    model.enter_stage(model.stages[0])
    model.eval()
    with torch.no_grad():
        model.prepare_stage(lambda: iter(batches), lambda: iter(batches))
        model.finish_stage(lambda: iter(batches))
        model.enter_stage(None)
        model.eval().settle_composition(lambda: iter([{"image": images[9:]}]))
    return model


@pytest.fixture(scope="module")
def kits():
    """Good images (12, 3, 64, 64), and as many of kits with a part missing."""
    pixels = [[render("kit", d, seed)[0] for seed in range(12)] for d in (None, "missing part")]
    found = [torch.from_numpy(np.stack(p)).permute(0, 3, 1, 2).float() / 255 for p in pixels]
    return [functional.avg_pool2d(images, 4) for images in found]


@pytest.mark.parametrize("name", NAMES)
def test_every_model_scores_by_the_higher_of_both(name, kits, tmp_path):
    good, bad = kits
    model, images = looked_at(name, good), bad[:3]
    with torch.no_grad():
        evidence = model.evidence({"image": images})
        found = model.judge(evidence, (64, 64))
        without = model.judge(evidence._replace(composition=None), (64, 64))
        expected = torch.maximum(without.score, evidence.composition * model.composition.factor)
        assert torch.equal(found.score, expected)
        assert torch.equal(found.anomaly_map, without.anomaly_map)
        torch.testing.assert_close(model(images).score, expected)
        assert model.composition.factor > 0
        path = tmp_path / "part.fastad"
        save(path, Artifact(model, (64, 64), np.empty(0), 0.01, None, {}))
        assert torch.equal(load(path).model(images).score, model(images).score)


@pytest.mark.parametrize("name", NAMES)
def test_without_it_there_is_none(name):
    assert models.build(name).composition is None
    with pytest.raises(ValueError, match="composition must be True or False"):
        models.build(name, composition="yes")


def test_another_region_asks_for_another_training(kits):
    model = looked_at("subspace", kits[0])
    mask = np.zeros((64, 64), dtype=bool)
    mask[:32] = True
    artifact = Artifact(model, (64, 64), np.empty(0), 0.01, None, {})
    with pytest.raises(ValueError, match="composition=true has to know its region of interest"):
        narrowed(artifact, mask)


def test_another_training_takes_another(kits):
    model = looked_at("subspace", kits[0])
    before = copy.deepcopy(model.composition)
    model.choose(model.choice())
    model.forget_choice()
    assert model.composition.factor == 0
    assert not torch.equal(model.composition.words, before.words)


@pytest.mark.slow
def test_parts_that_are_missing_doubled_or_misplaced_are_found(tmp_path):
    write_dataset(tmp_path, "kit", Counts(30, 12, 4))
    found = {}
    for composition in (False, True):
        detector = fastad.Detector(
            "subspace",
            image_size=256,
            teacher_weights="embedded",
            composition=composition,
            false_positive_rate=0.2,
        )
        detector.fit(tmp_path / "train" / "good")
        found[composition] = detector.evaluate(tmp_path)["image_auroc"]
        assert not any("composition" in note for note in detector.training_record_["notes"])
    assert found[False] < 0.8
    assert found[True] > 0.95


def test_without_held_out_images_it_does_not_count_and_a_note_says_so(kits):
    images = (255 * kits[0]).byte().permute(0, 2, 3, 1).numpy()
    detector = fastad.Detector("subspace", teacher_weights="embedded", composition=True)
    detector.fit(images, validation_fraction=0)
    assert "composition does not count: no image is held out" in detector.training_record_["notes"]
